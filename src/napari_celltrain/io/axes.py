"""Lengths as files write them, in micrometres.

Where Z, Y and X lie in a file's array, and what to say of files that are not one 3D volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError

# Spellings of ImageJ, OME (UDUNITS symbols) and OME-Zarr (UDUNITS names). Pixels are deliberately not among
# them: a spacing "in pixels" says that nobody calibrated the file.
_MICROMETRES = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "a": 1e-4,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "dm": 1e5,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
}


def micrometres_per(unit: str | None) -> float | None:
    """How long one ``unit`` is; None where it is no unit of length that we know (such as ``pixel``)."""
    if unit is None:
        return None
    word = unit.strip().strip("\"'").lower()
    # ImageJ escapes the micro sign, which itself exists twice in Unicode.
    for micro in ("\\u00b5", "\\u03bc", "\u00b5", "\u03bc"):
        word = word.replace(micro, "u")
    word = word.replace("metre", "meter")
    for candidate in (word, word.removesuffix("s"), word.removesuffix("es")):
        if candidate in _MICROMETRES:
            return _MICROMETRES[candidate]
    return None


def spacing_or_none(z: float | None, y: float | None, x: float | None) -> Spacing | None:
    """The three as a voxel size, or None unless all are finite and above 0."""
    if z is None or y is None or x is None:
        return None
    if not all(math.isfinite(v) and 0 < v < 1e6 for v in (z, y, x)):
        return None
    return float(z), float(y), float(x)


# --- axes ------------------------------------------------------------------------------------------------

Slices = tuple[slice, slice, slice]
WHOLE: Slices = (slice(None), slice(None), slice(None))

# What tifffile calls an axis of which the file says nothing.
_UNNAMED = frozenset("QI")


class ColorImageError(DataError):
    """The file holds colours (RGB), not measured intensities or labels."""


class SeveralChannelsError(DataError):
    """The file holds several channels and none was chosen."""

    def __init__(self, message: str, num_channels: int) -> None:
        super().__init__(message)
        self.num_channels = num_channels


@dataclass(frozen=True, slots=True)
class Layout:
    """Which part of a file's array is the volume, and how to turn it to Z, Y, X."""

    fixed: tuple[int | None, ...]
    """For each axis of the file: the index to take, or None where the axis is one of Z, Y and X."""
    order: ZYX
    """The transposition of the axes that remain."""
    shape: ZYX

    def take(self, source: Any, slices: Slices = WHOLE) -> NDArray[Any]:
        """The chosen part of ``source`` (anything indexable, with the file's axes), as Z, Y, X."""
        of_kept = [slices[self.order.index(position)] for position in range(3)]
        kept = iter(of_kept)
        key = tuple(next(kept) if index is None else index for index in self.fixed)
        return np.asarray(source[key]).transpose(self.order)


def plan_layout(
    where: str, file_axes: str, shape: tuple[int, ...], *, axes: str | None = None, channel: int | None = None
) -> Layout:
    """Find the volume in an array of ``shape`` whose axes the file names ``file_axes``.

    ``axes`` overrides the file's own names: people need it exactly where these are wrong, as when slices were
    saved as time points. Raises :class:`DataError` for anything that is not one 3D volume.
    """
    _refuse_color(where, file_axes.upper(), shape)
    names = _given_axes(where, axes.upper(), shape) if axes else _own_axes(where, file_axes.upper(), shape)
    _refuse_missing(where, names, shape, file_axes.upper())
    _refuse_time(where, names, shape)
    chosen = _choose_channel(where, names, shape, channel)
    fixed = tuple(None if name in "ZYX" else (chosen if name in "CS" else 0) for name in names)
    kept = [name for name in names if name in "ZYX"]
    size = dict(zip(names, shape, strict=True))
    return Layout(
        fixed,
        (kept.index("Z"), kept.index("Y"), kept.index("X")),
        (size["Z"], size["Y"], size["X"]),
    )


