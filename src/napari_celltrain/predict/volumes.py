"""Using a trained model on new volumes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.io.volumes import find_volumes
from napari_celltrain.nets.normalize import measure
from napari_celltrain.predict.blocks import fits_memory, has_folder
from napari_celltrain.predict.inputs import InputRequest, refuse_other_scale, unknown_size
from napari_celltrain.predict.large_volumes import LargeVolume, Share, segment_large
from napari_celltrain.predict.outputs import (
    Cancelled,
    FileFormat,
    plan_targets,
    probability_suffixes,
    write_result,
)
from napari_celltrain.runs.model import ModelCard, Segmentation, load_model, read_card, segment
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import ConfigError
from napari_celltrain.values.events import Event, Logged, Prepared, Saved

__all__ = ["predict", "refuse_other_scale"]


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
    resample: bool = False,
    threshold: float | None = None,
    decoding: ObjectDecoding | None = None,
    file_format: FileFormat = "auto",
    blocks: Share | None = None,
    dask: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Segment every volume of ``inputs`` (files or folders) with the model of a run folder or model folder.

    Writes ``output/NAME.tif``, or ``NAME.ome.zarr`` for inputs that are OME-Zarr (``file_format`` decides
    otherwise), with the labels; with ``probabilities`` also ``NAME_probability`` (float32; one file an output of the
    network). All inputs are looked at before the first is segmented. What does not fit the memory is segmented block
    by block in a hidden folder beside the result, where the same call goes on if it was interrupted; so is everything
    with ``blocks`` (this process does share I of N of the network's blocks of each volume) and with ``dask`` (the
    address of a scheduler, whose workers compute the blocks). ``threshold`` and ``decoding`` replace the model's own.
    ``cancelled`` is asked often; the files of volumes that are done stay. Raises :class:`CellTrainError` subclasses.
    """
    _check_share(blocks, dask)
    card = _adjusted(read_card(model), threshold, decoding)
    paths = [path for entry in inputs for path in find_volumes(entry)]
    requests = [InputRequest(path, axes, channel, voxel_size, resample) for path in paths]
    volumes = [request.look(card) for request in requests]
    suffixes = probability_suffixes(card) if probabilities else []
    targets = plan_targets(volumes, output, file_format, suffixes)
    from napari_celltrain.engine.device import describe, resolve_device, set_threads

    chosen = resolve_device(device if dask is None else "cpu")  # the workers resolve it themselves
    set_threads(threads)
    load = lru_cache(maxsize=1)(lambda: replace(load_model(model, chosen), card=card))
    if dask is None:
        load()  # a damaged model is refused before anything is read
    where = describe(chosen) if dask is None else f"the dask cluster at {dask}"
    yield Logged(message=f"Segmenting {len(volumes)} volume{'s' if len(volumes) != 1 else ''} on {where}.")
    with contextlib.ExitStack() as stack:
        client = None
        if dask is not None:
            from napari_celltrain.predict.cluster import connect

            client = stack.enter_context(connect(dask))
        for index, (request, target) in enumerate(zip(requests, targets, strict=True)):
            yield Prepared(stage=f"segmenting {request.path.name}", done=index, total=len(requests))
            opened = request.open(card)
            if opened.volume.voxel_size is None and card.voxel_size is not None:
                yield unknown_size(opened.volume, card)
            job = LargeVolume(model, card, load, opened, target, probabilities, device, cancelled, blocks, client)
            with contextlib.suppress(Cancelled):
                begun = has_folder(output, target.name)
                if blocks or dask or begun or not fits_memory(card, opened.image, probabilities=probabilities):
                    yield from segment_large(job)
                else:
                    yield from _segment_at_once(job)
            if cancelled():
                return
    if blocks is None:
        yield Prepared(stage="segmenting", done=len(volumes), total=len(volumes))


def _check_share(share: Share | None, dask: str | None) -> None:
    if share is None:
        return
    if not 1 <= share[0] <= share[1]:
        raise ConfigError(
            f"--blocks {share[0]}/{share[1]} is no share. Give I/N, with I from 1 to N, such as 1/8 for the first of 8."
        )
    if dask is not None:
        raise ConfigError("--blocks and --dask are two ways of dividing the work. Give one of them.")


def _adjusted(card: ModelCard, threshold: float | None, decoding: ObjectDecoding | None) -> ModelCard:
    """The card with other values than those that were tuned."""
    changed: dict[str, object] = {}
    if threshold is not None:
        if not 0.001 <= threshold <= 0.999:
            raise ConfigError(f"The threshold is {threshold:g}. Give a probability from 0.001 to 0.999.")
        changed["threshold"] = threshold
    if decoding is not None:
        if card.label_kind != "objects":
            raise ConfigError("This model does not tell objects apart, so options of objects have no effect on it.")
        if decoding.method == "learned" and card.target != "objects":
            raise ConfigError(
                "This model has not learned to tell objects apart. Take the method components or watershed."
            )
        changed["objects"] = decoding
    return card.model_copy(update=changed)


def _segment_at_once(job: LargeVolume) -> Iterator[Event]:
    """For what fits the memory."""
    model, opened = job.load(), job.opened
    statistics = measure(opened.raw, job.card.normalization, name=job.where)
    collected: NDArray[np.float32] | None = None
    if job.probabilities:
        collected = np.zeros((job.card.network.out_channels, *opened.image.shape), np.float32)

    def collect(first: int, planes_CZYX: NDArray[np.float32]) -> None:
        if collected is not None:
            collected[:, first : first + planes_CZYX.shape[1]] = planes_CZYX

    result = segment(
        model,
        opened.image,
        statistics,
        voxel_size=opened.voxel_size,
        probabilities=collect if job.probabilities else None,
        cancelled=job.cancelled,
    )
    if job.cancelled():
        return
    size = opened.volume.voxel_size
    for _ in write_result(job.target, "", opened.labels_on_grid(result.labels), size, job.cancelled):
        pass
    if collected is not None:
        for suffix, probability in zip(probability_suffixes(job.card), collected, strict=True):
            for _ in write_result(job.target, suffix, opened.map_on_grid(probability), size, job.cancelled):
                pass
    yield Logged(message=f"{job.where}: {_found(job.card, result)}")
    yield Saved(what="prediction", path=str(job.target.path()), epoch=job.card.training.epoch)


def _found(card: ModelCard, result: Segmentation) -> str:
    if card.label_kind == "objects":
        count = int(result.labels.max(initial=0))
        return f"{count} object{'s' if count != 1 else ''}"
    return f"{np.count_nonzero(result.classes) / result.classes.size:.1%} foreground"
