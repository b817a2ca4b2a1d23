"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_celltrain.config import TrainingConfig

FLOOR = 0.01
"""The learning rate ends at this share of its largest value."""
PLATEAU_PATIENCE = 5
"""Validations without a better Dice after which ``plateau`` halves the learning rate."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then the curve that the config names, over the steps that are planned.

    It is a pure function of numbers that are saved with a run, so a resumed run goes on exactly. Cosine decay after
    Loshchilov and Hutter, SGDR, ICLR 2017.
    """

    config: TrainingConfig

    def at(self, step: int, planned_steps: int, halvings: int = 0) -> float:
        """The learning rate of optimizer step number ``step``, counted from 0, of ``planned_steps`` in all."""
        largest = self.config.learning_rate
        warmup = min(self.config.warmup_steps, planned_steps // 4)
        rise = min(1.0, (step + 1) / (warmup + 1))
        if self.config.schedule == "cosine":
            progress = min(1.0, max(0.0, (step - warmup) / max(1, planned_steps - warmup)))
            fall = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))
        elif self.config.schedule == "plateau":
            fall = max(FLOOR, 0.5**halvings)
        else:
            fall = 1.0
        return largest * rise * fall
