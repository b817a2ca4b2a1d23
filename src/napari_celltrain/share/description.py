"""What a package says of its model: the card for people (``README.md``) and for programs (``bioimageio.yaml``).

Both hold the facts of ``model.yaml``, of the run around it, and what a person adds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_celltrain.nets.models import MODELS
from napari_celltrain.nets.normalize import PERCENTILES
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.share.metadata import Citation, Metadata
from napari_celltrain.share.source_model import OPSET, TOLERANCE, SourceModel
from napari_celltrain.values.text import count, sizes

if TYPE_CHECKING:
    from bioimageio.spec.model.v0_5 import ModelDescr

_TEMPLATE = Path(__file__).with_name("readme_template.md")

# Of the networks in `nets.models`; cited where the user names nothing.
PAPERS = {
    "unet": ("Kerfoot et al. 2018, Left-ventricle quantification using residual U-Net", "10.1007/978-3-030-12029-0_40"),
    "segresnet": (
        "Myronenko 2018, 3D MRI brain tumor segmentation using autoencoder regularization",
        "10.48550/arXiv.1810.11654",
    ),
    "dynunet": (
        "Isensee et al. 2021, nnU-Net: a self-configuring method for deep learning-based segmentation",
        "10.1038/s41592-020-01008-z",
    ),
    "attention_unet": ("Oktay et al. 2018, Attention U-Net", "10.48550/arXiv.1804.03999"),
    "vnet": ("Milletari et al. 2016, V-Net", "10.48550/arXiv.1606.04797"),
    "swinunetr": ("Hatamizadeh et al. 2022, Swin UNETR", "10.48550/arXiv.2201.01266"),
    "trailmap": (
        "Friedmann et al. 2020, Mapping mesoscale axonal projections in the mouse brain",
        "10.1073/pnas.1918465117",
    ),
}
_MONAI = (
    "Cardoso et al. 2022, MONAI: an open-source framework for deep learning in healthcare",
    "10.48550/arXiv.2211.02701",
)


def readme(model: SourceModel, metadata: Metadata) -> str:
    """The whole card as Markdown, under the headings that bioimage.io asks for."""
    training = model.card.training
    scores = [("Voxel Dice", training.validation_dice), ("Object F1 at IoU 0.5", training.validation_f1)]
    orcids = ((person, person.orcid and f"https://orcid.org/{person.orcid}") for person in metadata.authors)
    authors = [", ".join(filter(None, (person.name, person.affiliation, orcid))) for person, orcid in orcids]
    cited = [
        entry.text + (f", https://doi.org/{entry.doi}" if entry.doi and entry.doi not in entry.text else "")
        for entry in citations(model, metadata)
    ]
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=metadata.name,
        summary=summary(model, metadata),
        data=_data(model, metadata),
        validation=count(training.num_validation, "volume"),
        when="of the predictions that were written when training had ended" if training.is_final else "during training",
        scores="\n".join(f"| {title} | {value:.3f} |" for title, value in scores if value is not None),
        limits=limits(model, metadata),
        images=_images(model),
        output=_output(model),
        license=metadata.license or "none was named: ask the authors before you use or pass on this model",
        authors=_listed(*authors) or "- not named",
        cited=_listed(*cited),
    )


def summary(model: SourceModel, metadata: Metadata) -> str:
    """One or two sentences."""
    if metadata.description:
        return metadata.description
    what, found = {
        "objects": ("cells or nuclei", "Each cell has a number of its own."),
        "foreground": ("cells or nuclei", "Cells are told from background."),
        "classes": ("classes of voxels", "Each voxel is given a class."),
    }[model.card.label_kind]
    return f"3D segmentation of {what} by a {MODELS[model.card.network.key].label}. {found}"


def limits(model: SourceModel, metadata: Metadata) -> str:
    """Where the model fails: what the user says, and what follows from how it was trained."""
    card = model.card
    known = [metadata.limits] if metadata.limits else []
    if card.voxel_size:
        known.append(
            f"Trained at a voxel size of {sizes(card.voxel_size)} µm (z, y, x): images whose voxels differ by more "
            "than 1.5 × must be resampled first."
        )
    known.append(
        f"Validated on {count(card.training.num_validation, 'volume')} of the same kind as the training data only; "
        "look at the results before you trust them on other microscopes, stains, tissues or species."
    )
    if card.label_kind == "objects" and card.decoding.method == "components":
        known.append("Touching objects come out as one.")
    return _listed(*known)


def citations(model: SourceModel, metadata: Metadata) -> tuple[Citation, ...]:
    """Those that the user names, else the papers of the network and of the library that it was built with."""
    papers = [PAPERS[key] for key in (model.card.network.key,) if key in PAPERS]
    return metadata.cite or tuple(Citation(text=text, doi=doi) for text, doi in [*papers, _MONAI])


def _listed(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _data(model: SourceModel, metadata: Metadata) -> str:
    """Numbers, sizes and types of the volumes. Their names stay out: they may be confidential."""
    card, cases = model.card, model.cases
    facts = [
        f"{count(card.training.num_training, 'volume')} for training, {card.training.num_validation} for validation"
    ]
    objects = [case.get("num_objects") for case in cases if case.get("side") == "training"]
    known = [number for number in objects if isinstance(number, int)]
    if known and card.label_kind == "objects":
        facts.append(f"{count(sum(known), 'annotated object')} in the training volumes")
    shapes = Counter(sizes(case["shape_zyx"]) for case in cases if isinstance(case.get("shape_zyx"), list))
    if shapes:
        listed = [f"{size} voxels" + (f" ({n} volumes)" if n > 1 else "") for size, n in shapes.most_common(5)]
        facts.append(f"size (z, y, x): {', '.join([*listed, *(['and others'] if len(shapes) > 5 else [])])}")
    if types := dict.fromkeys(str(case["dtype"]) for case in cases if case.get("dtype")):
        facts.append(f"type: {', '.join(types)}")
    if card.voxel_size:
        facts.append(f"median voxel size (z, y, x): {sizes(card.voxel_size)} µm")
    return "\n\n".join(filter(None, [metadata.data, _listed(*facts)]))


def _images(model: SourceModel) -> str:
    card, window = model.card, sizes(model.window)
    low, high = PERCENTILES
    scaled = {
        "percentile": f"percentiles {low:g} and {high:g} of each volume become 0 and 1, without clipping",
        "zscore": "mean 0 and standard deviation 1, volume by volume",
    }[card.normalization]
    if model.takes_any_window:
        size = f"at least {window} voxels in steps of {sizes(model.network.divisor)}"
    else:
        size = f"{window} voxels"
    return _listed(
        "one channel, axes z, y, x",
        *([f"voxels of about {sizes(card.voxel_size)} µm (z, y, x)"] if card.voxel_size else []),
        f"intensities: {scaled}",
        f"window: {size}; larger volumes in overlapping windows of this size",
    )


def _output(model: SourceModel) -> str:
    card = model.card
    channels = _listed(*(f"channel {index}: {name}" for index, name in enumerate(model.channels)))
    if card.label_kind == "classes":
        return f"Probabilities; the class of a voxel is the most probable one.\n\n{channels}"
    text = f"Values from 0 to 1. A voxel is foreground from {card.threshold:g} on.\n\n{channels}"
    if card.label_kind == "foreground":
        return text
    method = {
        "components": "connected components of the foreground, each one object",
        "watershed": "a watershed of the foreground's distance map, which splits touching objects",
        "learned": "a watershed on the learned distance to the border, which splits touching objects",
    }[card.decoding.method]
    settings = ", ".join(f"{key} {value}" for key, value in card.decoding.model_dump(exclude={"method"}).items())
    return f"{text}\n\nObjects are made of it by {method} ({settings})."


# --- bioimageio.yaml ------------------------------------------------------------------------------------------

HALO_SHARE = 8
"""With a halo, an eighth of the window is cut off on each side: half of what our own windows overlap by."""


def describe_model(folder: Path, weights: Path, model: SourceModel, metadata: Metadata) -> ModelDescr:
    """Describe the files in ``folder``. Raises pydantic's ``ValidationError`` where the standard asks for more."""
    import torch
    from bioimageio.spec.model import v0_5

    instances = ["instance-segmentation"] if model.card.label_kind == "objects" else []
    entry = {"source": weights, "comment": "Converted from model.safetensors, which is attached."}
    if is_onnx := weights.suffix == ".onnx":
        stored = {"onnx": {**entry, "opset_version": OPSET}}
    else:
        stored = {"torchscript": {**entry, "pytorch_version": torch.__version__.partition("+")[0]}}
    tags = ["3d", "fluorescence-light-microscopy", "segmentation", "semantic-segmentation", "celltrain"]
    return v0_5.ModelDescr.model_validate(
        {
            "type": "model",
            "format_version": v0_5.ModelDescr.implemented_format_version,
            "name": metadata.name,
            "description": summary(model, metadata)[:1024],
            "authors": [
                {**person.model_dump(exclude={"github"}), "github_user": person.github} for person in metadata.authors
            ],
            "maintainers": [{"name": p.name, "github_user": p.github} for p in metadata.authors if p.github],
            "license": metadata.license,
            "cite": [entry.model_dump(exclude_none=True) for entry in citations(model, metadata)],
            "tags": [*tags, *instances, model.card.network.key, *metadata.tags],
            "documentation": {"source": folder / "README.md"},
            "covers": [{"source": folder / "cover.png"}],
            "attachments": [{"source": folder / PACKED_CARD}, {"source": folder / WEIGHTS}],
            "inputs": [_input_tensor(folder, model, fixed=is_onnx)],
            "outputs": [_output_tensor(folder, model, halo=metadata.halo)],
            "weights": stored,
            "config": {"bioimageio": _own_config(folder, model, metadata), "celltrain": _celltrain_config(model)},
        }
    )


