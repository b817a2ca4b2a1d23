"""The table of memory per voxel, against what is count."""

from __future__ import annotations

import pytest

from napari_celltrain.nets.geometry import bytes_per_voxel
from napari_celltrain.nets.models import MODELS, NetworkSpec


@pytest.mark.parametrize("key", MODELS.keys())
def test_the_table_is_what_networks_keep(key: str) -> None:
    from napari_celltrain.widgets.network_facts import network_costs

    count = network_costs(NetworkSpec(key=key, size="small", out_channels=3))["bytes_per_voxel"]
    assert bytes_per_voxel(key, "small") == pytest.approx(1.3 * count, rel=0.1)


def test_a_network_from_elsewhere_is_taken_to_need_the_most() -> None:
    known = [bytes_per_voxel(key, "large") for key in MODELS.keys()]  # noqa: SIM118 - a registry is no dictionary
    assert bytes_per_voxel("made_elsewhere", "small") >= max(known)
