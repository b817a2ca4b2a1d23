"""bioimage.io's libraries, kept quiet.

The picture by which a package is recognized: image and prediction side by side.

A model as a bioimage.io package: https://bioimage.io/docs, in the newest version of the format that is installed.

The package is described, written, validated and run by bioimage.io's own libraries; what they compute from the raw
test image, by their normalization and activation, must be what we compute.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from napari_celltrain.io.tensors import write_tensors
from napari_celltrain.runs.model import card_to_yaml, read_weights
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.share.description import describe_model
from napari_celltrain.share.metadata import Sheet
from napari_celltrain.share.network_files import write_onnx, write_torchscript
from napari_celltrain.share.readme import readme
from napari_celltrain.share.source_model import TOLERANCE, Original, require
from napari_celltrain.values.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    from bioimageio.spec.model import AnyModelDescr


@contextlib.contextmanager
def bioimageio_ready() -> Iterator[None]:
    """Within it the libraries write nothing to standard error, and leave all settings of others alone."""
    import torch
    from loguru import logger

    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that they set
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    logger.disable("bioimageio")
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logger.enable("bioimageio.spec")  # core is silent by itself
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


# --- cover -----------------------------------------------------------------------------------------------

_HEIGHT = 256


def write_cover(path: Path, image_ZYX: NDArray[Any], probability_ZYX: NDArray[Any]) -> None:
    """The middle planes as a picture of 512 x 256 pixels: bioimage.io wants a ratio of 2 to 1."""
    from matplotlib.image import imsave

    middle = image_ZYX.shape[0] // 2
    low, high = np.percentile(image_ZYX[middle], (1, 99.8))
    halves = [(image_ZYX[middle] - low) / max(float(high - low), 1e-12), probability_ZYX[middle]]
    picture = np.hstack([_square(np.clip(half, 0, 1)) for half in halves])
    imsave(path, picture, cmap="gray", vmin=0, vmax=1)


def _square(plane_YX: NDArray[Any]) -> NDArray[Any]:
    """Enlarged or shrunk to the height, the rest black."""
    factor = _HEIGHT / max(plane_YX.shape)
    scaled = ndimage.zoom(plane_YX.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest")
    square = np.zeros((_HEIGHT, _HEIGHT), np.float32)
    height, width = (min(size, _HEIGHT) for size in scaled.shape)
    top, left = (_HEIGHT - height) // 2, (_HEIGHT - width) // 2
    square[top : top + height, left : left + width] = scaled[:height, :width]
    return square


# --- bioimageio ------------------------------------------------------------------------------------------


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
