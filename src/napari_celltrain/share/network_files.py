"""A network as ONNX: opened by ONNX Runtime, OpenCV, MATLAB and others, without PyTorch.

A network as TorchScript: opened by PyTorch without MONAI or CellTrain, from Python, C++ and Java.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.runs.model import card_to_yaml
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.share.source_model import Original, check_agreement, require
from napari_celltrain.values.errors import ModelFileError

OPSET = 18
INPUT, OUTPUT = "image", "logits"


def write_onnx(path: Path, original: Original, examples: NDArray[np.float32]) -> float:
    """Convert the network and write it to ``path`` (not atomically), ``model.yaml`` inside; gives the difference.

    ``examples`` are normalized, (2, 1, Z, Y, X). The window has their size; the batch size stays free. The file is
    run by ONNX Runtime and held against the original. Raises :class:`ModelFileError`, and ``ConfigError`` where
    packages are missing.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime
    import torch

    with _quietly():
        try:
            program = torch.onnx.export(
                original.traceable(),
                (torch.from_numpy(examples[:1]),),
                dynamo=True,  # the older exporter fixes the batch size of Swin UNETR
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # conversion runs foreign code in many steps
            raise ModelFileError(
                f"The network {original.card.network.key} cannot be converted to ONNX ({type(error).__name__}). "
                "Export it as TorchScript."
            ) from error
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # they name the folders, and so maybe the person, it was made in
        program.model.metadata_props[CARD] = card_to_yaml(original.card)
        program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return check_agreement(original, lambda batch: session.run([OUTPUT], {INPUT: batch})[0], examples)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells much of its own affairs, as of operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


# --- torchscript -----------------------------------------------------------------------------------------


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
