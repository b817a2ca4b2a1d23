"""A small process of its own, as it imports torch, which the window must not: finds devices and tries a network.

``python -m napari_celltrain.widgets.network_facts [MODEL SIZE OUTPUTS DEVICE [Z Y X]]``, the voxel size at the end,
prints one JSON object a line: the devices, the network's parameters, and the seconds of a training step per voxel.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from functools import partial
from typing import Any

import psutil

_SIDES = (32, 64)
_SHORT = 0.5  # seconds: a network that is quicker is tried on a larger patch, which is more exact


def main(arguments: list[str]) -> None:
    from napari_celltrain.nets.models import NetworkSpec, build_network, num_parameters

    with contextlib.suppress(psutil.Error, OSError):  # the window comes first, and then the process that waits to train
        psutil.Process().nice(getattr(psutil, "IDLE_PRIORITY_CLASS", 15))
    report = partial(print, flush=True)
    report(json.dumps(found_devices()))
    if arguments:
        model, size, outputs, device, *voxel_size = arguments
        spec = {"key": model, "size": size, "out_channels": outputs, "voxel_size": voxel_size or None}
        with contextlib.suppress(Exception):  # a network from another package may fail in any way
            network = build_network(NetworkSpec.model_validate(spec))
            report(json.dumps({"num_parameters": num_parameters(network)}))
            for side in _SIDES:
                seconds = step_seconds(network, side, device)
                report(json.dumps({"seconds_per_voxel": seconds / side**3}))
                if seconds > _SHORT:
                    break


def found_devices() -> dict[str, Any]:
    """GPUs with their names and memory, and the processor."""
    import torch

    from napari_celltrain.engine.device import set_threads

    set_threads(None)
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        with contextlib.suppress(RuntimeError):  # a GPU that another process holds alone
            free, total = torch.cuda.mem_get_info(index)
            gpus.append({"name": torch.cuda.get_device_name(index), "free": int(free), "total": int(total)})
    return {
        "gpus": gpus,
        "mps": bool(torch.backends.mps.is_available()),
        "threads": torch.get_num_threads(),
        "free": int(psutil.virtual_memory().available),
    }


def step_seconds(network: Any, side: int, device_name: str) -> float:
    """The shorter of two training steps (without the optimizer's) on a patch of ``side`` voxels along each axis."""
    import torch

    from napari_celltrain.engine.device import resolve_device, synchronize

    device = resolve_device(device_name)
    network.to(device).to(memory_format=torch.channels_last_3d)
    image = torch.rand(1, 1, side, side, side, device=device).contiguous(memory_format=torch.channels_last_3d)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        network(image).sum().backward()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main(sys.argv[1:])
