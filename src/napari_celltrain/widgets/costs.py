"""What a run will cost, before it has begun: steps, memory and time.

Pure functions, without Qt and without torch. What a network and a device are like is found out by ``cost_finder``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_celltrain.config import ZYX, AugmentationConfig, TrainingConfig
from napari_celltrain.widgets.advice import DataFacts, suggestion
from napari_celltrain.widgets.wording import count


@dataclass(frozen=True, slots=True)
class NetworkCosts:
    """What a network costs, per voxel of a patch where nothing else is said."""

    num_parameters: int
    bytes_per_voxel: float
    """Kept from the forward to the backward pass."""
    flops_per_voxel: float
    """Of forward and backward pass."""


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """How fast a device was in a short trial: what limits a network is either moving or computing."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that follow from the settings and the data."""

    num_training: int
    samples: int
    batch_size: int
    epochs: int
    validation_interval: int
    patch_size: ZYX
    """Of the largest item that the network gets at once."""
    num_windows: int
    """Of one validation."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_training * self.samples // self.batch_size)

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def num_validations(self) -> int:
        return -(-self.epochs // self.validation_interval)


def plan(facts: DataFacts, augmentation: AugmentationConfig, training: TrainingConfig) -> Plan:
    if augmentation.patches:
        patch_size = augmentation.patch_size or suggestion(facts, training).patch_size
    else:
        z, y, x = (max(shape[axis] for shape in facts.training) for axis in range(3))
        patch_size = (z, y, x)
    return Plan(
        facts.num_training,
        augmentation.samples_per_volume if augmentation.patches else 1,
        training.batch_size,
        training.epochs,
        training.validation_interval,
        patch_size,
        sum(_num_windows(shape, patch_size) for shape in facts.validation),
    )


def _num_windows(shape: ZYX, window: ZYX) -> int:
    """About as many as prediction takes, which lets them overlap by a quarter."""
    return math.prod(
        1 + math.ceil(max(0, have - size) / (0.75 * size)) for have, size in zip(shape, window, strict=True)
    )


_BASE_BYTES = 0.7e9  # the process with torch and MONAI
_BYTES_PER_PARAMETER = 20  # weights, gradient, the optimizer's two moments, running average; float32
_WORKING_SHARE = 1.3  # what convolutions need beside what is kept


def network_bytes(costs: NetworkCosts, plan: Plan, divisor: ZYX) -> float:
    """Memory of a training step in float32."""
    return (
        costs.num_parameters * _BYTES_PER_PARAMETER
        + costs.bytes_per_voxel * _batch_voxels(plan, divisor) * _WORKING_SHARE
    )


def step_seconds(costs: NetworkCosts, plan: Plan, divisor: ZYX, speed: DeviceSpeed) -> float:
    voxels = _batch_voxels(plan, divisor)
    return voxels * max(costs.bytes_per_voxel / speed.bytes_per_second, costs.flops_per_voxel / speed.flops_per_second)


def total_seconds(plan: Plan, seconds_per_step: float) -> float:
    """Of all steps and validations; a window costs about a third of a patch, as it needs no gradients."""
    per_validation = plan.num_windows * seconds_per_step / (3 * plan.batch_size)
    return plan.num_steps * seconds_per_step + plan.num_validations * per_validation


def _batch_voxels(plan: Plan, divisor: ZYX) -> int:
    padded = (math.ceil(size / step) * step for size, step in zip(plan.patch_size, divisor, strict=True))
    return plan.batch_size * math.prod(padded)


# --- in words -------------------------------------------------------------------------------------------


def steps_words(plan: Plan) -> str:
    volumes = count(plan.num_training, "training volume")
    made_of = volumes if plan.samples == 1 else f"{volumes} × {plan.samples} samples"
    return (
        f"{count(plan.steps_per_epoch, 'step')} per epoch ({made_of}, {plan.batch_size} at a time), "
        f"{plan.num_steps:,} in all, with {count(plan.num_validations, 'validation')}."
    )


def memory_words(
    costs: NetworkCosts, plan: Plan, divisor: ZYX, *, data_bytes: int, free_bytes: int | None, on_gpu: bool
) -> str:
    """How much the network needs, and whether that is there."""
    needed = network_bytes(costs, plan, divisor)
    if on_gpu:
        text = f"Memory: very roughly {gigabytes(needed)} on the GPU"
    else:
        needed += _BASE_BYTES
        text = f"Memory: very roughly {gigabytes(needed)}, and {gigabytes(data_bytes)} for all volumes if they fit"
    if free_bytes is None:
        return f"{text}."
    text += f"; {gigabytes(free_bytes)} are free now."
    if needed > 0.9 * free_bytes:
        text += " That may not be enough: take a smaller batch, smaller patches or a smaller model."
    return text


def time_words(plan: Plan, seconds_per_step: float, *, measured: bool, limit_minutes: float | None = None) -> str:
    seconds = total_seconds(plan, seconds_per_step)
    if limit_minutes is not None and seconds > limit_minutes * 60:
        return f"Time: {about(limit_minutes * 60)}, the time limit; all epochs would take {about(seconds)}."
    if measured:
        return f"Time: {about(seconds)} ({seconds_per_step:.2g} s per step, as measured)."
    return (
        f"Time: {about(seconds / 2)} to {about(seconds * 2)}, a rough guess from a short trial; "
        "it is measured in the first steps."
    )


def about(seconds: float) -> str:
    """A duration to one or two digits, as far as an estimate goes."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{round(seconds, -1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.2g} h" if hours < 48 else f"{hours / 24:.2g} days"


def gigabytes(num_bytes: float) -> str:
    if num_bytes < 0.95e9:
        return f"{max(1, round(num_bytes / 1e6)):,} MB"
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes < 9.95e9 else f"{num_bytes / 1e9:,.0f} GB"
