"""A pair of files opened as layers: read in the background, shown with its voxel size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_celltrain.config import DataConfig, Spacing
from napari_celltrain.errors import CellTrainError
from napari_celltrain.widgets.own_layers import sized

if TYPE_CHECKING:
    from napari_celltrain.data.pairing import Pair

_PAIR = "celltrain_pair"
"""Key in the metadata of the layers: a pair that is open already is not opened again."""


@dataclass(frozen=True, eq=False)
class ReadPair:
    pair: Pair
    image: NDArray[Any]
    labels: NDArray[Any]
    contrast: tuple[float, float]
    voxel_size: Spacing | None


class PairOpener(QObject):
    """Opens pairs in the viewer."""

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._reading: set[Pair] = set()

    @property
    def is_busy(self) -> bool:
        return bool(self._reading)

    def open(self, pair: Pair, config: DataConfig) -> None:
        """Show image and labels of ``pair``; where they are shown already, select them."""
        layers = [layer for layer in self._viewer.layers if layer.metadata.get(_PAIR) == _key(pair)]
        if layers:
            self._viewer.layers.selection = set(layers)
        elif pair not in self._reading:
            self._reading.add(pair)
            worker = create_worker(read_pair, pair, config)
            worker.returned.connect(self._show)
            worker.errored.connect(self._stop_waiting)
            worker.start()

    def _show(self, read: ReadPair | str) -> None:
        self._reading.clear()
        if isinstance(read, str):
            show_error(read)
            return
        options = {"metadata": {_PAIR: _key(read.pair)}, **sized(self._viewer, read.voxel_size)}
        self._viewer.add_image(read.image, name=read.pair.name, contrast_limits=read.contrast, **options)
        self._viewer.add_labels(read.labels, name=f"{read.pair.name} labels", **options)

    def _stop_waiting(self, *_: Any) -> None:
        self._reading.clear()


def read_pair(pair: Pair, config: DataConfig) -> ReadPair | str:
    """Both volumes, in the worker's thread; or why they cannot be read."""
    from napari_celltrain.data.pairing import open_pair
    from napari_celltrain.widgets.previews import contrast_of

    try:
        image, labels = open_pair(pair, config)
        numbers = labels.read()
        if numbers.dtype.kind == "f":  # napari takes whole numbers only
            numbers = numbers.astype("int32")
        pixels = image.read()
        return ReadPair(pair, pixels, numbers, contrast_of(pixels), image.voxel_size or labels.voxel_size)
    except CellTrainError as error:
        return str(error)


def _key(pair: Pair) -> tuple[str, str]:
    return str(pair.image), str(pair.labels)
