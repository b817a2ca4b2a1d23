"""How far a run has come: two bars and a line of numbers, and the same in napari's activity dock."""

from __future__ import annotations

import time
from collections.abc import Iterable

from qtpy.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from napari_celltrain.events import (
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
from napari_celltrain.runs.wording import duration, printable, scores
from napari_celltrain.widgets.activity import Activity
from napari_celltrain.widgets.plain_text import plain_label


class RunProgress(QWidget):
    """Shows what :meth:`addEvents` is told, between :meth:`begin` and :meth:`end` also in the activity dock."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.epochs = _bar("Epochs")
        self.steps = _bar("Steps")
        self.numbers = plain_label()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for widget in (self.epochs, self.steps, self.numbers):
            layout.addWidget(widget)
        self._activity: Activity | None = None
        self._stage_only = False
        self.clear()

    def clear(self) -> None:
        self.end()
        self._steps_per_epoch = 0
        self._stage_only = False
        self._loss: float | None = None
        self._latest: Validated | None = None
        self._best: Validated | None = None
        self._end_time: float | None = None
        self._is_stopping = False
        self._finished: Finished | None = None
        for bar in (self.epochs, self.steps):
            _show(bar, 0, 1, "")
        self.steps.show()
        self.numbers.setText("")

    def begin(self) -> None:
        """A run that goes on: from now on in the activity dock, too."""
        self.end()
        self._activity = Activity(self)

    def end(self) -> None:
        """The run is over; what was reached stays to be read."""
        if self._activity is not None:
            self._activity.close()
            self._activity = None
            self.numbers.setText(self._numbers())  # no time is left any more
        if self._stage_only:
            _show(self.steps, 0, 1, "")

    def addEvents(self, events: Iterable[Event]) -> None:
        for event in events:
            self._add(event)
        self.numbers.setText(self._numbers())
        if self._activity is not None:
            self._activity.show(*self._overall())

    def _add(self, event: Event) -> None:
        match event:
            case Prepared():
                self._stage_only = True
                _show(self.steps, event.done, event.total, _stage(event.stage))
            case Started():
                self._finished = None
                self._is_stopping = False
                self._stage_only = False
                self.steps.show()
                self._steps_per_epoch = event.steps_per_epoch
                self._show_epoch(event.first_epoch - 1, event.epochs)
                _show(self.steps, 0, event.steps_per_epoch, "Step %v of %m")
            case StepDone():
                self._loss = event.loss
                _show(self.steps, event.step_in_epoch, self._steps_per_epoch, "Step %v of %m")
            case EpochDone():
                self._loss = event.train_loss
                self._end_time = (event.time or time.time()) + event.remaining_seconds
                self._show_epoch(event.epoch, self.epochs.maximum())
                _show(self.steps, 0, self._steps_per_epoch, "Step %v of %m")
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

    def _overall(self) -> tuple[int, int, str]:
        """Steps done, of how many, and the epoch in words; (0, 0) while that is not known."""
        if not self._steps_per_epoch:
            return 0, 0, self.steps.format()
        validates = "Step" not in self.steps.format()
        done = self.epochs.value() * self._steps_per_epoch + (0 if validates else self.steps.value())
        total = self.epochs.maximum() * self._steps_per_epoch
        return min(done, total), total, self.epochs.text()

    def _show_epoch(self, epoch: int, epochs: int) -> None:
        _show(self.epochs, epoch, epochs, "Epoch %v of %m")

    def _numbers(self) -> str:
        if self._finished is not None:
            best = self._finished
            return f"Best: {scores(best.best_dice, best.best_f1)}, at epoch {best.best_epoch}"
        left = None if self._end_time is None or self._is_stopping else self._end_time - time.time()
        parts = (
            f"loss {self._loss:.4f}" if self._loss is not None else "",
            scores(self._latest.dice, self._latest.f1) if self._latest is not None else "",
            f"best {self._best.dice:.4f} at epoch {self._best.epoch}" if self._best is not None else "",
            f"about {duration(left)} left" if left is not None and left > 0 and self._activity is not None else "",
        )
        return "   ".join(filter(None, parts))


def _stage(stage: str) -> str:
    """Qt would put numbers for the ``%v`` of a file's name."""
    text = printable(stage).replace("%", "%\N{WORD JOINER}")
    return f"{text[:1].upper()}{text[1:]} …"


def _bar(name: str) -> QProgressBar:
    bar = QProgressBar()
    bar.setAccessibleName(name)
    bar.setTextVisible(True)
    return bar


def _show(bar: QProgressBar, value: int, total: int, text: str) -> None:
    """Of no total, the text alone: a bar that says "busy" by moving has the whole window drawn all the time."""
    bar.setFormat(text)
    bar.setMaximum(max(1, total))
    bar.setValue(min(value, total))
