"""A run that is ready to start: network, numeric format, learning rate and data brought together."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_celltrain import __version__
from napari_celltrain.nets.losses import build_loss
from napari_celltrain.nets.models import build_network, load_weights
from napari_celltrain.runs.checkpoint import Checkpoint
from napari_celltrain.runs.model import ModelCard, TrainingSummary, read_weights
from napari_celltrain.runs.prepare import Preparation, prepare
from napari_celltrain.values.config import RunConfig, TrainingConfig
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Logged, Prepared, Warned

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from napari_celltrain.engine.device import Ranks
    from napari_celltrain.engine.learner import Learner
    from napari_celltrain.engine.patches import PatchSource
    from napari_celltrain.engine.precision import NumericFormat, Probe
    from napari_celltrain.engine.trainer import Progress, Trainer
    from napari_celltrain.engine.validation import Validator

FEW_STEPS = 1000
"""Fewer training steps than this in all lead to a warning."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a run needs except for its folder: what can be refused has been refused."""

    preparation: Preparation
    trainer: Trainer
    device_name: str

    def card(self, run: str) -> ModelCard:
        """The card of the best model so far."""
        preparation, trainer = self.preparation, self.trainer
        config, numeric_format = preparation.config, trainer.learner.numeric_format
        return ModelCard(
            network=preparation.network,
            channel=config.data.channel,
            voxel_size=preparation.network.voxel_size,
            normalization=config.data.normalization,
            window=preparation.window,
            batch_size=preparation.window_batch,
            target=preparation.target,
            objects=trainer.validator.decoding,
            label_kind=preparation.scheme.kind,
            class_values=preparation.scheme.class_values,
            precision=numeric_format.precision,
            memory_layout=numeric_format.layout,
            training_device=trainer.learner.device.type,
            training=TrainingSummary(
                run=run,
                epoch=trainer.progress.best_epoch,
                validation_dice=trainer.progress.best_dice,
                num_training=len(trainer.source.volumes),
                num_validation=len(trainer.validator.volumes),
                loss=config.training.loss,
                package_version=__version__,
            ),
        )


def set_up(
    config: RunConfig,
    device: torch.device,
    ranks: Ranks,
    started_at: float,
    checkpoint: Checkpoint | None = None,
    new_end: bool = False,
) -> Generator[Event, None, Setup]:
    """Prepare the data, build the network, choose the numeric format, plan the learning rate, rehearse a validation.

    ``new_end``: whether a resumed run was given another number of epochs.
    """
    import torch

    from napari_celltrain.engine.device import describe, memory_errors_explained
    from napari_celltrain.engine.learner import Learner
    from napari_celltrain.engine.predictor import Predictor
    from napari_celltrain.engine.trainer import Trainer

    preparation = yield from prepare(config)
    training = preparation.config.training
    torch.manual_seed(training.seed)
    network = build_network(preparation.network)
    if checkpoint is None and training.starting_weights is not None:
        load_weights(network, read_weights(training.starting_weights))
        yield Logged(message=f"Training starts from the weights of {training.starting_weights}.")
    torch.manual_seed(training.seed + ranks.rank)  # dropout differs from process to process
    loss_function = build_loss(training.loss, preparation.scheme.num_outputs, preparation.target)
    source, validator = preparation.source(), preparation.validator()
    step_seconds: float | None = None
    with memory_errors_explained():
        if checkpoint is None:
            numeric_format, step_seconds = yield from _choose_format(
                preparation, network, loss_function, source, device, ranks
            )
        else:
            numeric_format = checkpoint.numeric_format
        learner = Learner(network, loss_function, training, device, numeric_format, ranks)
    predictor = Predictor(
        learner.evaluated,
        preparation.network.out_channels,
        preparation.window,
        device,
        numeric_format,
        preparation.window_batch,
        preparation.target,
    )
    if checkpoint is None:
        progress = yield from _first_progress(preparation, source, validator, step_seconds)
    else:
        progress = _resume(learner, checkpoint, training, source, new_end)
    start = time.perf_counter()
    with memory_errors_explained():
        seconds = validator.rehearse(predictor)
    progress.validation_seconds += time.perf_counter() - start
    estimate = ranks.broadcast(seconds / ranks.world)
    trainer = Trainer(training, source, validator, learner, predictor, ranks, progress, estimate, started_at=started_at)
    return Setup(preparation, trainer, describe(device))


