"""The data check in the background: it waits until typing pauses, and what is out of date is given up.

What reads files is imported by the worker: it brings tifffile, Zarr and SciPy, for which the window should not wait.

All that can be said against a start at once, before any process is asked.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_celltrain.runs.config_file import setting_problems
from napari_celltrain.runs.model import read_card
from napari_celltrain.values.config import ZYX, DataConfig, RunConfig
from napari_celltrain.values.errors import CellTrainError, Problem
from napari_celltrain.widgets.background import Parcel
from napari_celltrain.widgets.layers import LayerSource
from napari_celltrain.widgets.responsive import quick_switching

if TYPE_CHECKING:
    from napari_celltrain.data.pairs import Pair
    from napari_celltrain.data.report import DataReport
    from napari_celltrain.data.split import Split
    from napari_celltrain.io.volume import LazyArray

DEBOUNCE_MS = 400
PROGRESS_MS = 500


@dataclass(frozen=True, eq=False)
class Question:
    """What to check: values only, so that the worker reads no widget."""

    config: DataConfig
    layers: LayerSource | None
    seed: int
    patch_size: ZYX | None = None

    def reads_the_same(self, other: Question) -> bool:
        """Whether both are answered by reading the same voxels in the same way."""
        return self.layers is other.layers and _what_is_read(self.config) == _what_is_read(other.config)

    def is_answered_like(self, other: Question) -> bool:
        """Whether one answer does for both."""
        return (
            self.reads_the_same(other)
            and self.config.validation_fraction == other.config.validation_fraction
            and (self.seed, self.patch_size) == (other.seed, other.patch_size)
        )


@dataclass(frozen=True, eq=False)
class Answer:
    question: Question
    report: DataReport
    """With what keeps the pairs from being divided, and what the layers lack, among its problems."""
    split: Split | None
    as_read: DataReport
    """As the check gave it, to be divided anew without reading anything again."""


class SupersededError(Exception):
    """The question is out of date; raised in the worker to leave the check."""


@dataclass(eq=False)
class _Ticket:
    """Shared by the window and one worker: one writes how far it is, the other that it should leave."""

    cancelled: bool = False
    progress: tuple[int, int, str] = field(default=(0, 0, ""))
    worker: Any = None
    """A weak reference to it: napari asks its workers to quit, and waits for them, before it ends."""

    def cancel(self) -> None:
        self.cancelled = True

    def tell(self, done: int, total: int, name: str) -> None:
        worker = self.worker and self.worker()
        if self.cancelled or (worker is not None and worker.abort_requested):
            raise SupersededError
        self.progress = (done, total, name)


class DataChecker(QObject):
    """Answers the last question asked. Progress is looked up at intervals rather than sent, which cannot pile up."""

    started = Signal()
    progressed = Signal(int, int, str)
    answered = Signal(object)
    """An :class:`Answer`."""
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._question: Question | None = None
        self._answer: Answer | None = None
        self._ticket: _Ticket | None = None
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.timeout.connect(self._start)
        self._clock = QTimer(self)
        self._clock.setInterval(PROGRESS_MS)
        self._clock.timeout.connect(self._look)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is still to come."""
        return self._question is not None

    def ask(self, question: Question, *, now: bool = False) -> None:
        """Answer ``question``, and no other any more, once nothing else has been asked for a moment, or now."""
        self._question = question
        if self._ticket is not None:
            self._ticket.cancel()
        self._pause.start(0 if now else DEBOUNCE_MS)

    def cancel(self) -> None:
        """Give up; nothing will be answered until the next question."""
        self._question = None
        self._pause.stop()
        self._clock.stop()
        if self._ticket is not None:
            self._ticket.cancel()

    def forget(self) -> None:
        """Read everything anew at the next question, as after files have changed."""
        self._answer = None

    def _start(self) -> None:
        if self._ticket is not None or self._question is None:
            return  # the worker that is leaving starts the next one
        self._ticket = ticket = _Ticket()
        # A window that is gone wants no answer, and the check would hold up the end of the program.
        self.destroyed.connect(ticket.cancel)
        worker = create_worker(answer, Parcel((self._question, self._answer)), ticket)
        ticket.worker = weakref.ref(worker)
        worker.returned.connect(self._finish)
        worker.errored.connect(self._fail)
        worker.start()
        self._clock.start()
        self.started.emit()

    def _look(self) -> None:
        if self._ticket is not None and not self._ticket.cancelled and self._ticket.progress[1]:
            self.progressed.emit(*self._ticket.progress)

    def _finish(self, answer: Answer | None) -> None:
        self._leave()
        if answer is None or answer.question is not self._question:
            self._start()
            return
        self._answer = answer
        self._question = None
        self.answered.emit(answer)

    def _fail(self, error: Exception) -> None:
        """A mistake of our own: napari shows its traceback, and the tab says that there is no answer."""
        self._leave()
        self._question = None
        self.failed.emit(f"The data check failed: {error}")

    def _leave(self) -> None:
        self._clock.stop()
        if self._ticket is not None:
            self.destroyed.disconnect(self._ticket.cancel)
        self._ticket = None


