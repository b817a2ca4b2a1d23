"""Segmenting files, by a process of its own.

The files that were written; a double click opens one with its image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem, QWidget

from napari_celltrain.predict.process import PredictRequest, segment_in_process
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.events import Failed, Prepared, Saved, Warned
from napari_celltrain.values.text import printable
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.previews import PairOpener
from napari_celltrain.widgets.theme import tooltip


@dataclass(frozen=True, slots=True)
class Written:
    """A file of labels, and the image that it is of, where that is known."""

    labels: Path
    image: Path | None


def segment_files(job: Job, request: PredictRequest) -> int:
    """The number of files written. Each is noted as :class:`Written`, warnings as text. Raises ``CellTrainError``."""
    from napari_celltrain.io.volumes import find_volumes, stem_of  # it brings tifffile and Zarr

    job.tell(0, 0, "Starting")
    images = {stem_of(path): path for entry in request.inputs for path in find_volumes(entry)}
    num_written = 0
    for event in segment_in_process(request, lambda: job.is_cancelled):
        match event:
            case Prepared():
                stage = printable(event.stage)
                # of a single volume it is not known how far it is, and a bar that stands still would say nothing
                job.tell(event.done, event.total if event.total > 1 else 0, f"{stage[:1].upper()}{stage[1:]}")
            case Saved(what="prediction"):
                labels = Path(event.path)
                num_written += 1
                job.note(Written(labels, images.get(stem_of(labels))))
            case Warned():
                job.note(printable(event.message))
            case Failed():
                raise CellTrainError(printable(event.message))
    return num_written


# --- file list -------------------------------------------------------------------------------------------

_MAX_LINES = 6


class FileList(QListWidget):
    """Hidden while empty, and no higher than it needs to be."""

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._config = DataConfig()
        self.opener = PairOpener(viewer, self)
        self.setAccessibleName("Files written")
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.itemActivated.connect(self._open)  # a double click, or Enter
        self.hide()

    def begin(self, config: DataConfig) -> None:
        """Forget the files; those to come are of images that are read by ``config``."""
        self._config = config
        self.clear()
        self.hide()

    def add(self, written: Written) -> None:
        item = QListWidgetItem(written.labels.name)
        item.setData(Qt.ItemDataRole.UserRole, written)
        item.setToolTip(tooltip(f"{written.labels}\nDouble-click or press Enter to open it with its image."))
        self.addItem(item)
        self._fit()
        self.show()

    def names(self) -> list[str]:
        return [item.text() for n in range(self.count()) if (item := self.item(n)) is not None]

    def _open(self, item: QListWidgetItem) -> None:
        from napari_celltrain.data.pairs import Pair  # it brings tifffile and Zarr

        written: Written = item.data(Qt.ItemDataRole.UserRole)
        image = written.image or written.labels
        self.opener.open(Pair(written.labels.stem, image, written.labels, "written"), self._config)

    def _fit(self) -> None:
        line = max(self.sizeHintForRow(0), self.fontMetrics().height() + 2)
        self.setFixedHeight(min(self.count(), _MAX_LINES) * line + 2 * self.frameWidth() + 4)
