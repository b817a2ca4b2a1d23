"""What a run will cost, before it has begun: the devices there are, steps, memory and time."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from functools import cache

from qtpy.QtCore import QCoreApplication, QObject, QProcess, QProcessEnvironment, Signal

from napari_celltrain.nets.geometry import bytes_per_voxel, network_divisor
from napari_celltrain.values.config import AugmentationConfig, Spacing, TrainingConfig
from napari_celltrain.values.text import count
from napari_celltrain.widgets.forms.editors import Choice, ChoiceEditor
from napari_celltrain.widgets.train.advice import DataFacts, suggestion

_PATIENCE_MS = 200  # for a process that is ended


@dataclass(frozen=True, slots=True)
class Plan:
    num_training: int
    samples: int
    training: TrainingConfig
    batch_voxels: int
    """Of the largest batch, as the network pads it."""
    num_windows: int
    """Of one validation."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_training * self.samples // self.training.batch_size)

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.training.epochs

    @property
    def num_validations(self) -> int:
        return -(-self.training.epochs // self.training.validation_interval)


def plan(facts: DataFacts, augmentation: AugmentationConfig, training: TrainingConfig) -> Plan:
    patch: tuple[int, ...] = tuple(max(lengths) for lengths in zip(*facts.training, strict=True))
    samples, num_windows = 1, 0
    if augmentation.patches:
        patch = augmentation.patch_size or suggestion(facts, training).patch_size
        samples = augmentation.samples_per_volume
    divisor = network_divisor(training.model, facts.voxel_size)
    padded = (-(-size // step) * step for size, step in zip(patch, divisor, strict=True))
    for shape in facts.validation:  # about as many as prediction takes, which lets them overlap by a quarter
        beyond = (max(0, have - size) / (0.75 * size) for have, size in zip(shape, patch, strict=True))
        num_windows += math.prod(1 + math.ceil(strides) for strides in beyond)
    return Plan(len(facts.training), samples, training, training.batch_size * math.prod(padded), num_windows)


def network_bytes(plan: Plan, num_parameters: float) -> float:
    """Memory of a training step in float32."""
    # 20 bytes a parameter: weights, gradient, the optimizer's two moments, running average
    return bytes_per_voxel(plan.training.model, plan.training.model_size) * plan.batch_voxels + 20 * num_parameters


def total_seconds(plan: Plan, seconds_per_step: float) -> float:
    """Of all steps and validations; a window costs about a third of a patch, as it needs no gradients."""
    per_validation = plan.num_windows * seconds_per_step / (3 * plan.training.batch_size)
    return plan.num_steps * seconds_per_step + plan.num_validations * per_validation


# --- in words -------------------------------------------------------------------------------------------


def steps_words(plan: Plan) -> str:
    volumes = count(plan.num_training, "training volume")
    made_of = volumes if plan.samples == 1 else f"{volumes} × {plan.samples} samples"
    return (
        f"{count(plan.steps_per_epoch, 'step')} per epoch ({made_of}, {plan.training.batch_size} at a time), "
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


def time_words(plan: Plan, seconds_per_step: float, *, measured: bool) -> str:
    seconds, limit_minutes = total_seconds(plan, seconds_per_step), plan.training.max_minutes
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


class CostFinder(QObject):
    """Asks a process of its own, so that the window never imports torch; ``found`` comes with each new fact."""

    found = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.devices: Devices | None = None
        self._known: dict[tuple[str, ...], dict[str, float]] = {}
        self._asked: tuple[str, ...] | None = None
        self._process: QProcess | None = None
        if (application := QCoreApplication.instance()) is not None:
            application.aboutToQuit.connect(self.stop)

    def facts(self, *network: str) -> dict[str, float]:
        """``num_parameters``, and ``seconds_per_voxel`` of a training step, as far as they have been found out."""
        return self._known.setdefault(network, {})

    @property
    def is_looking(self) -> bool:
        return self._process is not None

    def look(self, *network: str) -> None:
        """Find out what there is to know about devices and a network, unless that is known or under way."""
        is_known = "seconds_per_voxel" in self.facts(*network) if network else self.devices is not None
        if is_known or network == self._asked:
            return
        self.stop()
        self._asked = network
        self._process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("OMP_WAIT_POLICY", "PASSIVE")  # as in training: waiting threads must not spin
        self._process.setProcessEnvironment(environment)
        self._process.setStandardErrorFile(QProcess.nullDevice())
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.finished.connect(self._process.deleteLater)
        self._process.finished.connect(self._end)
        self._process.errorOccurred.connect(self._end)
        self._process.start(sys.executable, ["-P", "-m", "napari_celltrain.widgets.network_facts", *network])

    def stop(self) -> None:
        """End the process, as when training needs the computer; :meth:`look` begins again."""
        process, self._process, self._asked = self._process, None, None
        if process is not None:
            process.kill()
            process.waitForFinished(_PATIENCE_MS)
            self.found.emit()

    def _read(self) -> None:
        while self._process is not None and self._process.canReadLine():
            try:
                facts = json.loads(self._process.readLine().data())
            except ValueError:
                continue  # some library printed to standard output
            match facts:
                case {"gpus": gpus}:
                    self.devices = Devices(**facts | {"gpus": tuple(Gpu(**gpu) for gpu in gpus)})
                case dict():
                    self.facts(*(self._asked or ())).update(facts)
            self.found.emit()

    def _end(self) -> None:
        if self.sender() is self._process:  # not one that was stopped
            self._process = None
            self.found.emit()


def network_arguments(training: TrainingConfig, num_outputs: int, voxel_size: Spacing | None) -> tuple[str, ...]:
    sizes = (f"{size:.6g}" for size in voxel_size or ())
    return (training.model, training.model_size, str(num_outputs), training.device, *sizes)


@cache
def shared_finder() -> CostFinder:
    """One for all windows of this program: what it has found stays true when the widget is opened again."""
    return CostFinder()


class DeviceEditor(ChoiceEditor):
    """Edits ``training.device``. Names the devices that ``finder`` has found, and leaves out those that it has not."""

    def __init__(self, finder: CostFinder) -> None:
        super().__init__(_choices(None))
        self._finder = finder
        self._named: Devices | None = None
        finder.found.connect(self._renew)
        self._renew()

    def _renew(self) -> None:
        if self._finder.devices != self._named:
            self._named = self._finder.devices
            self.unknown_help = "Not found on this computer."
            self.set_choices(_choices(self._named))


def _choices(devices: Devices | None) -> list[Choice]:
    if devices is None:
        kind, name = ("mps", "Apple GPU (MPS)") if sys.platform == "darwin" else ("cuda", "GPU (CUDA)")
        looking = "Looking for devices …"
        return [Choice("auto", "automatic", looking), Choice("cpu", "processor (CPU)"), Choice(kind, name, looking)]
    memory = f"{gigabytes(devices.free)} of memory free"
    processor = f"{count(devices.threads, 'core')}, {memory}."
    gpus = [f"{gpu.name}, {gigabytes(gpu.free)} of {gigabytes(gpu.total)} free." for gpu in devices.gpus]
    automatic = f"Will be the processor, as there is no GPU: {processor}"
    choices = [Choice("cpu", "processor (CPU)", processor)]
    if devices.mps:
        automatic = f"Will be the Apple GPU; {memory}."
        choices.append(Choice("mps", "Apple GPU (MPS)", f"{memory}, shared with it."))
    if gpus:
        automatic = f"Will be the GPU: {gpus[0]}"
        choices.append(Choice("cuda", "GPU (CUDA)", gpus[0]))
    if len(gpus) > 1:
        choices += [Choice(f"cuda:{n}", f"GPU {n}: {gpu.name}", gpus[n]) for n, gpu in enumerate(devices.gpus)]
    return [Choice("auto", "automatic", automatic), *choices]
