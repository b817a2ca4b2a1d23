"""Precision and memory layout of the network's arithmetic, and the short trial that chooses them.

No recipe wins everywhere: channels-last doubles the speed of some networks and slows others, and bfloat16 helps
only where the processor has instructions for it. So real training steps are timed on the real batch. The choice is
remembered: timing is noisy, and equal runs on one machine must compute alike, to the last digit.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from napari_celltrain.engine.device import describe, synchronize
from napari_celltrain.engine.patches import Batch
from napari_celltrain.values import files, outside
from napari_celltrain.values.config import TrainingConfig
from napari_celltrain.values.errors import CellTrainError

Precision = Literal["float32", "bfloat16", "float16"]
Layout = Literal["contiguous", "channels_last"]

MIN_GAIN = 1.15  # how much faster than the usual format another must be to be taken: less is noise of the clock
MAX_PROBABILITY_ERROR = 0.02  # largest mean difference from float32 in predicted probability
MAX_LOSS_ERROR = 0.02  # largest relative difference from float32 in the loss
MIN_GRADIENT_COSINE = 0.98  # smallest cosine between a format's gradient and float32's
MAX_REMEMBERED = 200

LossFunction = Callable[[Tensor, Tensor], Tensor]
Outcome = tuple[float, Tensor, Tensor]
"""Loss, probabilities and gradient of the first step in a format."""


@dataclass(frozen=True, slots=True)
class NumericFormat:
    precision: Precision = "float32"
    layout: Layout = "contiguous"

    def __str__(self) -> str:
        return f"{self.precision}, {self.layout.replace('_', '-')}"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last_3d if self.layout == "channels_last" else torch.contiguous_format

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which the network's forward pass runs."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.precision))

    def lay_out(self, network: nn.Module, device: torch.device) -> None:
        """Move the network's weights to the device and into this layout, in place."""
        network.to(device)
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's annotations lack it

    def place(self, batch_BCZYX: Tensor, device: torch.device) -> Tensor:
        """The batch on the device, in this layout."""
        return batch_BCZYX.to(device, non_blocking=True).contiguous(memory_format=self.memory_format)


@dataclass(frozen=True, slots=True)
class Trial:
    """Seconds of a training step in one format, or None and the reason where it failed or disagreed."""

    format: NumericFormat
    seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Probe:
    chosen: NumericFormat
    trials: tuple[Trial, ...]
    is_remembered: bool = False
    """Whether an earlier run on this computer found it."""

    @property
    def seconds_per_step(self) -> float | None:
        return next((trial.seconds for trial in self.trials if trial.format == self.chosen), None)

    def table(self) -> str:
        """The trials as lines of text."""
        lines = ["seconds per training step, by numeric format:"]
        for trial in self.trials:
            mark = "*" if trial.format == self.chosen else " "
            figure = "   --" if trial.seconds is None else f"{trial.seconds:.3f}"
            lines.append(f"  {mark} {figure}  {trial.format}{'  (' + trial.note + ')' if trial.note else ''}")
        return "\n".join(lines)


def usual_format(config: TrainingConfig, device: torch.device) -> NumericFormat:
    """What is taken without a trial: float32, and channels-last on the processor, where it is rarely slower."""
    precision: Precision = "float32" if config.precision == "auto" else config.precision
    layout: Layout = "channels_last" if device.type == "cpu" else "contiguous"
    return NumericFormat(precision, layout if config.memory_layout == "auto" else config.memory_layout)


def candidates(config: TrainingConfig, device: torch.device) -> list[NumericFormat]:
    """The formats worth a trial, the usual one first."""
    usual = usual_format(config, device)
    precisions: list[Precision] = [usual.precision]
    if config.precision == "auto" and device.type in ("cpu", "cuda"):
        precisions.append("bfloat16")  # on MPS autocast to bfloat16 lacks transposed convolutions
    layouts: list[Layout] = [usual.layout]
    if config.memory_layout == "auto":
        layouts.append("contiguous" if usual.layout == "channels_last" else "channels_last")
    return [NumericFormat(precision, layout) for precision in precisions for layout in layouts]


def choose_format(
    network: nn.Module,
    loss_function: LossFunction,
    batch: Batch,
    config: TrainingConfig,
    device: torch.device,
    description: str,
) -> Probe:
    """As :func:`probe_formats`, or what an equal run found on this computer. ``description`` is of the network."""
    facts = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": describe(device),
        "threads": str(torch.get_num_threads()),
        "network": description,
        "loss": config.loss,
        "batch": str(tuple(batch.image.shape)),
        "precision": config.precision,
        "layout": config.memory_layout,
    }
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    entries: dict[str, Any] = {}
    with contextlib.suppress(CellTrainError, ValueError, KeyError, TypeError):  # a damaged file is empty
        entries |= outside.read_json(cache_file())
        found = _Entry.model_validate(entries.pop(key))
        trials = tuple(Trial(trial.format, trial.seconds, trial.note) for trial in found.trials)
        return Probe(found.format, trials, is_remembered=True)
    probe = probe_formats(network, loss_function, batch, config, device)
    rows = [asdict(trial.format) | {"seconds": trial.seconds, "note": trial.note} for trial in probe.trials]
    entries[key] = asdict(probe.chosen) | {"trials": rows}
    newest = dict(list(entries.items())[-MAX_REMEMBERED:])
    with contextlib.suppress(OSError):  # that it cannot be written is no reason to stop
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        files.write_text(cache_file(), json.dumps(newest, indent=1))
    return probe


