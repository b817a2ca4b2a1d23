"""Volumes of files as layers: the validation volume of a run with its predictions, pairs, and sample data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari import current_viewer
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_celltrain.data.differences import ObjectComparison, compare_voxels
from napari_celltrain.data.labels import IGNORE, LabelScheme, object_labels, renumber, to_target
from napari_celltrain.data.pairs import Pair, open_pair
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.io.volumes import find_volumes, open_labels, open_volume
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.record import read_data
from napari_celltrain.samples import VOXEL_SIZE, make_nuclei, write_demo
from napari_celltrain.values.config import DataConfig, Spacing
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.values.files import writing
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.path_edit import remember_path
from napari_celltrain.widgets.layers import FOLLOWS, add_layer, sized
from napari_celltrain.widgets.preferences import preferences

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreviewVolume:
    """The first validation volume, or the validation block of a single one."""

    name: str
    image: Any
    """An array, or what can be sliced like one, so that a large file need not be held in memory."""
    contrast: tuple[float, float]
    labels: NDArray[Any]
    """As in the file."""
    target: NDArray[np.uint8]
    objects: NDArray[np.int32] | None
    """Labelled objects without what nobody annotated; None where labels are not objects."""
    scheme: LabelScheme
    voxel_size: Spacing | None


@dataclass(frozen=True, slots=True)
class Preview:
    """One prediction of it; ``labels`` as a user would get them, with objects coloured as in the labels."""

    epoch: int
    labels: NDArray[Any]
    errors: NDArray[np.uint8]
    """Values are :class:`~napari_celltrain.data.differences.Difference`."""


def open_preview_volume(folder: RunFolder) -> PreviewVolume:
    """Raises :class:`CellTrainError` where the run's data are gone or changed."""
    config = folder.read_config().data
    record = read_data(folder.data_file)
    if not record.validation:
        raise DataError(f"{folder.data_file}: names no validation volume.")
    case = record.validation[0]
    scheme = LabelScheme(record.label_kind, config.ignore_value, record.class_values)
    pair, region = Pair(case.name, case.image, case.labels, "recorded"), case.region
    image, labels = open_pair(pair, config)
    lazy = image.lazy()
    pixels: Any = image.read() if lazy is None else lazy if region else _LayerView(lazy)
    values = labels.read()
    if region:
        pixels, values = pixels[region], values[region]
    target = to_target(values, scheme)
    return PreviewVolume(
        name=pair.name,
        image=pixels,
        contrast=contrast_of(pixels),
        labels=values,
        target=target,
        objects=_numbered(object_labels(values, scheme)) if scheme.kind == "objects" else None,
        scheme=scheme,
        voxel_size=case.voxel_size_um,
    )


def read_preview(folder: RunFolder, volume: PreviewVolume, path: str, epoch: int) -> Preview:
    """The prediction in the file ``path`` (relative to the folder), compared with the labels."""
    predicted = open_labels(folder.path / path).read()
    if predicted.shape != volume.target.shape:
        raise DataError(f"{path}: has another shape than the validation volume {volume.name}, which was changed.")
    if volume.objects is None:
        classes = predicted.astype(np.uint8)
        values = np.array(volume.scheme.class_values, np.int32)
        shown = values[classes] if volume.scheme.kind == "classes" else classes
        return Preview(epoch, shown, compare_voxels(volume.target, classes))
    objects = np.where(volume.target == IGNORE, 0, predicted)
    comparison = ObjectComparison(volume.objects, objects)
    return Preview(epoch, comparison.matched(), comparison.differences())


class _LayerView:
    """What a layer of napari asks of its data: it takes planes by their numbers, a lazy array only slices.

    Where the file has gone away, planes are black: napari reads while it paints, and could not take an error.
    """

    ndim = 3

    def __init__(self, source: LazyArray) -> None:
        self._source = source
        self.shape = tuple(source.shape)
        self.dtype = source.dtype
        self._is_lost = False

    def __getitem__(self, key: Any) -> NDArray[Any]:
        given = list(key) if isinstance(key, tuple) else [key]
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        given[at : at + 1] = [slice(None)] * (self.ndim - len(given[:at] + given[at + 1 :]))
        slices, rest = zip(*map(_as_slice, given, self.shape), strict=True)
        try:
            planes = np.asarray(self._source[slices])
        except DataError as error:
            if not self._is_lost:
                logger.warning("The validation image is shown black. %s", error)
            self._is_lost = True
            planes = np.broadcast_to(np.zeros((), self.dtype), self.shape)[slices]
        return planes[rest]  # type: ignore[no-any-return]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __len__(self) -> int:
        return self.shape[0]


