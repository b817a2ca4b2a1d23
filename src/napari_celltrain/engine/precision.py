"""Precision and memory layout of the network's arithmetic, and the short trial that chooses them.

No recipe wins everywhere: channels-last doubles the speed of some networks and slows others, and bfloat16 helps
only where the processor has instructions for it. So real training steps are timed on the real batch.

Remembers which numeric format won, so that the same run on the same machine starts sooner and repeats exactly.

Timing is noisy: without this, two runs with equal seeds could pick different formats, and their losses would differ
in the last digits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
import torch
from torch import Tensor, nn

from napari_celltrain.engine.device import synchronize
from napari_celltrain.values.config import TrainingConfig

Precision = Literal["float32", "bfloat16", "float16"]
Layout = Literal["contiguous", "channels_last"]

MIN_GAIN = 1.15
"""How much faster than the usual format another must be to be taken: less is noise of the clock."""
MAX_PROBABILITY_ERROR = 0.02
"""Largest mean difference from float32 in predicted probability; a format above it disagrees."""
MAX_LOSS_ERROR = 0.02
"""Largest relative difference from float32 in the loss."""
MIN_GRADIENT_COSINE = 0.98
"""Smallest cosine between a format's gradient and float32's."""


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
    """One line of the table that the probe logs; ``seconds`` is None where the format failed or disagreed."""

    format: NumericFormat
    seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Probe:
    chosen: NumericFormat
    trials: tuple[Trial, ...]

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
    if config.memory_layout != "auto":
        layout = config.memory_layout
    return NumericFormat(precision, layout)


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


@dataclass(frozen=True, slots=True)
class _Outcome:
    loss: float
    probabilities: Tensor
    gradient: Tensor


def probe_formats(
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    image_BCZYX: Tensor,
    target_BZYX: Tensor,
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
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        state = torch.get_rng_state()
        reference: _Outcome | None = None
        for candidate in formats:
            if trials and time.perf_counter() - start > budget_seconds:
                trials.append(Trial(candidate, None, "not tried: time was up"))
                continue
            torch.set_rng_state(state)  # dropout must not make formats disagree
            try:
                outcome, seconds = _try(network, loss_function, image_BCZYX, target_BZYX, candidate, device, repeats)
            except RuntimeError as error:  # PyTorch's word for "not implemented" and "out of memory" alike
                trials.append(Trial(candidate, None, f"failed: {str(error).splitlines()[0][:80]}"))
                continue
            reference = reference or outcome
            disagreement = _disagreement(outcome, reference)
            trials.append(Trial(candidate, None if disagreement else seconds, disagreement))
    return Probe(_choose(trials), tuple(trials))


def _choose(trials: list[Trial]) -> NumericFormat:
    usual = trials[0]
    timed = [trial for trial in trials if trial.seconds is not None]
    if not timed:
        return usual.format
    best = min(timed, key=lambda trial: trial.seconds or 0.0)
    if usual.seconds is None or (best.seconds is not None and usual.seconds > MIN_GAIN * best.seconds):
        return best.format
    return usual.format


def _try(
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    target: Tensor,
    numeric_format: NumericFormat,
    device: torch.device,
    repeats: int,
) -> tuple[_Outcome, float]:
    trial = copy.deepcopy(network)
    numeric_format.lay_out(trial, device)
    trial.train()
    optimizer = torch.optim.AdamW(trial.parameters(), lr=0.0)
    outcome = None
    times = []
    for _ in range(1 + repeats):
        synchronize(device)
        start = time.perf_counter()
        with numeric_format.autocast(device):
            logits = trial(numeric_format.place(image, device))
        loss = loss_function(logits, target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if outcome is None:
            gradient = torch.cat([p.grad.flatten().float() for p in trial.parameters() if p.grad is not None])
            outcome = _Outcome(float(loss.detach()), logits.detach().float().sigmoid(), gradient)
        optimizer.step()
        synchronize(device)
        times.append(time.perf_counter() - start)
    assert outcome is not None
    return outcome, sorted(times[1:])[repeats // 2]


def _disagreement(outcome: _Outcome, reference: _Outcome) -> str:
    """Why the outcome cannot stand for float32's, or an empty string."""
    if not torch.isfinite(outcome.gradient).all():
        return "disagrees with float32: the gradient is not finite"
    error = float((outcome.probabilities - reference.probabilities).abs().mean())
    if error > MAX_PROBABILITY_ERROR:
        return f"disagrees with float32: probabilities differ by {error:.3f} on average"
    relative = abs(outcome.loss - reference.loss) / max(abs(reference.loss), 1e-6)
    if relative > MAX_LOSS_ERROR:
        return f"disagrees with float32: the loss differs by {relative:.1%}"
    cosine = float(nn.functional.cosine_similarity(outcome.gradient, reference.gradient, dim=0))
    if cosine < MIN_GRADIENT_COSINE:
        return f"disagrees with float32: the gradient points elsewhere (cosine {cosine:.3f})"
    return ""


# --- probe cache -----------------------------------------------------------------------------------------

MAX_ENTRIES = 200


def cache_file() -> Path:
    """Where choices are remembered; ``CELLTRAIN_CACHE_DIR`` moves it."""
    folder = os.environ.get("CELLTRAIN_CACHE_DIR") or platformdirs.user_cache_dir("napari-celltrain", appauthor=False)
    return Path(folder) / "numeric_formats.json"


def probe_key(device_name: str, **settings: object) -> str:
    """A short key for everything that the choice depends on."""
    facts = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": device_name,
        **{name: str(value) for name, value in settings.items()},
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_probe(key: str) -> Probe | None:
    """What was found before under ``key``, or None; a damaged cache counts as empty."""
    try:
        entry = _read()[key]
        trials = tuple(
            Trial(NumericFormat(t["precision"], t["layout"]), t["seconds"], str(t["note"])) for t in entry["trials"]
        )
        return Probe(NumericFormat(entry["precision"], entry["layout"]), trials)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def save_probe(key: str, probe: Probe) -> None:
    """Remember ``probe``; that it cannot be written is no reason to stop."""
    entries = dict(_read())
    entries.pop(key, None)
    entries[key] = {
        "precision": probe.chosen.precision,
        "layout": probe.chosen.layout,
        "trials": [
            {"precision": t.format.precision, "layout": t.format.layout, "seconds": t.seconds, "note": t.note}
            for t in probe.trials
        ],
    }
    newest = dict(list(entries.items())[-MAX_ENTRIES:])
    path = cache_file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(newest, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _read() -> Mapping[str, dict[str, Any]]:
    try:
        entries = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