def _choose_format(
    preparation: Preparation,
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    source: PatchSource,
    device: torch.device,
    ranks: Ranks,
) -> Generator[Event, None, tuple[NumericFormat, float | None]]:
    """One numeric format for all processes of a run, and its seconds per step, if known."""
    from napari_celltrain.engine.patches import plan_epoch
    from napari_celltrain.engine.precision import choose_format, usual_format

    training = preparation.config.training
    if training.deterministic:
        return usual_format(training, device), None
    yield Prepared(stage="timing numeric formats")
    found: Probe | None = None
    if ranks.is_first:
        count = max(1, training.batch_size // ranks.world)
        batch = source.batch(plan_epoch(len(source.volumes), source.samples_per_volume, training.seed, 1)[:count])
        found = choose_format(
            network, loss_function, batch, training, device, description=preparation.network.model_dump_json()
        )
    probe = ranks.broadcast(found)
    assert probe is not None  # the first process has looked
    if probe.trials:
        origin = " (found at an earlier run on this computer)" if probe.is_remembered else ""
        yield Logged(message=f"Numeric format: {probe.chosen}{origin}\n{probe.table()}")
    return probe.chosen, probe.seconds_per_step


# --- where training stands ------------------------------------------------------------------------------


def _first_progress(
    preparation: Preparation, source: PatchSource, validator: Validator, step_seconds: float | None
) -> Generator[Event, None, Progress]:
    from napari_celltrain.engine.trainer import Progress

    training, progress = preparation.config.training, Progress()
    progress.set_epoch_size(source.patches_per_epoch, training.batch_size)
    total = training.epochs * progress.steps_per_epoch
    num_windows = validator.num_windows(preparation.window)
    progress.planned_steps = affordable = _affordable_steps(
        training, progress.steps_per_epoch, num_windows, step_seconds
    )
    if affordable < total:
        yield Logged(
            message=f"In {training.max_minutes:g} minutes about {affordable / progress.steps_per_epoch:.0f} of "
            f"{training.epochs} epochs can be done here; the learning rate is planned for these."
        )
    if total < FEW_STEPS and training.max_minutes is None:
        per_epoch = -(-FEW_STEPS // training.epochs)
        samples = -(-per_epoch * training.batch_size // len(source.volumes))
        remedy = "patches instead of whole images, or more epochs"
        if preparation.config.augmentation.patches:
            remedy = f"more patches of each volume (samples per volume: {samples}) or more epochs"
        yield Warned(
            message=f"This run has only {total} training steps in all; a good model mostly needs a thousand or more. "
            f"Take {remedy}."
        )
    return progress


def _affordable_steps(
    training: TrainingConfig, steps_per_epoch: int, num_windows: int, step_seconds: float | None
) -> int:
    """The steps over which the learning rate falls: all of them, or as many as a time limit is likely to allow.

    Estimated from the timed formats alone (which are remembered), so that equal runs get equal plans.
    """
    total = training.epochs * steps_per_epoch
    if training.max_minutes is None or step_seconds is None:
        return total
    # a window costs about a third of a step: no gradients
    validation = num_windows * step_seconds / (3 * training.batch_size)
    steps = training.validation_interval * steps_per_epoch
    available = 0.95 * training.max_minutes * 60 - validation  # the last one is done twice
    return min(total, max(1, int(available / (steps * step_seconds + validation) * steps)))


def _resume(
    learner: Learner, checkpoint: Checkpoint, training: TrainingConfig, source: PatchSource, new_end: bool
) -> Progress:
    """Restore the learner; the progress to go on from."""
    try:
        learner.restore(checkpoint.state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunFolderError(
            f"The saved state of this run does not fit its config.yaml: {' '.join(str(error).split())[:300]} "
            "Was config.yaml changed? Put it back, or start a new run with this one's starting weights."
        ) from error
    progress = checkpoint.progress
    progress.set_epoch_size(source.patches_per_epoch, training.batch_size)
    if new_end or progress.planned_steps <= progress.step:  # a plan that has run out would leave nothing to learn
        progress.planned_steps = training.epochs * progress.steps_per_epoch
    return progress
