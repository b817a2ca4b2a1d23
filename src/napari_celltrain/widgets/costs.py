"""What a run will cost, before it has begun: steps, memory and time.

Pure functions, without Qt and without torch. What a network and a device are like is found out by ``cost_finder``.

Asks a process of its own for devices and the costs of networks, so that the window never imports torch.

The choice of the device, with its name and free memory once they are known.
"""

from __future__ import annotations

import atexit
import json
import math
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QProcess, QProcessEnvironment, QTimer, Signal
from qtpy.QtWidgets import QWidget

from napari_celltrain.values.config import ZYX, AugmentationConfig, Spacing, TrainingConfig
from napari_celltrain.values.text import count
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor
from napari_celltrain.widgets.train.advice import DataFacts, suggestion


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


# --- cost finder -----------------------------------------------------------------------------------------


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
        """``cpu``, ``cuda`` or ``mps``: what ``auto`` will become, else the device itself."""
        if device == "auto":
            return "cuda" if self.gpus else "mps" if self.mps else "cpu"
        return device.partition(":")[0]

    def gpu(self, device: str) -> Gpu | None:
        index = int(device.partition(":")[2] or 0)
        return self.gpus[index] if self.kind(device) == "cuda" and index < len(self.gpus) else None


class CostFinder(QObject):
    """What has been found out so far; ``found`` comes with each new fact."""

    found = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.devices: Devices | None = None
        self._costs: dict[tuple[str, str], NetworkCosts] = {}
        self._speeds: dict[str, DeviceSpeed] = {}
        self._asked: tuple[str, ...] | None = None
        self._process: QProcess | None = None
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop)

    def costs(self, model: str, size: str) -> NetworkCosts | None:
        return self._costs.get((model, size))

    def speed(self, device_kind: str) -> DeviceSpeed | None:
        return self._speeds.get(device_kind)

    @property
    def is_looking(self) -> bool:
        return self._process is not None

    def look(self, num_outputs: int, voxel_size: Spacing | None) -> None:
        """Find out what there is to know about networks for such data, unless that is known or under way."""
        arguments = (str(num_outputs), *(f"{size:.6g}" for size in voxel_size or ()))
        if arguments == self._asked:
            return
        self.stop()
        self._asked = arguments
        self._costs.clear()
        process = QProcess()
        _running.add(process)  # Qt complains of a process that is destroyed before it has ended
        self.destroyed.connect(process.kill)
        process.finished.connect(partial(QTimer.singleShot, 0, partial(_running.discard, process)))
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("OMP_WAIT_POLICY", "PASSIVE")  # as in training: waiting threads must not spin
        process.setProcessEnvironment(environment)
        process.setStandardErrorFile(QProcess.nullDevice())
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._end)
        self._process = process
        process.start(sys.executable, ["-P", "-m", "napari_celltrain.widgets.network_facts", *arguments])

    def stop(self) -> None:
        """End the process, as when training needs the computer; :meth:`look` begins anew."""
        process, self._process = self._process, None
        if process is None:
            return
        self._asked = None
        process.readyReadStandardOutput.disconnect(self._read)
        process.finished.disconnect(self._end)
        process.kill()
        process.waitForFinished(2000)

    def _read(self) -> None:
        process = self._process
        while process is not None and process.canReadLine():
            line = bytes(process.readLine().data())
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # some library printed to standard output
            if isinstance(facts, dict):
                self._take(facts)
        self.found.emit()

    def _take(self, facts: dict[str, Any]) -> None:
        kind = facts.pop("kind", None)
        if kind == "devices":
            self.devices = Devices(
                tuple(Gpu(**gpu) for gpu in facts["gpus"]), facts["mps"], facts["threads"], facts["free"]
            )
        elif kind == "network":
            key = facts.pop("key"), facts.pop("size")
            self._costs[key] = NetworkCosts(**facts)
        elif kind == "speed":
            device = facts.pop("device")
            self._speeds[device] = DeviceSpeed(**facts)

    def _end(self) -> None:
        self._process = None
        self.found.emit()


_running: set[QProcess] = set()
_shared: CostFinder | None = None


@atexit.register
def _end_all() -> None:
    for process in tuple(_running):
        process.kill()
        process.waitForFinished(2000)


def shared_finder() -> CostFinder:
    """One for all windows of this program: what it has found stays true when the widget is opened again."""
    global _shared
    if _shared is None:
        _shared = CostFinder()
    return _shared


# --- device editor ---------------------------------------------------------------------------------------

_LOOKING = "Looking for devices …"


class DeviceEditor(ChoiceEditor):
    """Edits ``training.device``."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self._devices: Devices | None = None
        super().__init__(_choices(None), parent)

    def set_devices(self, devices: Devices) -> None:
        """Name the devices that were found, and leave out those that were not."""
        if devices != self._devices:
            self._devices = devices
            self.set_choices(_choices(devices))

    def _choice_of(self, value: str) -> Choice:
        missing = "" if self._devices is None else "Not found on this computer."
        return Choice(value, value, missing)


def _choices(devices: Devices | None) -> list[Choice]:
    if devices is None:
        choices = [Choice("auto", "automatic", _LOOKING), Choice("cpu", "processor (CPU)")]
        gpus = [Choice("cuda", "GPU (CUDA)", _LOOKING)]
        return choices + (gpus if sys.platform != "darwin" else [Choice("mps", "Apple GPU (MPS)", _LOOKING)])
    processor = f"{count(devices.threads, 'core')}, {gigabytes(devices.free)} of memory free."
    choices = [Choice("auto", "automatic", _automatic(devices)), Choice("cpu", "processor (CPU)", processor)]
    if devices.gpus:
        choices.append(Choice("cuda", "GPU (CUDA)", _describe(devices.gpus[0])))
    if len(devices.gpus) > 1:
        choices += [Choice(f"cuda:{n}", f"GPU {n}: {gpu.name}", _describe(gpu)) for n, gpu in enumerate(devices.gpus)]
    if devices.mps:
        choices.append(Choice("mps", "Apple GPU (MPS)", f"{gigabytes(devices.free)} of memory free, shared with it."))
    return choices


def _automatic(devices: Devices) -> str:
    if devices.gpus:
        return f"Will be the GPU: {_describe(devices.gpus[0])}"
    processor = f"{count(devices.threads, 'core')}, {gigabytes(devices.free)} of memory free"
    if devices.mps:
        return f"Will be the Apple GPU; {gigabytes(devices.free)} of memory free."
    return f"Will be the processor, as there is no GPU: {processor}."


def _describe(gpu: Gpu) -> str:
    return f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free."
