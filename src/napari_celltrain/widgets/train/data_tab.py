"""The Data tab: where images and labels are, and what the check finds in them before training starts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar

from napari_celltrain.data import check
from napari_celltrain.data.pairs import Pair, open_pair
from napari_celltrain.data.split import Split
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values.config import ZYX, DataConfig, TrainingConfig
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.forms.rows import TabPage
from napari_celltrain.widgets.layers import LayerData
from napari_celltrain.widgets.previews import PairOpener
from napari_celltrain.widgets.theme import button, fill, plain_label
from napari_celltrain.widgets.train.data_form import DataForm
from napari_celltrain.widgets.train.pair_table import PairTable, ProblemList, rows_of

DEBOUNCE_MS = 400
_UNREAD = {"results", "validation_fraction", "normalization", "limit_outliers", "memory_budget_gb"}
_INVITATION = (
    "Choose the folder of the images and the folder of their labels, which are named alike. TIFF and OME-Zarr "
    "volumes can be read. Or train on layers that are open in this viewer."
)


@dataclass(frozen=True, eq=False)
class Question:
    """What to check: values only, so that the worker reads no widget."""

    config: DataConfig
    layers: LayerData | None
    seed: int
    patch_size: ZYX | None = None

    @property
    def reading(self) -> tuple[Any, ...]:
        """Equal where the same voxels are read in the same way."""
        return self.layers, self.config.model_dump(exclude=_UNREAD)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where one answer does for both."""
        return self.reading, self.config.validation_fraction, self.seed, self.patch_size


@dataclass(frozen=True, eq=False)
class Answer:
    question: Question
    report: check.DataReport
    """With what keeps the pairs from being divided, and what the layers lack, among its problems."""
    split: Split | None
    as_read: check.DataReport
    """As the check gave it, to be divided again without reading anything again."""


def answer(question: Question, before: Answer | None, _job: Job) -> Generator[check.Step, None, Answer]:
    """Check and divide, in the worker's thread; ``before``, the last answer, may save reading anything again."""
    layers = question.layers
    if before is not None and before.question.reading == question.reading:
        report = before.as_read
    elif layers is None:
        # divided below, so that another share or seed reads nothing again
        report = yield from check.check_data(question.config, division=False)
    else:
        report = yield from check.check_arrays(question.config, layers.image, layers.labels)
        report = replace(report, problems=(*report.problems, *layers.notes))

    def read_labels(pair: Pair) -> LazyArray:
        return (layers.labels if layers else open_pair(pair, question.config)[1]).lazy_or_whole()

    problems = [*report.problems, *check.large_objects(report.pairs, question.patch_size)]
    split = None
    if report.can_be_divided:
        try:
            split = check.divide(question.config, question.seed, report, read_labels)
        except DataError as error:
            problems += error.problems
    return Answer(question, replace(report, problems=tuple(problems)), split, report)


