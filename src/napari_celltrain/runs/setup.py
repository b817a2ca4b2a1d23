"""A run that is ready to start: network, numeric format, learning rate and data brought together."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from napari_celltrain import __version__
from napari_celltrain.engine.device import Ranks, memory_errors_explained
from napari_celltrain.engine.learner import Learner
from napari_celltrain.engine.patches import plan_epoch
from napari_celltrain.engine.precision import LossFunction, NumericFormat, Probe, choose_format, usual_format
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.engine.trainer import Progress, Trainer
from napari_celltrain.nets.losses import build_loss
from napari_celltrain.nets.models import build_network, load_weights
from napari_celltrain.runs.checkpoint import Checkpoint
from napari_celltrain.runs.model import ModelCard, TrainingSummary, read_weights
from napari_celltrain.runs.prepare import Preparation
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Logged, Prepared, Warned

if TYPE_CHECKING:
    import torch

    from napari_celltrain.nets.architectures import SegmentationNetwork

FEW_STEPS = 1000
"""Fewer training steps than this in all lead to a warning."""


def set_up(
    preparation: Preparation, device: torch.device, ranks: Ranks, started_at: float, checkpoint: Checkpoint | None
) -> Generator[Event, None, Trainer]:
    """Build the network, choose the numeric format, plan the learning rate, rehearse a validation."""
    import torch

    training, source, validator = preparation.config.training, preparation.source, preparation.validator
    torch.manual_seed(training.seed)
    network = build_network(preparation.network)
    if checkpoint is None and training.starting_weights is not None:
        load_weights(network, read_weights(training.starting_weights, network))
        yield Logged(message=f"Training starts from the weights of {training.starting_weights}.")
    torch.manual_seed(training.seed + ranks.rank)  # dropout differs from process to process
    loss_function = build_loss(training.loss, preparation.scheme.num_outputs, preparation.target)
    step_seconds: float | None = None
    with memory_errors_explained():
        if checkpoint is None:
            numeric_format, step_seconds = yield from _choose_format(preparation, network, loss_function, device, ranks)
        else:
            numeric_format = checkpoint.numeric_format
        learner = Learner(network, loss_function, training, device, numeric_format, ranks)
    spec, window, batch_size = preparation.network, preparation.window, preparation.window_batch
    predictor = Predictor(
        learner.evaluated, spec.out_channels, window, device, numeric_format, batch_size, preparation.target
    )
    if checkpoint is None:
        progress = yield from _first_progress(preparation, step_seconds)
    else:
        progress = checkpoint.progress
        progress.set_epoch_size(source.patches_per_epoch, training.batch_size)
        if progress.planned_steps <= progress.step:  # a plan that has run out would leave nothing to learn
            progress.planned_steps = training.epochs * progress.steps_per_epoch
        try:
            if progress.step and not checkpoint.state["moments"]:
                raise ValueError("the moments of the optimizer are missing.")
            learner.restore(checkpoint.state)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"The saved state of this run does not fit its config.yaml: {' '.join(str(error).split())[:300]} "
                "Was config.yaml changed? Put it back, or start a new run with this one's starting weights."
            ) from error
    start = time.perf_counter()
    with memory_errors_explained():
        seconds = validator.rehearse(predictor)
    progress.validation_seconds += time.perf_counter() - start
    estimate = ranks.broadcast(seconds / ranks.world)
    return Trainer(training, source, validator, learner, predictor, ranks, progress, estimate, started_at=started_at)


def _choose_format(
    preparation: Preparation, network: SegmentationNetwork, loss: LossFunction, device: torch.device, ranks: Ranks
) -> Generator[Event, None, tuple[NumericFormat, float | None]]:
    """One numeric format for all processes of a run, and its seconds per step, if known."""
    training, source = preparation.config.training, preparation.source
    if training.deterministic:
        return usual_format(training, device), None
    yield Prepared(stage="timing numeric formats")
    found: Probe | None = None
    if ranks.is_first:
        count = max(1, training.batch_size // ranks.world)
        batch = source.batch(plan_epoch(len(source.volumes), source.samples_per_volume, training.seed, 1)[:count])
        found = choose_format(network, loss, batch, training, device, description=preparation.network.model_dump_json())
    probe = ranks.broadcast(found)
    assert probe is not None  # the first process has looked
    if probe.trials:
        origin = " (found at an earlier run on this computer)" if probe.is_remembered else ""
        yield Logged(message=f"Numeric format: {probe.chosen}{origin}\n{probe.table()}")
    return probe.chosen, probe.seconds_per_step


def _first_progress(preparation: Preparation, step_seconds: float | None) -> Generator[Event, None, Progress]:
    """Where training begins, with the steps over which the learning rate falls: all of them, or as many as a time limit
    is likely to allow.

    These are estimated from the timed formats alone (which are remembered), so that equal runs get equal plans.
    """
    training, source, progress = preparation.config.training, preparation.source, Progress()
    progress.set_epoch_size(source.patches_per_epoch, training.batch_size)
    progress.planned_steps = total = training.epochs * progress.steps_per_epoch
    if training.max_minutes is not None and step_seconds is not None:
        # a window costs about a third of a step: no gradients
        num_windows = preparation.validator.num_windows(preparation.window)
        validation = num_windows * step_seconds / (3 * training.batch_size)
        steps = training.validation_interval * progress.steps_per_epoch
        available = 0.95 * training.max_minutes * 60 - validation  # the last one is done twice
        affordable = max(1, int(available / (steps * step_seconds + validation) * steps))
        if affordable < total:
            progress.planned_steps = affordable
            yield Logged(
                message=f"In {training.max_minutes:g} minutes about {affordable / progress.steps_per_epoch:.0f} of "
                f"{training.epochs} epochs can be done here; the learning rate is planned for these."
            )
    if total < FEW_STEPS and training.max_minutes is None:
        remedy = "patches instead of whole images, or more epochs"
        if preparation.config.augmentation.patches:
            per_epoch = -(-FEW_STEPS // training.epochs)
            samples = -(-per_epoch * training.batch_size // len(source.volumes))
            remedy = f"more patches of each volume (samples per volume: {samples}) or more epochs"
        yield Warned(
            message=f"This run has only {total} training steps in all; a good model mostly needs a thousand or more. "
            f"Take {remedy}."
        )
    return progress


def make_card(preparation: Preparation, trainer: Trainer, run: str) -> ModelCard:
    """The card of the best model so far, of the run called ``run``."""
    config, numeric_format = preparation.config, trainer.learner.numeric_format
    return ModelCard(
        network=preparation.network,
        channel=config.data.channel,
        voxel_size=preparation.network.voxel_size,
        normalization=config.data.normalization,
        limit_outliers=config.data.limit_outliers,
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
