"""The files that were written; a double click opens one with its image."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem, QWidget

from napari_celltrain.config import DataConfig
from napari_celltrain.widgets.pair_layers import PairOpener
from napari_celltrain.widgets.plain_text import tooltip
from napari_celltrain.widgets.segment.file_work import Written

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
        from napari_celltrain.data.pairing import Pair  # it brings tifffile and Zarr

        written: Written = item.data(Qt.ItemDataRole.UserRole)
        image = written.image or written.labels
        self.opener.open(Pair(written.labels.stem, image, written.labels, "written"), self._config)

    def _fit(self) -> None:
        line = max(self.sizeHintForRow(0), self.fontMetrics().height() + 2)
        self.setFixedHeight(min(self.count(), _MAX_LINES) * line + 2 * self.frameWidth() + 4)
