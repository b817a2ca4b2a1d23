"""The model that is exported: what it computes, and what is known of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import ZYX, RunConfig
from napari_celltrain.decoding import OBJECT_MAPS
from napari_celltrain.errors import CellTrainError, ModelFileError
from napari_celltrain.parts.normalization import measure, normalize
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.model_file import ModelCard, is_package, load_network, model_folder, read_card

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_celltrain.parts.networks.wrapper import SegmentationNetwork

TOLERANCE = 1e-4
"""How far an exported model's probabilities may be from the original's."""


@dataclass(frozen=True, slots=True)
class Original:
    """A model as it was trained: float32, on the processor, in evaluation mode."""

    source: Path
    card: ModelCard
    network: SegmentationNetwork
    cases: tuple[dict[str, Any], ...]
    """What ``data.json`` says of each pair; empty where there is no run folder."""
    config: RunConfig | None

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """What makes probabilities of the network's outputs."""
        return "softmax" if self.card.label_kind == "classes" else "sigmoid"

    @property
    def channels(self) -> tuple[str, ...]:
        """What the outputs are."""
        if self.card.target == "objects":
            return OBJECT_MAPS
        if self.card.label_kind == "classes":
            return tuple(f"class_{value}" for value in self.card.class_values)
        return OBJECT_MAPS[:1]

    @property
    def takes_any_window(self) -> bool:
        """Whether nothing but the divisor binds the size of the input: no layer normalizes over the window."""
        from torch import nn

        bound = (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
        return not any(isinstance(module, bound) for module in self.network.modules())

    @property
    def window(self) -> ZYX:
        """Size of the input: that of training, rounded up to what needs no padding where any size is possible."""
        if not self.takes_any_window:
            return self.card.window
        z, y, x = (-(-size // step) * step for size, step in zip(self.card.window, self.network.divisor, strict=True))
        return z, y, x

    def traceable(self) -> nn.Module:
        """The module to convert, for inputs of :attr:`window`."""
        from napari_celltrain.parts.networks.wrapper import UnpaddedNetwork

        return UnpaddedNetwork(self.network).eval() if self.takes_any_window else self.network

    def normalized(self, image_ZYX: NDArray[Any]) -> NDArray[np.float32]:
        """The network's input (1, 1, Z, Y, X), made of an image as `predict` does it."""
        return normalize(image_ZYX, measure(image_ZYX, self.card.normalization))[None, None]

    def logits(self, image_BCZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(image_BCZYX)).numpy())

    def probabilities(self, logits_BCZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        logits = torch.from_numpy(logits_BCZYX)
        found: Tensor = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)
        return np.asarray(found.numpy())


def load_original(source: Path) -> Original:
    """Read the model of a run folder, model folder or zip, and the run around it. Raises :class:`ModelFileError`."""
    card = read_card(source)
    if card.network.in_channels != 1:
        raise ModelFileError(f"{source}: a network with {card.network.in_channels} input channels cannot be exported.")
    network = load_network(source, card)
    network.eval()
    cases, config = ((), None) if is_package(source) else _run_around(model_folder(source).parent)
    return Original(source, card, network, cases, config)


def _run_around(run: Path) -> tuple[tuple[dict[str, Any], ...], RunConfig | None]:
    """What a run folder tells of its data and settings; nothing, where it is none or damaged: the model is intact."""
    try:
        pairs = json.loads((run / "data.json").read_text(encoding="utf-8"))["pairs"]
        cases = tuple(dict(pair) for pair in pairs)
    except (OSError, ValueError, KeyError, TypeError):
        cases = ()
    try:
        return cases, load_config(run / "config.yaml")
    except (CellTrainError, OSError):
        return cases, None


def check_agreement(original: Original, run: Any, examples_BCZYX: NDArray[np.float32]) -> float:
    """The largest difference between what ``run`` (arrays in, logits out) and the original give.

    Both are given a batch of two, so that a batch size that was fixed by mistake is found. Raises
    :class:`ModelFileError` where probabilities differ by more than 1e-4, or logits by more than that share of the
    largest one.
    """
    expected = original.logits(examples_BCZYX)
    found = np.asarray(run(examples_BCZYX))
    if found.shape != expected.shape:
        raise ModelFileError(
            f"The exported network gives {found.shape} values where the original gives {expected.shape}. No file was "
            "written; please report this."
        )
    difference = float(np.abs(original.probabilities(found) - original.probabilities(expected)).max())
    of_logits = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not max(difference, of_logits) <= TOLERANCE:  # also where either is not a number
        raise ModelFileError(
            f"The exported network differs from the original by {max(difference, of_logits):.2g}, more than "
            f"{TOLERANCE:g}. No file was written. Try another format."
        )
    return difference
