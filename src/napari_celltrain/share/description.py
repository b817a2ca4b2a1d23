"""What a package says of its model: the card for people (``README.md``) and for programs (``bioimageio.yaml``).

Both hold the facts of ``model.yaml``, of the run around it, and what a person adds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_celltrain.data.check_rules import PERCENTILES
from napari_celltrain.nets.models import MODELS
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.share.metadata import Citation, Metadata, parse_citation
from napari_celltrain.share.source_model import OPSET, TOLERANCE, SourceModel
from napari_celltrain.values.text import count, sizes

if TYPE_CHECKING:
    from bioimageio.spec.model.v0_5 import ModelDescr

_TEMPLATE = Path(__file__).with_name("readme_template.md")

# Of the networks in `nets.models`; cited where the user names nothing.
PAPERS = {
    "unet": "Kerfoot et al. 2018, Left-ventricle quantification using residual U-Net, "
    "https://doi.org/10.1007/978-3-030-12029-0_40",
    "segresnet": "Myronenko 2018, 3D MRI brain tumor segmentation using autoencoder regularization, "
    "https://doi.org/10.48550/arXiv.1810.11654",
    "dynunet": "Isensee et al. 2021, nnU-Net: a self-configuring method for deep learning-based segmentation, "
    "https://doi.org/10.1038/s41592-020-01008-z",
    "attention_unet": "Oktay et al. 2018, Attention U-Net, https://doi.org/10.48550/arXiv.1804.03999",
    "vnet": "Milletari et al. 2016, V-Net, https://doi.org/10.48550/arXiv.1606.04797",
    "swinunetr": "Hatamizadeh et al. 2022, Swin UNETR, https://doi.org/10.48550/arXiv.2201.01266",
    "trailmap": "Friedmann et al. 2020, Mapping mesoscale axonal projections in the mouse brain, "
    "https://doi.org/10.1073/pnas.1918465117",
}
_MONAI = (
    "Cardoso et al. 2022, MONAI: an open-source framework for deep learning in healthcare, "
    "https://doi.org/10.48550/arXiv.2211.02701"
)
_METHODS = {
    "components": "connected components of the foreground, each one object",
    "watershed": "a watershed of the foreground's distance map, which splits touching objects",
    "learned": "a watershed on the learned distance to the border, which splits touching objects",
}


def readme(model: SourceModel, metadata: Metadata) -> str:
    """The whole card as Markdown, under the headings that bioimage.io asks for."""
    card, training, window = model.card, model.card.training, f"{sizes(model.window)} voxels"
    if model.takes_any_window:
        window = f"at least {window} in steps of {sizes(model.network.divisor)}"
    scaled = {
        "percentile": "percentiles {:g} and {:g} of each volume become 0 and 1, without clipping".format(*PERCENTILES),
        "zscore": "mean 0 and standard deviation 1, volume by volume",
    }[card.normalization]
    if model.limit is not None:
        scaled += f"; the network itself compresses values beyond ± {model.limit:g}"
    scores = [("Voxel Dice", training.validation_dice), ("Object F1 at IoU 0.5", training.validation_f1)]
    authors = [
        ", ".join(filter(None, (person.name, person.affiliation, person.orcid and f"https://orcid.org/{person.orcid}")))
        for person in metadata.authors
    ]
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=metadata.name,
        summary=summary(model, metadata),
        data=_data(model, metadata),
        validation=count(training.num_validation, "volume"),
        when="of the predictions that were written when training had ended" if training.is_final else "during training",
        scores="\n".join(f"| {title} | {value:.3f} |" for title, value in scores if value is not None),
        limits=limits(model, metadata),
        images=_listed(
            "one channel, axes z, y, x",
            card.voxel_size and f"voxels of about {sizes(card.voxel_size)} µm (z, y, x)",
            f"intensities: {scaled}",
            f"window: {window}; larger volumes in overlapping windows of this size",
        ),
        output=_output(model),
        license=metadata.license or "none was named: ask the authors before you use or pass on this model",
        authors=_listed(*authors) or "- not named",
        cited=_listed(*(entry.text for entry in citations(model, metadata))),
    )


def summary(model: SourceModel, metadata: Metadata) -> str:
    """One or two sentences."""
    text = {
        "objects": "3D segmentation of cells or nuclei by a {}. Each cell has a number of its own.",
        "foreground": "3D segmentation of cells or nuclei by a {}. Cells are told from background.",
        "classes": "3D segmentation of classes of voxels by a {}. Each voxel is given a class.",
    }[model.card.label_kind]
    return metadata.description or text.format(MODELS[model.card.network.key].label)


def limits(model: SourceModel, metadata: Metadata) -> str:
    """Where the model fails: what the user says, and what follows from how it was trained."""
    card = model.card
    splits_nothing = card.label_kind == "objects" and card.decoding.method == "components"
    return _listed(
        metadata.limits,
        card.voxel_size
        and f"Trained at a voxel size of {sizes(card.voxel_size)} µm (z, y, x): images whose voxels differ by more "
        "than 1.5 × must be resampled first.",
        f"Validated on {count(card.training.num_validation, 'volume')} of the same kind as the training data only; "
        "look at the results before you trust them on other microscopes, stains, tissues or species.",
        splits_nothing and "Touching objects come out as one.",
    )


def citations(model: SourceModel, metadata: Metadata) -> tuple[Citation, ...]:
    """Those that the user names, else the papers of the network and of the library that it was built with."""
    papers = (PAPERS.get(model.card.network.key), _MONAI)
    return metadata.cite or tuple(parse_citation(text) for text in papers if text)


def _listed(*lines: object) -> str:
    """As a list, without those that are empty."""
    return "\n".join(f"- {line}" for line in lines if line)


def _data(model: SourceModel, metadata: Metadata) -> str:
    """Numbers, sizes and types of the volumes. Their names stay out: they may be confidential."""
    card, cases = model.card, model.cases
    known = [case.num_objects for case in cases if case.side == "training" and case.num_objects is not None]
    shapes = Counter(sizes(case.shape_zyx) for case in cases if case.shape_zyx)
    listed = [f"{size} voxels" + (f" ({n} volumes)" if n > 1 else "") for size, n in shapes.most_common(5)]
    if len(shapes) > 5:
        listed.append("and others")
    types = ", ".join(dict.fromkeys(case.dtype for case in cases if case.dtype))
    facts = _listed(
        f"{count(card.training.num_training, 'volume')} for training, {card.training.num_validation} for validation",
        known and card.label_kind == "objects" and f"{count(sum(known), 'annotated object')} in the training volumes",
        listed and f"size (z, y, x): {', '.join(listed)}",
        types and f"type: {types}",
        card.voxel_size and f"median voxel size (z, y, x): {sizes(card.voxel_size)} µm",
    )
    return f"{metadata.data}\n\n{facts}" if metadata.data else facts


def _output(model: SourceModel) -> str:
    card = model.card
    text = f"Values from 0 to 1. A voxel is foreground from {card.threshold:g} on."
    if card.label_kind == "classes":
        text = "Probabilities; the class of a voxel is the most probable one."
    text += "\n\n" + _listed(*(f"channel {index}: {name}" for index, name in enumerate(model.channels)))
    if card.label_kind == "objects":
        settings = ", ".join(f"{key} {value}" for key, value in card.decoding.model_dump(exclude={"method"}).items())
        text += f"\n\nObjects are made of it by {_METHODS[card.decoding.method]} ({settings})."
    return text


def describe_model(folder: Path, weights: Path, model: SourceModel, metadata: Metadata) -> ModelDescr:
    """Describe the files in ``folder``. Raises pydantic's ``ValidationError`` where the standard asks for more."""
    import torch
    from bioimageio.spec.model import v0_5

    is_onnx = weights.suffix == ".onnx"
    needs = {"opset_version": OPSET} if is_onnx else {"pytorch_version": torch.__version__.partition("+")[0]}
    entry = {"source": weights, "comment": "Converted from model.safetensors, which is attached.", **needs}
    tags = ["3d", "fluorescence-light-microscopy", "segmentation", "semantic-segmentation", "celltrain"]
    if model.card.label_kind == "objects":
        tags.append("instance-segmentation")
    image, maps = _tensors(folder, model, is_fixed=is_onnx or not model.takes_any_window, halo=metadata.halo)
    return v0_5.ModelDescr.model_validate(
        {
            "type": "model",
            "format_version": v0_5.ModelDescr.implemented_format_version,
            "name": metadata.name,
            "description": summary(model, metadata)[:1024],
            "authors": [person.model_dump(by_alias=True) for person in metadata.authors],
            "maintainers": [{"name": p.name, "github_user": p.github} for p in metadata.authors if p.github],
            "license": metadata.license,
            "cite": [citation.model_dump(exclude_none=True) for citation in citations(model, metadata)],
            "tags": [*tags, model.card.network.key, *metadata.tags],
            "documentation": {"source": folder / "README.md"},
            "covers": [{"source": folder / "cover.png"}],
            "attachments": [{"source": folder / PACKED_CARD}, {"source": folder / WEIGHTS}],
            "inputs": [image],
            "outputs": [maps],
            "weights": {"onnx" if is_onnx else "torchscript": entry},
            "config": _config(folder, model, metadata),
        }
    )


