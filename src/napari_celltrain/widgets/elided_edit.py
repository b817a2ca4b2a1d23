"""A line edit that, while it is not being edited, shows both ends of a text that is too long for it."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QLineEdit, QStyle, QStyleOptionFrame, QWidget

from napari_celltrain.widgets.colors import theme_color

_TEXT_MARGIN = 2  # as QLineEdit itself keeps on both sides


class ElidedEdit(QLineEdit):
    """Elides in the middle, and can be outlined in the theme's colour of errors."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._is_marked = False

    def setMarked(self, marked: bool) -> None:
        self._is_marked = marked
        self.update()

    def isMarked(self) -> bool:
        return self._is_marked

    def elidedText(self) -> str:
        """What is shown while the field has no focus."""
        return self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self._text_width())

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if self.hasFocus() or self.elidedText() == self.text():
            super().paintEvent(event)
        else:
            self._paint_elided()
        if self._is_marked:
            painter = QPainter(self)
            painter.setPen(QPen(theme_color("error"), 2))
            painter.drawRect(self.rect().adjusted(1, 1, -1, -1))

    def _paint_elided(self) -> None:
        option = self._option()
        painter = QPainter(self)
        self._style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelLineEdit, option, painter, self)
        area = self._contents(option)
        group = self.palette().ColorGroup.Active if self.isEnabled() else self.palette().ColorGroup.Disabled
        painter.setPen(self.palette().color(group, self.palette().ColorRole.Text))
        painter.drawText(area, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), self.elidedText())

    def _text_width(self) -> int:
        return int(self._contents(self._option()).width())

    def _contents(self, option: QStyleOptionFrame):  # type: ignore[no-untyped-def]  # QRect; see below
        area = self._style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, self)
        return area.adjusted(_TEXT_MARGIN, 0, -_TEXT_MARGIN, 0)

    def _option(self) -> QStyleOptionFrame:
        option = QStyleOptionFrame()
        self.initStyleOption(option)
        return option

    def _style(self) -> QStyle:
        style = self.style()
        assert style is not None
        return style
