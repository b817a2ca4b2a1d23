"""Segmenting files, by a process of its own, followed from a worker thread."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from napari_celltrain.errors import CellTrainError
from napari_celltrain.events import Failed, Prepared, Saved, Warned
from napari_celltrain.runs.predict_process import PredictChild, PredictRequest
from napari_celltrain.runs.wording import printable
from napari_celltrain.widgets.segment.background import Job

_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 1.5
"""What an interrupted process may take to leave; then it is killed. What it had written is whole either way."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file of labels, and the image that it is of, where that is known."""

    labels: Path
    image: Path | None


def segment_files(job: Job, request: PredictRequest) -> int:
    """The number of files written. Each is noted as :class:`Written`, warnings as text. Raises ``CellTrainError``."""
    from napari_celltrain.data.volumes import find_volumes, stem_of  # it brings tifffile and Zarr

    job.tell(0, 0, "Starting")
    images = {stem_of(path): path for entry in request.inputs for path in find_volumes(entry)}
    child = PredictChild(request)
    threading.Thread(target=_end_with, args=(job, child), name="celltrain-predict", daemon=True).start()
    num_written = 0
    for event in child.events():
        match event:
            case Prepared():
                stage = printable(event.stage)
                # of a single volume it is not known how far it is, and a bar that stands still would say nothing
                job.tell(event.done, event.total if event.total > 1 else 0, f"{stage[:1].upper()}{stage[1:]}")
            case Saved(what="prediction"):
                labels = Path(event.path)
                num_written += 1
                job.note(Written(labels, images.get(stem_of(labels))))
            case Warned():
                job.note(printable(event.message))
            case Failed():
                raise CellTrainError(printable(event.message))
    return num_written


def _end_with(job: Job, child: PredictChild) -> None:
    """Interrupt the process once the job is given up; also when the window is gone."""
    while child.poll() is None:
        if job.wait_for_cancel(_LOOK_SECONDS):
            child.interrupt()
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while child.poll() is None:
                if time.monotonic() > deadline:
                    child.kill()
                    return
                time.sleep(_LOOK_SECONDS)
