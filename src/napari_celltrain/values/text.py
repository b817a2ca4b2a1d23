"""Wording that all faces share: counts, sizes and durations, and events as lines of a log."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from numbers import Integral

from napari_celltrain.values import events

_REASONS = {
    "epochs": "all epochs are done",
    "stopped": "stopped as asked",
    "stopped-now": "stopped at once as asked",
    "max-minutes": "the time it was given is over",
    "early-stopping": "the Dice did not rise any more",
}


def describe(event: events.Event) -> str | None:
    """One line (a message may have several) for ``event``; None for progress that a line would not help."""
    match event:
        case events.Prepared():
            stage = printable(event.stage).capitalize()
            if event.total == 0:
                return f"{stage} …"
            return f"{stage}: {event.total} done" if event.done == event.total else None
        case events.Started():
            patch = "whole images" if event.patch_size is None else "patches of " + sizes(event.patch_size)
            resumed = f", continued at epoch {event.first_epoch}" if event.first_epoch > 1 else ""
            length = f"{count(event.epochs, 'epoch')} of {count(event.steps_per_epoch, 'step')}"
            return (
                f"Run {printable(event.run)}{resumed}: {event.model} ({event.num_parameters:,} parameters), "
                f"{event.loss}, {length}, batches of {event.batch_size}, {patch}, "
                f"{count(event.num_training, 'volume')} for training and {event.num_validation} for validation, "
                f"{printable(event.device)}, {event.numeric_format}"
            )
        case events.StepDone():
            return f"  step {event.step} (epoch {event.epoch}): loss {event.loss:.4f}"
        case events.EpochDone():
            left = f", {duration(event.remaining_seconds)} left" if event.remaining_seconds > 0 else ""
            return f"Epoch {event.epoch}: loss {event.train_loss:.4f}, {duration(event.seconds)}{left}"
        case events.ValidationProgressed():
            return None
        case events.Validated():
            best = ", the best so far" if event.is_best else ""
            return f"Validation after epoch {event.epoch}: {scores(event.dice, event.f1)}{best}"
        case events.Saved():
            return None if event.what in ("last", "best", "plot") else f"Saved {printable(event.path)}"
        case events.Logged():
            return printable(event.message)
        case events.Warned():
            return f"Warning: {printable(event.message)}"
        case events.StopRequested():
            return "Stopping after the current batch." if event.now else "Stopping after the next validation."
        case events.Finished():
            best = f"epoch {event.best_epoch}, {scores(event.best_dice, event.best_f1)}"
            return (
                f"Finished after {duration(event.seconds)}: {_REASONS[event.reason]}. Best model: {best}. "
                f"Validation took {event.validation_share:.0%} of the time; of the rest, {event.compute_share:.0%} was "
                f"spent in the network. Memory: up to {event.peak_memory_gb:.1f} GB."
            )
        case events.Failed():
            return f"Failed: {printable(event.message)}"


def scores(dice: float, f1: float | None) -> str:
    return f"Dice {dice:.4f}" if f1 is None else f"Dice {dice:.4f}, F1 {f1:.4f}"


def count(number: int, noun: str) -> str:
    """Such as ``1 volume`` or ``1,200 volumes``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def sizes(values: Iterable[float]) -> str:
    """Such as ``51 × 130 × 130`` or ``1.75 × 0.8 × 0.8``: whole numbers in full, others with four digits."""
    return " × ".join(str(int(value)) if isinstance(value, Integral) else f"{value:.4g}" for value in values)


def duration(seconds: float) -> str:
    """Such as ``4.2 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if not 0 <= seconds < 1e9:  # an estimate may be infinite or not a number
        return "?"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """``text`` without control characters, which could move a terminal's cursor or colour it; file names hold any."""
    return "".join(char if char == "\n" or not unicodedata.category(char).startswith("C") else "�" for char in text)
