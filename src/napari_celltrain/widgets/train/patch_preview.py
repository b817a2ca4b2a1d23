"""Real training patches as layers: the very arrays that the network would get, drawn again at each press."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_celltrain.data.labels import IGNORE, readable_target
from napari_celltrain.runs.config_file import check_settings
from napari_celltrain.values.config import ZYX, RunConfig
from napari_celltrain.values.events import Event
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.layers import (
    LayerData,
    beside_the_others,
    find_layer,
    is_plugin_layer,
    show_layer,
    sized,
    undisturbed,
)
from napari_celltrain.widgets.previews import contrast_of
from napari_celltrain.widgets.run.shown import warm_up

if TYPE_CHECKING:
    from napari_celltrain.runs.prepare import Preparation

IMAGE_LAYER = "training patch (image)"
LABELS_LAYER = "training patch (labels)"
MAX_PATCHES = 9
MAX_VOXELS = 2**25
"""Of all patches shown together: a draw of whole images must not fill the memory."""
MAX_KEPT_BYTES = 2**30
"""Decoded volumes up to this size are kept for the next press."""


@dataclass(frozen=True, eq=False)
class Ready:
    """What drawing needs; kept, the next draw of the same settings takes no time."""

    asked: RunConfig
    run: Preparation


@dataclass(frozen=True, eq=False)
class Draw:
    image: NDArray[np.float32]
    """The mosaic of the images; ``labels`` is that of the targets."""
    labels: NDArray[np.uint8]
    contrast: tuple[float, float]
    plane: int
    """With the most foreground."""
    ready: Ready


class PatchPreview(Background):
    """Shows patches in the viewer. What it keeps in memory goes with :meth:`release`, which Start should call."""

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__("Drawing training patches", parent, shown=True)
        self._viewer = viewer
        self._ready: Ready | None = None
        self._draws = count(1)
        self.answered.connect(self._show)
        self.failed.connect(show_error)

    def show(self, config: RunConfig, layers: LayerData | None = None) -> None:
        """Draw patches of ``config`` in the background, of ``layers`` where these are the source."""
        if self.is_busy:
            return
        ready, self._ready = self._ready, None
        draw = next(self._draws)
        self.start(lambda job: draw_patches(config, layers, draw, ready))

    def release(self) -> None:
        """Keep no volume in memory."""
        self._ready = None

    def _show(self, drawn: Draw) -> None:
        """Add or renew the two layers, beside those of the user, with the plane that has most foreground in view."""
        self._ready = drawn.ready if drawn.ready.run.num_bytes <= MAX_KEPT_BYTES else None
        viewer = self._viewer
        is_new = find_layer(viewer, IMAGE_LAYER) is None
        with undisturbed(viewer):
            options = sized(viewer, drawn.ready.run.network.voxel_size)
            scale, shape = options["scale"], drawn.image.shape
            options["translate"] = beside_the_others(viewer, shape, scale, drawn.plane)
            show_layer(viewer, "image", IMAGE_LAYER, drawn.image, **options, contrast_limits=drawn.contrast)
            show_layer(viewer, "labels", LABELS_LAYER, drawn.labels, **options, opacity=0.4)
        if all(map(is_plugin_layer, viewer.layers)):  # nothing of the user is in view
            viewer.dims.set_point(viewer.dims.ndim - 3, options["translate"][0] + drawn.plane * scale[0])
        if is_new:  # they lie beside what was in view, and were asked for
            viewer.reset_view()


def draw_patches(
    config: RunConfig, layers: LayerData | None, draw: int, ready: Ready | None
) -> Generator[Event, None, Draw]:
    """The first patches of epoch ``draw``, in the worker's thread. Raises :class:`CellTrainError`.

    It yields the events of the preparation, between which it can be left.
    """
    from napari_celltrain.engine.patches import plan_epoch

    if layers is not None:
        config = config.model_copy(update={"data": layers.materialize(config.data, config.data.results)})
    if ready is None or _what_matters(ready.asked) != _what_matters(config):
        ready = yield from _prepare(config)
    augmentation, seed = ready.run.config.augmentation, ready.run.config.training.seed
    samples = augmentation.samples_per_volume if augmentation.patches else 1
    images: list[NDArray[np.float32]] = []
    targets: list[NDArray[np.uint8]] = []
    for request in plan_epoch(len(ready.run.source.volumes), samples, seed, draw)[:MAX_PATCHES]:
        image, target = ready.run.source.patch(request)
        if images and sum(other.size for other in images) + image.size > MAX_VOXELS:
            break
        images.append(image)
        targets.append(readable_target(target) if ready.run.target == "objects" else target)
    warm_up(targets[0].dtype)
    image, labels = mosaic(images, min(float(patch.min()) for patch in images)), mosaic(targets, 0)
    foreground = np.count_nonzero((labels > 0) & (labels != IGNORE), axis=(1, 2))
    best = np.flatnonzero(foreground == foreground.max())
    plane = int(best[len(best) // 2])  # the middle one, where several are equal
    return Draw(image, labels, contrast_of(image), plane, ready)


def mosaic(patches: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """Patches side by side in the plane, with a gap; smaller ones (of whole images) are filled up."""
    depth, height, width = (int(size) for size in np.max([patch.shape for patch in patches], axis=0))
    num_columns = ceil(sqrt(len(patches)))
    num_rows = ceil(len(patches) / num_columns)
    gap = max(2, width // 16)
    shape: ZYX = (depth, num_rows * (height + gap) - gap, num_columns * (width + gap) - gap)
    whole = np.full(shape, fill, dtype=patches[0].dtype)
    for index, patch in enumerate(patches):
        row, column = divmod(index, num_columns)
        top, left = row * (height + gap), column * (width + gap)
        whole[: patch.shape[0], top : top + patch.shape[1], left : left + patch.shape[2]] = patch
    return whole


def _prepare(config: RunConfig) -> Generator[Event, None, Ready]:
    """As training prepares itself. Raises :class:`CellTrainError`."""
    from napari_celltrain.runs.prepare import prepare

    return Ready(config, (yield from prepare(check_settings(config))))


def _what_matters(config: RunConfig) -> tuple[Any, ...]:
    training = config.training
    return config.data, config.augmentation, training.seed, training.target, training.model, training.model_size
