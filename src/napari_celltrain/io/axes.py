"""Where Z, Y and X lie in the array of a file, how large a voxel is in µm, and why a file is not one 3D volume."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.text import sizes

Region = tuple[slice, slice, slice]
"""A part of a volume, along z, y and x."""
WHOLE: Region = (slice(None), slice(None), slice(None))

Plane = tuple[int, int, int, int]
"""Which plane of a set of files one is: its position, time point, channel and slice, each counted from 0."""

COLOR_IMAGE = "color-image"
"""Code of the problem that a file holds colours (RGB), not measured intensities or labels."""

# Spellings of ImageJ, OME (UDUNITS symbols) and OME-Zarr (UDUNITS names). Pixels are deliberately not among
# them: a spacing "in pixels" means that nobody calibrated the file.
_UNITS = {
    "pm picometer": 1e-6,
    "a å angstrom": 1e-4,
    "nm nanometer": 1e-3,
    "um micron micrometer": 1.0,
    "mm millimeter": 1e3,
    "cm centimeter": 1e4,
    "in inch": 25400.0,
    "dm decimeter": 1e5,
    "m meter": 1e6,
}
_MICROMETRES = {word: length for words, length in _UNITS.items() for word in words.split()}

# What tifffile calls an axis of which the file says nothing.
_UNNAMED = frozenset("QI")


def zyx(lengths: Iterable[Any]) -> ZYX:
    """Three whole numbers, such as a shape, as plain integers."""
    z, y, x = (int(length) for length in lengths)
    return z, y, x


def with_margins(region: Sequence[slice], margins: ZYX, shape: Sequence[int]) -> tuple[Region, Region]:
    """``region`` grown by ``margins`` on all sides, as far as ``shape`` reaches, and where ``region`` lies in it."""
    spans = [part.indices(int(length))[:2] for part, length in zip(region, shape, strict=True)]
    grown = [
        slice(max(0, start - margin), min(int(length), stop + margin))
        for (start, stop), margin, length in zip(spans, margins, shape, strict=True)
    ]
    inner = [slice(start - part.start, stop - part.start) for (start, stop), part in zip(spans, grown, strict=True)]
    return (grown[0], grown[1], grown[2]), (inner[0], inner[1], inner[2])


def micrometres_per(unit: str | None) -> float | None:
    """How long one ``unit`` is; None where it is no unit of length that we know (such as ``pixel``)."""
    if unit is None:
        return None
    word = unit.strip().strip("\"'").lower()
    # ImageJ escapes the micro sign, which itself exists twice in Unicode.
    for micro in ("\\u00b5", "\\u03bc", "\u00b5", "\u03bc"):
        word = word.replace(micro, "u")
    word = word.replace("metre", "meter")
    spellings = (word, word.removesuffix("s"), word.removesuffix("es"))
    return next(filter(None, map(_MICROMETRES.get, spellings)), None)


def spacing_of(lengths: Sequence[float], factors: Iterable[float | None] = (1.0, 1.0, 1.0)) -> Spacing | None:
    """The voxel size in µm of ``lengths`` along z, y and x in units of ``factors`` µm; None unless all are known,
    finite and above 0."""
    z, y, x = (math.nan if f is None else float(length) * f for length, f in zip(lengths, factors, strict=True))
    return (z, y, x) if all(0 < size < 1e6 for size in (z, y, x)) else None


def unreadable(where: str, message: str, remedy: str = "", *settings: str) -> DataError:
    """Why the volume called ``where`` cannot be used; ``settings`` are the paths of the fields that help."""
    return DataError(Problem("unreadable-file", where, message, remedy, settings=settings))


class SeveralChannelsError(DataError):
    """The file holds several channels and none was chosen."""

    def __init__(self, where: str, num_channels: int) -> None:
        remedy = f"Choose one by its number, from 0 to {num_channels - 1}."
        message = f"The volume has {num_channels} channels."
        super().__init__(Problem("several-channels", where, message, remedy, settings=("data.channel",)))
        self.num_channels = num_channels


@dataclass(frozen=True, slots=True)
class Layout:
    """Which part of a file's array is the volume, and how to turn it to Z, Y, X."""

    fixed: tuple[int | None, ...]
    """For each axis of the file: the index to take, or None where the axis is one of Z, Y and X."""
    order: ZYX
    """The transposition of the axes that remain."""
    shape: ZYX

    def take(self, read: Callable[[Any], Any], region: Region = WHOLE) -> NDArray[Any]:
        """The chosen part as Z, Y, X; ``read`` is the ``__getitem__`` of something with the file's axes."""
        kept = iter([region[self.order.index(position)] for position in range(3)])
        key = tuple(next(kept) if index is None else index for index in self.fixed)
        return np.asarray(read(key)).transpose(self.order)


def plane_grid(where: str, planes: Sequence[Plane], slices: int) -> tuple[str, tuple[int, ...]]:
    """The axes, besides those of a plane, along which the planes of a file lie in order, and their lengths.

    Raises :class:`DataError` where they are no whole volume, which has ``slices``.
    """
    values = [sorted({plane[axis] for plane in planes}) for axis in range(4)]
    lengths = [len(found) for found in values]
    if lengths[0] > 1:
        raise unreadable(where, f"The file holds {lengths[0]} separate volumes.", "Save each as a file of its own.")
    if lengths[3] < slices:
        message = f"The file holds only {lengths[3]} of the {slices} planes of a volume; other files hold the rest."
        remedy = "Save the volume in one file, or give a folder with all its planes, one in each file."
        raise unreadable(where, message, remedy)
    for order in itertools.permutations(range(4)):
        expected = itertools.product(*(values[axis] for axis in order))
        if [tuple(plane[axis] for axis in order) for plane in planes] == list(expected):
            along = [axis for axis in order if lengths[axis] > 1]
            return "".join("PTCZ"[axis] for axis in along), tuple(lengths[axis] for axis in along)
    message = "The planes of the file are no complete series of channels, slices and time points."
    raise unreadable(where, message, "Save each volume in a file of its own.")