def _space(model: SourceModel, axis: int) -> dict[str, Any]:
    voxel_size = model.card.voxel_size
    # The library demands size * scale / scale == size. With the digits of float32 it is so: the product is exact.
    known = {} if voxel_size is None else {"unit": "micrometer", "scale": float(np.float32(voxel_size[axis]))}
    return {"type": "space", "id": "zyx"[axis], **known}


def _input_tensor(folder: Path, model: SourceModel, *, fixed: bool) -> dict[str, Any]:
    window: list[Any] = list(model.window)
    if model.takes_any_window and not fixed:
        window = [{"min": size, "step": step} for size, step in zip(window, model.network.divisor, strict=True)]
    # over all voxels of a volume, each volume and channel by itself; only (value - offset) / scale, nothing is clipped
    settings: dict[str, Any] = {"axes": ["channel", "z", "y", "x"], "eps": 1e-6}
    scaling = "zero_mean_unit_variance"
    if model.card.normalization == "percentile":
        scaling = "scale_range"
        settings |= dict(zip(("min_percentile", "max_percentile"), PERCENTILES, strict=True))
    return {
        "id": "image",
        "description": "The raw image.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["intensity"]},
            *({**_space(model, axis), "size": size, "concatenable": True} for axis, size in enumerate(window)),
        ],
        "test_tensor": {"source": folder / "test_input.npy"},
        "data": {"type": "float32"},
        "preprocessing": [{"id": scaling, "kwargs": settings}],
    }


