"""The model of a run: ``model/model.safetensors`` and ``model/model.yaml``, all that prediction needs, and its use.

:func:`segment` is the step that the final files of a run and every later prediction share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from napari_celltrain.data.labels import MAX_CLASSES, LabelScheme
from napari_celltrain.io.tensors import read_tensors, write_tensors
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.nets.geometry import bytes_per_voxel
from napari_celltrain.nets.models import MODELS, NetworkSpec, build_network, load_weights
from napari_celltrain.nets.normalize import IntensityStatistics, measure
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model_package import CARD, WEIGHTS, read_packed_card, read_packed_weights
from napari_celltrain.values import outside
from napari_celltrain.values.config import ZYX, Frozen, LabelKind, Spacing
from napari_celltrain.values.decoding import OBJECT_MAPS, ObjectDecoding, Target
from napari_celltrain.values.errors import ModelFileError
from napari_celltrain.values.events import Whole
from napari_celltrain.values.text import sizes

if TYPE_CHECKING:
    import torch

    from napari_celltrain.engine.predictor import Predictor
    from napari_celltrain.nets.architectures import SegmentationNetwork

MIN_WINDOW = 64
"""Voxels of the smallest window that a training can have led to."""


class TrainingSummary(Frozen):
    """Where the model comes from and how good it is on its validation volumes."""

    run: str
    """Name of the run folder."""
    epoch: Whole
    """Epoch of the best validation Dice, whose weights these are."""
    validation_dice: float
    """Voxel Dice pooled over the validation volumes."""
    validation_f1: float | None = None
    """Object F1 at IoU 0.5 pooled over the validation volumes, where labels are objects."""
    is_final: bool = False
    """Whether the scores are those of the files in ``validation/``."""
    num_training: Whole
    num_validation: Whole
    loss: str
    package_version: str


class ModelCard(Frozen):
    """``model.yaml``: how to build the network and how to feed it."""

    schema_version: Literal[1] = 1
    network: NetworkSpec
    axes: Literal["ZYX"] = "ZYX"
    channel: int | None = Field(default=None, ge=0)
    """Channel of multi-channel images that the network was trained on, count from 0."""
    voxel_size: Spacing | None = None
    """Median voxel size (z, y, x) of the training images in µm."""
    normalization: Literal["percentile", "zscore"] = "percentile"
    limit_outliers: bool = False
    """Whether intensities far beyond the others are compressed; models of version 0.1.0 do not."""
    window: ZYX
    """Window size of prediction in voxels; instance normalization makes results depend on it."""
    batch_size: int = Field(default=2, ge=1, le=1024)
    """Windows computed at once."""
    threshold: float = Field(default=0.5, ge=0.001, le=0.999)
    """Probability from which a voxel is foreground."""
    target: Target = "foreground"
    """What the network has learned, and so what its outputs are."""
    objects: ObjectDecoding | None = None
    """How objects are decoded, where labels are objects."""
    label_kind: LabelKind = "objects"
    class_values: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(max_length=MAX_CLASSES)] = ()
    """Label values in the order of the network's outputs, where labels are classes."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    memory_layout: Literal["contiguous", "channels_last"] = "contiguous"
    training_device: str = "cpu"
    """Kind of device that precision and layout were chosen for."""
    training: TrainingSummary

    @model_validator(mode="after")
    def _check(self) -> ModelCard:
        if not all(1 <= size <= 4096 for size in self.window) or not MIN_WINDOW <= prod(self.window) <= 2**31:
            raise ValueError(f"a window of {self.window} voxels is impossible")
        for spacing in (self.voxel_size, self.network.voxel_size):
            if spacing is not None and not all(1e-9 <= size <= 1e6 for size in spacing):
                raise ValueError("all three sizes of a voxel must be from 1e-9 to 1e6 µm")
        num_outputs = len(self.class_values) if self.label_kind == "classes" else 1
        if self.target == "objects":
            if self.label_kind != "objects":
                raise ValueError("a network that has learned objects gives objects")
            num_outputs = len(OBJECT_MAPS)
        elif self.objects is not None and self.objects.method == "learned":
            raise ValueError("this network has not learned to tell objects apart")
        if self.network.out_channels != num_outputs or (self.label_kind == "classes" and num_outputs < 2):
            raise ValueError("the classes do not fit the outputs of the network")
        if self.network.in_channels != 1:
            raise ValueError("its network takes several channels, and a volume here has one")
        if self.network.key not in MODELS:
            raise ValueError(f"there is no network called {self.network.key!r} in this installation")
        return self

    @property
    def decoding(self) -> ObjectDecoding:
        """How objects are decoded; older models, which do not say it, give connected components."""
        return self.objects or ObjectDecoding()

    @property
    def bytes_per_window(self) -> float:
        """That predicting one takes, at least: a quarter of what training keeps."""
        return prod(max(size, 16) for size in self.window) * bytes_per_voxel(self.network.key, self.network.size) / 4

    @property
    def spacing(self) -> Spacing:
        """The voxel size that distances in µm refer to where an image has none of its own."""
        return self.voxel_size or (1.0, 1.0, 1.0)

    def measure(self, image: LazyArray, name: str = "The image") -> IntensityStatistics:
        """How the intensities of ``image`` (Z, Y, X), called ``name``, are normalized. Raises ``DataError``."""
        return measure(image, self.normalization, limit_outliers=self.limit_outliers, name=name)

    @property
    def scheme(self) -> LabelScheme:
        return LabelScheme(self.label_kind, None, self.class_values)


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network on a device, ready to segment."""

    card: ModelCard
    predictor: Predictor


def card_to_yaml(card: ModelCard) -> str:
    return yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_model(folder: RunFolder, card: ModelCard, weights: dict[str, torch.Tensor]) -> None:
    """Write the model of a run, weights first, so that the card never describes weights that are not there."""
    folder.write_with(f"model/{WEIGHTS}", lambda path: write_tensors(path, weights, {}))
    folder.write_text(f"model/{CARD}", card_to_yaml(card))


def model_folder(path: Path) -> Path:
    """The folder of ``model.yaml``, from a run folder, a model folder, or one of the two files in it."""
    kind = outside.kind_of(path)
    if kind is None:
        raise ModelFileError(f"There is no run folder or model at {outside.shown(path)}.")
    if kind != "folder" and path.name not in (WEIGHTS, CARD):
        raise ModelFileError(
            f"{path.name} is not a model of CellTrain. Give the run folder, its model folder, its {CARD}, or a "
            "zip that `celltrain export --format bioimageio` wrote."
        )
    path = path if kind == "folder" else path.parent
    for folder in (path, path / "model"):
        if outside.kind_of(folder / CARD) is not None:
            return folder
    if outside.kind_of(path / "config.yaml") is not None:
        raise ModelFileError(
            f"The run {path.name} has no model yet: a model is saved at its first validation. "
            "Wait for it, or resume the run."
        )
    raise ModelFileError(f"{path} is neither a run folder nor a model: it has no {CARD}.")


def is_package(path: Path) -> bool:
    """Whether a model would be read from a zip."""
    return path.suffix.lower() == ".zip" and outside.kind_of(path) == "file"


def read_card(path: Path) -> ModelCard:
    """The card of a run folder, a model, or a zipped one. Raises :class:`ModelFileError`."""
    packed = is_package(path)
    where = f"{CARD} in {path}" if packed else str(model_folder(path) / CARD)
    try:
        text = (
            read_packed_card(path) if packed else outside.read_text(Path(where), ModelFileError, outside.MAX_YAML_BYTES)
        )
        return ModelCard.model_validate(outside.load_yaml(text))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(
            f"{where} is damaged or of a newer version: {field or 'the file'}: {first['msg']}. "
            f"({error.error_count()} such problems.)"
        ) from error
    except ValueError as error:
        raise ModelFileError(f"{where} cannot be read. {error}") from error


def read_weights(path: Path, network: SegmentationNetwork) -> dict[str, torch.Tensor]:
    """The weights for ``network`` of a run folder, a model, or a zipped one. Raises :class:`ModelFileError`."""
    if is_package(path):
        # before they are unpacked: those of another network may be larger, but not by any amount
        expected = sum(tensor.nbytes for tensor in network.state_dict().values())
        return read_packed_weights(path, 4 * expected + 2**24)
    tensors, _ = read_tensors(model_folder(path) / WEIGHTS)
    return tensors


def load_network(path: Path, card: ModelCard) -> SegmentationNetwork:
    """The network of a model with its weights: on the processor, in float32. Raises :class:`ModelFileError`."""
    from napari_celltrain.engine.device import memory_errors_explained

    with memory_errors_explained():
        network = build_network(card.network)
    weights = read_weights(path, network)
    load_weights(network, weights)
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise ModelFileError(f"The weights in {path} hold values that are not numbers. Train again.")
    return network


def load_model(path: Path, device: torch.device) -> Model:
    """Build the network of a run folder or model with its weights. Raises :class:`ModelFileError`."""
    from napari_celltrain.engine.device import free_memory
    from napari_celltrain.engine.precision import NumericFormat
    from napari_celltrain.engine.predictor import Predictor

    card = read_card(path)
    needed, free = card.bytes_per_window, free_memory(device)
    if needed > free:
        raise ModelFileError(
            f"The model {path} predicts windows of {sizes(card.window)} voxels, which take at least {needed / 1e9:.3g} "
            f"GB, and {free / 1e9:.3g} GB are free. Use it on a computer with more memory."
        )
    network = load_network(path, card)
    numeric_format = NumericFormat(card.precision, card.memory_layout)
    if card.training_device != device.type:  # what was chosen for another kind says nothing here: float32 runs on all
        numeric_format = NumericFormat("float32", "channels_last" if device.type == "cpu" else "contiguous")
    numeric_format.lay_out(network, device)
    predictor = Predictor(
        network, card.network.out_channels, card.window, device, numeric_format, card.batch_size, card.target
    )
    return Model(card, predictor)


# --- segmentation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segmentation:
    """``classes`` (Z, Y, X) are class indices, of objects 0 and 1; ``labels`` are what a user gets: numbered objects,
    0 and 1, or the label values of the classes, as uint16 (uint32 beyond 65,535)."""

    classes: NDArray[np.uint8]
    labels: NDArray[Any]


def segment(
    model: Model,
    image: LazyArray,
    statistics: IntensityStatistics,
    *,
    voxel_size: Spacing | None = None,
    probabilities: Callable[[int, NDArray[np.float32]], None] | None = None,
    on_batch: Callable[[int, int], object] | None = None,
) -> Segmentation:
    """Segment a volume (Z, Y, X) whose intensity statistics have been measured as the model asks.

    ``voxel_size`` is the image's own, where known. ``probabilities`` is called with each group of planes: first plane,
    (C, planes, Y, X); ``on_batch`` before each batch of windows: its number, and how many there are.
    """
    card, predictor = model.card, model.predictor
    if card.label_kind == "objects":
        maps = predictor.maps(image, statistics, probabilities=probabilities, on_batch=on_batch)
        return to_objects(card, maps, voxel_size)
    [classes] = predictor.maps(
        image, statistics, threshold=card.threshold, probabilities=probabilities, on_batch=on_batch
    )
    return Segmentation(classes, _compact(np.array(card.class_values or (0, 1)))[classes])


def to_objects(card: ModelCard, maps: NDArray[np.uint8], voxel_size: Spacing | None) -> Segmentation:
    """Decode maps that are there already; takes a fraction of the time that it took to predict them."""
    from napari_celltrain.engine.objects import decode

    objects = decode(maps, card.threshold, card.decoding, voxel_size or card.spacing)
    return Segmentation((objects > 0).view(np.uint8), _compact(objects))


def _compact(labels: NDArray[Any]) -> NDArray[Any]:
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)
