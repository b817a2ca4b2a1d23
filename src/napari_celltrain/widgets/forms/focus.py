"""A thin frame around what has the keyboard's focus, or what is wrong: napari's theme shows neither."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QRect, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QTabBar, QVBoxLayout, QWidget

from napari_celltrain.widgets.theme import Meaning, theme_color

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
        _draw(self, self.rect(), "error" if self._is_wrong else "text")


class FocusRing(QWidget):
    """Lies over a widget that has the focus and no room around it, such as a small button; of tabs, over the current.

    It belongs to the widget, which keeps it where Python made the widget.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.hide()
        widget.installEventFilter(self)
        if isinstance(widget, QTabBar):
            widget.currentChanged.connect(self._renew)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() in (QEvent.Type.FocusIn, QEvent.Type.FocusOut, QEvent.Type.Resize):
            self._renew()
        return False

    def paintEvent(self, event: QPaintEvent | None) -> None:
        bar = self._widget
        _draw(self, bar.tabRect(bar.currentIndex()) if isinstance(bar, QTabBar) else self.rect(), "text")

    def _renew(self, *_: object) -> None:
        self.setGeometry(self._widget.rect())
        self.setVisible(self._widget.hasFocus())
        self.raise_()
        self.update()


def _draw(on: QWidget, rect: QRect, color: Meaning) -> None:
    painter = QPainter(on)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(theme_color(color), _WIDTH))
    painter.drawRoundedRect(rect.adjusted(1, 1, -1, -1), _RADIUS, _RADIUS)
    painter.end()
