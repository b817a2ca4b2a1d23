"""What goes wrong for a user, as full sentences.

Every exception that a user may meet derives from :class:`CellTrainError`; its text says what is wrong,
where (the file or the field), and what to do. Anything else that escapes is our own mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

T = TypeVar("T")
Severity = Literal["error", "warning"]
_OF_SETTINGS = ("config", "bad-option")
"""Codes of problems in which ``where`` is a field, and no file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about the data or the settings, with the way out.

    ``where`` names the file (its name, not its whole path) or the field; ``code`` is a short stable key, for example
    ``"shape-mismatch"``, for tests and scripts. ``settings`` are the dotted paths of the fields that help, such as
    ``data.channel``: the command line adds their options to the remedy, the window marks their fields.
    """

    code: str
    where: str
    message: str
    remedy: str = ""
    severity: Severity = "error"
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}{self.message} {self.remedy}".strip()


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each kind of them: where it is the same in many files but for numbers, the first one, with the
    count of the others."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        kind = (problem.code, problem.severity, re.sub(r"\d[\d.,]*", "#", problem.message), *problem.settings)
        own = not problem.where or problem.code in _OF_SETTINGS
        groups.setdefault((*kind, str(problem)) if own else kind, []).append(problem)
    found = []
    for first, *others in groups.values():
        rest = others[0].where if len(others) == 1 else f"{len(others)} more"
        found.append(replace(first, where=f"{first.where} and {rest}") if others else first)
    return found


def each_of(calls: Iterable[Callable[[], T]], heading: str = "") -> list[T]:
    """The results of all ``calls``; where some fail, one error of the kind of the first with the problems of all."""
    results, errors = [], []
    for call in calls:
        try:
            results.append(call())
        except CellTrainError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = DataError if isinstance(errors[0], DataError) else type(errors[0])
        raise kind(*(problem for error in errors for problem in error.problems), heading=heading)
    return results


class CellTrainError(Exception):
    """What the user can fix; ``str()`` of it is meant to be shown as it is.

    Raised with a sentence or with problems; ``heading`` stands above several. ``problems`` says the same in parts.
    """

    def __init__(self, *problems: Problem | str, heading: str = "") -> None:
        self.problems = tuple(
            problem if isinstance(problem, Problem) else Problem("error", "", problem) for problem in problems
        )
        self.heading = heading
        lines = [str(problem) for problem in grouped(self.problems)]
        several = len(lines) > 1 or (heading and len(self.problems) > 1)
        super().__init__("\n".join([heading, *(f"  - {line}" for line in lines)]) if several else "".join(lines))


class ConfigError(CellTrainError):
    """A setting is missing, out of range, or contradicts another."""


class DataError(CellTrainError):
    """A file or folder of images or labels cannot be used."""


class RunFolderError(CellTrainError):
    """A run folder cannot be written, read, or continued."""


class ModelFileError(CellTrainError):
    """A model file is missing, damaged, or does not fit what is asked of it."""


class DeviceError(CellTrainError):
    """The computing device is missing, out of memory, or cannot do what was asked."""


def raise_problems(problems: Iterable[Problem], error: type[CellTrainError], heading: str) -> None:
    """Raise ``error`` with all problems of severity ``"error"``, if there is any."""
    if blocking := [problem for problem in problems if problem.severity == "error"]:
        raise error(*blocking, heading=heading)
