"""What is told of a model before it is used."""

from __future__ import annotations

from napari_celltrain.config import Spacing
from napari_celltrain.parts.models import MODELS
from napari_celltrain.runs.model_file import ModelCard
from napari_celltrain.widgets.segment.recent_models import score_of
from napari_celltrain.widgets.wording import count

METHODS = {
    "components": ("connected pieces", "Touching cells stay together."),
    "watershed": ("watershed of the shape", "Touching cells are parted where the foreground has a waist."),
    "learned": ("learned borders", "Touching cells are parted where the network sees a border."),
}
"""Label and a line of help of each way from maps to objects."""


def facts_of(card: ModelCard) -> list[tuple[str, str]]:
    """Pairs of a heading and a text, for people."""
    training = card.training
    facts = [
        ("Network", f"{MODELS[card.network.key].label}, {card.network.size}"),
        ("Gives", _what_it_gives(card)),
        ("Trained on", f"{count(training.num_training, 'volume')}, best at epoch {training.epoch}"),
        ("Scores", f"{score_of(card)} on {count(training.num_validation, 'validation volume')}"),
        ("Voxel size", f"{um(card.voxel_size)} (z, y, x)" if card.voxel_size else "unknown"),
    ]
    if card.channel is not None:
        facts.append(("Channel", f"{card.channel} (counted from 0)"))
    if card.label_kind == "objects":
        facts.append(("Objects", _decoding(card)))
    return facts


def um(size: Spacing | None) -> str:
    """For people; `` × `` between z, y and x."""
    if size is None:
        return "unknown size"
    return " × ".join(f"{value:.3g}" for value in size) + " µm"


def _what_it_gives(card: ModelCard) -> str:
    if card.label_kind == "classes":
        return f"{len(card.class_values)} classes, of the values {', '.join(map(str, card.class_values))}"
    if card.label_kind == "foreground":
        return "foreground and background"
    return "numbered objects" + (", told apart by what it has learned" if card.target == "objects" else "")


def _decoding(card: ModelCard) -> str:
    decoding = card.decoding
    parts = [f"{METHODS[decoding.method][0]}, threshold {card.threshold:.3g}"]
    if decoding.method != "components":
        parts.append(f"seeds {decoding.seed_distance_um:.3g} µm apart")
    if decoding.min_size_um3 > 0:
        parts.append(f"from {decoding.min_size_um3:.3g} µm³")
    return ", ".join(parts)