def _as_slice(index: Any, length: int) -> tuple[slice, Any]:
    """What to read, and what to take of that."""
    if isinstance(index, slice):
        return (index, slice(None)) if (index.step or 1) > 0 else (slice(None), index)
    number = range(length)[int(index)]
    return slice(number, number + 1), 0


def contrast_of(image: LazyArray) -> tuple[float, float]:
    """From a few planes: napari would go through the whole volume, in the thread of the window."""
    step = max(1, image.shape[0] // 8)
    planes = np.concatenate([np.asarray(image[z])[::2, ::2].ravel() for z in range(0, image.shape[0], step)])
    known = planes[np.isfinite(planes)]
    low, high = (float(value) for value in np.percentile(known, (0.5, 99.8))) if known.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _numbered(labels: NDArray[Any]) -> NDArray[np.int32]:
    is_table = labels.max(initial=0) <= 2**22  # small enough to index tables
    return labels.astype(np.int32) if is_table else renumber(labels)[1]


# --- pair layers -----------------------------------------------------------------------------------------

_PAIR = "celltrain_pair"
"""Key in the metadata of the layers: a pair that is open already is not opened again."""


class PairOpener(Background):
    """Opens pairs in the viewer, one after the other."""

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__("Opening the pair", parent)
        self._viewer = viewer
        self._wanted: dict[Pair, DataConfig] = {}
        self.answered.connect(self._show)
        self.failed.connect(show_error)
        self.ended.connect(self._go_on)

    def open(self, pair: Pair, config: DataConfig) -> None:
        """Show image and labels of ``pair``; where they are shown already, select them."""
        layers = [layer for layer in self._viewer.layers if layer.metadata.get(_PAIR) == _key(pair)]
        if layers:
            self._viewer.layers.selection = set(layers)
        elif pair not in self._wanted:
            self._wanted[pair] = config
            if len(self._wanted) == 1:
                self._read()

    def _read(self) -> None:
        pair, config = next(iter(self._wanted.items()))
        self.start(lambda job: (pair, *_read_pair(pair, config)))

    def _show(self, read: tuple[Pair, NDArray[Any], NDArray[Any], tuple[float, float], Spacing | None]) -> None:
        pair, image, labels, contrast, voxel_size = read
        options = {"metadata": {_PAIR: _key(pair)}, **sized(self._viewer, voxel_size)}
        add_layer(self._viewer, "image", image, name=pair.name, contrast_limits=contrast, **options)
        add_layer(self._viewer, "labels", labels, name=f"{pair.name} labels", **options)

    def _go_on(self) -> None:
        del self._wanted[next(iter(self._wanted))]
        if self._wanted:
            self._read()


def _read_pair(
    pair: Pair, config: DataConfig
) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float], Spacing | None]:
    """Image, labels, contrast limits and voxel size, in the worker's thread. Raises :class:`CellTrainError`."""
    image, labels = open_pair(pair, config)
    pixels, numbers = image.read(), labels.read()
    if numbers.dtype.kind == "f":  # napari takes whole numbers only
        numbers = numbers.astype("int32")
    return pixels, numbers, contrast_of(pixels), image.voxel_size or labels.voxel_size


def _key(pair: Pair) -> tuple[str, str]:
    return str(pair.image), str(pair.labels)


# --- sample data -----------------------------------------------------------------------------------------

LayerTuple = tuple[Any, dict[str, Any], str]


def sample_nuclei() -> list[LayerTuple]:
    """napari's sample-data hook: an image layer and its labels layer."""
    image, labels = make_nuclei((48, 160, 160), 80)
    return _as_layers("nuclei", "nuclei labels", image, labels, VOXEL_SIZE)


def sample_folders() -> list[LayerTuple]:
    """napari's sample-data hook: writes folders of images and labels once, and opens their first pair."""
    folder = preferences().results_folder / "sample-nuclei"
    images, labels = folder / "images", folder / "labels"
    try:
        with writing(folder):
            if not labels.is_dir():
                write_demo(folder)
            remember_path("images", images)
            remember_path("labels", labels)
            image, objects = open_volume(find_volumes(images)[0]), open_labels(find_volumes(labels)[0])
            arrays = image.read(), objects.read()
    except CellTrainError as error:
        show_error(str(error))
        return []
    show_info(f"Generated nuclei are in {images} and {labels}; the Data tab has both among its recent folders.")
    return _as_layers(f"{image.name} image", f"{image.name} labels", *arrays, image.voxel_size)


def _as_layers(
    image_name: str, labels_name: str, image: NDArray[Any], labels: NDArray[Any], voxel_size: Spacing | None
) -> list[LayerTuple]:
    options = {**sized(current_viewer(), voxel_size), "metadata": {FOLLOWS: True}}
    return [
        (image, {"name": image_name, "contrast_limits": contrast_of(image), **options}, "image"),
        (labels, {"name": labels_name, **options}, "labels"),
    ]
