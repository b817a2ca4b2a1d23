"""How far a run has come: two bars and a line of numbers, the same in napari's activity dock, and the log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from napari.utils import progress
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPlainTextEdit, QProgressBar, QVBoxLayout, QWidget

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Finished,
    Prepared,
    Started,
    StepDone,
    StopRequested,
    Validated,
    ValidationProgressed,
)
from napari_celltrain.values.text import describe, duration, printable, scores
from napari_celltrain.widgets.layers import PAUSE_MS
from napari_celltrain.widgets.responsive import timer
from napari_celltrain.widgets.theme import button, fill, plain_label

MAX_LINES = 5000
"""What is older is in ``training.log``."""


class Activity(QObject):
    """A bar in napari's activity dock, from now until :meth:`close`.

    napari handles the window's events while it moves a bar, and crashes over nested bars that are closed together. So
    there is one bar, moved from a timer: a slot that calls :meth:`show` is never called again before it returns.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bar: progress | None = None
        self._wanted = (0, 0, "")
        self._timer = timer(self, self._move, PAUSE_MS)
        self._timer.start()  # napari has the whole window drawn for a new bar: not while a run is begun

    def show(self, done: int, total: int, text: str) -> None:
        self._wanted = (done, total, text)
        if not self._timer.isActive():
            self._timer.start()

    def close(self) -> None:
        self._timer.stop()
        if self._bar is not None:
            self._bar.close()
        self.deleteLater()

    def _move(self) -> None:
        done, total, text = self._wanted
        if self._bar is None:
            # `gui` keeps the bar out of the terminal that napari was started from; without a total it would never rest.
            self._bar = progress(total=1, desc="CellTrain", gui=True)
        if self._bar.total != max(1, total):
            self._bar.total = max(1, total)
        if text and self._bar.desc != f"{text}: ":
            self._bar.set_description(text)
        if self._bar.n != done:
            self._bar.update(done - self._bar.n)