class DataTab(TabPage):
    """Edits a :class:`DataConfig` and reports on the data that it names."""

    valueChanged = Signal()
    reportChanged = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._context: tuple[int, ZYX | None] = (TrainingConfig().seed, None)
        self._asked: Question | None = None
        """Whose answer is shown, or being found."""
        self._answer: Answer | None = None
        """The last one: also where it is no longer shown, it may save reading anything again."""
        self._is_running = False
        self._insists = False
        self.form = DataForm(viewer)
        self.table = PairTable()
        self.summary = plain_label(_INVITATION)
        self.progress = QProgressBar()
        help_text = "Read all files again, after some have been fixed"
        self.again_button = button("Check again", help_text, self.check_again)
        self.problem_list = ProblemList()
        self.checker = Background("The data check", self)
        self.opener = PairOpener(viewer, self)
        for widget in (self.progress, self.again_button, self.table):
            widget.hide()
        line = fill(QHBoxLayout(), self.summary, self.again_button)
        line.setStretchFactor(self.summary, 1)
        fill(self.column, self.form, line, self.progress, self.table, self.problem_list)
        self.column.setContentsMargins(6, 6, 6, 6)
        self.column.setStretchFactor(self.table, 1000)
        self.column.addStretch(1)
        self.form.valueChanged.connect(self.valueChanged)
        self.form.valueChanged.connect(self._renew)
        self.table.picked.connect(self._open)
        self.checker.progressed.connect(self._show_progress)
        self.checker.answered.connect(self._take)
        self.checker.failed.connect(self._show_failure)

    @property
    def shown(self) -> Answer | None:
        """The answer for the values shown now; None while it is found, or where there can be none."""
        is_current = self._answer is not None and self._answer.question is self._asked
        return self._answer if is_current else None

    @property
    def report(self) -> check.DataReport | None:
        return self.shown.report if self.shown else None

    def value(self) -> DataConfig:
        return self.form.value()

    def setValue(self, value: DataConfig) -> None:
        self.form.setValue(value)

    def reset_choices(self) -> None:
        self.form.reset_choices()

    def set_context(self, seed: int, patch_size: ZYX | None) -> None:
        """The seed of the training decides what is held out; objects larger than a patch are warned of."""
        if (seed, patch_size) != self._context:
            self._context = (seed, patch_size)
            self._renew()

    def set_running(self, running: bool) -> None:
        """Freeze the form while a run goes on; meanwhile nothing is checked, which would slow it down."""
        self._is_running = running
        self.form.setEnabled(not running)
        self.again_button.setEnabled(not running)
        if running:
            self.cancel()
        elif self.shown is None:
            self._renew()

    def blocking_problems(self) -> list[Problem]:
        """Everything that keeps a run from starting, as far as it is known."""
        found = [problem for problem in self.form.problems() if problem.severity == "error"]
        return list(dict.fromkeys([*found, *(self.report.errors if self.report else ())]))

    def insist(self, problems: Sequence[Problem] = ()) -> None:
        """Mark also empty fields: Start has been pressed."""
        self._insists = True
        self.mark(problems)

    def mark(self, problems: Sequence[Problem] = ()) -> None:
        """Show what is wrong, and mark also what refusals from elsewhere (``where`` as in ``data.results``) name."""
        missing = [] if self.form.is_untouched() and not self._insists else self.form.problems()
        found = [*missing, *(self.report.problems if self.report else ())]
        self.problem_list.set_problems(found)
        self.form.mark([*found, *problems])

    def source(self) -> LayerData | None:
        """The chosen layers as volumes, for any thread to use; None with folders. Raises :class:`DataError`."""
        return self.form.take_layers(self.value())

    def check_again(self) -> None:
        """Read everything again: files may have been fixed."""
        self._forget_report()
        self._answer = None
        self._renew(now=True)

    def cancel(self) -> None:
        """Stop reading, as before the window closes; the next change begins again."""
        self.checker.cancel()
        self.progress.hide()
        if self.shown is None:
            self._asked = None

    def _renew(self, *, now: bool = False) -> None:
        """Ask again if the values shown call for another answer."""
        question = self._question()
        if question is None:
            self._show_nothing(_INVITATION if self.form.is_untouched() else "")
            return
        if self._asked is not None and self._asked.key == question.key:
            self.mark()
            return
        if self._is_running:
            self._show_nothing("The data are not read while a run goes on.")
            return
        self._forget_report()
        self._asked = question
        work = partial(answer, question, self._answer)
        self.checker.start(work, 0 if now else DEBOUNCE_MS)
        self.summary.setText("Checking the data …")
        self.mark()

    def _question(self) -> Question | None:
        """What to check, or None while something is missing that is needed for it."""
        config = self.value()
        try:
            layers = self.form.take_layers(config)
        except DataError:
            return None
        if layers is None and (config.images is None or config.labels is None):
            return None
        return Question(config, layers, *self._context)

    def _forget_report(self) -> None:
        had_report = self.report is not None
        self._asked = None
        self.table.pairs.set_stale()
        if had_report:
            self.reportChanged.emit()

    def _show_nothing(self, text: str) -> None:
        self.cancel()
        self._forget_report()
        self._answer = None
        self.table.pairs.set_rows([])
        self.table.hide()
        self.again_button.hide()
        self.summary.setText(text)
        self.mark()

    def _show_progress(self, done: int, total: int, name: str) -> None:
        """In the bar itself: another text there moves nothing else, where a label would lay out the whole tab."""
        text = f"Reading {done + 1} of {total}: {name}" if name else "Comparing …"
        room = self.progress.width() - 16  # without its margins
        shown = self.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, room)
        self.progress.setFormat(shown.replace("%", "%\u200b"))  # else `%p` of a file's name becomes a number
        self.progress.setMaximum(total)
        self.progress.setValue(done)
        self.progress.show()

    def _take(self, answer: Answer) -> None:
        self._answer = answer
        self.progress.hide()
        self.table.pairs.set_rows(rows_of(answer.report.pairs, answer.split))
        self.table.setVisible(bool(answer.report.pairs))
        sizes = [pair.voxel_size for pair in answer.report.pairs if pair.voxel_size is not None]
        if sizes:  # to begin with where someone wants another one than that of the files
            self.form.more_rows.editors["data.voxel_size"].propose(sizes[0])
        self.again_button.setVisible(answer.question.layers is None)
        self.summary.setText(_summary(answer))
        self.mark()
        self.reportChanged.emit()

    def _show_failure(self, message: str) -> None:
        self._asked = None
        self.progress.hide()
        self.summary.setText(message)

    def _open(self, row: int) -> None:
        if self.shown is not None and self.shown.question.layers is None:
            self.opener.open(self.table.pairs.rows[row].report.pair, self.shown.question.config)


def _summary(answer: Answer) -> str:
    """How the pairs are divided, or why they cannot be."""
    report = answer.report
    parts = []
    if report.errors:
        these = "this problem" if len(report.errors) == 1 else f"these {len(report.errors)} problems"
        parts.append(f"Fix {these} to start.")
    if report.pairs:
        parts.append(count(len(report.pairs), "pair") + (f": {answer.split.explanation}" if answer.split else "."))
    if any(pair.shape is not None and pair.voxel_size is None for pair in report.pairs):
        parts.append("The voxel size is unknown: give it under More settings, or voxels are taken as cubes.")
    return " ".join(parts)
