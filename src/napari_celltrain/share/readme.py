"""The text of a model's card: the same facts for people that ``model.yaml`` holds for programs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from napari_celltrain.nets.models import MODELS
from napari_celltrain.nets.normalize import PERCENTILES
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.share.metadata import Citation, Person, Sheet
from napari_celltrain.share.source_model import Original
from napari_celltrain.values.config import Spacing

_FOUND = {
    "objects": "Each cell has a number of its own.",
    "foreground": "Cells are told from background.",
    "classes": "Each voxel is given a class.",
}
_METHODS = {
    "components": "connected pieces of the foreground, each one object",
    "watershed": "a watershed of the foreground's distance map, which splits touching objects",
    "learned": "a watershed on the learned distance to the border, which splits touching objects",
}

# The papers of the networks, as `parts.models` names them; what is cited where the user names nothing.
PAPERS = {
    "unet": Citation(
        text="Kerfoot et al. 2018, Left-ventricle quantification using residual U-Net",
        doi="10.1007/978-3-030-12029-0_40",
    ),
    "segresnet": Citation(
        text="Myronenko 2018, 3D MRI brain tumor segmentation using autoencoder regularization",
        doi="10.48550/arXiv.1810.11654",
    ),
    "dynunet": Citation(
        text="Isensee et al. 2021, nnU-Net: a self-configuring method for deep learning-based segmentation",
        doi="10.1038/s41592-020-01008-z",
    ),
    "attention_unet": Citation(text="Oktay et al. 2018, Attention U-Net", doi="10.48550/arXiv.1804.03999"),
    "vnet": Citation(text="Milletari et al. 2016, V-Net", doi="10.48550/arXiv.1606.04797"),
    "swinunetr": Citation(text="Hatamizadeh et al. 2022, Swin UNETR", doi="10.48550/arXiv.2201.01266"),
    "trailmap": Citation(
        text="Friedmann et al. 2020, Mapping mesoscale axonal projections in the mouse brain",
        doi="10.1073/pnas.1918465117",
    ),
}
OWN_CITATION = Citation(
    text="Cardoso et al. 2022, MONAI: an open-source framework for deep learning in healthcare",
    doi="10.48550/arXiv.2211.02701",
)


def citations(original: Original, sheet: Sheet) -> tuple[Citation, ...]:
    """What the user names, else the papers of the network and of the library that it was built with."""
    paper = PAPERS.get(original.card.network.key)
    return sheet.cite or ((paper, OWN_CITATION) if paper else (OWN_CITATION,))


def describe(original: Original, sheet: Sheet) -> str:
    """One or two sentences."""
    if sheet.description:
        return sheet.description
    card = original.card
    what = "cells or nuclei" if card.label_kind != "classes" else "classes of voxels"
    return f"3D segmentation of {what} by a {MODELS[card.network.key].label}. {_FOUND[card.label_kind]}"


def readme(name: str, original: Original, sheet: Sheet) -> str:
    """The whole card as Markdown; its headings are those that bioimage.io asks for."""
    sections = {
        "": describe(original, sheet),
        "Training data": _data(original, sheet),
        "Validation": _validation(original.card),
        "Limits": limits(original, sheet),
        "Images that it takes": _images(original),
        "What comes out": _output(original),
        "Use": _USE,
        "Licence and citation": _rights(original, sheet),
    }
    parts = [f"# {name}"]
    for title, text in sections.items():
        parts.append(f"## {title}\n\n{text}" if title else text)
    return "\n\n".join(parts) + "\n"


def limits(original: Original, sheet: Sheet) -> str:
    """What the user says of where the model fails, and what follows from how it was trained."""
    card = original.card
    known = [sheet.limits] if sheet.limits else []
    if card.voxel_size:
        known.append(
            f"Trained at a voxel size of {_um(card.voxel_size)} (z, y, x): images whose voxels differ by more than "
            "1.5 × must be resampled first."
        )
    known.append(
        f"Validated on {_count(card.training.num_validation, 'volume')} of the same kind as the training data only; "
        "look at the results before you trust them on other microscopes, stains, tissues or species."
    )
    if card.label_kind == "objects" and card.decoding.method == "components":
        known.append("Touching objects come out as one.")
    return "\n".join(f"- {item}" for item in known)


def _data(original: Original, sheet: Sheet) -> str:
    training = original.card.training
    lines = [f"- {_count(training.num_training, 'volume')} for training, {training.num_validation} for validation"]
    objects = [case.get("num_objects") for case in original.cases if case.get("side") == "training"]
    count = [number for number in objects if isinstance(number, int)]
    if count and original.card.label_kind == "objects":
        lines.append(f"- {_count(sum(count), 'annotated object')} in the training volumes")
    lines += [f"- {title}: {text}" for title, text in _properties(original.cases)]
    if original.card.voxel_size:
        lines.append(f"- median voxel size (z, y, x): {_um(original.card.voxel_size)}")
    listed = "\n".join(lines)
    return f"{sheet.data}\n\n{listed}" if sheet.data else listed


def _properties(cases: tuple[dict[str, Any], ...]) -> list[tuple[str, str]]:
    """Sizes and types of the volumes. Their names stay out: they may tell what is not to be told."""
    sizes = Counter(
        " × ".join(map(str, case["shape_zyx"])) for case in cases if isinstance(case.get("shape_zyx"), list)
    )
    types = Counter(str(case["dtype"]) for case in cases if case.get("dtype"))
    listed = [
        f"{size} voxels" + (f" ({number} volumes)" if number > 1 else "") for size, number in sizes.most_common(5)
    ]
    if len(sizes) > 5:
        listed.append("and others")
    found = [("size (z, y, x)", ", ".join(listed))] if listed else []
    return [*found, *([("type", ", ".join(types))] if types else [])]


def _validation(card: ModelCard) -> str:
    training = card.training
    scores = [("Voxel Dice", training.validation_dice)]
    if training.validation_f1 is not None:
        scores.append(("Object F1 at IoU 0.5", training.validation_f1))
    table = ["| score | value |", "|---|---|", *(f"| {title} | {value:.3f} |" for title, value in scores)]
    when = "of the predictions that were written when training had ended" if training.is_final else "during training"
    return (
        f"Pooled over {_count(training.num_validation, 'volume')} that training did not see, {when}. The best epoch "
        "was chosen by them, so that a test on further volumes may come out a little lower.\n\n"
        + "\n".join(table)
        + "\n\n"
        "To validate the model on your own images, annotate a few of them and compare, for example with "
        "`celltrain evaluate`."
    )


def _images(original: Original) -> str:
    card = original.card
    low, high = PERCENTILES
    scaled = (
        f"percentiles {low:g} and {high:g} of each volume become 0 and 1, without clipping"
        if card.normalization == "percentile"
        else "mean 0 and standard deviation 1, volume by volume"
    )
    window = " × ".join(map(str, original.window))
    steps = " × ".join(map(str, original.network.divisor))
    size = f"at least {window} voxels in steps of {steps}" if original.takes_any_window else f"{window} voxels"
    return "\n".join(
        [
            "- one channel, axes z, y, x",
            *([f"- voxels of about {_um(card.voxel_size)} (z, y, x)"] if card.voxel_size else []),
            f"- intensities: {scaled}",
            f"- window: {size}; larger volumes in overlapping windows of this size",
        ]
    )


def _output(original: Original) -> str:
    card = original.card
    lines = [f"- channel {index}: {name}" for index, name in enumerate(original.channels)]
    if card.label_kind == "classes":
        return "Probabilities; the class of a voxel is the most probable one.\n\n" + "\n".join(lines)
    text = f"Values from 0 to 1. A voxel is foreground from {card.threshold:g} on.\n\n" + "\n".join(lines)
    if card.label_kind == "objects":
        decoding = card.decoding
        settings = ", ".join(f"{key} {value}" for key, value in decoding.model_dump().items() if key != "method")
        text += f"\n\nObjects are made of it by {_METHODS[decoding.method]} ({settings})."
    return text


_USE = (
    "In CellTrain, which also makes the objects: `celltrain predict FILE.zip IMAGE --output FOLDER`. In other programs "
    "for bioimage.io models the package gives the maps above, from the TorchScript or ONNX weights."
)


def _rights(original: Original, sheet: Sheet) -> str:
    licence = sheet.license or "none was named: ask the authors before you use or pass on this model"
    authors = "\n".join(f"- {_person(person)}" for person in sheet.authors) or "- not named"
    cited = "\n".join(
        f"- {entry.text}" + (f", https://doi.org/{entry.doi}" if entry.doi and entry.doi not in entry.text else "")
        for entry in citations(original, sheet)
    )
    return f"Licence: {licence}.\n\nAuthors:\n\n{authors}\n\nPlease cite:\n\n{cited}"


def _person(person: Person) -> str:
    orcid = f"https://orcid.org/{person.orcid}" if person.orcid else None
    return ", ".join(part for part in (person.name, person.affiliation, orcid) if part)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _um(spacing: Spacing) -> str:
    return " × ".join(f"{size:.3g}" for size in spacing) + " µm"
