"""What the command's exit code tells a script."""

from __future__ import annotations

from enum import IntEnum

from napari_celltrain.errors import (
    CellTrainError,
    ConfigError,
    DataError,
    DeviceError,
    ModelFileError,
    RunFolderError,
)


class ExitCode(IntEnum):
    DONE = 0
    PROBLEMS_FOUND = 1
    USAGE = 2
    DATA = 3
    FILES = 4
    DEVICE = 5
    FAILED = 6
    OUR_MISTAKE = 70
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    ExitCode.DONE: "done; also after a stop that was asked for once",
    ExitCode.PROBLEMS_FOUND: "`check` has found problems",
    ExitCode.USAGE: "a wrong option or setting",
    ExitCode.DATA: "images or labels cannot be used",
    ExitCode.FILES: "a run folder or model file cannot be used",
    ExitCode.DEVICE: "the computing device is missing or out of memory",
    ExitCode.FAILED: "training ended by another error",
    ExitCode.OUR_MISTAKE: "a mistake in this program",
    ExitCode.INTERRUPTED: "ended at once by Ctrl-C",
    ExitCode.TERMINATED: "ended at once by a signal to terminate, as of a cluster's time limit",
}

_OF_ERROR: tuple[tuple[type[CellTrainError], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (DataError, ExitCode.DATA),
    (RunFolderError, ExitCode.FILES),
    (ModelFileError, ExitCode.FILES),
    (DeviceError, ExitCode.DEVICE),
)


def exit_code_of(error: CellTrainError) -> ExitCode:
    return next((code for kind, code in _OF_ERROR if isinstance(error, kind)), ExitCode.FAILED)
