"""A model as a bioimage.io package: https://bioimage.io/docs, in the newest version of the format that is installed.

The package is described, written, validated and run by bioimage.io's own libraries; what they compute from the raw
test image, by their normalization and activation, must be what we compute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_celltrain.errors import ConfigError, ModelFileError
from napari_celltrain.runs.model_file import card_to_yaml, read_weights
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.runs.sharing.description import describe_model
from napari_celltrain.runs.sharing.libraries import bioimageio_ready
from napari_celltrain.runs.sharing.needs import require
from napari_celltrain.runs.sharing.onnx import write_onnx
from napari_celltrain.runs.sharing.original import TOLERANCE, Original
from napari_celltrain.runs.sharing.readme import readme
from napari_celltrain.runs.sharing.sheet import Sheet
from napari_celltrain.runs.sharing.torchscript import write_torchscript
from napari_celltrain.runs.tensor_file import write_tensors

if TYPE_CHECKING:
    from bioimageio.spec.model import AnyModelDescr


def write_package(
    path: Path,
    original: Original,
    image_ZYX: NDArray[np.float32],
    examples: NDArray[np.float32],
    sheet: Sheet,
    name: str,
) -> float:
    """Write the package to ``path`` (not atomically); gives the largest difference from the original.

    ``image_ZYX`` becomes the test image; ``examples`` (2, 1, Z, Y, X) are what the weights are checked on. Raises
    :class:`ModelFileError` where the package is not valid or computes something else, ``ConfigError`` where the sheet
    is not as the standard wants it, or packages are missing.
    """
    require("bioimageio.spec", "bioimageio.core")
    # the library leaves files open until they are collected, and Windows deletes no open file
    with tempfile.TemporaryDirectory(prefix="celltrain-", ignore_cleanup_errors=True) as scratch, bioimageio_ready():
        folder = Path(scratch)
        weights = _write_parts(folder, original, image_ZYX, examples, sheet, name)
        _write_zip(path, folder, weights, original, sheet, name)
        return _check(path, original, image_ZYX)


def _write_parts(
    folder: Path, original: Original, image: NDArray[np.float32], examples: NDArray[np.float32], sheet: Sheet, name: str
) -> Path:
    """All files but the description; gives that of the weights."""
    from napari_celltrain.runs.sharing.cover import write_cover

    output = original.probabilities(original.logits(original.normalized(image)))
    np.save(folder / "test_input.npy", image[None, None])
    np.save(folder / "test_output.npy", output)
    write_cover(folder / "cover.png", image, output[0, 0])
    (folder / "README.md").write_text(readme(name, original, sheet), encoding="utf-8")
    (folder / PACKED_CARD).write_text(card_to_yaml(original.card), encoding="utf-8")
    write_tensors(folder / WEIGHTS, read_weights(original.source), {})
    weights = folder / "weights.pt"
    try:
        write_torchscript(weights, original, examples)
    except ModelFileError:
        weights.unlink(missing_ok=True)
        weights = folder / "weights.onnx"
        write_onnx(weights, original, examples)
    return weights


def _write_zip(path: Path, folder: Path, weights: Path, original: Original, sheet: Sheet, name: str) -> None:
    from bioimageio.spec import save_bioimageio_package

    try:
        model = describe_model(folder, weights, original, sheet, name)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        raise ConfigError(
            f"bioimage.io does not take what was given for {where}: {first['msg']}. Mend it in the options of "
            f"`celltrain export` ({error.error_count()} such problems)."
        ) from error
    try:
        save_bioimageio_package(model, output_path=path)
    except ValueError as error:
        raise ModelFileError(f"The package is not valid for bioimage.io: {error}. It was not kept.") from error


def _check(path: Path, original: Original, image: NDArray[np.float32]) -> float:
    """Let the bioimage.io library test the package, and hold its result against ours."""
    from bioimageio.core import load_model_description, test_model

    summary = test_model(path, devices=["cpu"])
    if summary.status != "passed":
        problems = [f"{error.msg}" for detail in summary.details for error in detail.errors]
        raise ModelFileError(
            f"The package does not pass bioimage.io's test, and was not kept: {'; '.join(problems)[:1000]}"
        )
    expected = original.probabilities(original.logits(original.normalized(image)))
    found = run_package(load_model_description(path), image)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not difference <= TOLERANCE:
        raise ModelFileError(
            f"The package gives other results than the original (they differ by {difference:.2g}, where {TOLERANCE:g} "
            "is allowed). It was not kept."
        )
    return difference


def run_package(model: AnyModelDescr, image_ZYX: NDArray[Any]) -> NDArray[np.float32]:
    """What the bioimage.io library makes of a raw image of the window's size: (1, C, Z, Y, X)."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model

    sample = create_sample_for_model(model, inputs={"image": image_ZYX[None, None]})
    with create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
        result = pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
    return np.asarray(result.members["probabilities"].data)
