"""Run folders with a model that nobody has trained, for what does not ask how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import ModelCard, TrainingSummary, write_model
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.decoding import OBJECT_MAPS, ObjectDecoding

VOXEL_SIZE = (1.0, 0.5, 0.5)
LEARNED = ObjectDecoding(
    method="learned",
    smoothing_um=0.5,
    seed_distance_um=1.5,
    seed_level=0.4,
    depth_weight=0.1,
    min_size_um3=0.5,
    context_um=8.0,
)


def write_tiny_model(results: Path, name: str = "run", **changes: Any) -> Path:
    """The run folder ``results/name``; ``changes`` replace fields of the card."""
    fields: dict[str, Any] = {"voxel_size": VOXEL_SIZE, "target": "objects", "objects": LEARNED}
    fields |= {"window": (16, 32, 32)} | changes
    num_outputs = len(OBJECT_MAPS) if fields["target"] == "objects" else len(fields.get("class_values", ())) or 1
    summary = TrainingSummary(
        run=name,
        epoch=7,
        validation_dice=0.875,
        validation_f1=0.75,
        num_training=4,
        num_validation=1,
        loss="dice_ce",
        package_version="0",
    )
    torch.manual_seed(0)
    spec = NetworkSpec(key="unet", size="small", out_channels=num_outputs)
    card = ModelCard(network=spec, training=summary, **fields)
    folder = RunFolder.create(results, name, "unet")
    folder.write_config(RunConfig())
    write_model(folder, card, build_network(card.network).state_dict())
    return folder.path
