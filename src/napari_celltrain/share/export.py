"""Writing a model as a file for others: checked before it is there under its name, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from napari_celltrain.nets.models import MODELS
from napari_celltrain.share.metadata import Sheet, check_name, default_name
from napari_celltrain.share.source_model import Original, cut_from, load_original, made_up
from napari_celltrain.values import files
from napari_celltrain.values.errors import ConfigError, ModelFileError
from napari_celltrain.values.events import Event, Logged, Prepared, Saved, Warned

Format = Literal["bioimageio", "torchscript", "onnx"]
ENDINGS: dict[Format, str] = {"bioimageio": ".zip", "torchscript": ".pt", "onnx": ".onnx"}


def export(
    source: Path, format: Format, output: Path, sheet: Sheet, *, sample: Path | None = None, replace: bool = False
) -> Iterator[Event]:
    """Write the model of a run folder, model folder or zip to ``output`` and check that it computes the same.

    ``sample`` is an image whose middle becomes the test image; without it one is made up, so that no data leave the
    lab unasked. Raises ``CellTrainError`` subclasses; then there is no file, or still the old one.
    """
    target = _target(output, format, replace)
    name = check_name(sheet.name) if sheet.name else None
    original = load_original(source)
    name = name or default_name([MODELS[original.card.network.key].label, original.card.training.run])
    if format == "bioimageio":
        yield from _warnings(sheet)
    yield Prepared(stage=f"converting to {format}")
    image = cut_from(sample, original.window, channel=original.card.channel) if sample else made_up(original.window)
    example = original.normalized(image)
    examples = np.concatenate([example, np.ascontiguousarray(example[..., ::-1])])
    difference = 0.0

    def write(path: Path) -> None:
        nonlocal difference
        if format == "bioimageio":
            from napari_celltrain.share.bioimageio import write_package

            difference = write_package(path, original, image, examples, sheet, name)
        elif format == "onnx":
            from napari_celltrain.share.network_files import write_onnx

            difference = write_onnx(path, original, examples)
        else:
            from napari_celltrain.share.network_files import write_torchscript

            difference = write_torchscript(path, original, examples)

    try:
        files.write_with(target, write)
    except OSError as error:
        raise ModelFileError(f"{target} cannot be written ({error.strerror or error}).") from error
    yield Logged(message=_verdict(format, original, difference))
    yield Saved(what="model", path=str(target), epoch=original.card.training.epoch)


def _target(output: Path, format: Format, replace: bool) -> Path:
    """The file to write; nothing has to be computed to refuse it."""
    ending = ENDINGS[format]
    if output.is_dir():
        raise ConfigError(f"--output: {output} is a folder. Give the name of a file, ending in {ending}.")
    if output.suffix.lower() != ending:
        raise ConfigError(f"--output: {output.name} must end in {ending}, by which programs know a {format} file.")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output: there is no folder {output.absolute().parent}. Create or choose another one.")
    if output.exists() and not replace:
        raise ConfigError(f"--output: {output} exists already. Give another name, or replace it with --force.")
    return output


def _warnings(sheet: Sheet) -> Iterator[Event]:
    """What the format leaves open, but nobody who is handed a model can do without."""
    missing = [
        (not sheet.authors, "who made it (--author)"),
        (not sheet.license, "under which licence others may use it (--license, such as CC-BY-4.0)"),
        (not sheet.data, "what the training images show (--data)"),
    ]
    wanted = [text for is_missing, text in missing if is_missing]
    if wanted:
        yield Warned(message=f"The package does not say {', nor '.join(wanted)}. bioimage.io asks for it.")


def _verdict(format: Format, original: Original, difference: float) -> str:
    checked = {
        "bioimageio": "It is valid, and bioimage.io's library computes with it what the original does",
        "torchscript": "It computes what the original does",
        "onnx": "ONNX Runtime computes with it what the original does",
    }[format]
    window = " × ".join(map(str, original.window))
    return f"{checked} (largest difference of a probability: {difference:.1g}; window of {window} voxels)."
