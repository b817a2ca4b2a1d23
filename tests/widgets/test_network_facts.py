"""What the process beside the window finds out, and how the window asks it."""

from __future__ import annotations

import pytest

from napari_celltrain.values.config import Spacing
from napari_celltrain.widgets.costs import CostFinder


@pytest.mark.parametrize(("key", "voxel_size"), [("unet", None), ("segresnet", (5.0, 1.0, 1.0)), ("swinunetr", None)])
def test_costs_are_counted_without_computing(key: str, voxel_size: Spacing | None) -> None:
    from napari_celltrain.nets.models import NetworkSpec, build_network, num_parameters
    from napari_celltrain.widgets.network_facts import network_costs

    spec = NetworkSpec(key=key, size="small", out_channels=3, voxel_size=voxel_size)
    costs = network_costs(spec)
    assert costs["num_parameters"] == num_parameters(build_network(spec))
    assert 20 < costs["bytes_per_voxel"] < 10_000
    assert costs["flops_per_voxel"] > 1000


def test_bytes_are_those_that_torch_keeps() -> None:
    """Counted without contents as with them, but for a copy that a kernel may make on the way."""
    import torch

    from napari_celltrain.nets.models import NetworkSpec, build_network
    from napari_celltrain.widgets.network_facts import network_costs

    spec = NetworkSpec(key="unet", size="small")
    network = build_network(spec)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(1, 1, 64, 64, 64))
    total = sum(size for key, size in kept.items() if key not in own) / 64**3
    assert network_costs(spec)["bytes_per_voxel"] == pytest.approx(total, rel=0.1)


def test_the_finder_asks_and_lets_go(qtbot, counts_costs) -> None:
    finder = CostFinder()
    finder.look(1, (2.0, 0.5, 0.5))
    process = finder._process
    qtbot.waitUntil(lambda: finder.devices is not None, timeout=60_000)
    qtbot.waitUntil(lambda: finder.costs("unet", "small") is not None, timeout=60_000)
    assert finder.devices is not None
    assert finder.devices.threads >= 1
    assert finder.devices.free > 0
    finder.look(1, (2.0, 0.5, 0.5))
    assert finder._process is process, "the same question is not asked twice"
    assert process is not None
    ended = process.state
    finder.stop()
    assert ended() == process.ProcessState.NotRunning
    assert not finder.is_looking
