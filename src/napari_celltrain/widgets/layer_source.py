"""Layers of the viewer as training data: taken as volumes for the check, written as files for training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_celltrain.config import DataConfig, RunConfig, Spacing
from napari_celltrain.data.arrays import ArrayVolume, Volume, fingerprint
from napari_celltrain.data.units import spacing_or_none
from napari_celltrain.errors import CellTrainError, DataError, Problem
from napari_celltrain.widgets.parcel import Parcel

OWN_LAYER = "celltrain"
"""Key in the metadata of layers that the plugin itself shows (previews, predictions): they are not offered as data."""

_FOLDER = "layer-data"


@dataclass(frozen=True, eq=False)
class LayerSource:
    """An image and its labels, taken from layers; it knows no layer, so any thread may use it."""

    image: Volume
    labels: Volume
    notes: tuple[Problem, ...] = ()
    """What is worth knowing about the scale of the layers."""

    def materialize(self, config: DataConfig, results: Path) -> DataConfig:
        """Write both below ``results`` and return ``config`` pointing to the files. Raises :class:`DataError`.

        The folder is named after the content, so that equal layers are written once, and what a run was trained on
        is never written over.
        """
        content = f"{fingerprint(self.image)[:8]}-{fingerprint(self.labels)[:8]}"
        folder = Path(results) / _FOLDER / f"{self.image.name}-{content}"
        paths = {}
        for kind, volume in (("images", self.image), ("labels", self.labels)):
            paths[kind] = folder / kind / f"{self.image.name}.tif"
            if not paths[kind].exists():
                _write(paths[kind], volume, self.image.voxel_size)
        given = {"channel": None, "axes": None, "voxel_size": self.image.voxel_size}
        return config.model_copy(update={**paths, **given})


def take_layers(image: Any, labels: Any, config: DataConfig) -> LayerSource:
    """The volumes of an image layer and a labels layer. Raises :class:`DataError` for what cannot be trained on."""
    if image is None or labels is None:
        missing = "image" if image is None else "labels"
        raise DataError(f"{missing} layer: none is chosen. Open one in the viewer, then choose it.")
    if getattr(image, "rgb", False):
        raise DataError(f"{image.name}: is a colour (RGB) image. Split its channels (right click ▸ Split RGB).")
    size, notes = _voxel_size(image, labels)
    if config.voxel_size is not None:
        size, notes = config.voxel_size, ()
    return LayerSource(
        _volume(image, size, axes=config.axes, channel=config.channel),
        _volume(labels, size),
        notes,
    )


def voxel_size_of(layer: Any) -> Spacing | None:
    """The size of a voxel in µm, by the layer's scale and units; None where the layer is not calibrated.

    Most layers have a scale in µm and say "pixel", since units are younger than scales: a scale other than 1
    counts, whatever the unit.
    """
    scale = [float(value) for value in layer.scale][-3:]
    factors = [micrometres(unit) for unit in units_of(layer)]
    if len(scale) < 3:
        return None
    if None in factors:
        return None if scale == [1.0, 1.0, 1.0] else spacing_or_none(*scale)
    z, y, x = (value * (factor or 1.0) for value, factor in zip(scale, factors, strict=True))
    return spacing_or_none(z, y, x)


def full_resolution(layer: Any) -> Any:
    """The layer's array: of a multiscale layer, whose data is a list, the finest."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def is_own(layer: Any) -> bool:
    """Whether the plugin itself put the layer there."""
    return OWN_LAYER in layer.metadata


def _voxel_size(image: Any, labels: Any) -> tuple[Spacing | None, tuple[Problem, ...]]:
    of_image, of_labels = voxel_size_of(image), voxel_size_of(labels)
    chosen, layer = (of_image, image) if of_image is not None else (of_labels, labels)
    if chosen is None:
        return None, ()
    notes = []
    if None in [micrometres(unit) for unit in units_of(layer)]:
        notes.append(
            Problem(
                "scale-without-unit",
                layer.name,
                "The layer has a scale but no unit of length; it is taken to be in micrometres.",
                "If it is not, give the voxel size.",
                "warning",
            )
        )
    if of_image is not None and of_labels is not None and not _alike(of_image, of_labels):
        notes.append(
            Problem(
                "scales-differ",
                labels.name,
                "The labels layer has another scale than the image layer; that of the image is used.",
                "Check that the labels were made on this image.",
                "warning",
            )
        )
    return chosen, tuple(notes)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 0.01 * max(a, b) for a, b in zip(one, other, strict=True))


def _volume(layer: Any, size: Spacing | None, *, axes: str | None = None, channel: int | None = None) -> ArrayVolume:
    array = full_resolution(layer)
    long = [int(length) for length in array.shape if length > 1]
    if len(long) < 3:
        raise DataError(
            f"{layer.name}: is a 2D layer ({_sizes(array.shape)}). Training needs 3D volumes: choose a layer that "
            "holds a stack of planes."
        )
    if len(long) > 3 and not axes:
        raise DataError(
            f"{layer.name}: has {len(long)} axes ({_sizes(array.shape)}), as a time series or a set of channels has. "
            "Take one volume of it (right click ▸ Split Stack), or give the order of the axes under More settings."
        )
    return ArrayVolume(file_name(layer.name), array, size, axes=axes, channel=channel)


def file_name(name: str) -> str:
    """A layer's name as that of a file, on every system."""
    cleaned = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", name).strip(" .")[:80]
    return cleaned or "layer"


def _write(path: Path, volume: Volume, voxel_size: Spacing | None) -> None:
    from napari_celltrain.data.writer import write_volume  # it brings tifffile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be made ({error.strerror}). Choose a results folder that you may write to."
        ) from error
    write_volume(path, volume.read(), voxel_size)


def units_of(layer: Any) -> list[Any]:
    """The units of the last three axes; napari before 0.5 has none."""
    units = list(getattr(layer, "units", None) or ())[-3:]
    return units if len(units) == 3 else [None] * 3


def micrometres(unit: Any) -> float | None:
    """How long one ``unit`` of pint is; None for pixels."""
    if unit is None or not unit.is_compatible_with("micrometer"):
        return None
    return float((1 * unit).to("micrometer").magnitude)


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def materialize(layers: Parcel[LayerSource], config: RunConfig) -> RunConfig | str:
    """For a worker thread: ``config`` with the layers as files, or why they cannot be written."""
    try:
        data: DataConfig = layers.take().materialize(config.data, config.data.results)
        return config.model_copy(update={"data": data})
    except CellTrainError as error:
        return str(error)
    except Exception as error:  # such as a layer whose array cannot be computed
        return f"The layers could not be written to {config.data.results} ({type(error).__name__}: {error})."
