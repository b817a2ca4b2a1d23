"""Segments a layer in the background and shows the result; keeps what the network said, to make objects of it anew.

In a thread of napari and not in a process of its own: the layer is in napari's memory already, and what the network
said has to come back to it.
"""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.layers import full_resolution
from napari_celltrain.widgets.segment.input_panel import InputPanel
from napari_celltrain.widgets.segment.layers import show_result
from napari_celltrain.widgets.segment.options_panel import SegmentOptions
from napari_celltrain.widgets.segment.work import KeptMaps, Result, decode_again, segment_volume


class LayerSegmenter(QObject):
    """One layer at a time."""

    progressed = Signal(int, int, str)
    shown = Signal(object)
    """The labels layer of the result."""
    failed = Signal(str)
    ended = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._kept = KeptMaps()
        self._asked: tuple[Any, ...] = ()
        self._show: Any = None
        self.summary = ""
        """What was found the last time."""
        self._work = Background("Segmenting", self)
        self._work.progressed.connect(self.progressed)
        self._work.answered.connect(self._take)
        self._work.failed.connect(self.failed)
        self._work.ended.connect(self.ended)

    def start(self, model: Path, model_name: str, source: InputPanel, options: SegmentOptions) -> None:
        """Segment the layer chosen in ``source``. Raises :class:`DataError` for one that cannot be."""
        volume = source.volume()
        self._prepare(model_name, source, (model, source.index, options.resample))
        self._kept.forget()
        self._work.start(
            partial(
                segment_volume,
                model=model,
                image=volume,
                threshold=options.threshold,
                decoding=options.decoding,
                resample=options.resample,
                device=options.device,
            )
        )

    def decode_again(self, model_name: str, source: InputPanel, options: SegmentOptions) -> None:
        """Make objects anew. Raises :class:`DataError` where the maps are not there any more."""
        array = full_resolution(source.layer.value())
        maps = self._kept.maps_of(array)
        if maps is None:
            raise DataError(f"{source.layer.value().name}: was changed since it was segmented. Segment it again.")
        self._prepare(model_name, source, self._kept.key)
        self._work.start(partial(decode_again, kept=maps, threshold=options.threshold, decoding=options.decoding))

    def can_decode(
        self, array: Any, model: Path | None, card: ModelCard | None, index: int, options: SegmentOptions
    ) -> bool:
        """Whether what the network said of this image is still there."""
        maps = self._kept.maps_of(array)
        return maps is not None and maps.card == card and self._kept.key == (model, index, options.resample)

    def cancel(self) -> None:
        self._work.cancel()

    def _prepare(self, model_name: str, source: InputPanel, key: tuple[Any, ...]) -> None:
        """Remember where the result belongs; the layer itself may be removed meanwhile."""
        layer = source.layer.value()
        array = full_resolution(layer)
        try:
            reference: Any = weakref.ref(array)
        except TypeError:  # an array of a kind that cannot be told from its successor
            reference = None
        self._asked = (reference, key)
        self._show = partial(
            show_result, self._viewer, str(layer.unique_id), layer.name, model_name, place=source.place()
        )

    def _take(self, result: Result | None) -> None:
        if result is None:
            return
        reference, key = self._asked
        self._kept.keep(result.maps, reference, key)
        layer = self._show(labels=result.labels)
        self.summary = result.summary
        self.shown.emit(layer)
