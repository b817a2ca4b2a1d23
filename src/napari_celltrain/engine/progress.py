"""Where training stands: all that must be saved beside the tensors to go on from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Progress:
    """Where training stands; numbers only, so that it is saved beside the tensors."""

    epoch: int = 1
    """The epoch in progress, counted from 1."""
    step: int = 0
    """Optimizer steps done."""
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    """Over the patches of the epoch in progress, with their number in ``loss_count``."""
    loss_count: int = 0
    epoch_seconds: float = 0.0
    best_dice: float = -1.0
    best_epoch: int = 0
    validations_since_best: int = 0
    halvings: int = 0
    """Of the learning rate, under the plateau schedule."""
    num_patches: int = 0
    batch_size: int = 0
    """Of the epoch in progress: what its steps mean."""
    planned_steps: int = 0
    """Steps over which the learning rate comes down."""
    seconds: float = 0.0
    """Of all sittings together."""
    validation_seconds: float = 0.0
    compute_seconds: float = 0.0
    """Spent in forward, backward and optimizer step."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
