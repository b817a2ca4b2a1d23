"""How much memory a training step keeps per voxel, known before any network is built."""

from __future__ import annotations

_SIZES = ("small", "medium", "large")

# Bytes in float32 from the forward to the backward pass, for the small, medium and large network, counted on tensors
# without contents.
_KEPT = {
    "unet": (110, 180, 320),
    "segresnet": (470, 940, 1900),
    "dynunet": (430, 860, 1700),
    "attention_unet": (540, 1100, 2100),
    "vnet": (310, 590, 1100),
    "swinunetr": (3300, 4300, 6300),
    "trailmap": (880, 1800, 3500),
}
_UNKNOWN = 6300
"""A network from another package is taken to be as demanding as the most demanding of ours."""
_WORKING_SHARE = 1.3  # what convolutions need beside what is kept


def bytes_per_voxel(model: str, size: str) -> float:
    """Of a patch, in a training step."""
    kept = _KEPT.get(model)
    return _WORKING_SHARE * (_UNKNOWN if kept is None else kept[_SIZES.index(size)])
