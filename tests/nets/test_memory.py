"""The table of memory per voxel, against what is count."""

from __future__ import annotations

import pytest

from napari_celltrain.nets.geometry import bytes_per_voxel
from napari_celltrain.nets.models import MODELS, NetworkSpec, build_network


def kept_bytes(spec: NetworkSpec, device: str) -> float:
    """Bytes per voxel from the forward to the backward pass; on the device ``meta`` counted without computing."""
    import torch

    with torch.device("cpu"):
        network = build_network(spec).to(device)
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # held, so that no storage's address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(1, spec.in_channels, 64, 64, 64, device=device))
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for key, size in storages.items() if key not in own) / 64**3


@pytest.mark.parametrize("key", MODELS.keys())
def test_the_table_is_what_networks_keep(key: str) -> None:
    count = kept_bytes(NetworkSpec(key=key, size="small", out_channels=3), "meta")
    assert bytes_per_voxel(key, "small") == pytest.approx(1.3 * count, rel=0.1)


def test_a_network_from_elsewhere_is_taken_to_need_the_most() -> None:
    known = [bytes_per_voxel(key, "large") for key in MODELS.keys()]  # noqa: SIM118 - a registry is no dictionary
    assert bytes_per_voxel("made_elsewhere", "small") >= max(known)


def test_bytes_are_those_that_torch_keeps() -> None:
    """Counted without contents as with them, but for a copy that a kernel may make on the way."""
    spec = NetworkSpec(key="unet", size="small")
    assert kept_bytes(spec, "meta") == pytest.approx(kept_bytes(spec, "cpu"), rel=0.1)