class RunProgress(QWidget):
    """Shows the events of :meth:`addEvents`, between :meth:`begin` and :meth:`end` also in the activity dock."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = QProgressBar()
        self.epochs.setAccessibleName("Epochs")
        self.steps = QProgressBar()
        self.steps.setAccessibleName("Steps")
        self.numbers = plain_label()
        fill(QVBoxLayout(self), self.epochs, self.steps, self.numbers, spacing=3)
        self._activity: Activity | None = None
        self.clear()

    def clear(self) -> None:
        self.end()
        self._steps_per_epoch = 0
        self._loss: float | None = None
        self._latest: Validated | None = None
        self._best: Validated | None = None
        self._end_time = 0.0  # 0 while it cannot be estimated
        self._is_stopping = False
        self._finished: Finished | None = None
        for bar in (self.epochs, self.steps):
            _show(bar, 0, 1, "")
        self.steps.show()
        self.numbers.setText("")

    def begin(self) -> None:
        """A run that goes on: from now on in the activity dock, too."""
        self.clear()
        self._activity = Activity(self)

    def end(self) -> None:
        """The run is over; what was reached stays to be read."""
        if self._activity is not None:
            self._activity.close()
            self._activity = None
            self.numbers.setText(self._numbers())  # no time is left any more
        if self.steps.format().endswith("…"):  # a stage of the preparation
            _show(self.steps, 0, 1, "")

    def addEvents(self, events: Iterable[Event]) -> None:
        for event in events:
            self._add(event)
        self.numbers.setText(self._numbers())
        if self._activity is not None:
            per_epoch = self._steps_per_epoch  # 0 while it is not known
            total = self.epochs.maximum() * per_epoch
            steps = self.steps.value() if self.steps.format().startswith("Step") else 0
            done = min(self.epochs.value() * per_epoch + steps, total)
            self._activity.show(done, total, self.epochs.text() if per_epoch else self.steps.format())

    def _add(self, event: Event) -> None:
        match event:
            case Prepared():
                stage = printable(event.stage).replace("%", "%\N{WORD JOINER}")  # else `%v` of a name becomes a number
                _show(self.steps, event.done, event.total, f"{stage[:1].upper()}{stage[1:]} …")
            case Started():
                self._finished = None
                self._is_stopping = False
                self._steps_per_epoch = event.steps_per_epoch
                self.steps.show()
                _show(self.epochs, event.first_epoch - 1, event.epochs, "Epoch %v of %m")
                self._show_step(0)
            case StepDone():
                self._loss = event.loss
                self._show_step(event.step_in_epoch)
            case EpochDone():
                self._loss = event.train_loss
                self._end_time = (event.time or time.time()) + event.remaining_seconds
                _show(self.epochs, event.epoch, self.epochs.maximum(), "Epoch %v of %m")
                self._show_step(0)
            case ValidationProgressed():
                _show(self.steps, event.done, event.total, "Validation: volume %v of %m")
            case Validated():
                self._latest = event
                self._best = event if event.is_best else self._best
            case StopRequested():
                self._is_stopping = True  # what is left is no longer what was planned
            case Finished():
                self._finished = event
                self.steps.hide()

    def _show_step(self, step: int) -> None:
        _show(self.steps, step, self._steps_per_epoch, "Step %v of %m")

    def _numbers(self) -> str:
        if (best := self._finished) is not None:
            return f"Best: {scores(best.best_dice, best.best_f1)}, at epoch {best.best_epoch}"
        left = 0.0 if self._is_stopping or self._activity is None else self._end_time - time.time()
        parts = (
            f"loss {self._loss:.4f}" if self._loss is not None else "",
            scores(self._latest.dice, self._latest.f1) if self._latest is not None else "",
            f"best {self._best.dice:.4f} at epoch {self._best.epoch}" if self._best is not None else "",
            f"about {duration(left)} left" if left > 0 else "",
        )
        return "   ".join(filter(None, parts))


def _show(bar: QProgressBar, value: int, total: int, text: str) -> None:
    """Of no total, the text alone: a bar that says "busy" by moving has the whole window drawn all the time."""
    bar.setFormat(text)
    bar.setMaximum(max(1, total))
    bar.setValue(min(value, total))


class RunLog(QWidget):
    """The log of a run, following its last line unless the user has scrolled up to read."""

    def __init__(self) -> None:
        super().__init__()
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(MAX_LINES)
        self.text.setMinimumHeight(76)  # pixels: four lines
        # it takes what room is left, and claims none from what stands above it
        policy = self.text.sizePolicy().Policy
        self.text.setSizePolicy(policy.Expanding, policy.Ignored)
        self.text.setAccessibleName("Log")
        self.text.setTabChangesFocus(True)  # Tab leaves the log, as it leaves every other control
        bar = self.text.verticalScrollBar()
        assert bar is not None
        self._bar = bar
        bar.actionTriggered.connect(self._note_scrolling)
        bar.rangeChanged.connect(self._keep_at_end)
        help_text = "Save the log so far as a text file; at the end it is in the run folder anyway"
        self.save_button = button("Save log…", help_text, self._ask_and_save)
        label = QLabel("Log")
        head = fill(QHBoxLayout(), label, self.save_button)
        head.setStretchFactor(label, 1)
        fill(QVBoxLayout(self), head, self.text, spacing=2).setStretchFactor(self.text, 1)
        self.clear()

    def clear(self) -> None:
        self.text.clear()
        self._follows = True
        self.folder: RunFolder | None = None
        """That of the run, as soon as there is one."""
        self.save_button.setEnabled(False)

    def addEvents(self, events: Iterable[Event]) -> None:
        lines = [describe(event) for event in events if not isinstance(event, StepDone)]
        shown = [line for line in lines if line is not None][-MAX_LINES:]
        if shown:
            before = self._bar.value()
            self.text.appendPlainText("\n".join(shown))
            self._bar.setValue(self._bar.maximum() if self._follows else before)
            self.save_button.setEnabled(True)

    def saveTo(self, path: Path) -> None:
        """The whole log: of the run folder where there is one, with its times. Raises ``OSError``."""
        if self.folder is not None and self.folder.log_file.is_file():
            path.write_bytes(self.folder.log_file.read_bytes())
        else:
            path.write_text(self.text.toPlainText() + "\n", encoding="utf-8")

    def _note_scrolling(self, action: int) -> None:
        """After the user's own scrolling, not what the text does by itself."""
        self._follows = self._bar.sliderPosition() >= self._bar.maximum() - 1

    def _keep_at_end(self, low: int, high: int) -> None:
        """Also when the log is made higher or lower."""
        if self._follows:
            self._bar.setValue(high)

    def _ask_and_save(self) -> None:
        start = self.folder.name if self.folder is not None else "training"
        name, _ = QFileDialog.getSaveFileName(self, "Save log", f"{start}.log", "Log (*.log *.txt)")
        try:
            if name:
                self.saveTo(Path(name))
        except OSError as error:
            show_error(f"The log could not be saved to {name}: {error.strerror or error}.")
