"""What is recorded of a run: its environment, and its events as the files of a run folder.

The columns of ``metrics.csv`` are those of docs/run-folder.md. When the run has finished, a last line without
``train_loss`` holds the best model: its epoch and step, its scores computed on the saved files of ``validation/``, and
the seconds of the whole run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from datetime import datetime
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import BaseModel, Field

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.history import EpochRow, History, save_plot
from napari_celltrain.values.config import ZYX, LabelKind, Spacing
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import EpochDone, Event, Finished, Saved, Started, Validated, Warned
from napari_celltrain.values.outside import read_record
from napari_celltrain.values.text import describe

PACKAGES = ("napari-celltrain", "torch", "monai", "numpy", "scipy", "tifffile", "zarr", "safetensors", "napari")


def describe_environment(device: str, processes: int) -> str:
    """``environment.json``: enough to repeat the run, nothing about the person."""
    packages: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    facts = {
        "python": platform.python_version(),
        "packages": packages,
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_processors": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": device,
        "num_processes": processes,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


Span = tuple[Annotated[int, Field(ge=0, lt=2**31)], Annotated[int, Field(gt=0, lt=2**31)]]


class CaseRecord(BaseModel, frozen=True):
    """A volume or a block of one, as ``data.json`` describes it: what is read of that."""

    name: str
    side: str
    image: Path
    labels: Path
    region_zyx: tuple[Span, Span, Span] | None = None
    shape_zyx: ZYX | None = None
    dtype: str | None = None
    voxel_size_um: Spacing | None = None
    num_objects: int | None = None
    labels_fingerprint: str | None = None

    @property
    def region(self) -> tuple[slice, slice, slice] | None:
        """Of the volume; None is all of it."""
        if self.region_zyx is None:
            return None
        z, y, x = (slice(*span) for span in self.region_zyx)
        return z, y, x


class DataRecord(BaseModel):
    """What is read of ``data.json``."""

    label_kind: LabelKind
    class_values: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    pairs: tuple[CaseRecord, ...]

    @property
    def validation(self) -> tuple[CaseRecord, ...]:
        return tuple(case for case in self.pairs if case.side == "validation")


MAX_RECORD_BYTES = 1 << 26


def read_data(path: Path) -> DataRecord:
    """The record in ``data.json``. Raises ``RunFolderError``."""
    return read_record(path, DataRecord, RunFolderError, MAX_RECORD_BYTES)


METRICS_HEADER = "epoch,step,train_loss,val_dice,val_f1,learning_rate,seconds"


class Recorder:
    """Writes the events of a run to its folder; on a resumed run it first reads those that are there."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._history = reduce(History.after, folder.read_events(), History())
        self._plot_failed = False

    def record(self, event: Event) -> list[Event]:
        """Write ``event`` to all files that it concerns; returns it with its time, and the events of its plot.

        Raises ``RunFolderError`` where the folder cannot be written; a plot that cannot be drawn is only a warning.
        """
        written = [self._write(event)]
        row = self._history.epochs[event.epoch] if isinstance(event, EpochDone) else None
        if row is not None and row.dice is None:
            self._folder.append_line("metrics.csv", _line(row))  # its validation, if one follows, renews the file
        elif isinstance(event, Started | EpochDone | Validated | Finished):
            self._folder.write_text("metrics.csv", metrics_csv(self._history))
        plots: tuple[str, ...] = ()
        if isinstance(event, Validated):
            plots = ("training.png",)
        elif isinstance(event, Finished):
            plots = ("training.png", "training_final.png", "training_final.svg")
        for name in plots:
            try:
                self._folder.write_with(name, lambda temporary: save_plot(self._history, temporary))
            except Exception as error:  # whatever matplotlib raises, hours of training must not end for a picture
                if not self._plot_failed:
                    self._plot_failed = True
                    written.append(self._write(Warned(message=f"The plot {name} could not be drawn: {error}")))
            else:
                if isinstance(event, Validated):  # Finished is the last event and says that all is there
                    written.append(self._write(Saved(what="plot", path=name, epoch=event.epoch)))
        return written

    def _write(self, event: Event) -> Event:
        event = event.model_copy(update={"time": time.time()})
        self._folder.append_event(event)
        self._history = self._history.after(event)
        line = describe(event)
        if line is not None:
            stamp = datetime.fromtimestamp(event.time).strftime("%Y-%m-%d %H:%M:%S")
            self._folder.append_line("training.log", f"{stamp}  {line}".replace("\n", "\n" + " " * 21))
        return event


def metrics_csv(history: History) -> str:
    """The whole table. Numbers only, so that no cell can be taken for a formula."""
    rows = list(history.rows)
    if (end := history.finished) is not None:
        step = history.best.step if history.best is not None else 0
        rows.append(EpochRow(end.best_epoch, step, dice=end.best_dice, f1=end.best_f1, seconds=end.seconds))
    return "\n".join([METRICS_HEADER, *map(_line, rows)]) + "\n"


def _line(row: EpochRow) -> str:
    """Numbers in full, so that what is read back equals what was computed."""
    cells = (row.epoch, row.step, row.train_loss, row.dice, row.f1, row.learning_rate, row.seconds)
    return ",".join("" if cell is None else repr(cell) for cell in cells)