def answer(asked: Parcel[tuple[Question, Answer | None]], ticket: _Ticket) -> Answer | None:
    """Check and divide, in the worker's thread; None where the question went out of date meanwhile.

    ``asked``: the question, and the last answer, which may save reading anything again.
    """
    question, before = asked.take()
    try:
        with quick_switching():
            if before is not None and before.question.reads_the_same(question):
                report = before.as_read
            else:
                report = _check(question, ticket)
            return _divided(question, report)
    except SupersededError:
        return None


def _check(question: Question, ticket: _Ticket) -> DataReport:
    from napari_celltrain.data.check import check_arrays, check_data

    layers = question.layers
    if layers is None:
        # the tab divides by itself, so that another share or seed reads nothing again
        return check_data(question.config, progress=ticket.tell, division=False)
    report = check_arrays(question.config, layers.image, layers.labels, progress=ticket.tell)
    return replace(report, problems=(*report.problems, *layers.notes))


def _divided(question: Question, report: DataReport) -> Answer:
    from napari_celltrain.data.check_rules import large_objects
    from napari_celltrain.data.pairs import open_pair
    from napari_celltrain.data.report import can_be_divided, divide

    problems = [*report.problems, *large_objects(report.pairs, question.patch_size)]
    split = None
    if can_be_divided(report):

        def read_labels(pair: Pair) -> LazyArray:
            labels = question.layers.labels if question.layers else open_pair(pair, question.config)[1]
            return labels.lazy() or labels.read()

        try:
            split = divide(question.config, question.seed, report, read_labels)
        except CellTrainError as error:
            where, _, text = str(error).partition(": ")
            message, _, remedy = (text or where).partition(". ")
            problems.append(Problem("no-division", where if text else "validation", f"{_capital(message)}.", remedy))
    return Answer(question, replace(report, problems=tuple(problems)), split, report)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _what_is_read(config: DataConfig) -> dict[str, Any]:
    unread = {"results", "validation_fraction", "normalization", "memory_budget_gb"}
    return config.model_dump(exclude=unread)


# --- start check -----------------------------------------------------------------------------------------

# The Data tab tells these itself, in words of the form.
_OF_DATA_TAB = {"missing-folder"}


def start_problems(config: RunConfig) -> list[Problem]:
    """What is wrong in the settings alone; ``where`` of each is the path of its field."""
    problems = [problem for problem in setting_problems(config) if problem.code not in _OF_DATA_TAB]
    weights = config.training.starting_weights
    if weights is not None:
        try:
            read_card(weights.expanduser())
        except CellTrainError as error:
            problems.append(Problem("starting-weights", "training.starting_weights", str(error), ""))
    return problems


def texts_of(problems: list[Problem], section: str) -> dict[str, str]:
    """The problems of one section of the configuration, by the paths of their fields."""
    texts: dict[str, str] = {}
    for problem in problems:
        if problem.where.startswith(f"{section}."):
            texts.setdefault(problem.where, f"{problem.message} {problem.remedy}".strip())
    return texts
