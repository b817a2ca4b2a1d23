"""One button that starts and cancels, how far the work is, and what came of it."""

from __future__ import annotations

import time
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.values.text import duration
from napari_celltrain.widgets.run.progress import Activity
from napari_celltrain.widgets.theme import plain_label, theme_color, tooltip

_MIN_SHARE = 0.05
"""No time is foretold before this share of the work is done."""
_MIN_SECONDS = 2.0
_BAR_MARGINS = 12


class RunRow(QWidget):
    """Between :meth:`begin` and :meth:`end` the button says Cancel, and a bar moves, also in napari's activity dock."""

    started = Signal()
    cancelled = Signal()

    def __init__(self, text: str, help_text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = text
        self._help = help_text
        self.is_running = False
        self._activity: Activity | None = None
        self._begun: tuple[float, str] | None = None
        self._wanted = True
        self.button = QPushButton(text)
        self.button.setMinimumWidth(90)
        self.bar = QProgressBar()
        self.bar.setAccessibleName(f"Progress of: {text}")
        self.message = plain_label()
        self.message.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        head = QHBoxLayout()
        head.addWidget(self.button, 0, Qt.AlignmentFlag.AlignVCenter)
        head.addWidget(self.bar, 1)
        head.addStretch(0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.message)
        kept = self.bar.sizePolicy()
        kept.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(kept)
        self.bar.hide()
        self.message.hide()
        self.button.clicked.connect(self.press)
        self._renew()

    def press(self) -> None:
        if not self.button.isEnabled():
            return
        if self.is_running:
            self.button.setEnabled(False)
            self.bar.setFormat("Cancelling …")
            self.cancelled.emit()
        else:
            self.started.emit()

    def set_possible(self, possible: bool) -> None:
        """Whether there is anything to start."""
        self._wanted = possible
        if not self.is_running:
            self.button.setEnabled(possible)

    def begin(self, text: str) -> None:
        self.say("")
        self._begun = None
        self.is_running = True
        self.bar.show()
        self._renew()
        self.show_progress(0, 0, text)
        self._activity = Activity(self)  # at last: napari handles the window's events meanwhile

    def show_progress(self, done: int, total: int, text: str) -> None:
        """``total`` is 0 where it is not known how much there is to do."""
        if not self.is_running or not self.button.isEnabled():
            return
        if self._begun is None or self._begun[1] != text:
            self._begun = (time.monotonic(), text)
        left = self._left(done, total)
        shown = f"{text} …" if not left else f"{text}, {left} left"
        room = max(60, self.bar.width() - _BAR_MARGINS)
        elided = self.bar.fontMetrics().elidedText(shown, Qt.TextElideMode.ElideMiddle, room)
        self.bar.setToolTip(tooltip(shown))
        self.bar.setFormat(elided.replace("%", "%\N{WORD JOINER}"))  # else `%p` of a file's name becomes a number
        self.bar.setMaximum(total)
        self.bar.setValue(min(done, total))
        if self._activity is not None:
            self._activity.show(done, total, text)

    def end(self) -> None:
        if self._activity is not None:
            self._activity.close()
            self._activity = None
        self.is_running = False
        self.bar.hide()
        self.bar.setMaximum(1)  # one that only says "busy" would go on moving
        self._renew()

    def say(self, text: str, *, wrong: bool = False) -> None:
        """What came of it; in the colour of errors where it failed."""
        self.message.setText(text)
        self.message.setVisible(bool(text))
        self.message.setStyleSheet(f"color: {theme_color('error').name()}" if wrong else "")

    def _left(self, done: int, total: int) -> str:
        if self._begun is None or not total or done / total < _MIN_SHARE:
            return ""
        past = time.monotonic() - self._begun[0]
        return duration(past * (total - done) / done) if past > _MIN_SECONDS and done < total else ""

    def _renew(self, *_: Any) -> None:
        text = "Cancel" if self.is_running else self._text
        self.button.setText(text)
        self.button.setToolTip(tooltip("Stop, and keep nothing" if self.is_running else self._help))
        self.button.setEnabled(self.is_running or self._wanted)
