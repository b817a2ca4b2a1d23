"""What the panels of the Segment widget are made of: rows, messages, facts, and the row that runs work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QListWidget, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from napari_celltrain.data.pairs import Pair
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.values.text import duration
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.previews import PairOpener
from napari_celltrain.widgets.run.progress import Activity
from napari_celltrain.widgets.theme import button, fill, plain_label, theme_color, tooltip

_MIN_SHARE, _MIN_SECONDS = 0.05, 2.0
"""Of the work and of time, to be over before the time left is estimated."""
_BAR_MARGINS = 12
_MAX_FILES_SHOWN = 6


class Message(QLabel):
    """A paragraph, hidden while empty; an error has the theme's colour for errors, also after a change of theme."""

    _is_error = False

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.say(text)

    def say(self, text: str, *, error: bool = False) -> None:
        self._is_error = error
        self.setText(text)
        self.setVisible(bool(text))
        self._paint()

    def changeEvent(self, event: QEvent | None) -> None:
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self._paint()

    def _paint(self) -> None:
        style = f"color: {theme_color('error').name()}" if self._is_error else ""
        if self.styleSheet() != style:
            self.setStyleSheet(style)


class Facts(FieldRows):
    """Names with a text behind each, wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.form.setHorizontalSpacing(10)
        self.form.setVerticalSpacing(1)

    def set_rows(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Name, text, and a line of help that may be empty."""
        while self.form.rowCount():
            self.form.removeRow(0)
        self.texts = {name: text for name, text, _ in rows}
        for name, text, help_text in rows:
            heading, shown = QLabel(name), plain_label(text)
            heading.setProperty("invalid-msg", True)  # napari's name for its theme's paler text
            for label in (heading, shown):
                label.setAlignment(Qt.AlignmentFlag.AlignTop)
                label.setToolTip(tooltip(help_text))
            self.form.addRow(heading, shown)
        self.setVisible(bool(rows))


class RunRow(QWidget):
    """One button that starts and cancels, how far the work is, and what came of it.

    While work runs the button says Cancel, and a bar moves, also in napari's activity dock.
    """

    noted = Signal(object)
    """What the work reports on its way and must not be lost."""
    ended = Signal()

    def __init__(self, text: str, help_text: str, activity: str, begin: Callable[[], None]) -> None:
        """``begin`` is called by the button, and calls :meth:`start`; a ``CellTrainError`` of it is shown."""
        super().__init__()
        self._text, self._help, self._name, self._begin = text, help_text, activity, begin
        self._activity: Activity | None = None
        self._then: Callable[[Any], None] = lambda result: None
        self._since = ("", 0.0)  # a stage of the work, and when it began
        self._is_possible = True
        self._work = Background(activity, self)
        self.button = button("", "", self.press)
        self.button.setMinimumWidth(90)
        self.bar = QProgressBar()
        self.bar.setAccessibleName(f"Progress of: {text}")
        kept = self.bar.sizePolicy()
        kept.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(kept)
        self.bar.hide()
        self.message = Message()
        head = QHBoxLayout()
        head.addWidget(self.button, 0, Qt.AlignmentFlag.AlignVCenter)
        head.addWidget(self.bar, 1)
        fill(QVBoxLayout(self), head, self.message, spacing=2)
        self._work.progressed.connect(self._show_progress)
        self._work.noted.connect(self.noted)
        self._work.answered.connect(lambda result: self._then(result))
        self._work.failed.connect(partial(self.message.say, error=True))
        self._work.ended.connect(self._end)
        self._renew()

    @property
    def is_running(self) -> bool:
        return self._activity is not None

    def set_possible(self, possible: bool) -> None:
        """Whether there is anything to start."""
        self._is_possible = possible
        if not self.is_running:
            self._renew()

    def start(self, work: Callable[[Job], Any], then: Callable[[Any], None]) -> None:
        """Do ``work`` in the background and give its result to ``then``."""
        self.message.say("")
        self._then = then
        self._since = ("", 0.0)
        self._activity = Activity(self)
        self.bar.show()
        self._renew()
        self._show_progress(0, 0, self._name)
        self._work.start(work)

    def press(self) -> None:
        if self.is_running:
            self.cancel()
        elif self.button.isEnabled():
            try:
                self._begin()
            except CellTrainError as error:
                self.message.say(str(error), error=True)

    def cancel(self) -> None:
        if self.is_running:
            self.button.setEnabled(False)
            self.bar.setFormat("Cancelling …")
            self._work.cancel()

    def _show_progress(self, done: int, total: int, text: str) -> None:
        """``total`` is 0 where it is not known how much there is to do; without a ``text`` the last one stays."""
        if self._activity is None or not self.button.isEnabled():
            return
        if text and text != self._since[0]:
            self._since = (text, time.monotonic())
        text, since = self._since
        shown, past = f"{text} …", time.monotonic() - since
        if total and _MIN_SHARE <= done / total < 1 and past > _MIN_SECONDS:
            shown = f"{text}, {duration(past * (total - done) / done)} left"
        room = max(60, self.bar.width() - _BAR_MARGINS)
        elided = self.bar.fontMetrics().elidedText(shown, Qt.TextElideMode.ElideMiddle, room)
        self.bar.setToolTip(tooltip(shown))
        self.bar.setFormat(elided.replace("%", "%\N{WORD JOINER}"))  # else `%p` of a file's name becomes a number
        self.bar.setMaximum(total)
        self.bar.setValue(min(done, total))
        self._activity.show(done, total, text)

    def _end(self) -> None:
        self._then = lambda result: None  # hold no layer any more
        if self._activity is not None:
            self._activity.close()
            self._activity = None
        self.bar.hide()
        self.bar.setMaximum(1)  # one that only says "busy" would go on moving
        self._renew()
        self.ended.emit()

    def _renew(self) -> None:
        self.button.setText("Cancel" if self.is_running else self._text)
        self.button.setToolTip(tooltip("Stop; unfinished work is discarded" if self.is_running else self._help))
        self.button.setEnabled(self.is_running or self._is_possible)


class FileList(QListWidget):
    """The files that were written: hidden while empty, no higher than it needs to be. A double click opens one."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._config = DataConfig()
        self._opener = PairOpener(viewer, self)
        self.setAccessibleName("Files written")
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemActivated.connect(self._open)  # a double click, or Enter
        self.hide()

    def begin(self, config: DataConfig) -> None:
        """Forget the files; those to come are of images that are read by ``config``."""
        self._config = config
        self.clear()
        self.hide()

    def add(self, written: Pair) -> None:
        self.addItem(written.labels.name)
        item: Any = self.item(self.count() - 1)
        item.setData(Qt.ItemDataRole.UserRole, written)
        item.setToolTip(tooltip(f"{written.labels}\nDouble-click or press Enter to open it with its image."))
        height = max(self.sizeHintForRow(0), self.fontMetrics().height() + 2)
        self.setFixedHeight(min(self.count(), _MAX_FILES_SHOWN) * height + 2 * self.frameWidth() + 4)
        self.show()

    def _open(self, item: Any) -> None:
        self._opener.open(item.data(Qt.ItemDataRole.UserRole), self._config)
