"""The model that is exported, the image it is checked on, and the network alone as TorchScript and ONNX.

Each file is read back and compared with the original before it counts as written.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celltrain.data.check_rules import inliers
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.nets.normalize import LIMITS, IntensityStatistics, normalize
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.model import ModelCard, card_to_yaml, is_package, load_network, model_folder, read_card
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.runs.record import CaseRecord, read_data
from napari_celltrain.values.config import ZYX, RunConfig
from napari_celltrain.values.decoding import OBJECT_MAPS
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, ModelFileError

if TYPE_CHECKING:
    from torch import nn

    from napari_celltrain.nets.architectures import SegmentationNetwork

TOLERANCE = 1e-4  # of an exported model's probabilities
OPSET = 18


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model as it was trained: float32, on the processor, in evaluation mode."""

    source: Path
    card: ModelCard
    network: SegmentationNetwork
    cases: tuple[CaseRecord, ...]  # one per pair of the run; empty where there is no run folder
    config: RunConfig | None

    takes_any_window: bool
    """Whether nothing but the divisor binds the size of the input: no layer normalizes over the window."""
    window: ZYX
    """Size of the input: that of training, rounded up to what needs no padding where any size is possible."""
    traceable: nn.Module  # to convert, for inputs of that size; outliers are compressed inside

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """The function that turns the network's outputs into probabilities."""
        return "softmax" if self.card.label_kind == "classes" else "sigmoid"

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if self.card.label_kind == "classes":
            return tuple(f"class_{value}" for value in self.card.class_values)
        return OBJECT_MAPS if self.card.target == "objects" else OBJECT_MAPS[:1]

    def normalized(self, image_ZYX: NDArray[Any]) -> NDArray[np.float32]:
        """The input (1, 1, Z, Y, X) of the exported network, whose first step compresses outliers."""
        statistics = self.card.measure(image_ZYX).model_copy(update={"limit": None})
        return normalize(image_ZYX, statistics)[None, None]

    @property
    def limit(self) -> float | None:
        """Normalized values further from 0 are compressed."""
        return LIMITS[self.card.normalization] if self.card.limit_outliers else None

    def logits(self, image_BCZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the original network, for what :meth:`normalized` gives."""
        import torch

        statistics = IntensityStatistics(kind=self.card.normalization, offset=0.0, scale=1.0, limit=self.limit)
        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(normalize(image_BCZYX, statistics))).numpy())

    def probabilities(self, logits_BCZYX: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        logits = torch.from_numpy(logits_BCZYX)
        return np.asarray((logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)).numpy())


def load_source_model(source: Path) -> SourceModel:
    """Read the model of a run folder, model folder or zip, and the run around it. Raises :class:`ModelFileError`."""
    from torch import nn

    from napari_celltrain.nets.architectures import LimitedNetwork, UnpaddedNetwork, padded_size

    card = read_card(source)
    network = load_network(source, card).eval()
    cases: tuple[CaseRecord, ...] = ()
    config = None
    if not is_package(source):  # the model is intact even where the run around it is damaged or none at all
        run = model_folder(source).parent
        with contextlib.suppress(CellTrainError):
            cases = read_data(run / "data.json").pairs
        with contextlib.suppress(CellTrainError):
            config = load_config(run / "config.yaml")
    bound = (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
    is_bound = any(isinstance(module, bound) for module in network.modules())
    window = card.window if is_bound else zyx(padded_size(card.window, network.divisor))
    traceable: nn.Module = network if is_bound else UnpaddedNetwork(network)
    if card.limit_outliers:
        traceable = LimitedNetwork(traceable, LIMITS[card.normalization])
    return SourceModel(source, card, network, cases, config, not is_bound, window, traceable.eval())


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


def example_image(window: ZYX, sample: Path | None = None, channel: int | None = None) -> NDArray[np.float32]:
    """An image of one window (Z, Y, X): the middle of the file ``sample``, padded by reflection where it is smaller.

    Without one, bright blobs in noise, always the same. Raises :class:`DataError`.
    """
    if sample is None:
        rng = np.random.default_rng(0)
        field = ndimage.gaussian_filter(rng.standard_normal(window), [max(1.0, min(n / 16, 4.0)) for n in window])
        blobs = np.clip(field / field.std(), 0.5, 2.0) - 0.5
        # whole numbers as of a 16-bit camera
        return np.asarray(np.rint(200 + 800 * blobs + rng.normal(0, 20, window)).clip(0), dtype=np.float32)
    volume = open_volume(sample, channel=channel)
    start = np.maximum(0, np.subtract(volume.shape, window) // 2)
    part = np.asarray(volume.lazy_or_whole()[tuple(map(slice, start, start + window))])
    if not np.isfinite(part).all():
        raise DataError(f"{volume.where} holds values that are not numbers. Give another image with --sample.")
    if part.min() < part.max():  # broken voxels would count in the mean and deviation of other programs, as in ours not
        usual = inliers(part.reshape(len(part), -1))
        part = part.clip(usual.min(), usual.max())
    return np.pad(part.astype(np.float32), [(0, n) for n in np.subtract(window, part.shape)], mode="reflect")


@contextlib.contextmanager
def _converting(model: SourceModel, to: str, instead: str) -> Iterator[None]:
    """Around a converter, which runs foreign code with foreign values: explains its errors, and leaves out what it
    warns of: sizes that become constants (the checks are made with these), its age, packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except OSError:
        raise
    except Exception as error:
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]
        raise ModelFileError(
            f"The network {model.card.network.key} cannot be converted to {to} ({reason}). Export it as {instead}."
        ) from error
    finally:
        logger.setLevel(before)


