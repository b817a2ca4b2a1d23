"""All that can be said against a start at once, before any process is asked."""

from __future__ import annotations

from napari_celltrain.config import RunConfig
from napari_celltrain.errors import CellTrainError, Problem
from napari_celltrain.runs.model_file import read_card
from napari_celltrain.runs.settings import setting_problems

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
