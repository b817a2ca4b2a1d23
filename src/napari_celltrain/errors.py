"""What goes wrong for a user, as full sentences.

Every exception that a user may meet derives from :class:`CellTrainError`; its text says what is wrong,
where (the file or the field), and what to do. Anything else that escapes is our own mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


class CellTrainError(Exception):
    """A problem that the user can mend; ``str()`` of it is meant to be shown as it is."""


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


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about the data or the settings, with the way out.

    ``where`` names the file (its name, not its whole path) or the field; ``code`` is a short stable key,
    for example ``"shape-mismatch"``, that tests and scripts can rely on.
    """

    code: str
    where: str
    message: str
    remedy: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.message} {self.remedy}".strip()


def raise_problems(problems: list[Problem], error: type[CellTrainError], heading: str) -> None:
    """Raise ``error`` listing all problems of severity ``"error"``, if there is any."""
    blocking = [problem for problem in problems if problem.severity == "error"]
    if not blocking:
        return
    if len(blocking) == 1:
        raise error(str(blocking[0]))
    raise error("\n".join([heading, *(f"  - {problem}" for problem in blocking)]))
