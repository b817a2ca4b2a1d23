"""Remembers which numeric format won, so that the same run on the same machine starts sooner and repeats exactly.

Timing is noisy: without this, two runs with equal seeds could pick different formats, and their losses would differ
in the last digits.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import torch

from napari_celltrain.engine.formats import NumericFormat, Probe, Trial

MAX_ENTRIES = 200


def cache_file() -> Path:
    """Where choices are remembered; ``CELLTRAIN_CACHE_DIR`` moves it."""
    folder = os.environ.get("CELLTRAIN_CACHE_DIR") or platformdirs.user_cache_dir("napari-celltrain", appauthor=False)
    return Path(folder) / "numeric_formats.json"


def probe_key(device_name: str, **settings: object) -> str:
    """A short key for everything that the choice depends on."""
    facts = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": device_name,
        **{name: str(value) for name, value in settings.items()},
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def load_probe(key: str) -> Probe | None:
    """What was found before under ``key``, or None; a damaged cache counts as empty."""
    try:
        entry = _read()[key]
        trials = tuple(
            Trial(NumericFormat(t["precision"], t["layout"]), t["seconds"], str(t["note"])) for t in entry["trials"]
        )
        return Probe(NumericFormat(entry["precision"], entry["layout"]), trials)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def save_probe(key: str, probe: Probe) -> None:
    """Remember ``probe``; that it cannot be written is no reason to stop."""
    entries = dict(_read())
    entries.pop(key, None)
    entries[key] = {
        "precision": probe.chosen.precision,
        "layout": probe.chosen.layout,
        "trials": [
            {"precision": t.format.precision, "layout": t.format.layout, "seconds": t.seconds, "note": t.note}
            for t in probe.trials
        ],
    }
    newest = dict(list(entries.items())[-MAX_ENTRIES:])
    path = cache_file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(newest, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _read() -> Mapping[str, dict[str, Any]]:
    try:
        entries = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
