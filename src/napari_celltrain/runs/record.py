"""What is recorded of a run: its environment, and its events as the files of a run folder.

``metrics.csv`` has one line an epoch:

======================  ==========================================================================
``epoch``               count from 1
``step``                optimizer steps since the run began
``train_loss``          mean over the epoch's patches; empty where the epoch was cut short
``val_dice``            pooled over all validation voxels; empty for epochs without a validation
``val_f1``              objects at IoU 0.5; empty where labels are not objects
``learning_rate``       at the end of the epoch
``seconds``             of the epoch, its validation not included
======================  ==========================================================================

When the run has finished, a last line without ``train_loss`` holds the best model: its epoch and step, its scores
computed on the saved files of ``validation/``, and the seconds of the whole run.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.history import EpochRow, History, HistoryBuilder, save_plot
from napari_celltrain.values.events import EpochDone, Event, Finished, Saved, Started, Validated, Warned
from napari_celltrain.values.text import describe

PACKAGES = ("napari-celltrain", "torch", "monai", "numpy", "scipy", "tifffile", "zarr", "safetensors", "napari")


def describe_environment(device: str, processes: int) -> str:
    """``environment.json``: enough to repeat the run, nothing about the person."""
    facts = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_processors": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": device,
        "num_processes": processes,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


METRICS_HEADER = "epoch,step,train_loss,val_dice,val_f1,learning_rate,seconds"


class Recorder:
    """Writes the events of a run to its folder; on a resumed run it first reads those that are there."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._builder = HistoryBuilder(folder.read_events())
        self._own: list[Event] = []
        self._has_table = False
        self._plot_failed = False

    def record(self, event: Event) -> Event:
        """Write ``event`` to all files that it concerns; returns it with its time filled in.

        Raises ``RunFolderError`` where the folder cannot be written; a plot that cannot be drawn is only a
        warning (see :meth:`own_events`).
        """
        event = self._write(event)
        row = self._builder.row(event.epoch) if isinstance(event, EpochDone) else None
        if row is not None and row.dice is None and self._has_table:
            self._folder.append_line("metrics.csv", _line(row))  # its validation, if one follows, renews the file
        elif isinstance(event, Started | EpochDone | Validated | Finished):
            self._folder.write_text("metrics.csv", metrics_csv(self._builder.history()))
            self._has_table = True
        if isinstance(event, Validated):
            if self._plot("training.png"):
                self._own.append(self._write(Saved(what="plot", path="training.png", epoch=event.epoch)))
        elif isinstance(event, Finished):
            for name in ("training.png", "training_final.png", "training_final.svg"):
                self._plot(name)  # no event follows: Finished is the last one and says that all is there
        return event

    def own_events(self) -> list[Event]:
        """Events that recording itself has caused since the last call (already written): pass them on."""
        events, self._own = self._own, []
        return events

    def _write(self, event: Event) -> Event:
        event = event.model_copy(update={"time": time.time()})
        self._folder.append_event(event)
        self._builder.add(event)
        line = describe(event)
        if line is not None:
            stamp = datetime.fromtimestamp(event.time).strftime("%Y-%m-%d %H:%M:%S")
            self._folder.append_line("training.log", f"{stamp}  {line}".replace("\n", "\n" + " " * 21))
        return event

    def _plot(self, name: str) -> bool:
        try:
            self._folder.write_with(name, lambda temporary: save_plot(self._builder.history(), temporary))
        except Exception as error:  # whatever matplotlib raises, hours of training must not end for a picture
            if not self._plot_failed:
                self._plot_failed = True
                self._own.append(self._write(Warned(message=f"The plot {name} could not be drawn: {error}")))
            return False
        return True


def metrics_csv(history: History) -> str:
    """The whole table. Numbers only, so that no cell can be taken for a formula."""
    lines = [METRICS_HEADER, *(_line(row) for row in history.rows)]
    if (end := history.finished) is not None:
        steps = {row.epoch: row.step for row in history.rows}
        if history.best is not None:
            steps[history.best.epoch] = history.best.step
        step = steps.get(end.best_epoch, 0)
        best = EpochRow(end.best_epoch, step, dice=end.best_dice, f1=end.best_f1, seconds=end.seconds)
        lines.append(_line(best))
    return "\n".join(lines) + "\n"


def _line(row: EpochRow) -> str:
    """Numbers in full, so that what is read back equals what was computed."""
    cells = (row.epoch, row.step, row.train_loss, row.dice, row.f1, row.learning_rate, row.seconds)
    return ",".join("" if cell is None else repr(cell) for cell in cells)
