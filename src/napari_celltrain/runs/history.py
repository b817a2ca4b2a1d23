"""What a run has come to, from its events: the one source of every table and curve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from napari_celltrain.events import EpochDone, Event, Failed, Finished, Saved, Started, Validated


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch; ``train_loss`` and the two after it are None where it was cut short by a stop,
    ``dice`` where it had no validation."""

    epoch: int
    step: int
    train_loss: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    dice: float | None = None
    f1: float | None = None


@dataclass(frozen=True, slots=True)
class History:
    """The epochs that count, in order; those that a resumed run did over again are there once."""

    rows: tuple[EpochRow, ...] = ()
    started: Started | None = None
    best: Validated | None = None
    finished: Finished | None = None
    failed: Failed | None = None

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.train_loss) for row in self.rows if row.train_loss is not None]

    @property
    def dices(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.dice) for row in self.rows if row.dice is not None]

    @property
    def f1s(self) -> list[tuple[int, float]]:
        return [(row.epoch, row.f1) for row in self.rows if row.f1 is not None]


def history(events: Iterable[Event]) -> History:
    """The history that ``events`` tell."""
    builder = HistoryBuilder()
    for event in events:
        builder.add(event)
    return builder.history()


class HistoryBuilder:
    """:func:`history`, event by event, for whoever follows a run."""

    def __init__(self) -> None:
        self._rows: dict[int, EpochRow] = {}
        self._best: Validated | None = None
        self._saved_best: Validated | None = None  # the best at the time of the last saved state
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._failed: Failed | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, EpochDone):
            self._rows[event.epoch] = replace(
                self._row(event.epoch, event.step),
                step=event.step,
                train_loss=event.train_loss,
                learning_rate=event.learning_rate,
                seconds=event.seconds,
            )
        elif isinstance(event, Validated):
            self._rows[event.epoch] = replace(self._row(event.epoch, event.step), dice=event.dice, f1=event.f1)
            # Not the highest Dice, but what the run itself took for the best: those weights are what it saved.
            self._best = event if event.is_best else self._best
        elif isinstance(event, Saved):
            self._saved_best = self._best if event.what == "last" else self._saved_best
        elif isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, Failed):
            self._failed = event

    def history(self) -> History:
        rows = tuple(row for _, row in sorted(self._rows.items()))
        return History(rows, self._started, self._best, self._finished, self._failed)

    def row(self, epoch: int) -> EpochRow | None:
        return self._rows.get(epoch)

    def _row(self, epoch: int, step: int) -> EpochRow:
        return self._rows.get(epoch) or EpochRow(epoch, step)

    def _start(self, started: Started) -> None:
        """A resumed run does everything from its first epoch on again, whatever was written before the kill."""
        first = started.first_epoch
        self._rows = {epoch: row for epoch, row in self._rows.items() if epoch < first}
        # A run that was stopped at once has validated, and saved, in the middle of its first epoch to come.
        if self._best is not None and self._best.epoch >= first:
            self._best = self._saved_best
        self._started, self._finished, self._failed = started, None, None
