"""A thin frame around what has the keyboard's focus, or what is wrong: napari's theme shows neither."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_celltrain.widgets.colors import theme_color

MARGIN = 2
"""Pixels left free around the contents for the frame."""
_WIDTH = 1.5
_RADIUS = 3


class FocusFrame(QWidget):
    """Frames its contents while one of the widgets given to :meth:`watch` has the focus."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._has_focus = False
        self._is_wrong = False

    @classmethod
    def around(cls, widget: QWidget, parent: QWidget | None = None) -> FocusFrame:
        """A frame for a widget that paints no focus of its own, such as a button."""
        frame = cls(parent)
        layout = QVBoxLayout(frame)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.addWidget(widget)
        frame.watch(widget)
        return frame

    def watch(self, widget: QWidget) -> None:
        widget.installEventFilter(self)

    def mark(self, wrong: bool) -> None:
        """Frame in the theme's colour of errors, with or without focus."""
        self._is_wrong = wrong
        self.update()

    @property
    def is_marked(self) -> bool:
        return self._is_wrong

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() in (QEvent.Type.FocusIn, QEvent.Type.FocusOut):
            self._has_focus = event.type() == QEvent.Type.FocusIn
            self.update()
        return False

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if not (self._is_wrong or self._has_focus):
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(theme_color("error" if self._is_wrong else "text"), _WIDTH))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), _RADIUS, _RADIUS)
        painter.end()
