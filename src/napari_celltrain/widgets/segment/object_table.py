"""A table of columns of numbers and words: sorted by a click on a heading, a row picked by a click or by Enter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QEvent, QModelIndex, QObject, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_celltrain.widgets.theme import tooltip

_MAX_ROWS_SHOWN = 8
_PADDING = 12
_SAMPLE_ROWS = 100
"""Rows that the width of a column is made for: thousands would take a while to look through."""


class ColumnModel(QAbstractTableModel):
    """Columns of one length. Rows are numbered as in the columns, whatever order they are shown in."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._names: list[str] = []
        self._columns: list[NDArray[Any]] = []
        self._help: Mapping[str, str] = {}
        self._order = np.zeros(0, np.int64)
        self._shown = np.zeros(0, np.int64)

    def set_columns(self, columns: Mapping[str, NDArray[Any]], help_texts: Mapping[str, str] | None = None) -> None:
        self.beginResetModel()
        self._names, self._columns = list(columns), [np.asarray(column) for column in columns.values()]
        self._help = help_texts or {}
        self._shown = self._order = np.arange(len(self._columns[0]) if self._columns else 0)
        self.endResetModel()

    def show_rows(self, rows: NDArray[np.integer] | None) -> None:
        """Only these rows, in the order of the columns; None for all."""
        self.beginResetModel()
        num_rows = len(self._columns[0]) if self._columns else 0
        self._shown = self._order = np.arange(num_rows) if rows is None else np.asarray(rows, np.int64)
        self.endResetModel()

    def row_of(self, index: QModelIndex) -> int:
        """In the columns."""
        return int(self._order[index.row()])

    def index_of(self, row: int) -> QModelIndex:
        """Where a row of the columns is shown; invalid where it is not."""
        found = np.flatnonzero(self._order == row)
        return self.index(int(found[0]), 0) if len(found) else QModelIndex()

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._names)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:
        if orientation != Qt.Orientation.Horizontal or section >= len(self._names):
            return None
        name = self._names[section]
        if role == Qt.ItemDataRole.DisplayRole:
            return name.replace("_", " ")
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(self._help.get(name, name))
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        if not index.isValid():
            return None
        value = self._columns[index.column()][self._order[index.row()]]
        if role == Qt.ItemDataRole.DisplayRole:
            return shown(value)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignLeft if isinstance(value, str) else Qt.AlignmentFlag.AlignRight
            return int(side | Qt.AlignmentFlag.AlignVCenter)
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """What is not a number comes last, whichever way."""
        self.layoutAboutToBeChanged.emit()
        if not 0 <= column < len(self._columns):
            self._order = self._shown
        else:
            values = self._columns[column][self._shown]
            if values.dtype.kind not in "fiub":
                values = np.unique(values.astype(str), return_inverse=True)[1]
            keys = values.astype(np.float64)
            descending = order == Qt.SortOrder.DescendingOrder
            self._order = self._shown[np.argsort(-keys if descending else keys, kind="stable")]
        self.layoutChanged.emit()


class ObjectTable(QTableView):
    """``picked`` gives the row of the columns that was clicked, or chosen with the keyboard."""

    picked = Signal(int)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows = ColumnModel(self)
        self.setModel(self.rows)
        self.setAccessibleName(name)
        self.setWordWrap(False)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        lines, headings = self.verticalHeader(), self.horizontalHeader()
        assert lines is not None
        assert headings is not None
        lines.hide()
        lines.setDefaultSectionSize(self.fontMetrics().height() + 6)
        headings.setHighlightSections(False)
        headings.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.clicked.connect(self._pick)
        self.hide()

    def set_columns(self, columns: Mapping[str, NDArray[Any]], help_texts: Mapping[str, str] | None = None) -> None:
        self.setSortingEnabled(False)
        self.rows.set_columns(columns, help_texts)
        self._fit()
        headings = self.horizontalHeader()
        assert headings is not None
        headings.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        self.setVisible(self.rows.columnCount() > 0)

    def show_rows(self, rows: NDArray[np.integer] | None) -> None:
        self.rows.show_rows(rows)
        headings = self.horizontalHeader()
        assert headings is not None
        self.rows.sort(headings.sortIndicatorSection(), headings.sortIndicatorOrder())
        self._fit()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._pick(self.currentIndex())
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent | None) -> None:
        """Another theme may have another font."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self._fit()

    def _pick(self, index: QModelIndex) -> None:
        if index.isValid():
            self.picked.emit(self.rows.row_of(index))

    def _fit(self) -> None:
        """As high as its rows, within bounds, and each column as wide as its heading and its first rows."""
        lines, headings = self.verticalHeader(), self.horizontalHeader()
        if lines is None or headings is None or not hasattr(self, "rows"):
            return
        metrics, headings_metrics = self.fontMetrics(), headings.fontMetrics()
        num_rows = min(self.rows.rowCount(), _SAMPLE_ROWS)
        for column in range(self.rows.columnCount()):
            texts = [str(self.rows.index(row, column).data() or "") for row in range(num_rows)]
            widths = [metrics.horizontalAdvance(text) for text in texts]
            heading = headings.sectionSizeHint(column)
            title = str(self.rows.headerData(column, Qt.Orientation.Horizontal, Qt.ItemDataRole.DisplayRole))
            heading = max(heading, headings_metrics.horizontalAdvance(title) + 2 * _PADDING)
            self.setColumnWidth(column, max([heading, *(width + _PADDING for width in widths)]))
        shown_rows = min(max(self.rows.rowCount(), 1), _MAX_ROWS_SHOWN)
        bar = self.horizontalScrollBar()
        around = headings.sizeHint().height() + 2 * self.frameWidth() + (bar.sizeHint().height() if bar else 0)
        self.setFixedHeight(around + shown_rows * lines.defaultSectionSize())


def shown(value: Any) -> str:
    """Whole numbers in full, others with four digits; – for what could not be measured."""
    if isinstance(value, str | np.str_):
        return str(value)
    if isinstance(value, int | np.integer):
        return str(int(value))
    return "–" if not np.isfinite(value) else f"{float(value):.4g}"
