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
from napari_celltrain.runs.prepare import Preparation
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
    from napari_celltrain.engine.predictor import Predictor
    from napari_celltrain.engine.trainer import Checkpointer, Progress, Trainer
    from napari_celltrain.engine.validation import Validator

FEW_STEPS = 1000
"""Fewer training steps than this in all lead to a warning."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a run needs except for its folder: what can be refused has been refused."""

    preparation: Preparation
    source: PatchSource
    validator: Validator
    learner: Learner
    predictor: Predictor
    progress: Progress
    validation_estimate: float
    ranks: Ranks
    started_at: float
    device_name: str

    @property
    def config(self) -> RunConfig:
        return self.preparation.config

    def trainer(self, checkpointer: Checkpointer) -> Trainer:
        from napari_celltrain.engine.trainer import Trainer

        return Trainer(
            config=self.config.training,
            source=self.source,
            validator=self.validator,
            learner=self.learner,
            predictor=self.predictor,
            checkpointer=checkpointer,
            ranks=self.ranks,
            progress=self.progress,
            validation_estimate=self.validation_estimate,
            started_at=self.started_at,
        )

    def card(self, run: str) -> ModelCard:
        """The card of the best model so far."""
        config, preparation, progress = self.config, self.preparation, self.progress
        return ModelCard(
            network=preparation.network,
            channel=config.data.channel,
            voxel_size=preparation.network.voxel_size,
            normalization=config.data.normalization,
            window=preparation.window,
            batch_size=preparation.window_batch,
            target=preparation.target,
            objects=self.validator.decoding,
            label_kind=preparation.scheme.kind,
            class_values=preparation.scheme.class_values,
            precision=self.learner.numeric_format.precision,
            memory_layout=self.learner.numeric_format.layout,
            training_device=self.learner.device.type,
            training=TrainingSummary(
                run=run,
                epoch=progress.best_epoch,
                validation_dice=progress.best_dice,
                num_training=len(self.source.volumes),
                num_validation=len(self.validator.volumes),
                loss=config.training.loss,
                package_version=__version__,
            ),
        )


def set_up(
    preparation: Preparation,
    device: torch.device,
    ranks: Ranks,
    started_at: float,
    checkpoint: Checkpoint | None = None,
    new_end: bool = False,
) -> Generator[Event, None, Setup]:
    """Build the network, choose the numeric format, plan the learning rate, and rehearse a validation.

    ``new_end``: whether a resumed run was given another number of epochs.
    """
    from napari_celltrain.engine.device import describe, memory_errors_explained
    from napari_celltrain.engine.learner import Learner
    from napari_celltrain.engine.predictor import Predictor

    training = preparation.config.training
    network = yield from _new_network(preparation, ranks, is_resumed=checkpoint is not None)
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
        progress = _resumed_progress(checkpoint, training, source, new_end)
        _restore(learner, checkpoint)
    estimate = _rehearse(validator, predictor, progress, ranks)
    return Setup(
        preparation, source, validator, learner, predictor, progress, estimate, ranks, started_at, describe(device)
    )


def _new_network(preparation: Preparation, ranks: Ranks, is_resumed: bool) -> Generator[Event, None, nn.Module]:
    import torch

    training = preparation.config.training
    torch.manual_seed(training.seed)
    network = build_network(preparation.network)
    if not is_resumed and training.starting_weights is not None:
        load_weights(network, read_weights(training.starting_weights))
        yield Logged(message=f"Training starts from the weights of {training.starting_weights}.")
    torch.manual_seed(training.seed + ranks.rank)  # dropout differs from process to process
    return network


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


def _rehearse(validator: Validator, predictor: Predictor, progress: Progress, ranks: Ranks) -> float:
    """Validate one window, so that a broken validation fails in seconds; returns the estimated seconds of all."""
    from napari_celltrain.engine.device import memory_errors_explained

    start = time.perf_counter()
    with memory_errors_explained():
        seconds = validator.rehearse(predictor)
    progress.validation_seconds += time.perf_counter() - start
    return ranks.broadcast(seconds / ranks.world)


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
        yield _few_steps(preparation.config, total, len(source.volumes))
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


def _few_steps(config: RunConfig, total_steps: int, num_volumes: int) -> Warned:
    per_epoch = -(-FEW_STEPS // config.training.epochs)
    samples = -(-per_epoch * config.training.batch_size // num_volumes)
    remedy = f"more patches of each volume (samples per volume: {samples}) or more epochs"
    if not config.augmentation.patches:
        remedy = "patches instead of whole images, or more epochs"
    return Warned(
        message=f"This run has only {total_steps} training steps in all; a good model mostly needs a thousand or more. "
        f"Take {remedy}."
    )


def _resumed_progress(checkpoint: Checkpoint, training: TrainingConfig, source: PatchSource, new_end: bool) -> Progress:
    progress = checkpoint.progress
    progress.set_epoch_size(source.patches_per_epoch, training.batch_size)
    if new_end or progress.planned_steps <= progress.step:  # a plan that has run out would leave nothing to learn
        progress.planned_steps = training.epochs * progress.steps_per_epoch
    return progress


def _restore(learner: Learner, checkpoint: Checkpoint) -> None:
    try:
        learner.restore(checkpoint.state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunFolderError(
            f"The saved state of this run does not fit its config.yaml: {' '.join(str(error).split())[:300]} "
            "Was config.yaml changed? Put it back, or start a new run with this one's starting weights."
        ) from error