def write_torchscript(path: Path, model: SourceModel, examples: NDArray[np.float32]) -> float:
    """Trace the network to ``path`` (not atomically), ``model.yaml`` inside. Opened by PyTorch alone.

    ``examples`` are normalized, (2, 1, Z, Y, X). The batch size stays free, the size of the window only where no layer
    normalizes over it. Returns the difference of :func:`check_agreement`. Raises :class:`ModelFileError`.
    """
    import torch

    with _converting(model, "TorchScript", "ONNX"):
        content = io.BytesIO()
        traced = torch.jit.trace(model.traceable, torch.from_numpy(examples[:1]), check_trace=False)
        torch.jit.save(traced, content, _extra_files={CARD: card_to_yaml(model.card)})
        with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                # debug information names the folders, and so maybe the person, it was made in
                if not entry.filename.endswith(".debug_pkl"):
                    new.writestr(entry, old.read(entry))
        written = torch.jit.load(str(path), map_location="cpu")
    with torch.inference_mode():
        return check_agreement(model, examples, written(torch.from_numpy(examples)).numpy())


def write_onnx(path: Path, model: SourceModel, examples: NDArray[np.float32]) -> float:
    """As :func:`write_torchscript`, for ONNX Runtime, OpenCV, MATLAB and others; the window keeps the examples' size.

    Raises :class:`ModelFileError`, and ``ConfigError`` where packages are missing.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime
    import torch

    with _converting(model, "ONNX", "TorchScript"):
        program = torch.onnx.export(
            model.traceable,
            (torch.from_numpy(examples[:1]),),
            dynamo=True,  # the older exporter fixes the batch size of Swin UNETR
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # as the debug information of TorchScript
        program.model.metadata_props[CARD] = card_to_yaml(model.card)
        program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return check_agreement(model, examples, session.run(["logits"], {"image": examples})[0])


def check_agreement(model: SourceModel, examples: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The largest difference between probabilities of the original for ``examples`` and those of the logits ``found``.

    The examples are a batch of two, so that a batch size fixed by mistake is found. Raises :class:`ModelFileError`
    where probabilities differ by more than ``TOLERANCE``, or logits by more than that share of the largest one.
    """
    expected = model.logits(examples)
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
