"""The look of the widgets: colours of napari's theme that can be read, text shown as it is, parts in a row, and a thin
frame around the control that has the keyboard's focus or is wrong, neither of which napari shows.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Literal, TypeVar

import napari
from napari.settings import get_settings
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QObject, QPoint, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import (
    QApplication,
    QBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QTabBar,
    QWidget,
)

BoxLayout = TypeVar("BoxLayout", bound=QBoxLayout)
Meaning = Literal["text", "error", "warning", "current", "background", "foreground", "icon"]

READABLE = 4.5
"""Contrast that text must have against what it stands on (WCAG 2, level AA)."""


def theme_color(meaning: Meaning) -> QColor:
    """The colour of the theme in use; errors and warnings made lighter or darker until they can be read."""
    viewer = napari.current_viewer()
    theme = get_theme(viewer.theme if viewer is not None else get_settings().appearance.theme)
    color, background = QColor(getattr(theme, meaning).as_hex()), QColor(theme.background.as_hex())
    hue, saturation, lightness, _ = color.getHslF()
    step = 0.02 if _luminance(background) < 0.18 else -0.02
    while meaning in ("error", "warning") and _contrast(color, background) < READABLE and 0.05 < lightness < 0.95:
        lightness += step
        color = QColor.fromHslF(hue, saturation, lightness)
    return color


def _contrast(one: QColor, other: QColor) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: QColor) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (color.redF(), color.greenF(), color.blueF())
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def tooltip(text: str) -> str:
    """``text`` for ``setToolTip``: shown letter by letter, and wrapped, which Qt does for rich text only."""
    return f"<qt>{html.escape(text).replace(chr(10), '<br>')}</qt>" if text else ""


def menu_text(text: str) -> str:
    """``text`` for a menu or button, where ``&`` would underline the next letter."""
    return text.replace("&", "&&")


def plain_label(text: str = "") -> QLabel:
    """A label that wraps, shows file names as they are, and lets itself be copied from."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
    return label


def button(text: str, tip: str, slot: Callable[[], object]) -> QPushButton:
    """A button that calls ``slot``, which takes no argument."""
    made = QPushButton(text)
    made.setToolTip(tooltip(tip))
    made.clicked.connect(slot)
    return made


def fill(layout: BoxLayout, *parts: QWidget | QLayout | None, spacing: int | None = None) -> BoxLayout:
    """Put ``parts`` into ``layout``, which gets no margins, and return it; None takes the space that is left."""
    layout.setContentsMargins(0, 0, 0, 0)
    if spacing is not None:
        layout.setSpacing(spacing)
    for part in parts:
        if isinstance(part, QWidget):
            layout.addWidget(part)
        elif part is not None:
            layout.addLayout(part)
        else:
            layout.addStretch(1)
    return layout


# --- frames -----------------------------------------------------------------------------------------------------------


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
        self.is_error = bool(getattr(host, "problem", ""))  # it covers the mark of an editor
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