def cache_file() -> Path:
    """Where choices are remembered; ``CELLTRAIN_CACHE_DIR`` moves it."""
    folder = os.environ.get("CELLTRAIN_CACHE_DIR") or platformdirs.user_cache_dir("napari-celltrain", appauthor=False)
    return Path(folder) / "numeric_formats.json"


class _Entry(BaseModel):
    """What is remembered: a choice with its trials, or one of these."""

    precision: Precision
    layout: Layout
    seconds: Annotated[float, Field(gt=0.0, lt=1e9)] | None = None
    note: str = ""
    trials: tuple[_Entry, ...] = ()

    @property
    def format(self) -> NumericFormat:
        return NumericFormat(self.precision, self.layout)


def probe_formats(
    network: nn.Module,
    loss_function: LossFunction,
    batch: Batch,
    config: TrainingConfig,
    device: torch.device,
    *,
    repeats: int = 3,
    budget_seconds: float = 12.0,
) -> Probe:
    """Time training steps of a copy of ``network`` in each format and choose.

    The usual format is kept unless another is at least ``MIN_GAIN`` times as fast and agrees with float32 in loss,
    probabilities and gradient. ``network`` and the random numbers are left as they were. The budget is looked at
    between formats.
    """
    formats = candidates(config, device)
    if len(formats) == 1:
        return Probe(formats[0], ())
    start = time.perf_counter()
    trials: list[Trial] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = torch.get_rng_state()
        reference: Outcome | None = None
        for candidate in formats:
            if trials and time.perf_counter() - start > budget_seconds:
                trials.append(Trial(candidate, None, "not tried: time was up"))
                continue
            torch.set_rng_state(state)  # dropout must not make formats disagree
            try:
                outcome, seconds = _try(network, loss_function, batch, candidate, device, repeats)
            except RuntimeError as error:  # PyTorch's word for "not implemented" and "out of memory" alike
                trials.append(Trial(candidate, None, f"failed: {str(error).splitlines()[0][:80]}"))
                continue
            reference = reference or outcome
            disagreement = _disagreement(outcome, reference)
            trials.append(Trial(candidate, None if disagreement else seconds, disagreement))
    return Probe(_choose(trials), tuple(trials))


def _choose(trials: list[Trial]) -> NumericFormat:
    usual = trials[0]
    timed = {trial.format: trial.seconds for trial in trials if trial.seconds is not None}
    best = min(timed, key=timed.__getitem__, default=usual.format)
    return best if usual.seconds is None or usual.seconds > MIN_GAIN * timed[best] else usual.format


def _try(
    network: nn.Module,
    loss_function: LossFunction,
    batch: Batch,
    numeric_format: NumericFormat,
    device: torch.device,
    repeats: int,
) -> tuple[Outcome, float]:
    trial = copy.deepcopy(network)
    numeric_format.lay_out(trial, device)
    trial.train()
    optimizer = torch.optim.AdamW(trial.parameters(), lr=0.0)
    times = []
    for repeat in range(1 + repeats):
        synchronize(device)
        start = time.perf_counter()
        with numeric_format.autocast(device):
            logits = trial(numeric_format.place(batch.image, device))
        loss = loss_function(logits, batch.target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if repeat == 0:
            gradient = torch.cat([p.grad.flatten().float() for p in trial.parameters() if p.grad is not None])
            outcome = (float(loss.detach()), logits.detach().float().sigmoid(), gradient)
        optimizer.step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return outcome, sorted(times[1:])[repeats // 2]


def _disagreement(outcome: Outcome, reference: Outcome) -> str:
    """Why the outcome cannot stand for float32's, or an empty string."""
    (loss, probabilities, gradient), (true_loss, true_probabilities, true_gradient) = outcome, reference
    if not torch.isfinite(gradient).all():
        return "disagrees with float32: the gradient is not finite"
    error = float((probabilities - true_probabilities).abs().mean())
    if error > MAX_PROBABILITY_ERROR:
        return f"disagrees with float32: probabilities differ by {error:.3f} on average"
    relative = abs(loss - true_loss) / max(abs(true_loss), 1e-6)
    if relative > MAX_LOSS_ERROR:
        return f"disagrees with float32: the loss differs by {relative:.1%}"
    cosine = float(nn.functional.cosine_similarity(gradient, true_gradient, dim=0))
    if cosine < MIN_GRADIENT_COSINE:
        return f"disagrees with float32: the gradient points elsewhere (cosine {cosine:.3f})"
    return ""
