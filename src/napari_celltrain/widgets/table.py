"""A table of columns of numbers and words: sorted by a click on a heading, a row picked by the mouse or by Enter."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QEvent, QModelIndex, Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_celltrain.widgets.theme import tooltip

LEFT, RIGHT = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight


class TableModel(QAbstractTableModel):
    """Columns of one length. Rows are numbered as in the columns, whatever order they are shown in."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []
        self._values: list[NDArray[Any]] = []
        self._help: Mapping[str, str] = {}
        self._order = np.zeros(0, np.int64)
        self._shown = np.zeros(0, np.int64)

    def set_columns(self, columns: Mapping[str, Any], help_texts: Mapping[str, str] | None = None) -> None:
        self._names = list(columns)
        self._values = [np.asarray(column) for column in columns.values()]
        self._help = help_texts or {}
        self.show_rows(None)

    def show_rows(self, rows: NDArray[np.integer] | None) -> None:
        """Only these rows, in the order of the columns; None for all."""
        self.beginResetModel()
        num_rows = len(self._values[0]) if self._values else 0
        self._shown = self._order = np.arange(num_rows) if rows is None else np.asarray(rows, np.int64)
        self.endResetModel()

    def row_of(self, index: QModelIndex) -> int:
        """In the columns."""
        return int(self._order[index.row()])

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._values)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:
        if orientation != Qt.Orientation.Horizontal or section >= len(self._values):
            return None
        name = self._names[section]
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return name.replace("_", " ")
            case Qt.ItemDataRole.ToolTipRole:
                return tooltip(self._help.get(name, name))
            case Qt.ItemDataRole.TextAlignmentRole:
                return int(self.alignment(section) | Qt.AlignmentFlag.AlignVCenter)
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        if not index.isValid():
            return None
        match role:
            case Qt.ItemDataRole.DisplayRole:
                return shown(self._values[index.column()][self.row_of(index)])
            case Qt.ItemDataRole.TextAlignmentRole:
                return int(self.alignment(index.column()) | Qt.AlignmentFlag.AlignVCenter)
        return None

    def alignment(self, column: int) -> Qt.AlignmentFlag:
        return LEFT if self._values[column].dtype.kind in "UO" else RIGHT

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """What is not a number comes last, whichever way."""
        self.layoutAboutToBeChanged.emit()
        if not 0 <= column < len(self._values):
            self._order = self._shown
        else:
            values = self._values[column][self._shown]
            if values.dtype.kind not in "fiub":
                values = np.unique(values.astype(str), return_inverse=True)[1]
            keys = values.astype(np.float64)
            descending = order == Qt.SortOrder.DescendingOrder
            self._order = self._shown[np.argsort(-keys if descending else keys, kind="stable")]
        self.layoutChanged.emit()


class Table(QTableView):
    """As high as its rows, between ``lines`` bounds, and each column as wide as its heading and its first rows."""

    picked = Signal(int)
    """The row of the columns that was clicked, or double-clicked, or on which Enter was pressed."""

    def __init__(
        self,
        name: str,
        model: TableModel | None = None,
        *,
        lines: tuple[int, int] = (8, 8),
        elided: int | None = None,
        double_click: bool = False,
    ) -> None:
        """``elided`` is a column that gets the width which the others leave."""
        super().__init__()
        rows, headings = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None
        assert headings is not None
        self._rows, self._headings = rows, headings
        self._lines, self._elided = lines, elided
        self.rows = model or TableModel()
        self.rows.setParent(self)
        self.setModel(self.rows)
        self.setAccessibleName(name)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setWordWrap(False)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        rows.hide()
        rows.setDefaultSectionSize(self.fontMetrics().height() + 6)
        headings.setHighlightSections(False)
        headings.setResizeContentsPrecision(100)  # rows: thousands would take a while to look through
        mode = QHeaderView.ResizeMode
        headings.setSectionResizeMode(mode.Interactive if elided is None else mode.Fixed)
        headings.setMinimumSectionSize(18)
        self.rows.modelReset.connect(self._fit)
        (self.doubleClicked if double_click else self.clicked).connect(self._pick)
        self.hide()

    def set_columns(self, columns: Mapping[str, Any], help_texts: Mapping[str, str] | None = None) -> None:
        """Show these columns, to be sorted; hide the table where there are none."""
        self.setSortingEnabled(False)
        self._headings.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.rows.set_columns(columns, help_texts)
        self.setSortingEnabled(True)
        self.setVisible(self.rows.columnCount() > 0)

    def show_rows(self, rows: NDArray[np.integer] | None) -> None:
        self.rows.show_rows(rows)
        self.rows.sort(self._headings.sortIndicatorSection(), self._headings.sortIndicatorOrder())

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._pick(self.currentIndex())
        else:
            super().keyPressEvent(event)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        if self._elided is not None:
            self._fit_columns()

    def changeEvent(self, event: QEvent | None) -> None:
        """Another theme may have another font."""
        super().changeEvent(event)
        changes_font = event is not None and event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange)
        if changes_font and hasattr(self, "rows"):  # Qt polishes it while it is made
            self._fit()

    def _pick(self, index: QModelIndex) -> None:
        if index.isValid():
            self.picked.emit(self.rows.row_of(index))

    def _fit(self) -> None:
        self._fit_columns()
        bar, line = self.horizontalScrollBar(), self._rows.defaultSectionSize()
        around = self._headings.sizeHint().height() + 2 * self.frameWidth() + (bar.sizeHint().height() if bar else 0)
        least, most = (min(max(self.rows.rowCount(), 1), lines) for lines in self._lines)
        self.setMinimumHeight(around + least * line)
        self.setMaximumHeight(around + most * line)

    def _fit_columns(self) -> None:
        headings, viewport = self._headings, self.viewport()
        arrow = 12 if self._elided is None else 0  # pixels, of a heading that is sorted by
        num_columns = self.rows.columnCount()
        widths = [max(self.sizeHintForColumn(c), headings.sectionSizeHint(c) + arrow) for c in range(num_columns)]
        if self._elided is not None and num_columns and viewport is not None:
            left = viewport.width() - sum(widths) + widths[self._elided]
            widths[self._elided] = max(left, min(90, widths[self._elided]))
        for column, width in enumerate(widths):
            self.setColumnWidth(column, width)


def shown(value: Any) -> str:
    """Whole numbers in full, others with four digits; – for what could not be measured."""
    if isinstance(value, str | Integral):
        return str(value)
    return "–" if not np.isfinite(value) else f"{float(value):.4g}"
