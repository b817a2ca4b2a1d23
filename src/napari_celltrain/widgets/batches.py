"""Events of a run on their way to the window, thinned out and collected."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

from napari_celltrain.events import (
    Event,
    Failed,
    Finished,
    Started,
    StepDone,
    StopRequested,
    ValidationProgressed,
    Warned,
)

Batch = tuple[Event, ...]

MAX_BATCH = 1000
"""So that even the past of a long run, told at once, is taken in small bites."""
SUPERSEDED = (StepDone, ValidationProgressed)
"""Only the latest of these counts."""
_URGENT = (Started, StopRequested, Warned, Finished, Failed)


class Collected:
    """Events on their way to the window."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._taken = 0.0

    @property
    def is_full(self) -> bool:
        return len(self._events) >= MAX_BATCH

    def add(self, event: Event) -> None:
        if self._events and isinstance(event, SUPERSEDED) and type(self._events[-1]) is type(event):
            self._events[-1] = event
        else:
            self._events.append(event)

    def fill(self, told: queue.SimpleQueue[Event | None]) -> bool:
        """Add what has been told since the last call; whether that was all there will be."""
        while not self.is_full:
            try:
                event = told.get_nowait()
            except queue.Empty:
                return False
            if event is None:
                return True
            self.add(event)
        return False

    def is_due(self, seconds: float) -> bool:
        """Whether there is something that cannot wait, or nothing has been taken for so many ``seconds``."""
        is_urgent = self.is_full or any(isinstance(event, _URGENT) for event in self._events)
        return is_urgent or time.monotonic() - self._taken >= seconds

    def take(self) -> Iterator[Batch]:
        """What there is, as a batch; nothing where there is nothing."""
        events, self._events = tuple(self._events), []
        if events:
            self._taken = time.monotonic()
            yield events
