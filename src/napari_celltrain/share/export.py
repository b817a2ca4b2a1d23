"""Writing a model as a file for others: checked before it is there under its name, or not there at all.

A package for https://bioimage.io is written, validated and run by bioimage.io's own libraries, in the newest version of
the format that is installed; what they compute from the raw test image, by their normalization and activation, must be
what we compute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_celltrain.io.tensors import write_tensors
from napari_celltrain.nets.models import MODELS
from napari_celltrain.runs.model import card_to_yaml, read_weights
from napari_celltrain.runs.model_package import PACKED_CARD, WEIGHTS
from napari_celltrain.share import source_model
from napari_celltrain.share.description import describe_model, readme
from napari_celltrain.share.metadata import Metadata, default_name
from napari_celltrain.share.source_model import TOLERANCE, SourceModel, write_onnx, write_torchscript
from napari_celltrain.values import files
from napari_celltrain.values.errors import ConfigError, ModelFileError
from napari_celltrain.values.events import Event, Logged, Prepared, Saved, Warned
from napari_celltrain.values.outside import kind_of
from napari_celltrain.values.text import sizes

Format = Literal["bioimageio", "torchscript", "onnx"]
_FORMATS: dict[Format, tuple[str, str]] = {
    "bioimageio": (".zip", "It is valid, and bioimage.io's library computes with it what the original does"),
    "torchscript": (".pt", "It computes what the original does"),
    "onnx": (".onnx", "ONNX Runtime computes with it what the original does"),
}
_WANTED = {
    "authors": "who made it (--author)",
    "license": "under which licence others may use it (--license, such as CC-BY-4.0)",
    "data": "what the training images show (--data)",
}
"""What bioimage.io's format leaves open, but a user of the model needs to know."""


def export(
    source: Path, format: Format, output: Path, metadata: Metadata, *, sample: Path | None = None, replace: bool = False
) -> Iterator[Event]:
    """Write the model of a run folder, model folder or zip to ``output`` and check that it computes the same.

    ``sample`` is an image whose middle becomes the test image; without it one is made up, so that no data leave the
    lab unasked. Raises ``CellTrainError`` subclasses; then there is no file, or still the old one.
    """
    ending, shown = _FORMATS[format]
    kind = kind_of(output)
    if kind == "folder":
        raise ConfigError(f"--output: {output} is a folder. Give the name of a file, ending in {ending}.")
    if output.suffix.lower() != ending:
        raise ConfigError(f"--output: {output.name} must end in {ending}, by which programs know a {format} file.")
    if kind_of(output.absolute().parent) != "folder":
        raise ConfigError(f"--output: there is no folder {output.absolute().parent}. Create or choose another one.")
    if kind is not None and not replace:
        raise ConfigError(f"--output: {output} exists already. Give another name, or replace it with --force.")
    model = source_model.load_source_model(source)
    if metadata.name is None:
        name = default_name(MODELS[model.card.network.key].label, model.card.training.run)
        metadata = metadata.model_copy(update={"name": name})
    missing = [text for field, text in _WANTED.items() if not getattr(metadata, field)]
    if format == "bioimageio" and missing:
        yield Warned(message=f"The package does not say {', nor '.join(missing)}. bioimage.io asks for it.")
    yield Prepared(stage=f"converting to {format}")
    image = source_model.example_image(model.window, sample, model.card.channel)
    example = model.normalized(image)
    examples = np.concatenate([example, np.ascontiguousarray(example[..., ::-1])])

    def write(path: Path) -> float:
        if format == "bioimageio":
            return write_package(path, model, image, examples, metadata)
        return (write_onnx if format == "onnx" else write_torchscript)(path, model, examples)

    with files.writing(output, ModelFileError):
        files.remove_leftovers(output.absolute().parent)
        difference = files.write_with(output, write)
    window = f"window of {sizes(model.window)} voxels"
    yield Logged(message=f"{shown} (largest difference of a probability: {difference:.1g}; {window}).")
    yield Saved(what="model", path=str(output), epoch=model.card.training.epoch)


