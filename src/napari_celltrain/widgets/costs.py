"""What a run will cost, before it has begun: the devices there are, steps, memory and time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, Signal

from napari_celltrain.nets.geometry import bytes_per_voxel, network_divisor
from napari_celltrain.values.config import ZYX, AugmentationConfig, Spacing, TrainingConfig
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor
from napari_celltrain.widgets.train.advice import DataFacts, suggestion


@dataclass(frozen=True, slots=True)
class Plan:
    num_training: int
    samples: int
    batch_size: int
    epochs: int
    validation_interval: int
    batch_voxels: int
    """Of the largest batch, as the network pads it."""
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
    patch: tuple[int, ...]
    if augmentation.patches:
        patch = augmentation.patch_size or suggestion(facts, training).patch_size
    else:
        patch = tuple(max(shape[axis] for shape in facts.training) for axis in range(3))
    divisor = network_divisor(training.model, facts.voxel_size)
    padded = (-(-size // step) * step for size, step in zip(patch, divisor, strict=True))
    samples = augmentation.samples_per_volume if augmentation.patches else 1
    batch, voxels = training.batch_size, training.batch_size * math.prod(padded)
    windows = sum(_num_windows(shape, patch) for shape in facts.validation)
    return Plan(facts.num_training, samples, batch, training.epochs, training.validation_interval, voxels, windows)


def _num_windows(shape: ZYX, window: tuple[int, ...]) -> int:
    """About as many as prediction takes, which lets them overlap by a quarter."""
    return math.prod(
        1 + math.ceil(max(0, have - size) / (0.75 * size)) for have, size in zip(shape, window, strict=True)
    )


def network_bytes(training: TrainingConfig, plan: Plan, num_parameters: int) -> float:
    """Memory of a training step in float32."""
    # 20 bytes a parameter: weights, gradient, the optimizer's two moments, running average
    return bytes_per_voxel(training.model, training.model_size) * plan.batch_voxels + 20 * num_parameters


def total_seconds(plan: Plan, seconds_per_step: float) -> float:
    """Of all steps and validations; a window costs about a third of a patch, as it needs no gradients."""
    per_validation = plan.num_windows * seconds_per_step / (3 * plan.batch_size)
    return plan.num_steps * seconds_per_step + plan.num_validations * per_validation


# --- in words -------------------------------------------------------------------------------------------


def steps_words(plan: Plan) -> str:
    volumes = count(plan.num_training, "training volume")
    made_of = volumes if plan.samples == 1 else f"{volumes} × {plan.samples} samples"
    return (
        f"{count(plan.steps_per_epoch, 'step')} per epoch ({made_of}, {plan.batch_size} at a time), "
        f"{plan.num_steps:,} in all, with {count(plan.num_validations, 'validation')}."
    )


def memory_words(network: float, data: int, free: int | None, *, on_gpu: bool) -> str:
    """The bytes that the network needs and those that are ``free``; ``data`` is the size of all volumes."""
    if on_gpu:
        text = f"Memory: very roughly {gigabytes(network)} on the GPU"
    else:
        network += 0.7e9  # the process with torch and MONAI
        text = f"Memory: very roughly {gigabytes(network)}, and {gigabytes(data)} for all volumes if they fit"
    if free is None:
        return f"{text}."
    text += f"; {gigabytes(free)} are free now."
    if network > 0.9 * free:
        text += " That may not be enough: use a smaller batch, smaller patches or a smaller model."
    return text


def time_words(plan: Plan, seconds_per_step: float, *, measured: bool, limit_minutes: float | None = None) -> str:
    seconds = total_seconds(plan, seconds_per_step)
    if limit_minutes is not None and seconds > limit_minutes * 60:
        return f"Time: {about(limit_minutes * 60)}, the time limit; all epochs would take {about(seconds)}."
    if measured:
        return f"Time: {about(seconds)} ({seconds_per_step:.2g} s per step, as measured)."
    return f"Time: {about(seconds / 2)} to {about(seconds * 2)}, a rough guess; it is measured in the first steps."


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


# --- devices --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    free: int
    """Bytes."""
    total: int


@dataclass(frozen=True, slots=True)
class Devices:
    """What this computer can train on."""

    gpus: tuple[Gpu, ...]
    mps: bool
    threads: int
    free: int
    """Bytes of the computer's memory."""

    def kind(self, device: str) -> str:
        """``cpu``, ``cuda`` or ``mps``; of ``auto``, the kind that it will become."""
        automatic = "cuda" if self.gpus else "mps" if self.mps else "cpu"
        return automatic if device == "auto" else device.partition(":")[0]

    def gpu(self, device: str) -> Gpu | None:
        index = int(device.partition(":")[2] or 0)
        return self.gpus[index] if self.kind(device) == "cuda" and index < len(self.gpus) else None


