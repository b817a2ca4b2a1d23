"""Layers that the plugin shows: beside those of the user, renewed instead of added again, disturbing nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QTimer

from napari_celltrain.config import Spacing
from napari_celltrain.widgets.layer_source import OWN_LAYER, is_own, micrometres, units_of

PAUSE_MS = 30
"""Between one piece of work in the viewer and the next, for the window to draw and to answer."""
_VIEW = ("center", "zoom", "angles")  # of a camera
_GAP = 0.05
"""Space between the user's layers and the plugin's, as a share of the former's width."""


def find_layer(viewer: Any, key: str) -> Any:
    """The layer shown under ``key``, whatever it is called by now; None where there is none."""
    return next((layer for layer in viewer.layers if layer.metadata.get(OWN_LAYER) == key), None)


def show_layer(viewer: Any, kind: str, key: str, data: Any, **options: Any) -> Any:
    """Give the layer of ``key`` new data and a new place, or add it, called ``key``, with all ``options``."""
    layer = find_layer(viewer, key)
    if layer is None:
        make = Labels if kind == "labels" else Image
        layer = make(data, name=key, metadata={OWN_LAYER: key}, **options)
        _add_in_turns(viewer, layer)
        return layer
    layer.data = data
    for name in ("units", "scale", "translate"):
        if name in options and tuple(getattr(layer, name)) != tuple(options[name]):
            setattr(layer, name, options[name])
    return layer


def _add_in_turns(viewer: Any, layer: Any) -> None:
    """Add the layer; what napari draws upon it for its tools, which takes as long again, follows a moment later."""
    tools = [overlay for overlay in getattr(layer, "_overlays", {}).values() if overlay.visible]
    for overlay in tools:
        overlay.visible = False
    viewer.add_layer(layer)
    for turn, overlay in enumerate(tools, start=1):
        QTimer.singleShot(turn * PAUSE_MS, partial(setattr, overlay, "visible", True))


@contextmanager
def undisturbed(viewer: Any) -> Iterator[None]:
    """Leave camera, sliders and selection as they are; an empty viewer may turn to what comes."""
    if not viewer.layers:
        yield
        return
    point, ndim = tuple(viewer.dims.point), viewer.dims.ndim
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    view = {name: getattr(camera, name) for name in _VIEW}
    with _selection_kept(viewer.layers):
        yield
    first = viewer.dims.ndim - ndim
    changed = [axis for axis in range(ndim) if viewer.dims.point[first + axis] != point[axis]]
    viewer.dims.set_point([first + axis for axis in changed], [point[axis] for axis in changed])
    for name, value in view.items():
        if getattr(camera, name) != value:
            setattr(camera, name, value)


@contextmanager
def _selection_kept(layers: Any) -> Iterator[None]:
    """napari selects a layer that is added: nobody hears of that, as it is undone at once.

    It would fill the controls at the left anew and restyle all buttons, twice: a third of what an added layer costs.
    """
    selection, active = set(layers.selection), layers.selection.active
    with layers.selection.events.blocker_all():
        yield
        layers.selection = selection
        layers.selection.active = active


def sized(viewer: Any, voxel_size: Spacing | None) -> dict[str, Any]:
    """``scale`` and ``units`` of a layer of ``voxel_size`` µm that agree with those of the layers already there.

    napari takes no notice of units at all as soon as they do not agree.
    """
    scale = voxel_size or (1.0, 1.0, 1.0)
    units = {unit for layer in viewer.layers for unit in units_of(layer) if not is_own(layer)}
    if voxel_size is None or (viewer.layers and len(units) != 1):
        return {"scale": scale}
    unit = units.pop() if units else None
    length = micrometres(unit)
    if unit is not None and length is None:  # pixels
        return {"scale": scale}
    return {"scale": tuple(size / (length or 1.0) for size in scale), "units": (unit or "um",) * 3}


def beside_the_others(
    viewer: Any, shape: Sequence[int], scale: Sequence[float], side: Literal["left", "right"]
) -> tuple[float, float, float]:
    """Where a volume has to be put to lie beside the user's layers, showing its middle at the plane shown now."""
    extents = [_spatial(layer.extent.world) for layer in viewer.layers if not is_own(layer)]
    low = np.min([extent[0] for extent in extents], axis=0) if extents else np.zeros(3)
    high = np.max([extent[1] for extent in extents], axis=0) if extents else np.zeros(3)
    if not extents and side == "right":
        return (0.0, 0.0, 0.0)
    depth, width = (shape[0] - 1) * scale[0], (shape[2] - 1) * scale[2]
    shown = viewer.dims.point[-3] if extents and viewer.dims.ndim >= 3 else low[0]
    # Within the range of the slider where it fits, so that the slider gets no longer.
    z = min(max(shown - round(shape[0] / 2) * scale[0], low[0]), max(low[0], high[0] - depth))
    gap = max(_GAP * (high[2] - low[2]), 2 * scale[2])
    x = low[2] - gap - width if side == "left" else high[2] + gap
    return float(z), float(low[1]), float(x)


def _spatial(world: Any) -> Any:
    """The last three axes of an extent; a layer of two has no depth."""
    world = np.asarray(world)[:, -3:]
    return np.pad(world, ((0, 0), (3 - world.shape[1], 0)))
