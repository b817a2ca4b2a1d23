"""The log of a run, as ``training.log`` has it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from napari.utils.notifications import show_error
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.events import Event, StepDone
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.wording import describe
from napari_celltrain.widgets.focus_frame import FocusRing
from napari_celltrain.widgets.wording import in_the_window

MAX_LINES = 5000
"""What is older is in ``training.log``."""
_HEIGHT = 76  # pixels: four lines


class _Lines(QPlainTextEdit):
    def sizeHint(self) -> QSize:
        """A few lines will do: it takes what room is left, and claims none from what stands above it."""
        return QSize(super().sizeHint().width(), _HEIGHT)


class RunLog(QWidget):
    """Lines of plain text, following the last one unless the user has scrolled up to read."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._folder: RunFolder | None = None
        self.text = _Lines()
        FocusRing(self.text)
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(MAX_LINES)
        self.text.setMinimumHeight(_HEIGHT)
        self.text.setAccessibleName("Log")
        # Tab leaves the log, as it leaves every other control.
        self.text.setTabChangesFocus(True)
        self._follows = True
        bar = self.text.verticalScrollBar()
        assert bar is not None
        self._bar = bar
        bar.actionTriggered.connect(self._note_scrolling)
        bar.rangeChanged.connect(self._keep_at_end)
        self.save_button = QPushButton("Save log…")
        self.save_button.setEnabled(False)
        self.save_button.setToolTip("Save the log so far as a text file; at the end it is in the run folder anyway")
        self.save_button.clicked.connect(self._ask_and_save)
        head = QHBoxLayout()
        head.addWidget(QLabel("Log"))
        head.addStretch()
        head.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.text, 1)

    def clear(self) -> None:
        self.text.clear()
        self._follows = True
        self._folder = None
        self.save_button.setEnabled(False)

    def setFolder(self, folder: RunFolder | None) -> None:
        self._folder = folder

    def addEvents(self, events: Iterable[Event]) -> None:
        lines = [describe(event) for event in events if not isinstance(event, StepDone)]
        shown = [in_the_window(line) for line in lines if line is not None][-MAX_LINES:]
        if not shown:
            return
        before = self._bar.value()
        self.text.appendPlainText("\n".join(shown))
        self._bar.setValue(self._bar.maximum() if self._follows else before)
        self.save_button.setEnabled(True)

    def saveTo(self, path: Path) -> None:
        """The whole log: of the run folder where there is one, with its times. Raises ``OSError``."""
        if self._folder is not None and self._folder.log_file.is_file():
            path.write_bytes(self._folder.log_file.read_bytes())
        else:
            path.write_text(self.text.toPlainText() + "\n", encoding="utf-8")

    def _note_scrolling(self, action: int) -> None:
        """The user's own scrolling, not what the text does by itself."""
        self._follows = self._bar.sliderPosition() >= self._bar.maximum() - 1

    def _keep_at_end(self, low: int, high: int) -> None:
        """Also when the log is made higher or lower."""
        if self._follows:
            self._bar.setValue(high)

    def _ask_and_save(self) -> None:
        start = self._folder.name if self._folder is not None else "training"
        name, _ = QFileDialog.getSaveFileName(self, "Save log", f"{start}.log", "Log (*.log *.txt)")
        if not name:
            return
        try:
            self.saveTo(Path(name))
        except OSError as error:
            show_error(f"The log could not be saved to {name}: {error.strerror or error}.")
