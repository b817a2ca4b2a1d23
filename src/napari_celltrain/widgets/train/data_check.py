"""What the window checks: the data in the background once typing pauses, and the settings when Start is pressed.

What reads files is imported by the worker: it brings tifffile, Zarr and SciPy, for which the window should not wait.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject

from napari_celltrain.runs.config_file import setting_problems
from napari_celltrain.runs.model import read_card
from napari_celltrain.values.config import ZYX, DataConfig, RunConfig
from napari_celltrain.values.errors import CellTrainError, DataError, Problem
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.layers import LayerData

if TYPE_CHECKING:
    from napari_celltrain.data.check import DataReport, Step
    from napari_celltrain.data.pairs import Pair
    from napari_celltrain.data.split import Split
    from napari_celltrain.io.volume import LazyArray

DEBOUNCE_MS = 400


@dataclass(frozen=True, eq=False)
class Question:
    """What to check: values only, so that the worker reads no widget."""

    config: DataConfig
    layers: LayerData | None
    seed: int
    patch_size: ZYX | None = None

    def reads_the_same(self, other: Question) -> bool:
        """Whether both are answered by reading the same voxels in the same way."""
        unread = {"results", "validation_fraction", "normalization", "memory_budget_gb"}
        return self.layers is other.layers and (
            self.config.model_dump(exclude=unread) == other.config.model_dump(exclude=unread)
        )

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
    """As the check gave it, to be divided again without reading anything again."""


class DataChecker(Background):
    """Answers the last question asked, with an :class:`Answer`."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__("The data check", parent)
        self._answer: Answer | None = None
        self.answered.connect(self._keep)

    def ask(self, question: Question, *, now: bool = False) -> None:
        """Answer ``question``, and no other any more, once nothing else has been asked for a moment, or now."""
        self.start(partial(answer, question, self._answer), 0 if now else DEBOUNCE_MS)

    def forget(self) -> None:
        """Read everything again at the next question, as after files have changed."""
        self._answer = None

    def _keep(self, answer: Answer) -> None:
        self._answer = answer


def answer(question: Question, before: Answer | None, _job: Job) -> Generator[Step, None, Answer]:
    """Check and divide, in the worker's thread; ``before``, the last answer, may save reading anything again."""
    from napari_celltrain.data.check import check_arrays, check_data, divide, large_objects
    from napari_celltrain.data.pairs import open_pair

    layers = question.layers
    if before is not None and before.question.reads_the_same(question):
        report = before.as_read
    elif layers is None:
        # divided below, so that another share or seed reads nothing again
        report = yield from check_data(question.config, division=False)
    else:
        report = yield from check_arrays(question.config, layers.image, layers.labels)
        report = replace(report, problems=(*report.problems, *layers.notes))

    def read_labels(pair: Pair) -> LazyArray:
        return (layers.labels if layers else open_pair(pair, question.config)[1]).lazy_or_whole()

    problems = [*report.problems, *large_objects(report.pairs, question.patch_size)]
    split = None
    if report.can_be_divided:
        try:
            split = divide(question.config, question.seed, report, read_labels)
        except DataError as error:
            problems += error.problems
    return Answer(question, replace(report, problems=tuple(problems)), split, report)


# --- start check -----------------------------------------------------------------------------------------


def start_problems(config: RunConfig) -> list[Problem]:
    """What is wrong in the settings alone; ``where`` of each is the path of its field."""
    # the Data tab lists its own itself
    problems = [problem for problem in setting_problems(config) if not problem.where.startswith("data.")]
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