@dataclass(slots=True)
class NetworkFacts:
    """As far as they have been found out."""

    num_parameters: int | None = None
    seconds_per_voxel: float | None = None
    """Of a training step; from a short trial."""


class CostFinder(QObject):
    """Asks a process of its own, so that the window never imports torch; ``found`` comes with each new fact."""

    found = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.devices: Devices | None = None
        self._known: dict[tuple[str, ...], NetworkFacts] = {}
        self._asked: tuple[str, ...] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._work = Background("Looking for devices", self)
        self._work.noted.connect(self._take)
        self._work.ended.connect(self._end)
        if (application := QCoreApplication.instance()) is not None:
            application.aboutToQuit.connect(self.stop)

    def facts(self, *network: str) -> NetworkFacts:
        return self._known.setdefault(network, NetworkFacts())

    @property
    def is_looking(self) -> bool:
        return self._process is not None

    def look(self, *network: str) -> None:
        """Find out what there is to know about devices and a network, unless that is known or under way."""
        is_known = self.facts(*network).seconds_per_voxel is not None if network else self.devices is not None
        if is_known or network == self._asked:
            return
        self.stop()
        self._asked = network
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", "napari_celltrain.widgets.network_facts", *network],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as in training: waiting threads must not spin
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._work.start(lambda job: _facts_of(process))

    def stop(self) -> None:
        """End the process, as when training needs the computer; :meth:`look` begins again."""
        if self._process is not None:
            self._process.kill()
            self._process = self._asked = None
            self._work.cancel()

    def _take(self, facts: dict[str, Any]) -> None:
        if "gpus" in facts:
            self.devices = Devices(**facts | {"gpus": tuple(Gpu(**gpu) for gpu in facts["gpus"])})
        else:
            for name, value in facts.items():
                setattr(self.facts(*(self._asked or ())), name, value)
        self.found.emit()

    def _end(self) -> None:
        self._process = None
        self.found.emit()


def network_arguments(training: TrainingConfig, num_outputs: int, voxel_size: Spacing | None) -> tuple[str, ...]:
    sizes = (f"{size:.6g}" for size in voxel_size or ())
    return (training.model, training.model_size, str(num_outputs), training.device, *sizes)


def _facts_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # some library printed to standard output
            if isinstance(facts, dict):
                yield facts


@cache
def shared_finder() -> CostFinder:
    """One for all windows of this program: what it has found stays true when the widget is opened again."""
    return CostFinder()


class DeviceEditor(ChoiceEditor):
    """Edits ``training.device``. Names the devices that ``finder`` has found, and leaves out those that it has not."""

    def __init__(self, finder: CostFinder) -> None:
        self._finder = finder
        self._named = finder.devices
        super().__init__(_choices(self._named))
        finder.found.connect(self._renew)

    def _renew(self) -> None:
        if self._finder.devices != self._named:
            self._named = self._finder.devices
            self.set_choices(_choices(self._named))

    def _choice_of(self, value: str) -> Choice:
        return Choice(value, value, "" if self._named is None else "Not found on this computer.")


def _choices(devices: Devices | None) -> list[Choice]:
    if devices is None:
        kind, name = ("mps", "Apple GPU (MPS)") if sys.platform == "darwin" else ("cuda", "GPU (CUDA)")
        looking = "Looking for devices …"
        return [Choice("auto", "automatic", looking), Choice("cpu", "processor (CPU)"), Choice(kind, name, looking)]
    memory = f"{gigabytes(devices.free)} of memory free"
    processor = f"{count(devices.threads, 'core')}, {memory}."
    gpus = [f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free." for gpu in devices.gpus]
    if gpus:
        automatic = f"Will be the GPU: {gpus[0]}"
    elif devices.mps:
        automatic = f"Will be the Apple GPU; {memory}."
    else:
        automatic = f"Will be the processor, as there is no GPU: {processor}"
    choices = [Choice("auto", "automatic", automatic), Choice("cpu", "processor (CPU)", processor)]
    if gpus:
        choices.append(Choice("cuda", "GPU (CUDA)", gpus[0]))
    if len(gpus) > 1:
        choices += [Choice(f"cuda:{n}", f"GPU {n}: {gpu.name}", gpus[n]) for n, gpu in enumerate(devices.gpus)]
    if devices.mps:
        choices.append(Choice("mps", "Apple GPU (MPS)", f"{memory}, shared with it."))
    return choices