def write_package(
    path: Path, model: SourceModel, image_ZYX: NDArray[np.float32], examples: NDArray[np.float32], metadata: Metadata
) -> float:
    """Write the package to ``path`` (not atomically); returns the largest difference from the original.

    ``image_ZYX`` becomes the test image; the weights are checked on ``examples`` (2, 1, Z, Y, X). Raises
    :class:`ModelFileError` where the package is not valid or computes something else, ``ConfigError`` where the
    metadata are not as the standard wants them, or packages are missing.
    """
    source_model.require("bioimageio.spec", "bioimageio.core")
    from bioimageio.spec import save_bioimageio_package
    from loguru import logger

    logger.disable("bioimageio")  # it writes to standard error
    expected = model.probabilities(model.logits(examples[:1]))
    # the library leaves files open until they are collected, and Windows deletes no open file
    with tempfile.TemporaryDirectory(prefix="celltrain-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        np.save(folder / "test_input.npy", image_ZYX[None, None])
        np.save(folder / "test_output.npy", expected)
        _write_cover(folder / "cover.png", image_ZYX, expected[0, 0])
        (folder / "README.md").write_text(readme(model, metadata), encoding="utf-8")
        (folder / PACKED_CARD).write_text(card_to_yaml(model.card), encoding="utf-8")
        write_tensors(folder / WEIGHTS, read_weights(model.source, model.network), {})
        weights = folder / "weights.pt"
        try:
            write_torchscript(weights, model, examples)
        except ModelFileError:
            weights.unlink(missing_ok=True)
            weights = folder / "weights.onnx"
            write_onnx(weights, model, examples)
        try:
            save_bioimageio_package(describe_model(folder, weights, model, metadata), output_path=path)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][:3])
            refused = f"what was given for {where}" if where else "the description as a whole"
            raise ConfigError(
                f"bioimage.io does not take {refused}: {first['msg']}. Fix it in the options of "
                f"`celltrain export` ({error.error_count()} such problems)."
            ) from error
        except ValueError as error:
            raise ModelFileError(f"The package is not valid for bioimage.io: {error}. It was not kept.") from error
        return _check(path, image_ZYX, expected)


def _write_cover(path: Path, image_ZYX: NDArray[Any], probability_ZYX: NDArray[Any]) -> None:
    """The middle planes side by side, as a picture of 512 x 256 pixels: bioimage.io wants a ratio of 2 to 1."""
    from matplotlib.figure import Figure

    middle = image_ZYX.shape[0] // 2
    low, high = np.percentile(image_ZYX[middle], (1, 99.8))
    figure = Figure(figsize=(5.12, 2.56), dpi=100, facecolor="black")
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0})
    left.imshow(image_ZYX[middle], cmap="gray", vmin=low, vmax=max(high, low + 1e-12))
    right.imshow(probability_ZYX[middle], cmap="gray", vmin=0, vmax=1)
    for axes in (left, right):
        axes.axis("off")
    figure.savefig(path)


def _check(path: Path, image: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Let bioimage.io's library test the package, and compare its result with ours."""
    from bioimageio.core import load_model_description, test_model

    summary = test_model(path, devices=["cpu"])
    if summary.status != "passed":
        problems = "; ".join(str(error.msg) for detail in summary.details for error in detail.errors)
        raise ModelFileError(f"The package does not pass bioimage.io's test, and was not kept: {problems[:1000]}")
    found = run_package(load_model_description(path), image)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not difference <= TOLERANCE:
        raise ModelFileError(
            f"The package gives other results than the original (they differ by {difference:.2g}, where {TOLERANCE:g} "
            "is allowed). It was not kept."
        )
    return difference


def run_package(model: Any, image_ZYX: NDArray[Any]) -> NDArray[np.float32]:
    """What bioimage.io's library makes of a raw image of the window's size: (1, C, Z, Y, X)."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model

    sample = create_sample_for_model(model, inputs={"image": image_ZYX[None, None]})
    with create_prediction_pipeline(model, devices=["cpu"]) as pipeline:
        result = pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
    return np.asarray(result.members["probabilities"].data)
