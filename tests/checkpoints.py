"""What a saved file holds, flat by name, to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_celltrain.io.tensors import read_tensors


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint (``last.pt``) or of a safetensors file."""
    if path.suffix != ".pt":
        return read_tensors(path)[0]
    return dict(_flat("", torch.load(path, "cpu", weights_only=True)["learner"]))


def _flat(prefix: str, value: Any) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(prefix, value)]
    return [pair for key, part in value.items() for pair in _flat(f"{prefix}/{key}", part)]
