"""What goes wrong for a user, as full sentences.

Every exception that a user may meet derives from :class:`CellTrainError`; its text says what is wrong,
where (the file or the field), and what to do. Anything else that escapes is our own mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


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


class CellTrainError(Exception):
    """What the user can fix; ``str()`` of it is meant to be shown as it is.

    Raised with a sentence or with problems; ``heading`` stands above several. ``problems`` says the same in parts.
    """

    def __init__(self, *problems: Problem | str, heading: str = "") -> None:
        self.problems = tuple(
            problem if isinstance(problem, Problem) else Problem("error", "", problem) for problem in problems
        )
        self.heading = heading
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join([heading, *(f"  - {line}" for line in lines)]) if len(lines) > 1 else "".join(lines))


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
