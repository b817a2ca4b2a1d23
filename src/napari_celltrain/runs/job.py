"""Choosing the numeric format of a run, once for all its processes.

A run that is ready to start: network, numeric format, learning rate and data brought together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_celltrain import __version__
from napari_celltrain.runs.checkpoint import Checkpoint, NoKeeper
from napari_celltrain.runs.model import ModelCard, TrainingSummary
from napari_celltrain.runs.prepare import Preparation
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Logged, Prepared, Warned

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from napari_celltrain.engine.device import Ranks
    from napari_celltrain.engine.learner import Learner
    from napari_celltrain.engine.patches import PatchSource
    from napari_celltrain.engine.precision import NumericFormat, Probe
    from napari_celltrain.engine.trainer import Trainer


def choose_format(
    preparation: Preparation,
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    source: PatchSource,
    device: torch.device,
    ranks: Ranks,
) -> Generator[Event, None, tuple[NumericFormat, float | None]]:
    """Time the formats, or remember what an equal run found here; gives the format and its seconds per step, if
    known."""
    from napari_celltrain.engine.precision import usual_format

    training = preparation.config.training
    if training.deterministic:
        return usual_format(training, device), None
    yield Prepared(stage="timing numeric formats")
    found: tuple[Probe, bool] | None = None
    if ranks.is_first:
        found = _probe(preparation, network, loss_function, source, device, ranks.world)
    answer = ranks.broadcast(found)
    assert answer is not None  # the first process has looked
    probe, is_remembered = answer
    if probe.trials:
        origin = " (found at an earlier run on this computer)" if is_remembered else ""
        yield Logged(message=f"Numeric format: {probe.chosen}{origin}\n{probe.table()}")
    return probe.chosen, probe.seconds_per_step


def _probe(
    preparation: Preparation,
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    source: PatchSource,
    device: torch.device,
    num_processes: int,
) -> tuple[Probe, bool]:
    import torch

    from napari_celltrain.engine.device import describe
    from napari_celltrain.engine.patches import plan_epoch
    from napari_celltrain.engine.precision import load_probe, probe_formats, probe_key, save_probe

    training, augmentation = preparation.config.training, preparation.config.augmentation
    count = max(1, training.batch_size // num_processes)
    samples = augmentation.samples_per_volume if augmentation.patches else 1
    batch = source.batch(plan_epoch(len(source.volumes), samples, training.seed, 1)[:count])
    key = probe_key(
        describe(device),
        threads=torch.get_num_threads(),
        network=preparation.network.model_dump_json(),
        loss=training.loss,
        batch=tuple(batch.image.shape),
        precision=training.precision,
        layout=training.memory_layout,
    )
    remembered = load_probe(key)
    if remembered is not None:
        return remembered, True
    probe = probe_formats(network, loss_function, batch.image, batch.target, training, device)
    save_probe(key, probe)
    return probe, False


# --- job -------------------------------------------------------------------------------------------------

FEW_STEPS = 1000
"""Fewer training steps than this in all are warned of."""


@dataclass(slots=True)
class Job:
    """A run that is ready to start."""

    preparation: Preparation
    trainer: Trainer
    device: torch.device
    device_name: str
    numeric_format: NumericFormat
    num_parameters: int

    @property
    def config(self) -> RunConfig:
        return self.preparation.config


def set_up(
    preparation: Preparation,
    device: torch.device,
    ranks: Ranks,
    started_at: float,
    checkpoint: Checkpoint | None = None,
    new_end: bool = False,
) -> Generator[Event, None, Job]:
    """Build the network, choose the numeric format, and rehearse a validation."""
    import torch

    from napari_celltrain.engine.device import describe, memory_errors_explained
    from napari_celltrain.engine.learner import Learner
    from napari_celltrain.engine.predictor import Predictor
    from napari_celltrain.engine.trainer import Progress, Trainer
    from napari_celltrain.nets.losses import build_loss
    from napari_celltrain.nets.models import build_network, load_weights
    from napari_celltrain.runs.model import read_weights

    config = preparation.config
    training = config.training
    torch.manual_seed(training.seed)
    network = build_network(preparation.network)
    if checkpoint is None and training.starting_weights is not None:
        load_weights(network, read_weights(training.starting_weights))
        yield Logged(message=f"Training starts from the weights of {training.starting_weights}.")
    torch.manual_seed(training.seed + ranks.rank)  # dropout differs from process to process
    loss_function = build_loss(training.loss, preparation.scheme.num_outputs, preparation.target)
    source, validator = preparation.source(), preparation.validator()
    with memory_errors_explained():
        if checkpoint is None:
            numeric_format, step_seconds = yield from choose_format(
                preparation, network, loss_function, source, device, ranks
            )
        else:
            numeric_format, step_seconds = checkpoint.numeric_format, None
        learner = Learner(network, loss_function, training, device, numeric_format, ranks)
    window = preparation.window

    def make_predictor() -> Predictor:
        return Predictor(
            learner.evaluated,
            preparation.network.out_channels,
            window,
            device,
            numeric_format,
            preparation.window_batch,
            preparation.target,
        )

    trainer = Trainer(
        config=config,
        source=source,
        validator=validator,
        learner=learner,
        make_predictor=make_predictor,
        keeper=NoKeeper(),
        ranks=ranks,
        progress=Progress() if checkpoint is None else checkpoint.progress,
        started_at=started_at,
    )
    yield from _plan(preparation, trainer, step_seconds, is_resumed=checkpoint is not None, new_end=new_end)
    if checkpoint is not None:
        _restore(learner, checkpoint)
    trainer.rehearse()
    num_parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Job(preparation, trainer, device, describe(device), numeric_format, num_parameters)


def _plan(
    preparation: Preparation, trainer: Trainer, step_seconds: float | None, *, is_resumed: bool, new_end: bool
) -> Generator[Event, None, None]:
    """Set the steps over which the learning rate comes down; a resumed run keeps its own where it can."""
    training, progress = preparation.config.training, trainer.progress
    everything = training.epochs * trainer.steps_per_epoch
    if is_resumed:
        if new_end or progress.planned_steps <= progress.step:  # a plan that has run out would leave nothing to learn
            progress.planned_steps = everything
        return
    progress.planned_steps = yield from _plan_steps(preparation, trainer, everything, step_seconds)
    if everything < FEW_STEPS and training.max_minutes is None:
        yield _few_steps(preparation, trainer, everything)


def _few_steps(preparation: Preparation, trainer: Trainer, total_steps: int) -> Warned:
    per_epoch = -(-FEW_STEPS // preparation.config.training.epochs)
    samples = -(-per_epoch * preparation.config.training.batch_size // len(trainer.source.volumes))
    remedy = f"more patches of each volume (--samples-per-volume {samples}) or more epochs"
    if not preparation.config.augmentation.patches:
        remedy = "patches instead of whole images, or more epochs"
    return Warned(
        message=f"This run has only {total_steps} training steps in all; a good model mostly needs a thousand or more. "
        f"Take {remedy}."
    )


def _plan_steps(
    preparation: Preparation, trainer: Trainer, total_steps: int, step_seconds: float | None
) -> Generator[Event, None, int]:
    """The steps over which the learning rate falls: all of them, or as many as a time limit is likely to allow.

    Estimated from the probe alone (which is remembered), so that equal runs get equal plans.
    """
    training = preparation.config.training
    if training.max_minutes is None or step_seconds is None:
        return total_steps
    # a window costs about a third of a step: no gradients
    windows = trainer.validator.num_windows(preparation.window)
    validation = windows * step_seconds / (3 * training.batch_size)
    steps = training.validation_interval * trainer.steps_per_epoch
    available = 0.95 * training.max_minutes * 60 - validation  # the last one is done twice
    planned = int(available / (steps * step_seconds + validation) * steps)
    if planned >= total_steps:
        return total_steps
    planned = max(planned, 1)
    yield Logged(
        message=f"In {training.max_minutes:g} minutes about {planned / trainer.steps_per_epoch:.0f} of "
        f"{training.epochs} epochs can be done here; the learning rate is planned for these."
    )
    return planned


def _restore(learner: Learner, checkpoint: Checkpoint) -> None:
    try:
        learner.restore(checkpoint.tensors, checkpoint.scaler)
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunFolderError(
            f"The saved state of this run does not fit its config.yaml: {' '.join(str(error).split())[:300]} "
            "Was config.yaml changed? Put it back, or start a new run with this one's starting weights."
        ) from error


def model_card(job: Job, run: str) -> ModelCard:
    """The card of the best model so far."""
    config, preparation, progress = job.config, job.preparation, job.trainer.progress
    return ModelCard(
        network=preparation.network,
        channel=config.data.channel,
        voxel_size=preparation.network.voxel_size,
        normalization=config.data.normalization,
        window=preparation.window,
        batch_size=preparation.window_batch,
        target=preparation.target,
        objects=job.trainer.validator.decoding,
        label_kind=preparation.scheme.kind,
        class_values=preparation.scheme.class_values,
        precision=job.numeric_format.precision,
        memory_layout=job.numeric_format.layout,
        training_device=job.device.type,
        training=TrainingSummary(
            run=run,
            epoch=progress.best_epoch,
            validation_dice=progress.best_dice,
            num_training=len(job.trainer.source.volumes),
            num_validation=len(job.trainer.validator.volumes),
            loss=config.training.loss,
            package_version=__version__,
        ),
    )
