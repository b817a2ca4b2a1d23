"""A layer of the viewer as a volume to segment: one channel of it where it has several, with its voxel size."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.arrays import ArrayVolume
from napari_celltrain.errors import DataError
from napari_celltrain.widgets.layer_source import full_resolution, voxel_size_of

_CHANNEL_NAMES = ("c", "channel", "channels", "ch")
_TIME_NAMES = ("t", "time", "timepoint")
_MIN_PLANES = 2


@dataclass(frozen=True, slots=True)
class Stack:
    """What a layer holds more of than one volume."""

    axis: int
    """Of the layer's array."""
    num: int
    name: str
    """``channel``, or what the layer itself calls the axis."""


def stack_of(layer: Any) -> Stack | None:
    """The axis of channels (or time points) of a layer with four axes; None for a single volume.

    By its label where the layer names it, else the shorter one of the first two: channels come first or second.
    Raises :class:`DataError` for what cannot be segmented.
    """
    array = full_resolution(layer)
    shape = tuple(int(length) for length in array.shape)
    if getattr(layer, "rgb", False):
        raise DataError(f"{layer.name}: is a colour (RGB) image. Split its channels (right click ▸ Split RGB).")
    sizes = " × ".join(map(str, shape))
    if len(shape) < 3 or sum(length >= _MIN_PLANES for length in shape) < 3:
        raise DataError(
            f"{layer.name}: is a 2D layer ({sizes}). The model segments volumes: choose a layer that holds a stack of "
            "planes."
        )
    if len(shape) > 4:
        raise DataError(
            f"{layer.name}: has {len(shape)} axes ({sizes}), and at most four can be used (channel, z, y, x). "
            "Take a part of it (right click ▸ Split Stack)."
        )
    if len(shape) == 3:
        return None
    labels = [str(label).casefold() for label in getattr(layer, "axis_labels", ())]
    named = [axis for axis, label in enumerate(labels) if label in (*_CHANNEL_NAMES, *_TIME_NAMES)]
    axis = named[0] if named else 0 if shape[0] <= shape[1] else 1
    name = "time point" if named and labels[axis] in _TIME_NAMES else "channel"
    return Stack(axis, shape[axis], name)


def volume_of(layer: Any, index: int = 0) -> ArrayVolume:
    """The volume of a layer, or the one at ``index`` of its :func:`stack_of`; nothing is read. Raises ``DataError``."""
    stack = stack_of(layer)
    array = full_resolution(layer)
    if stack is None:
        return ArrayVolume(layer.name, array, voxel_size_of(layer))
    if not 0 <= index < stack.num:
        raise DataError(
            f"{layer.name}: has {stack.num} {stack.name}s, and there is none of number {index}, counted from 0."
        )
    axes = "ZYX"[: stack.axis] + "C" + "ZYX"[stack.axis :]
    return ArrayVolume(layer.name, array, voxel_size_of(_spatial(layer, stack)), axes=axes, channel=index)


def _spatial(layer: Any, stack: Stack) -> Any:
    """Scale and units of z, y and x alone."""
    kept = [axis for axis in range(4) if axis != stack.axis]
    units = getattr(layer, "units", None)
    return SimpleNamespace(
        scale=[layer.scale[axis] for axis in kept], units=units and [tuple(units)[axis] for axis in kept]
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result belongs: the keywords of a new layer, and how its array is shaped for the viewer's axes."""

    options: dict[str, Any]
    axis: int | None = None
    """An axis of length one that the layer's own volumes have in their midst."""

    def shaped(self, labels_ZYX: NDArray[Any]) -> NDArray[Any]:
        return labels_ZYX if self.axis is None else np.expand_dims(labels_ZYX, self.axis)


def place_of(layer: Any, index: int = 0) -> Place:
    """Scale, position and units of a result on ``layer``."""
    stack = stack_of(layer)
    if stack is not None and (stack.axis > 0 or stack.name != "channel"):
        # It stands at its own channel or time point; the slider finds it there.
        translate = np.array(layer.translate, float)
        translate[stack.axis] += index * layer.scale[stack.axis]
        options = {"scale": tuple(layer.scale), "translate": tuple(translate)}
        return Place(options | _units(layer, slice(None)), stack.axis)
    last = slice(-3, None)
    options = {"scale": tuple(layer.scale[last]), "translate": tuple(layer.translate[last])}
    if stack is None:
        options |= {"rotate": layer.rotate, "shear": layer.shear}
    return Place(options | _units(layer, last))


def _units(layer: Any, axes: slice) -> dict[str, Any]:
    return {"units": tuple(layer.units)[axes]} if hasattr(layer, "units") else {}
