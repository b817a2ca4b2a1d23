"""Where a run took place: enough to repeat it, nothing about the person."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("napari-celltrain", "torch", "monai", "numpy", "scipy", "tifffile", "zarr", "safetensors", "napari")


def describe_environment(device: str, processes: int) -> str:
    """``environment.json``: versions, processor, memory, device and the command."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    facts = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_processors": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": device,
        "num_processes": processes,
        "command": command,
    }
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
