"""Using a trained model on new volumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import Spacing
from napari_celltrain.data.arrays import Volume
from napari_celltrain.data.volumes import find_volumes, open_volume, write_volume
from napari_celltrain.errors import DataError, ModelFileError
from napari_celltrain.events import Event, Logged, Prepared, Saved
from napari_celltrain.parts.normalization import measure
from napari_celltrain.runs.model_file import ModelCard, load_model, read_card
from napari_celltrain.runs.segmentation import Segmentation, segment

if TYPE_CHECKING:
    from napari_celltrain.runs.model_file import Model

MAX_SCALE_RATIO = 1.5
"""How far a voxel size may be from that of the training data: beyond it, cells look unlike those that were learned."""


def predict(
    model: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    device: str = "auto",
    probabilities: bool = False,
    axes: str | None = None,
    channel: int | None = None,
    voxel_size: Spacing | None = None,
    threads: int | None = None,
) -> Iterator[Event]:
    """Segment every volume of ``inputs`` (files or folders) with the model of a run folder or model folder.

    Writes ``output/NAME.tif`` with the labels, and with ``probabilities`` ``output/NAME_probability.tif`` (float32;
    with classes one file a class). All inputs are looked at before the first is segmented. Raises
    :class:`CellTrainError` subclasses.
    """
    card = read_card(model)
    if channel is None:
        channel = card.channel
    volumes = _open_inputs(inputs, card, axes, channel, voxel_size)
    targets = _plan_outputs(volumes, output, ["", *(_probability_suffixes(card) if probabilities else ())])
    from napari_celltrain.engine.device import describe, resolve_device, set_threads

    chosen = resolve_device(device)
    set_threads(threads)
    loaded = load_model(model, chosen)
    yield Logged(message=f"Segmenting {len(volumes)} volume{'s' if len(volumes) != 1 else ''} on {describe(chosen)}.")
    for index, (volume, target) in enumerate(zip(volumes, targets, strict=True)):
        yield Prepared(stage=f"segmenting {volume.where}", done=index, total=len(volumes))
        found = _predict_volume(loaded, volume, target, probabilities)
        yield Logged(message=f"{volume.where}: {found}")
        yield Saved(what="prediction", path=str(target), epoch=card.training.epoch)
    yield Prepared(stage="segmenting", done=len(volumes), total=len(volumes))


def _open_inputs(
    inputs: Sequence[Path], card: ModelCard, axes: str | None, channel: int | None, voxel_size: Spacing | None
) -> list[Volume]:
    paths = [path for entry in inputs for path in find_volumes(entry)]
    volumes = []
    for path in paths:
        try:
            volume = open_volume(path, axes=axes, channel=channel, voxel_size=voxel_size)
        except DataError:
            if card.channel is None or channel != card.channel:
                raise
            # trained on one channel of several; an image that has just one channel is that channel
            volume = open_volume(path, axes=axes, voxel_size=voxel_size)
        refuse_other_scale(volume, card)
        volumes.append(volume)
    return volumes


def refuse_other_scale(volume: Volume, card: ModelCard) -> None:
    if volume.voxel_size is None or card.voxel_size is None:
        return
    ratios = [max(a / b, b / a) for a, b in zip(volume.voxel_size, card.voxel_size, strict=True)]
    if max(ratios) <= MAX_SCALE_RATIO:
        return
    raise ModelFileError(
        f"{volume.where}: its voxels of {_um(volume.voxel_size)} µm (z, y, x) are too unlike those of "
        f"{_um(card.voxel_size)} µm that the model was trained on. Resample the image to these, or, if its metadata "
        "are wrong, give the true size with --voxel-size Z,Y,X."
    )


def _um(voxel_size: Spacing) -> str:
    return " × ".join(f"{size:.3g}" for size in voxel_size)


def _plan_outputs(volumes: Sequence[Volume], output: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file of labels of each volume; refuses what would overwrite an input, or one result by another."""
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file. Give a folder for the results with --output.")
    folders = {volume.path.resolve().parent for volume in volumes if volume.path is not None}
    if output.resolve() in folders:
        raise DataError(f"{output} holds the images themselves. Give another folder for the results with --output.")
    taken: dict[str, Volume] = {}
    for volume in volumes:
        for suffix in suffixes:
            name = f"{volume.name}{suffix}.tif"
            other = taken.setdefault(name.casefold(), volume)  # some disks take a.tif and A.tif for one
            if other is not volume:
                raise DataError(
                    f"The results of {other.where} and {volume.where} would both be written to {name}. "
                    "Segment them into separate folders."
                )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {output} cannot be made: {error.strerror}.") from error
    return [output / f"{volume.name}.tif" for volume in volumes]


def _probability_suffixes(card: ModelCard) -> list[str]:
    """What the files of probabilities add to a volume's name, one for each output of the network."""
    if card.network.out_channels == 1:
        return ["_probability"]
    return [f"_probability_class{value}" for value in card.class_values]


def _predict_volume(model: Model, volume: Volume, target: Path, probabilities: bool) -> str:
    """Segment one volume and write its files; returns what was found, for people."""
    image = volume.lazy()
    if image is None:
        image = volume.read()
    statistics = measure(image, model.card.normalization, name=volume.where)
    num_outputs = model.card.network.out_channels
    collected: NDArray[np.float32] | None = None
    if probabilities:
        collected = np.zeros((num_outputs, *volume.shape), np.float32)

    def collect(first: int, planes_CZYX: NDArray[np.float32]) -> None:
        if collected is not None:
            collected[:, first : first + planes_CZYX.shape[1]] = planes_CZYX

    result = segment(model, image, statistics, probabilities=collect if probabilities else None)
    write_volume(target, result.labels, volume.voxel_size)
    if collected is not None:
        for suffix, probability in zip(_probability_suffixes(model.card), collected, strict=True):
            write_volume(target.with_name(f"{volume.name}{suffix}.tif"), probability, volume.voxel_size)
    return _found(model.card, result)


def _found(card: ModelCard, result: Segmentation) -> str:
    if card.label_kind == "objects":
        count = int(result.labels.max(initial=0))
        return f"{count} object{'s' if count != 1 else ''}"
    return f"{np.count_nonzero(result.classes) / result.classes.size:.1%} foreground"
