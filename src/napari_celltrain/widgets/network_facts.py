"""Run as a process of its own: says which devices there are and what each network costs, one JSON line each.

``python -m napari_celltrain.widgets.network_facts NUM_OUTPUTS [Z Y X]``, the voxel size at the end. It imports torch
and MONAI, which the window must not; nothing but :func:`main` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

from napari_celltrain.nets.models import MODELS, NetworkSpec, build_network
from napari_celltrain.values.config import Spacing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SIDE = 64
_SIZES = ("small", "medium", "large")


def main(arguments: list[str]) -> None:
    with contextlib.suppress(psutil.Error, OSError):  # the window comes first, and then the process that waits to train
        psutil.Process().nice(getattr(psutil, "IDLE_PRIORITY_CLASS", 15))
    num_outputs = int(arguments[0])
    spacing = [float(text) for text in arguments[1:4]]
    voxel_size: Spacing | None = (spacing[0], spacing[1], spacing[2]) if len(spacing) == 3 else None
    _tell("devices", found_devices())
    for entry in MODELS:
        for size in _SIZES:
            spec = NetworkSpec.model_validate(
                {"key": entry.key, "size": size, "out_channels": num_outputs, "voxel_size": voxel_size}
            )
            # a network from another package may fail in any way; the others are still worth telling
            with contextlib.suppress(Exception):
                _tell("network", {"key": entry.key, "size": size, **network_costs(spec)})
    for device in ["cpu", *(["cuda"] if _has_cuda() else [])]:
        with contextlib.suppress(RuntimeError):
            _tell("speed", {"device": device, **measure_speed(device)})


def found_devices() -> dict[str, Any]:
    """GPUs with their names and memory, and the processor."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if _has_cuda() else 0):
        with contextlib.suppress(RuntimeError):  # a GPU that another process holds alone
            free, total = torch.cuda.mem_get_info(index)
            gpus.append({"name": torch.cuda.get_device_name(index), "free": int(free), "total": int(total)})
    return {
        "gpus": gpus,
        "mps": bool(torch.backends.mps.is_available()),
        "threads": _num_cores(),
        "free": int(psutil.virtual_memory().available),
    }


def network_costs(spec: NetworkSpec) -> dict[str, float]:
    """Parameters, and bytes and operations per voxel, count on tensors without contents."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = _without_contents(lambda: build_network(spec))
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # held, so that no storage's address is used twice
        return tensor

    image = torch.zeros(1, spec.in_channels, _SIDE, _SIDE, _SIDE, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(image).sum().backward()
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept}
    return {
        "num_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "bytes_per_voxel": sum(size for key, size in storages.items() if key not in own) / _SIDE**3,
        "flops_per_voxel": counter.get_total_flops() / _SIDE**3,
    }


def measure_speed(device_name: str) -> dict[str, float]:
    """Two short trials: a small network, which mostly moves memory, and wide convolutions, which mostly compute."""
    import torch
    from torch import nn

    device = torch.device(device_name)
    spec = NetworkSpec(key="unet", size="small")
    costs = network_costs(spec)
    seconds = _time_step(build_network(spec), torch.rand(2, 1, _SIDE, _SIDE, _SIDE), device)
    bytes_per_second = 2 * _SIDE**3 * costs["bytes_per_voxel"] / seconds
    width, side = 64, 32
    wide = nn.Sequential(*(nn.Conv3d(width, width, 3, padding=1) for _ in range(2)))
    flops = 2 * width * width * 27 * side**3 * len(wide) * 3  # forward, and two products backward
    seconds = _time_step(wide, torch.rand(1, width, side, side, side, requires_grad=True), device)
    return {"bytes_per_second": bytes_per_second, "flops_per_second": flops / seconds}


def _time_step(network: nn.Module, image: Tensor, device: torch.device) -> float:
    """The shortest of a few training steps."""
    import torch

    network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    image = image.detach().to(device).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    times = []
    for _ in range(4):
        start = time.perf_counter()
        network(image).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _without_contents(build: Callable[[], nn.Module]) -> nn.Module:
    """The network on torch's meta device; of some, initialization needs true numbers."""
    import torch

    try:
        with torch.device("meta"):
            return build().to("meta")
    except (RuntimeError, NotImplementedError):
        return build().to("meta")


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:  # Windows and macOS
        return os.cpu_count() or 1


def _tell(kind: str, facts: dict[str, Any]) -> None:
    print(json.dumps({"kind": kind, **facts}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
