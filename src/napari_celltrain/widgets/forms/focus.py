"""A thin frame around the control that has the keyboard's focus, and around what is wrong: napari shows neither."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QPoint, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QApplication, QSplitter, QTabBar, QWidget

from napari_celltrain.widgets.theme import theme_color


class Frame(QWidget):
    """Lies over its parent and lets the mouse through; hidden at first."""

    def __init__(self, parent: QWidget, *, is_error: bool = False) -> None:
        super().__init__(parent)
        self.is_error = is_error
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.hide()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(theme_color("error" if self.is_error else "text"), 1.5))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), 3, 3)
        painter.end()


class FocusRing(Frame):
    """One for all controls of a window: it lies over the one that has the focus; of tabs, over the current.

    It moves into the parent of that control, and so is scrolled, clipped and hidden together with it. To be kept by
    ``root``: some of these parents are Qt's own, with whose children Python would lose the ring.
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._root = root
        self._control: QWidget | None = None
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        application.focusChanged.connect(self._follow)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        moved = (QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Paint)  # another tab is only painted
        if watched is self._control and event is not None and event.type() in moved:
            self._place()
        return False

    def _follow(self, _before: QWidget | None, now: QWidget | None) -> None:
        by_tab = now is not None and bool(now.focusPolicy() & Qt.FocusPolicy.TabFocus)  # not a text to copy from
        self._control = now if by_tab and self._root.isAncestorOf(now) else None
        host = self._root
        if self._control is not None:
            self._control.installEventFilter(self)
            host = self._control.parentWidget() or self._root
            while isinstance(host, QSplitter):  # would take the ring for one of its parts
                host = host.parentWidget() or self._root
        self.is_error = getattr(host, "is_marked", False)  # it covers the mark of an editor
        self.setParent(host)
        self.setVisible(self._control is not None)
        self.raise_()
        self._place()

    def _place(self) -> None:
        control, host = self._control, self.parentWidget()
        if control is None or host is None:
            return
        rect = control.tabRect(control.currentIndex()) if isinstance(control, QTabBar) else control.rect()
        rect.translate(control.mapTo(host, QPoint(0, 0)))
        self.setGeometry(rect.adjusted(-2, -2, 2, 2) & host.rect())
