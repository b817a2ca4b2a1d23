"""Segmenting files in a process of its own: what fills the memory of it leaves the window alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_celltrain.runs.process import Child, follow
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.events import Event, Failed


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """The arguments of ``celltrain predict``; None leaves an option to the model or the files."""

    model: Path
    inputs: tuple[Path, ...]
    output: Path
    device: str = "auto"
    probabilities: bool = False
    resample: bool = False
    threshold: float | None = None
    decoding: ObjectDecoding | None = None
    axes: str | None = None
    channel: int | None = None
    voxel_size: Spacing | None = None

    def arguments(self) -> list[str]:
        """For the command line."""
        given = ["predict", str(self.model), *map(str, self.inputs), "--output", str(self.output), "--json"]
        given += ["--probabilities"] if self.probabilities else []
        given += ["--resample"] if self.resample else []
        values: dict[str, object] = {
            "--device": self.device,
            "--threshold": self.threshold,
            "--axes": self.axes,
            "--channel": self.channel,
            "--voxel-size": self.voxel_size,
        }
        if self.decoding is not None:
            values["--method"] = self.decoding.method
            values["--smoothing"] = self.decoding.smoothing_um
            values["--seed-distance"] = self.decoding.seed_distance_um
            values["--seed-level"] = self.decoding.seed_level
            values["--min-size"] = self.decoding.min_size_um3
        for option, value in values.items():
            if value is not None:
                parts = value if isinstance(value, tuple) else (value,)
                given += [option, ",".join(f"{part:.9g}" if isinstance(part, float) else str(part) for part in parts)]
        return given


def segment_in_process(request: PredictRequest, cancelled: Callable[[], bool]) -> Iterator[Event]:
    """Segment as ``request`` says, until it is done or ``cancelled()`` is true: a look at it takes a tenth of a second.

    Raises ``RunFolderError`` where no process can be started; the last event is ``Failed`` where it ended by an error.
    """
    child = Child(*request.arguments())
    child.send()

    def last_word() -> Event | None:
        if child.exit_code == 0:
            return None
        rescue = "The files that it had finished are intact."
        return Failed(message=child.exit_message("The process that segments", rescue), time=time.time())

    try:
        for events in follow(child, last_word, cancelled):
            yield from events
    finally:
        child.close()
