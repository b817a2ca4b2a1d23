"""The Data tab: where images and labels are, and what the check finds in them before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton

from napari_celltrain.values.config import ZYX, DataConfig, TrainingConfig
from napari_celltrain.values.errors import DataError, Problem
from napari_celltrain.values.text import count
from napari_celltrain.widgets.forms.rows import TabPage
from napari_celltrain.widgets.layers import LayerData
from napari_celltrain.widgets.previews import PairOpener
from napari_celltrain.widgets.theme import plain_label, tooltip
from napari_celltrain.widgets.train.data_check import Answer, DataChecker, Question
from napari_celltrain.widgets.train.data_form import DataForm
from napari_celltrain.widgets.train.pair_table import PairTable, ProblemList, rows_of

if TYPE_CHECKING:
    from napari_celltrain.data.check import DataReport
    from napari_celltrain.data.split import Split

_INVITATION = (
    "Choose the folder of the images and the folder of their labels, which are named alike. TIFF and OME-Zarr "
    "volumes can be read. Or train on layers that are open in this viewer."
)
_UNKNOWN_SIZE = "The voxel size is unknown: give it under More settings, or voxels are taken as cubes."


class DataTab(TabPage):
    """Edits a :class:`DataConfig` and reports on the data that it names.

    ``report`` is of the values shown now, or None while it is made or cannot be made.
    """

    valueChanged = Signal()
    reportChanged = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.report: DataReport | None = None
        self.split: Split | None = None
        self._context: tuple[int, ZYX | None] = (TrainingConfig().seed, None)
        self._answered: Question | None = None
        self._asked: Question | None = None
        self._is_running = False
        self._insists = False

        self.form = DataForm(viewer)
        self.table = PairTable()
        self.summary = plain_label(_INVITATION)
        self.progress = QProgressBar()
        self.again_button = QPushButton("Check again")
        self.problem_list = ProblemList()
        self.checker = DataChecker(self)
        self.opener = PairOpener(viewer, self)

        self.progress.hide()
        self.again_button.setToolTip(tooltip("Read all files again, after some have been fixed"))
        self.again_button.hide()
        self.table.hide()
        line = QHBoxLayout()
        line.addWidget(self.summary, 1)
        line.addWidget(self.again_button)
        self.column.addWidget(self.form)
        self.column.addLayout(line)
        self.column.addWidget(self.progress)
        self.column.addWidget(self.table, 1000)
        self.column.addWidget(self.problem_list)
        self.column.addStretch(1)

        self.form.valueChanged.connect(self.valueChanged)
        self.form.valueChanged.connect(self._renew)
        self.table.picked.connect(self._open)
        self.again_button.clicked.connect(self.check_again)
        self.checker.progressed.connect(self._show_progress)
        self.checker.answered.connect(self._take)
        self.checker.failed.connect(self._show_failure)

    def value(self) -> DataConfig:
        return self.form.value()

    def setValue(self, value: DataConfig) -> None:
        self.form.setValue(value)

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed."""
        self.form.layers.reset_choices()

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
        elif self._answered is None:
            self._renew()

    def blocking_problems(self) -> list[Problem]:
        """Everything that keeps a run from starting, as far as it is known."""
        found = [problem for problem in self.form.problems() if problem.severity == "error"]
        return list(dict.fromkeys([*found, *(self.report.errors if self.report else ())]))

    def insist(self) -> None:
        """Mark also empty fields: Start has been pressed."""
        self._insists = True
        self._show_problems()

    def mark(self, problems: Sequence[Problem]) -> None:
        """Mark the fields that refusals from elsewhere (their ``where`` such as ``data.results``) are about."""
        self.form.mark([*self._problems(), *problems])

    def source(self) -> LayerData | None:
        """The chosen layers as volumes, for any thread to use; None with folders. Raises :class:`DataError`."""
        return self.form.take_layers(self.value())

    def check_again(self) -> None:
        """Read everything again: files may have been fixed."""
        self.checker.forget()
        self._answered = self._asked = None
        self._renew(now=True)

    def cancel(self) -> None:
        """Stop reading, as before the window closes; the next change begins again."""
        self.checker.cancel()
        self.progress.hide()
        self._asked = self._answered

    def _renew(self, *, now: bool = False) -> None:
        """Ask again if the values shown call for another answer."""
        question = self._question()
        if question is None:
            self._show_nothing(_INVITATION if self.form.is_untouched() else "")
            return
        if self._asked is not None and self._asked.is_answered_like(question):
            self._show_problems()
            return
        if self._is_running:
            self._show_nothing("The data are not read while a run goes on.")
            return
        self._forget_report()
        self._asked = question
        self.checker.ask(question, now=now)
        self.summary.setText("Checking the data …")
        self._show_problems()

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
        self._asked = self._answered = None
        self.table.pairs.set_stale(True)
        if self.report is not None:
            self.report = self.split = None
            self.reportChanged.emit()

    def _show_nothing(self, text: str) -> None:
        self.cancel()
        self.checker.forget()
        self._forget_report()
        self.table.pairs.set_rows([])
        self.table.hide()
        self.again_button.hide()
        self.summary.setText(text)
        self._show_problems()

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
        self.report, self.split, self._answered = answer.report, answer.split, answer.question
        self.progress.hide()
        self.table.pairs.set_rows(rows_of(answer.report.pairs, answer.split))
        self.table.setVisible(bool(answer.report.pairs))
        sizes = [pair.voxel_size for pair in answer.report.pairs if pair.voxel_size is not None]
        if sizes:
            self.form.propose_voxel_size(sizes[0])
        self.again_button.setVisible(answer.question.layers is None)
        self.summary.setText(_summary(answer))
        self._show_problems()
        self.reportChanged.emit()

    def _show_failure(self, message: str) -> None:
        self._asked = None
        self.progress.hide()
        self.summary.setText(message)

    def _problems(self) -> list[Problem]:
        missing = [] if self.form.is_untouched() and not self._insists else self.form.problems()
        return [*missing, *(self.report.problems if self.report else ())]

    def _show_problems(self) -> None:
        problems = self._problems()
        self.problem_list.set_problems(problems)
        self.form.mark(problems)

    def _open(self, row: int) -> None:
        if self._answered is not None and self._answered.layers is None:
            self.opener.open(self.table.pairs.rows[row].report.pair, self._answered.config)


def _summary(answer: Answer) -> str:
    """How the pairs are divided, or why they cannot be."""
    report = answer.report
    parts = []
    if report.errors:
        these = "this problem" if len(report.errors) == 1 else f"these {len(report.errors)} problems"
        parts.append(f"Fix {these} to start.")
    if answer.split is not None:
        parts.append(f"{count(len(report.pairs), 'pair')}: {answer.split.explanation}")
    elif report.pairs:
        parts.append(f"{count(len(report.pairs), 'pair')}.")
    if any(pair.shape is not None and pair.voxel_size is None for pair in report.pairs):
        parts.append(_UNKNOWN_SIZE)
    return " ".join(parts)
