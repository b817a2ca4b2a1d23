"""Packages that only sharing needs: the extra ``share``.

The model that is exported: what it computes, and what is known of its training.

An image of the size of one window, on which an exported model is checked and which goes into the package.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.io.volumes import open_volume
from napari_celltrain.nets.normalize import measure, normalize
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.model import ModelCard, is_package, load_network, model_folder, read_card
from napari_celltrain.values.config import ZYX, RunConfig
from napari_celltrain.values.decoding import OBJECT_MAPS
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, ModelFileError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_celltrain.nets.architectures import SegmentationNetwork


def require(*modules: str) -> None:
    """Raise ``ConfigError`` that says what to install, where one of ``modules`` is missing."""
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise ConfigError(
            f"This export needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            'Install the extra "share" of napari-celltrain (`pip install "napari-celltrain[share]"`), or export as '
            "torchscript, which needs nothing more."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


# --- original --------------------------------------------------------------------------------------------

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
        from napari_celltrain.nets.architectures import UnpaddedNetwork

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


# --- example ---------------------------------------------------------------------------------------------


def made_up(window: ZYX) -> NDArray[np.float32]:
    """Bright, smooth blobs in noise (Z, Y, X), whole numbers as of a 16-bit camera; always the same."""
    rng = np.random.default_rng(0)
    sigma = [max(1.0, min(size / 16, 4.0)) for size in window]
    field = ndimage.gaussian_filter(rng.standard_normal(window), sigma)
    blobs = np.clip(field / field.std(), 0.5, 2.0) - 0.5
    image: NDArray[np.float32] = np.rint(200 + 800 * blobs + rng.normal(0, 20, window)).clip(0).astype(np.float32)
    return image


def cut_from(path: Path, window: ZYX, *, channel: int | None) -> NDArray[np.float32]:
    """The middle of an image, mirrored where it is smaller than the window. Raises :class:`DataError`."""
    volume = open_volume(path, channel=channel)
    image = volume.lazy()
    if image is None:
        image = volume.read()
    start = [max(0, (length - size) // 2) for length, size in zip(volume.shape, window, strict=True)]
    z, y, x = (slice(first, first + size) for first, size in zip(start, window, strict=True))
    part: NDArray[Any] = np.asarray(image[z, y, x])
    if not np.isfinite(part).all():
        raise DataError(f"{volume.where} holds values that are not numbers. Give another image with --sample.")
    missing = [(0, size - length) for size, length in zip(window, part.shape, strict=True)]
    return np.pad(part.astype(np.float32), missing, mode="reflect")
