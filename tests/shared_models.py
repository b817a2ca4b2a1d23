"""Models to give away, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from balls import make_pair
from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import read_card, write_model
from napari_celltrain.share.metadata import Metadata
from tiny_models import write_tiny_model

WINDOW = (16, 32, 32)
METADATA = Metadata(
    name="Nuclei of embryos",
    authors=("Jane Doe; affiliation=A University; orcid=0000-0002-1825-0097",),
    license="CC-BY-4.0",
    cite=("Doe et al. 2026, Nuclei, https://doi.org/10.1234/nuclei.5",),
    data="Mouse embryos, DAPI, light sheet.",
    limits="Misses dividing nuclei.",
)


def write_network(results: Path, key: str, **changes: Any) -> Path:
    """The run folder of another network than the tiny U-Net; ``changes`` replace fields of the card."""
    fields = {"target": "foreground", "objects": None} | changes
    card = read_card(write_tiny_model(results, "other", **fields))
    spec = NetworkSpec(key=key, size="small", out_channels=card.network.out_channels)
    folder = RunFolder.create(results, key, key)
    torch.manual_seed(0)
    write_model(folder, card.model_copy(update={"network": spec}), build_network(spec).state_dict())
    return folder.path


def camera_image(seed: int = 0) -> np.ndarray:
    """Whole numbers, with objects (Z, Y, X)."""
    return make_pair(seed, WINDOW)[0]
