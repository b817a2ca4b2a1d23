"""Segmenting files in a process of its own: what fills the memory of it leaves the window alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
        given += ["--device", self.device]
        given += ["--probabilities"] if self.probabilities else []
        given += ["--resample"] if self.resample else []
        for option, value in self._options():
            given += [option, value] if value is not None else []
        return given

    def _of_objects(self) -> list[tuple[str, str | None]]:
        decoding = self.decoding
        if decoding is None:
            return []
        return [
            ("--method", decoding.method),
            ("--smoothing", f"{decoding.smoothing_um:.9g}"),
            ("--seed-distance", f"{decoding.seed_distance_um:.9g}"),
            ("--seed-level", f"{decoding.seed_level:.9g}"),
            ("--min-size", f"{decoding.min_size_um3:.9g}"),
        ]

    def _options(self) -> Sequence[tuple[str, str | None]]:
        size = None if self.voxel_size is None else ",".join(f"{value:.9g}" for value in self.voxel_size)
        return [
            ("--threshold", None if self.threshold is None else f"{self.threshold:.9g}"),
            ("--axes", self.axes),
            ("--channel", None if self.channel is None else str(self.channel)),
            ("--voxel-size", size),
            *self._of_objects(),
        ]


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