def _output_tensor(folder: Path, model: SourceModel, *, halo: bool) -> dict[str, Any]:
    axes = []
    for axis, size in enumerate(model.window):
        cut_off = {"halo": size // HALO_SHARE} if halo and size >= HALO_SHARE else {}
        axes.append({**_space(model, axis), "size": {"tensor_id": "image", "axis_id": "zyx"[axis]}, **cut_off})
    softmax = {"kwargs": {"axis": "channel"}} if model.activation == "softmax" else {}
    return {
        "id": "probabilities",
        "description": "Values from 0 to 1; see the documentation for how objects are made of them.",
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": list(model.channels)}, *axes],
        "test_tensor": {"source": folder / "test_output.npy"},
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [{"id": model.activation, **softmax}],
    }


def _own_config(folder: Path, model: SourceModel, metadata: Metadata) -> dict[str, Any]:
    """The fields that bioimage.io itself defines."""
    card, run = model.card, model.config
    training: dict[str, Any] = {"loss_function": card.training.loss, "training_epochs": card.training.epoch}
    if run is not None:
        training |= {
            "training_batch_size": run.training.batch_size,
            "initial_learning_rate": run.training.learning_rate,
            "learning_rate_schedule": run.training.schedule,
            "optimizer": "AdamW",
            "optimizer_kwargs": {"weight_decay": run.training.weight_decay},
        }
    config: dict[str, Any] = {
        "architecture_type": MODELS[card.network.key].label[:32],
        "task": "segmentation",
        "model_parameter_count": sum(weight.numel() for weight in model.network.parameters()),
        "bias_risks_limitations": {"limitations": limits(model, metadata)},
        "training": training,
    }
    # the library takes no tolerance above a hundredth of the largest value
    if float(np.load(folder / "test_output.npy").max()) >= 100 * TOLERANCE:
        config["reproducibility_tolerance"] = [
            {"relative_tolerance": 1e-3, "absolute_tolerance": TOLERANCE, "mismatched_elements_per_million": 0}
        ]
    return config


def _celltrain_config(model: SourceModel) -> dict[str, Any]:
    """What programs may want to read of `model.yaml` without opening it."""
    card = model.card
    scores = {"voxel_dice": card.training.validation_dice, "object_f1_iou50": card.training.validation_f1}
    return {
        "label_kind": card.label_kind,
        "threshold": card.threshold,
        "objects": card.decoding.model_dump(mode="json") if card.label_kind == "objects" else None,
        "validation": {**scores, "volumes": card.training.num_validation},
        "package_version": card.training.package_version,
    }
