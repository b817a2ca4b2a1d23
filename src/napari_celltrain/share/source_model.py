"""The model that is exported, the image it is checked on, and the network alone as TorchScript and ONNX.

Each file is read back and compared with the original before it counts as written.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.io.volumes import open_volume
from napari_celltrain.nets.normalize import measure, normalize
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.model import ModelCard, card_to_yaml, is_package, load_network, model_folder, read_card
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.values.config import ZYX, RunConfig
from napari_celltrain.values.decoding import OBJECT_MAPS
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, ModelFileError

if TYPE_CHECKING:
    from torch import nn

    from napari_celltrain.nets.architectures import SegmentationNetwork

TOLERANCE = 1e-4
"""How far an exported model's probabilities may be from the original's."""
OPSET = 18
_INPUT, _OUTPUT = "image", "logits"


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model as it was trained: float32, on the processor, in evaluation mode."""

    source: Path
    card: ModelCard
    network: SegmentationNetwork
    cases: tuple[dict[str, Any], ...]
    """The entries of ``data.json``, one per pair; empty where there is no run folder."""
    config: RunConfig | None

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """The function that turns the network's outputs into probabilities."""
        return "softmax" if self.card.label_kind == "classes" else "sigmoid"

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the outputs."""
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
        return np.asarray((logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)).numpy())


def load_source_model(source: Path) -> SourceModel:
    """Read the model of a run folder, model folder or zip, and the run around it. Raises :class:`ModelFileError`."""
    card = read_card(source)
    if card.network.in_channels != 1:
        raise ModelFileError(f"{source}: a network with {card.network.in_channels} input channels cannot be exported.")
    network = load_network(source, card)
    network.eval()
    cases: tuple[dict[str, Any], ...] = ()
    config = None
    if not is_package(source):  # the model is intact even where the run around it is damaged or none at all
        run = model_folder(source).parent
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            cases = tuple(map(dict, json.loads((run / "data.json").read_text(encoding="utf-8"))["pairs"]))
        with contextlib.suppress(CellTrainError, OSError):
            config = load_config(run / "config.yaml")
    return SourceModel(source, card, network, cases, config)


def require(*modules: str) -> None:
    """Raise ``ConfigError`` that says what to install, where one of ``modules`` (of the extra ``share``) is missing."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"This export needs {error.name or ', '.join(modules)}, which is not installed. Install the extra "
            '"share" of napari-celltrain (`pip install "napari-celltrain[share]"`), or export as torchscript, which '
            "needs nothing more."
        ) from error


# --- the image of one window that a model is checked on -------------------------------------------------------


def made_up(window: ZYX) -> NDArray[np.float32]:
    """Bright, smooth blobs in noise (Z, Y, X), whole numbers as of a 16-bit camera; always the same."""
    rng = np.random.default_rng(0)
    sigma = [max(1.0, min(size / 16, 4.0)) for size in window]
    field = ndimage.gaussian_filter(rng.standard_normal(window), sigma)
    blobs = np.clip(field / field.std(), 0.5, 2.0) - 0.5
    image: NDArray[np.float32] = np.rint(200 + 800 * blobs + rng.normal(0, 20, window)).clip(0).astype(np.float32)
    return image


def cut_from(path: Path, window: ZYX, *, channel: int | None) -> NDArray[np.float32]:
    """The middle of an image, padded by reflection where it is smaller than the window. Raises :class:`DataError`."""
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


# --- the network alone ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The converters warn of every size that becomes a constant (the checks are made with these sizes), of their age,
    and of operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def write_torchscript(path: Path, model: SourceModel, examples: NDArray[np.float32]) -> float:
    """Trace the network to ``path`` (not atomically), ``model.yaml`` inside. Opened by PyTorch alone.

    ``examples`` are normalized, (2, 1, Z, Y, X). The batch size stays free, the size of the window only where no layer
    normalizes over it. Returns the difference of :func:`check_agreement`. Raises :class:`ModelFileError`.
    """
    import torch

    with _quietly():
        try:
            traced = torch.jit.trace(model.traceable(), torch.from_numpy(examples[:1]), check_trace=False)
        except Exception as error:  # tracing runs foreign code with foreign values
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelFileError(
                f"The network {model.card.network.key} cannot be converted to TorchScript ({reason}). "
                "Export it as ONNX."
            ) from error
        torch.jit.save(traced, str(path), _extra_files={CARD: card_to_yaml(model.card)})
        _leave_out_sources(path)
        written = torch.jit.load(str(path), map_location="cpu")

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(written(torch.from_numpy(batch)).numpy())

    return check_agreement(model, run, examples)


def _leave_out_sources(path: Path) -> None:
    """Rewrite the file without its debug information: it names the folders, and so maybe the person, it was made in."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))


def write_onnx(path: Path, model: SourceModel, examples: NDArray[np.float32]) -> float:
    """As :func:`write_torchscript`, for ONNX Runtime, OpenCV, MATLAB and others; the window keeps the examples' size.

    Raises :class:`ModelFileError`, and ``ConfigError`` where packages are missing.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime
    import torch

    with _quietly():
        try:
            program = torch.onnx.export(
                model.traceable(),
                (torch.from_numpy(examples[:1]),),
                dynamo=True,  # the older exporter fixes the batch size of Swin UNETR
                opset_version=OPSET,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # conversion runs foreign code in many steps
            raise ModelFileError(
                f"The network {model.card.network.key} cannot be converted to ONNX ({type(error).__name__}). "
                "Export it as TorchScript."
            ) from error
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # they name the folders, and so maybe the person, it was made in
        program.model.metadata_props[CARD] = card_to_yaml(model.card)
        program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return check_agreement(model, lambda batch: session.run([_OUTPUT], {_INPUT: batch})[0], examples)


def check_agreement(
    model: SourceModel, run: Callable[[NDArray[np.float32]], Any], examples_BCZYX: NDArray[np.float32]
) -> float:
    """The largest difference between the logits of ``run`` and of the original.

    Both get a batch of two, so that a batch size fixed by mistake is found. Raises :class:`ModelFileError` where
    probabilities differ by more than ``TOLERANCE``, or logits by more than that share of the largest one.
    """
    expected, found = model.logits(examples_BCZYX), np.asarray(run(examples_BCZYX))
    if found.shape != expected.shape:
        raise ModelFileError(
            f"The exported network gives {found.shape} values where the original gives {expected.shape}. No file was "
            "written; please report this."
        )
    difference = float(np.abs(model.probabilities(found) - model.probabilities(expected)).max())
    of_logits = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not max(difference, of_logits) <= TOLERANCE:  # also where either is not a number
        raise ModelFileError(
            f"The exported network differs from the original by {max(difference, of_logits):.2g}, more than "
            f"{TOLERANCE:g}. No file was written. Try another format."
        )
    return difference