def plan_layout(
    where: str,
    file_axes: str,
    shape: tuple[int, ...],
    *,
    axes: str | None = None,
    channel: int | None = None,
    flat: bool = False,
) -> Layout:
    """Find the volume in an array of ``shape`` whose axes the file names ``file_axes`` (empty: it does not).

    ``axes`` overrides the file's own names, which may be wrong, as when slices were saved as time points. With
    ``flat`` one slice is enough. Raises :class:`DataError` for anything that is not one 3D volume.
    """
    file_axes = file_axes.upper()
    if len(file_axes) != len(shape):
        file_axes = "QYX" if len(shape) == 3 else "Q" * len(shape)
    if any(name == "S" and length in (3, 4) for name, length in zip(file_axes, shape, strict=True)):
        remedy = "Save it as 8- or 16-bit greyscale, or each channel on its own (Fiji: Image ▸ Color ▸ Split Channels)."
        raise DataError(Problem(COLOR_IMAGE, where, "This is a colour (RGB) image.", remedy))
    names = _given_axes(where, axes.upper(), shape) if axes else _own_axes(where, file_axes, shape)
    _refuse_other_axes(where, names, shape, file_axes, flat)
    chosen = _choose_channel(where, names, shape, channel)
    kept = [name for name in names if name in "ZYX"]
    return Layout(
        tuple(None if name in "ZYX" else (chosen if name in "CS" else 0) for name in names),
        zyx(kept.index(letter) for letter in "ZYX"),
        zyx(shape[names.index(letter)] for letter in "ZYX"),
    )


def _given_axes(where: str, axes: str, shape: tuple[int, ...]) -> list[str]:
    """One name for each axis of ``shape``; axes of length 1 that ``axes`` leaves out are called ``_``."""
    if len(axes) == len(shape):
        return list(axes)
    if len(axes) == sum(length > 1 for length in shape):
        name = iter(axes)
        return [next(name) if length > 1 else "_" for length in shape]
    message = f"The axes are given as {axes}, but there are {len(shape)} ({sizes(shape)})."
    remedy = "Give one letter for each axis, or leave the axes empty if the files name them themselves."
    raise unreadable(where, message, remedy, "data.axes")


def _own_axes(where: str, file_axes: str, shape: tuple[int, ...]) -> list[str]:
    """The file's names, with a single unnamed axis of a stack read as Z."""
    names = ["_" if length == 1 and name not in "ZYX" else name for name, length in zip(file_axes, shape, strict=True)]
    real = [name for name in names if name != "_"]
    unnamed = sum(name in _UNNAMED for name in real)
    # A stack of planes of which nothing else is known is a volume: this is what most programs write.
    if len(real) == 3 and (unnamed == 3 or (unnamed == 1 and {"Y", "X"} <= set(real))):
        letters = iter("ZYX")
        return [next(letters) if name in _UNNAMED else name for name in names]
    if unnamed:
        message = f"The volume has {len(real)} axes ({sizes(shape)}) and does not say which is which."
        raise unreadable(where, message, "Give the order of the axes, for example CZYX.", "data.axes")
    return names


def _refuse_other_axes(where: str, names: list[str], shape: tuple[int, ...], file_axes: str, flat: bool) -> None:
    size = dict(zip(names, shape, strict=True))
    if not flat and "Y" in size and "X" in size and size.get("Z", 1) == 1:
        message = f"This is a 2D image of {sizes((size['Y'], size['X']))} pixels"
        for letter, what in (("C", "channels"), ("T", "time points")):
            if size.get(letter, 1) > 1:
                message += f", with {size[letter]} {what} of one plane each."
                remedy = "If these are in truth the slices of a volume, give the axes as ZYX."
                raise unreadable(where, message, remedy, "data.axes")
        raise unreadable(where, f"{message}.", "CellTrain needs 3D volumes: save all planes of a stack in one file.")
    if not {"Z", "Y", "X"} <= set(names) <= set("TCSZYX_"):
        message = f"The axes are {file_axes} ({sizes(shape)}), which is not a 3D volume."
        remedy = "If the file names them wrongly, give the order of the axes, for example CZYX."
        raise unreadable(where, message, remedy, "data.axes")
    if 0 in shape:
        raise unreadable(where, f"The volume is empty ({sizes(shape)}).", "Export it again.")
    if size.get("T", 1) > 1:
        how = "(in Fiji: Image ▸ Stacks ▸ Tools ▸ Stack Splitter, or Image ▸ Duplicate)"
        remedy = f"Save each time point as a file of its own {how}."
        raise unreadable(where, f"This is a time series of {size['T']} time points.", remedy)


def _choose_channel(where: str, names: list[str], shape: tuple[int, ...], channel: int | None) -> int:
    channels = [length for name, length in zip(names, shape, strict=True) if name in "CS" and length > 1]
    if len(channels) > 1:
        message = f"The volume has two axes of channels ({sizes(shape)})."
        raise unreadable(where, message, "Save the channel to use on its own.")
    number = max(channels, default=1)
    if channel is None and number > 1:
        raise SeveralChannelsError(where, number)
    chosen = channel or 0
    if chosen >= number:
        have = "1 channel, number 0" if number == 1 else f"{number} channels, 0 to {number - 1}"
        message = f"There is no channel {chosen}: the volume has {have}."
        raise unreadable(where, message, "Choose another channel.", "data.channel")
    return chosen
