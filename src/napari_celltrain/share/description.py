"""The description in a bioimage.io package (``bioimageio.yaml``), as values of bioimage.io's own library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_celltrain.nets.models import MODELS
from napari_celltrain.nets.normalize import PERCENTILES
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.share.metadata import Sheet
from napari_celltrain.share.network_files import OPSET
from napari_celltrain.share.readme import citations, describe, limits
from napari_celltrain.share.source_model import TOLERANCE, Original

if TYPE_CHECKING:
    from bioimageio.spec.model.v0_5 import InputTensorDescr, ModelDescr, OutputTensorDescr, WeightsDescr

HALO_SHARE = 8
"""With a halo, an eighth of the window is cut off on each side: half of what our own windows overlap by."""
_EPS = 1e-6
_TAGS = ("3d", "fluorescence-light-microscopy", "segmentation", "semantic-segmentation", "celltrain")


def describe_model(folder: Path, weights: Path, original: Original, sheet: Sheet, name: str) -> ModelDescr:
    """Describe the files in ``folder``. Raises pydantic's ``ValidationError`` where the standard wants it otherwise."""
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.model import v0_5

    return v0_5.ModelDescr.model_validate(
        {
            "type": "model",
            "format_version": v0_5.ModelDescr.implemented_format_version,
            "name": name,
            "description": describe(original, sheet)[:1024],
            "authors": [
                {
                    "name": person.name,
                    "affiliation": person.affiliation,
                    "orcid": person.orcid,
                    "github_user": person.github,
                    "email": person.email,
                }
                for person in sheet.authors
            ],
            "maintainers": [{"name": p.name, "github_user": p.github} for p in sheet.authors if p.github],
            "license": sheet.license,
            "cite": [entry.model_dump(exclude_none=True) for entry in citations(original, sheet)],
            "tags": [*_tags(original), *sheet.tags],
            "documentation": FileDescr(source=folder / "README.md"),
            "covers": [FileDescr(source=folder / "cover.png")],
            "attachments": [FileDescr(source=folder / PACKED_CARD), FileDescr(source=folder / WEIGHTS)],
            "inputs": [_input(folder, original, fixed=weights.suffix == ".onnx")],
            "outputs": [_output(folder, original, sheet)],
            "weights": _weights(weights),
            "config": _config(folder, original, sheet),
        }
    )


def _tags(original: Original) -> list[str]:
    instances = ["instance-segmentation"] if original.card.label_kind == "objects" else []
    return [*_TAGS, *instances, original.card.network.key]


def _space(original: Original, axis: int) -> dict[str, Any]:
    voxel_size = original.card.voxel_size
    known = {} if voxel_size is None else {"unit": "micrometer", "scale": voxel_size[axis]}
    return {"type": "space", "id": "zyx"[axis], **known}


def _input(folder: Path, original: Original, *, fixed: bool) -> InputTensorDescr:
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.model import v0_5

    sizes: list[Any] = list(original.window)
    if original.takes_any_window and not fixed:
        sizes = [
            {"min": size, "step": step} for size, step in zip(original.window, original.network.divisor, strict=True)
        ]
    # over all voxels of a volume, each volume and channel by itself; only (value - offset) / scale, nothing is clipped
    axes = ["channel", "z", "y", "x"]
    step: dict[str, Any] = {"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": _EPS}}
    if original.card.normalization == "percentile":
        low, high = PERCENTILES
        step = {
            "id": "scale_range",
            "kwargs": {"axes": axes, "min_percentile": low, "max_percentile": high, "eps": _EPS},
        }
    return v0_5.InputTensorDescr.model_validate(
        {
            "id": "image",
            "description": "The raw image.",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["intensity"]},
                *({**_space(original, axis), "size": size, "concatenable": True} for axis, size in enumerate(sizes)),
            ],
            "test_tensor": FileDescr(source=folder / "test_input.npy"),
            "data": {"type": "float32"},
            "preprocessing": [step],
        }
    )


def _output(folder: Path, original: Original, sheet: Sheet) -> OutputTensorDescr:
    from bioimageio.spec.common import FileDescr
    from bioimageio.spec.model import v0_5

    axes = []
    for axis, size in enumerate(original.window):
        halo = size // HALO_SHARE if sheet.halo else 0
        reference = {"tensor_id": "image", "axis_id": "zyx"[axis]}
        axes.append({**_space(original, axis), "size": reference, **({"halo": halo} if halo else {})})
    step: dict[str, Any] = {"id": "sigmoid"}
    if original.activation == "softmax":
        step = {"id": "softmax", "kwargs": {"axis": "channel"}}
    return v0_5.OutputTensorDescr.model_validate(
        {
            "id": "probabilities",
            "description": "Values from 0 to 1; see the documentation for how objects are made of them.",
            "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(original.channels)}, *axes],
            "test_tensor": FileDescr(source=folder / "test_output.npy"),
            "data": {"type": "float32", "range": [0.0, 1.0]},
            "postprocessing": [step],
        }
    )


def _weights(weights: Path) -> WeightsDescr:
    import torch
    from bioimageio.spec.model import v0_5

    entry: dict[str, Any] = {"source": weights, "comment": "Converted from model.safetensors, which is attached."}
    if weights.suffix == ".onnx":
        return v0_5.WeightsDescr.model_validate({"onnx": {**entry, "opset_version": OPSET}})
    version = torch.__version__.partition("+")[0]
    return v0_5.WeightsDescr.model_validate({"torchscript": {**entry, "pytorch_version": version}})


def _config(folder: Path, original: Original, sheet: Sheet) -> dict[str, Any]:
    card, run = original.card, original.config
    training: dict[str, Any] = {"loss_function": card.training.loss, "training_epochs": card.training.epoch}
    if run is not None:
        training |= {
            "training_batch_size": run.training.batch_size,
            "initial_learning_rate": run.training.learning_rate,
            "learning_rate_schedule": run.training.schedule,
            "optimizer": "AdamW",
            "optimizer_kwargs": {"weight_decay": run.training.weight_decay},
        }
    bioimageio: dict[str, Any] = {
        "architecture_type": MODELS[card.network.key].label[:32],
        "task": "segmentation",
        "model_parameter_count": sum(weight.numel() for weight in original.network.parameters()),
        "bias_risks_limitations": {"limitations": limits(original, sheet)},
        "training": training,
    }
    # the library takes no tolerance above a hundredth of the largest value
    if float(np.load(folder / "test_output.npy").max()) >= 100 * TOLERANCE:
        bioimageio["reproducibility_tolerance"] = [
            {"relative_tolerance": 1e-3, "absolute_tolerance": TOLERANCE, "mismatched_elements_per_million": 0}
        ]
    return {"bioimageio": bioimageio, "celltrain": _own(original)}


def _own(original: Original) -> dict[str, Any]:
    """What programs may want to read of `model.yaml` without opening it."""
    card = original.card
    scores = {"voxel_dice": card.training.validation_dice, "object_f1_iou50": card.training.validation_f1}
    return {
        "label_kind": card.label_kind,
        "threshold": card.threshold,
        "objects": card.decoding.model_dump(mode="json") if card.label_kind == "objects" else None,
        "validation": {**scores, "volumes": card.training.num_validation},
        "package_version": card.training.package_version,
    }
