"""Bringing an object into view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_celltrain.widgets.layer_source import full_resolution


def jump_to(viewer: Any, layer: Any, label: int, position_zyx: Sequence[float]) -> None:
    """Move the sliders and the camera to a position in voxels of ``layer``, and select the object there.

    Zoom and angles stay. A layer that is hidden is shown.
    """
    if layer not in viewer.layers:
        return
    position = np.zeros(layer.ndim)
    position[_spatial_axes(layer)] = position_zyx
    world = layer.data_to_world(position)
    first = viewer.dims.ndim - layer.ndim
    viewer.dims.set_point(range(first, viewer.dims.ndim), [float(value) for value in world])
    displayed = [float(viewer.dims.point[axis]) for axis in viewer.dims.displayed]
    for n, axis in enumerate(viewer.dims.displayed):
        if axis >= first:  # the camera goes to the object itself, the sliders to the nearest step
            displayed[n] = float(world[axis - first])
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    camera.center = tuple([0.0] * (3 - len(displayed)) + displayed)
    layer.visible = True
    layer.selected_label = label
    viewer.layers.selection.active = layer


def _spatial_axes(layer: Any) -> list[int]:
    """Z, y and x: the axes but for one of length one in their midst, where results of one channel have it."""
    long = [axis for axis, size in enumerate(full_resolution(layer).shape) if size > 1]
    return long[-3:] if len(long) >= 3 and layer.ndim > 3 else list(range(layer.ndim - 3, layer.ndim))