def _tensors(folder: Path, model: SourceModel, *, is_fixed: bool, halo: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input and the output."""
    inputs: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": ["intensity"]}]
    outputs: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": list(model.channels)}]
    for axis, (size, step) in enumerate(zip(model.window, model.network.divisor, strict=True)):
        common: dict[str, Any] = {"type": "space", "id": "zyx"[axis]}
        if model.card.voxel_size is not None:
            # The library demands size * scale / scale == size. With float32's digits it is so: the product is exact.
            common |= {"unit": "micrometer", "scale": float(np.float32(model.card.voxel_size[axis]))}
        sizes_taken = size if is_fixed else {"min": size, "step": step}
        inputs.append({**common, "size": sizes_taken, "concatenable": True})
        # an eighth of the window on each side: half of what our own windows overlap by
        cut_off = {"halo": size // 8} if halo and size >= 8 else {}
        outputs.append({**common, "size": {"tensor_id": "image", "axis_id": "zyx"[axis]}, **cut_off})
    # over all voxels of a volume, each volume and channel by itself; only (value - offset) / scale, nothing is clipped
    # (the network compresses what is far beyond)
    settings: dict[str, Any] = {"axes": ["channel", "z", "y", "x"], "eps": 1e-6}
    scaling = "zero_mean_unit_variance"
    if model.card.normalization == "percentile":
        scaling = "scale_range"
        settings |= dict(zip(("min_percentile", "max_percentile"), PERCENTILES, strict=True))
    image = {
        "id": "image",
        "description": "The raw image.",
        "axes": inputs,
        "test_tensor": {"source": folder / "test_input.npy"},
        "data": {"type": "float32"},
        "preprocessing": [{"id": scaling, "kwargs": settings}],
    }
    softmax = {"kwargs": {"axis": "channel"}} if model.activation == "softmax" else {}
    maps = {
        "id": "probabilities",
        "description": "Values from 0 to 1; see the documentation for how objects are made of them.",
        "axes": outputs,
        "test_tensor": {"source": folder / "test_output.npy"},
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [{"id": model.activation, **softmax}],
    }
    return image, maps


def _config(folder: Path, model: SourceModel, metadata: Metadata) -> dict[str, Any]:
    """The fields that bioimage.io itself defines, and what programs may want to read of `model.yaml`."""
    card, training = model.card, model.card.training
    facts: dict[str, Any] = {"loss_function": training.loss, "training_epochs": training.epoch}
    if model.config is not None:
        settings = model.config.training
        facts |= {
            "training_batch_size": settings.batch_size,
            "initial_learning_rate": settings.learning_rate,
            "learning_rate_schedule": settings.schedule,
            "optimizer": "AdamW",
            "optimizer_kwargs": {"weight_decay": settings.weight_decay},
        }
    general: dict[str, Any] = {
        "architecture_type": MODELS[card.network.key].label[:32],
        "task": "segmentation",
        "model_parameter_count": sum(weight.numel() for weight in model.network.parameters()),
        "bias_risks_limitations": {"limitations": limits(model, metadata)},
        "training": facts,
    }
    # the library takes no tolerance above a hundredth of the largest value
    if float(np.load(folder / "test_output.npy").max()) >= 100 * TOLERANCE:
        general["reproducibility_tolerance"] = [
            {"relative_tolerance": 1e-3, "absolute_tolerance": TOLERANCE, "mismatched_elements_per_million": 0}
        ]
    scores = {"voxel_dice": training.validation_dice, "object_f1_iou50": training.validation_f1}
    own = {
        "label_kind": card.label_kind,
        "threshold": card.threshold,
        "objects": card.decoding.model_dump(mode="json") if card.label_kind == "objects" else None,
        "validation": {**scores, "volumes": training.num_validation},
        "package_version": training.package_version,
    }
    return {"bioimageio": general, "celltrain": own}