def _given_axes(where: str, axes: str, shape: tuple[int, ...]) -> list[str]:
    """One name for each axis of ``shape``; axes of length 1 that ``axes`` leaves out are called ``_``."""
    if len(axes) == len(shape):
        return list(axes)
    long = [length for length in shape if length > 1]
    if len(axes) == len(long):
        name = iter(axes)
        return [next(name) if length > 1 else "_" for length in shape]
    raise DataError(
        f"{where}: the axes are given as {axes}, but the file has {len(shape)} axes ({_sizes(shape)}). "
        "Give one letter for each axis, or leave the axes empty if the files name them themselves."
    )


def _own_axes(where: str, file_axes: str, shape: tuple[int, ...]) -> list[str]:
    """The file's names, with a single unnamed axis of a stack read as Z."""
    names = ["_" if length == 1 and name not in "ZYX" else name for name, length in zip(file_axes, shape, strict=True)]
    real = [name for name in names if name != "_"]
    unnamed = [name for name in real if name in _UNNAMED]
    if not unnamed:
        return names
    # A stack of planes of which nothing else is known is a volume: this is what most programs write.
    if len(real) == 3 and len(unnamed) == 3:
        letters = iter("ZYX")
        return [next(letters) if name != "_" else name for name in names]
    if len(real) == 3 and len(unnamed) == 1 and {"Y", "X"} <= set(real):
        return ["Z" if name in _UNNAMED else name for name in names]
    raise DataError(
        f"{where}: has {len(real)} axes ({_sizes(shape)}) and does not say which is which. "
        "Give their order, for example --set data.axes=CZYX, or the Axes field."
    )


def _refuse_color(where: str, names: str, shape: tuple[int, ...]) -> None:
    if any(name == "S" and length in (3, 4) for name, length in zip(names, shape, strict=True)):
        raise ColorImageError(
            f"{where}: is a colour (RGB) image. Save it as 8-bit or 16-bit greyscale, or as one channel each "
            "(in Fiji: Image ▸ Color ▸ Split Channels)."
        )


def _refuse_missing(where: str, names: list[str], shape: tuple[int, ...], file_axes: str) -> None:
    size = dict(zip(names, shape, strict=True))
    if "Y" in size and "X" in size and size.get("Z", 1) == 1:
        hint = "CellTrain needs 3D volumes: save all planes of a stack in one file."
        for letter, what in (("T", "time points"), ("C", "channels")):
            if size.get(letter, 1) > 1:
                hint = (
                    f"It has {size[letter]} {what} and one plane each. If these are in truth the slices of a volume, "
                    "say so with --set data.axes=ZYX or the Axes field."
                )
        raise DataError(f"{where}: is a 2D image of {size['Y']} × {size['X']} pixels. {hint}")
    unknown = [name for name in names if name not in "TCSZYX_"]
    if unknown or not {"Z", "Y", "X"} <= set(names):
        raise DataError(
            f"{where}: its axes are {file_axes} ({_sizes(shape)}), which is not a 3D volume. If the file names them "
            "wrongly, give their order, for example --set data.axes=CZYX, or the Axes field."
        )
    if 0 in shape:
        raise DataError(f"{where}: is empty ({_sizes(shape)}). Export it again.")


def _refuse_time(where: str, names: list[str], shape: tuple[int, ...]) -> None:
    times = dict(zip(names, shape, strict=True)).get("T", 1)
    if times > 1:
        raise DataError(
            f"{where}: is a time series of {times} time points. Save each time point as a file of its own "
            "(in Fiji: Image ▸ Stacks ▸ Tools ▸ Stack Splitter, or Image ▸ Duplicate)."
        )


def _choose_channel(where: str, names: list[str], shape: tuple[int, ...], channel: int | None) -> int:
    channels = [length for name, length in zip(names, shape, strict=True) if name in "CS" and length > 1]
    if len(channels) > 1:
        raise DataError(f"{where}: has two axes of channels ({_sizes(shape)}). Save the channel to use on its own.")
    count = channels[0] if channels else 1
    if channel is None and count > 1:
        raise SeveralChannelsError(
            f"{where}: has {count} channels. Choose one by --set data.channel=N, with N from 0 to {count - 1}, "
            "or in the Channel field.",
            count,
        )
    chosen = channel or 0
    if chosen >= count:
        have = "1 channel, number 0" if count == 1 else f"{count} channels, 0 to {count - 1}"
        raise DataError(f"{where}: channel {chosen} was asked for, but it has {have}. Choose another channel.")
    return chosen


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
