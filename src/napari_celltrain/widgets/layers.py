"""The layers of the viewer: those of the user as training data, and those that the plugin shows beside them.

Layers of the user are taken as volumes for the check, and written as files for training. Layers of the plugin are
renewed instead of added again, disturb nothing, and agree in units with what is open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.events import EventEmitter

from napari_celltrain.io.axes import spacing_of, unreadable
from napari_celltrain.io.volume import ArrayVolume, Volume, fingerprint
from napari_celltrain.values.config import DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.files import writing
from napari_celltrain.values.text import sizes

PLUGIN_LAYER = "celltrain"
"""Key in the metadata of layers that the plugin itself shows (previews, predictions): they are not offered as data."""
FOLLOWS = "celltrain_units"
"""Key in the metadata of all layers that the plugin has added: their units follow those of the user's layers."""


@dataclass(frozen=True, eq=False)
class LayerData:
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
        from napari_celltrain.io.writer import write_volume  # it brings tifffile

        name, voxel_size = self.image.name, self.image.voxel_size
        content = f"{fingerprint(self.image)[:8]}-{fingerprint(self.labels)[:8]}"
        folder = results / "layer-data" / f"{name}-{content}"
        update: dict[str, Any] = {"channel": None, "axes": None, "voxel_size": voxel_size}
        for kind, volume in (("images", self.image), ("labels", self.labels)):
            path = update[kind] = folder / kind / f"{name}.tif"
            if not path.exists():
                with writing(path.parent, DataError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                write_volume(path, volume.read(), voxel_size)
        return config.model_copy(update=update)


def take_layers(image: Any, labels: Any, config: DataConfig) -> LayerData:
    """The volumes of an image layer and a labels layer. Raises :class:`DataError` for what cannot be trained on."""
    if image is None or labels is None:
        missing = "image layer" if image is None else "labels layer"
        raise unreadable(missing, "No layer is chosen.", "Open one in the viewer, then choose it.")
    if getattr(image, "rgb", False):
        raise unreadable(image.name, "This is a colour (RGB) image.", "Split its channels (right click ▸ Split RGB).")
    size, notes = _voxel_size(image, labels) if config.voxel_size is None else (config.voxel_size, ())
    return LayerData(_volume(image, size, config.axes, config.channel), _volume(labels, size), notes)


def voxel_size_of(layer: Any) -> Spacing | None:
    """The size of a voxel in µm, by the layer's scale and units; None where the layer is not calibrated.

    Most layers have a scale in µm and say "pixel", since units are younger than scales: a scale other than 1
    counts, whatever the unit.
    """
    scale = [float(value) for value in layer.scale][-3:]
    factors = [micrometres(unit) for unit in layer.units[-3:]]
    if len(scale) < 3 or (None in factors and scale == [1.0, 1.0, 1.0]):
        return None
    return spacing_of(scale) if None in factors else spacing_of(scale, factors)


def full_resolution(layer: Any) -> Any:
    """The layer's array: of a multiscale layer, whose data is a list, the finest."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def is_plugin_layer(layer: Any) -> bool:
    """Whether the plugin itself put the layer there."""
    return PLUGIN_LAYER in layer.metadata


def _voxel_size(image: Any, labels: Any) -> tuple[Spacing | None, tuple[Problem, ...]]:
    of_image, of_labels = voxel_size_of(image), voxel_size_of(labels)
    chosen, layer = (of_image, image) if of_image is not None else (of_labels, labels)
    if chosen is None:
        return None, ()
    notes = []
    if None in [micrometres(unit) for unit in layer.units[-3:]]:
        message = "The layer has a scale but no unit of length; it is taken to be in micrometres."
        remedy = "If it is not, give the voxel size."
        notes.append(Problem("scale-without-unit", layer.name, message, remedy, "warning"))
    if of_image is not None and of_labels is not None and not np.allclose(of_image, of_labels, rtol=0.01, atol=0):
        message = "The labels layer has another scale than the image layer; that of the image is used."
        remedy = "Check that the labels were made on this image."
        notes.append(Problem("scales-differ", labels.name, message, remedy, "warning"))
    return chosen, tuple(notes)


def _volume(layer: Any, size: Spacing | None, axes: str | None = None, channel: int | None = None) -> ArrayVolume:
    array = full_resolution(layer)
    num_axes = sum(length > 1 for length in array.shape)
    if num_axes < 3:
        remedy = "Training needs 3D volumes: choose a layer that holds a stack of planes."
        raise unreadable(layer.name, f"This is a 2D layer ({sizes(array.shape)}).", remedy)
    if num_axes > 3 and not axes:
        message = f"The layer has {num_axes} axes ({sizes(array.shape)}), as a time series or a set of channels has."
        remedy = "Take one volume of it (right click ▸ Split Stack), or give the order of the axes."
        raise unreadable(layer.name, message, remedy, "data.axes")
    return ArrayVolume(file_name(layer.name), array, size, axes=axes, channel=channel)


def file_name(name: str) -> str:
    """A layer's name as that of a file, on every system."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", name).strip(" .")[:80] or "layer"


def micrometres(unit: Any) -> float | None:
    """How long one ``unit`` of pint is; None for pixels."""
    return float((1 * unit).to("micrometer").magnitude) if unit.is_compatible_with("micrometer") else None


def _length(unit: Any) -> float:
    """In µm, for which a pixel is taken where its size is not known; µm and pixels may be given by name."""
    return 1.0 if isinstance(unit, str) else micrometres(unit) or 1.0


# --- plugin layers ------------------------------------------------------------------------------------------

PAUSE_MS = 30
"""Between one piece of work in the viewer and the next, for the window to draw and to answer."""


def find_layer(viewer: Any, key: str) -> Any:
    """The layer shown under ``key``, whatever it is called by now; None where there is none."""
    return next((layer for layer in viewer.layers if layer.metadata.get(PLUGIN_LAYER) == key), None)


def add_layer(viewer: Any, kind: str, data: Any, **options: Any) -> Any:
    """Add a layer whose units agree with the other layers, now and when more are opened."""
    options["metadata"] = {FOLLOWS: True, **options.get("metadata", {})}
    return getattr(viewer, f"add_{kind}")(data, **options)


def show_layer(viewer: Any, kind: str, key: str, data: Any, **options: Any) -> Any:
    """Give the layer of ``key`` new data and a new place, or add it, called ``key``, with all ``options``."""
    layer = find_layer(viewer, key)
    if layer is None:
        return add_layer(viewer, kind, data, name=key, metadata={PLUGIN_LAYER: key}, **options)
    layer.data = data
    for name in ("units", "scale", "translate"):
        if name in options and tuple(getattr(layer, name)) != tuple(options[name]):
            setattr(layer, name, options[name])
    _agree(viewer.layers)
    return layer


@contextmanager
def undisturbed(viewer: Any) -> Iterator[None]:
    """Leave camera, sliders and selection as they are; an empty viewer may turn to what comes."""
    layers = viewer.layers
    if not layers:
        yield
        return
    point, ndim = tuple(viewer.dims.point), viewer.dims.ndim
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    view = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
    selection, active = set(layers.selection), layers.selection.active
    # napari selects a layer that is added. No event reports that, as it is undone at once: it would fill the controls
    # at the left again and restyle all buttons, twice.
    with layers.selection.events.blocker_all():
        yield
        layers.selection = selection
        layers.selection.active = active
    first = viewer.dims.ndim - ndim
    changed = [axis for axis in range(ndim) if viewer.dims.point[first + axis] != point[axis]]
    viewer.dims.set_point([first + axis for axis in changed], [point[axis] for axis in changed])
    for name, value in view.items():
        if getattr(camera, name) != value:
            setattr(camera, name, value)


def sized(viewer: Any, voxel_size: Spacing | None) -> dict[str, Any]:
    """``scale`` and ``units`` of a layer of ``voxel_size`` µm that agree with those of the layers already there."""
    layers: Any = viewer.layers if viewer is not None else []
    if viewer is not None:
        layers.events.inserted.connect(_inserted, position="first")  # of which napari keeps one, however often
    units = _common_units(layers, known=voxel_size is not None)
    scale = tuple(size / _length(unit) for size, unit in zip(voxel_size or (1.0, 1.0, 1.0), units, strict=True))
    return {"scale": scale, "units": units}


def _common_units(layers: Iterable[Any], *, known: bool = True) -> tuple[Any, Any, Any]:
    """The units (z, y, x) for the plugin's layers: of length only where all layers of the user have a length.

    napari draws without any units, and warns of it, as soon as layers in µm and in pixels stand side by side. Where the
    voxel size is not ``known``, no length is claimed unless the user's layers have one.
    """
    theirs = [layer for layer in layers if FOLLOWS not in layer.metadata]

    def unit(axis: int) -> Any:
        found = [layer.units[axis] for layer in theirs or layers if layer.ndim >= -axis]
        if any(micrometres(one) is None for one in found) or not (known or theirs):
            return "pixel"
        return found[0] if found else "micrometer"

    return unit(-3), unit(-2), unit(-1)


_inserted = EventEmitter(type_name="inserted")
"""napari draws a layer as soon as it is inserted, before it calls any plugin; an emitter of napari's can come first."""
_inserted.connect(lambda event: _agree(event.sources[-2]))


def _agree(layers: Iterable[Any]) -> None:
    """Have the plugin's layers agree with those of the user, which are left as they are."""
    units = _common_units(layers)
    for layer in layers:
        wanted = (*layer.units[:-3], *units)
        if FOLLOWS in layer.metadata and list(map(str, layer.units)) != list(map(str, wanted)):
            ratio = [_length(old) / _length(new) for old, new in zip(layer.units, wanted, strict=True)]
            scale, translate = np.multiply(layer.scale, ratio), np.multiply(layer.translate, ratio)
            layer.units, layer.scale, layer.translate = wanted, scale, translate


def beside_the_others(
    viewer: Any, shape: Sequence[int], scale: Sequence[float], plane: int | None = None
) -> tuple[float, float, float]:
    """Where a volume has to be put to lie beside the user's layers, at the plane shown now.

    With a ``plane``, it lies at their left and shows that one there. Without, it lies at their right and shows its
    middle, as far as the slider then gets no longer.
    """
    layers = [layer for layer in viewer.layers if not is_plugin_layer(layer)]
    extents = [np.pad(layer.extent.world, ((0, 0), (3, 0)))[:, -3:] for layer in layers]  # two axes have no depth
    if not extents and plane is None:
        return (0.0, 0.0, 0.0)
    low, high = (bound(extents or np.zeros((1, 2, 3)), axis=(0, 1)) for bound in (np.min, np.max))
    depth, width = (shape[0] - 1) * scale[0], (shape[2] - 1) * scale[2]
    shown = viewer.dims.point[-3] if extents and viewer.dims.ndim >= 3 else low[0]
    z = shown - (round(shape[0] / 2) if plane is None else plane) * scale[0]
    if plane is None:
        z = min(max(z, low[0]), max(low[0], high[0] - depth))
    gap = max(0.05 * (high[2] - low[2]), 2 * scale[2])
    x = high[2] + gap if plane is None else low[2] - gap - width
    return float(z), float(low[1]), float(x)
