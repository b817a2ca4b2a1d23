"""What the process beside the window finds out, and how the window asks it."""

from __future__ import annotations

import psutil
import pytest

from napari_celltrain.values.config import Spacing, TrainingConfig
from napari_celltrain.widgets.costs import CostFinder, network_arguments


@pytest.mark.parametrize(("key", "voxel_size"), [("unet", None), ("segresnet", (5.0, 1.0, 1.0)), ("swinunetr", None)])
def test_a_network_is_counted_and_tried(key: str, voxel_size: Spacing | None, capsys) -> None:
    import json

    from napari_celltrain.nets.models import NetworkSpec, build_network, num_parameters
    from napari_celltrain.widgets.network_facts import main

    training = TrainingConfig(model=key, model_size="small", device="cpu")
    main(list(network_arguments(training, 3, voxel_size)))
    devices, *found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert devices["threads"] >= 1
    spec = NetworkSpec(key=key, size="small", out_channels=3, voxel_size=voxel_size)
    assert found[0] == {"num_parameters": num_parameters(build_network(spec))}
    assert 1e-9 < found[-1]["seconds_per_voxel"] < 1e-2


def test_the_finder_asks_and_lets_go(qtbot, counts_costs) -> None:
    finder = CostFinder()
    network = network_arguments(TrainingConfig(model_size="small", device="cpu"), 1, (2.0, 0.5, 0.5))
    finder.look(*network)
    process = finder._process
    assert process is not None
    assert process.waitForStarted(150_000)
    number = process.processId()
    qtbot.waitUntil(lambda: finder.devices is not None, timeout=150_000)
    qtbot.waitUntil(lambda: "num_parameters" in finder.facts(*network), timeout=150_000)
    assert finder.devices is not None
    assert finder.devices.threads >= 1
    assert finder.devices.free > 0
    finder.look(*network)
    assert finder._process in (process, None), "the same question is not asked twice"
    finder.stop()
    assert not finder.is_looking
    qtbot.waitUntil(lambda: not psutil.pid_exists(number), timeout=10_000)
