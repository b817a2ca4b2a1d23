"""A network as TorchScript: opened by PyTorch without MONAI or CellTrain, from Python, C++ and Java."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.errors import ModelFileError
from napari_celltrain.runs.model_file import card_to_yaml
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.runs.sharing.original import Original, check_agreement


def write_torchscript(path: Path, original: Original, examples: NDArray[np.float32]) -> float:
    """Trace the network and write it to ``path`` (not atomically), ``model.yaml`` inside; gives the difference.

    ``examples`` are normalized, (2, 1, Z, Y, X). What was written is read back and held against the original. The
    batch size stays free; the size of the window does only where no layer normalizes over it. Raises
    :class:`ModelFileError`.
    """
    import torch

    module = original.traceable()
    with warnings.catch_warnings():
        # it warns of every size that becomes a constant (the check below is made with these sizes), and of its age
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(module, torch.from_numpy(examples[:1]), check_trace=False)
        except Exception as error:  # tracing runs foreign code with foreign values
            raise ModelFileError(
                f"The network {original.card.network.key} cannot be converted to TorchScript ({_first_line(error)}). "
                "Export it as ONNX."
            ) from error
        torch.jit.save(traced, str(path), _extra_files={CARD: card_to_yaml(original.card)})
        _leave_out_sources(path)
        written = torch.jit.load(str(path), map_location="cpu")

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(written(torch.from_numpy(batch)).numpy())

    return check_agreement(original, run, examples)


def _leave_out_sources(path: Path) -> None:
    """Rewrite the file without its debug information: it names the folders, and so maybe the person, it was made in."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
