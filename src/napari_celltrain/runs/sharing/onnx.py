"""A network as ONNX: opened by ONNX Runtime, OpenCV, MATLAB and others, without PyTorch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.errors import ModelFileError
from napari_celltrain.runs.model_file import card_to_yaml
from napari_celltrain.runs.model_package import CARD
from napari_celltrain.runs.sharing.needs import require
from napari_celltrain.runs.sharing.original import Original, check_agreement

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
