"""Applying a trained model to new volumes: in one go where they fit the memory, otherwise by blocks.

By blocks there are three passes: the network; the objects in its maps; their numbering, which is written straight to
the result. Each goes on where it was interrupted, and the blocks can be shared among processes or a dask cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray, voxels_in
from napari_celltrain.io.volumes import find_volumes
from napari_celltrain.io.writer import Checklist
from napari_celltrain.predict.blocks import (
    BlockStore,
    create_store,
    fingerprint,
    fits_memory,
    make_plan,
    remove_store,
    store_path,
    stores_for,
)
from napari_celltrain.predict.cluster import Task, compute_remotely, connect
from napari_celltrain.predict.files import (
    FileFormat,
    InputRequest,
    OpenedInput,
    Target,
    plan_targets,
    probability_suffixes,
    unknown_size,
    write_result,
)
from napari_celltrain.predict.passes import Pass, decode_objects, labels_of, predict_maps, probability_of, share_of
from napari_celltrain.runs.model import Model, ModelCard, load_model, read_card, segment
from napari_celltrain.values import files
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import ConfigError, DataError, Problem, each_of, grouped
from napari_celltrain.values.events import Event, Logged, Prepared, Saved, Warned
from napari_celltrain.values.text import count

if TYPE_CHECKING:
    from distributed import Client


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
    blocks: str | None = None,
    dask: str | None = None,
) -> Generator[Event, None, None]:
    """Segment every volume of ``inputs`` (files or folders) with the model of a run folder or model folder.

    Writes ``output/NAME.tif``, or ``NAME.ome.zarr`` for inputs that are OME-Zarr (``file_format`` decides
    otherwise), with the labels; with ``probabilities`` also ``NAME_probability`` (float32; one file an output of the
    network). All inputs are looked at before the first is read. What does not fit the memory is predicted block by
    block in a hidden folder beside the result, where the same call goes on if it was interrupted; so is everything
    with ``blocks`` (``I/N``: this process does share I of N of the network's blocks of each volume) and with ``dask``
    (the address of a scheduler, whose workers compute the blocks). ``threshold`` and ``decoding`` replace the model's
    own. Files that are complete stay when the generator is closed. Raises :class:`CellTrainError` subclasses.
    """
    share = _share(blocks, dask)
    card = adjusted(read_card(model), threshold, decoding)
    paths = [path.absolute() for each in inputs for path in find_volumes(each)]
    requests = [InputRequest(path, axes, channel, voxel_size, resample) for path in paths]
    volumes = each_of(partial(request.look, card) for request in requests)
    targets = plan_targets(volumes, output, file_format, probability_suffixes(card) if probabilities else [])
    from napari_celltrain.engine.device import describe, resolve_device, set_threads

    chosen = resolve_device(device if dask is None else "cpu")  # the workers resolve it themselves
    set_threads(threads)
    load = lru_cache(maxsize=1)(lambda: replace(load_model(model, chosen), card=card))
    if dask is None:
        load()  # a damaged model is refused before anything is read
    where = describe(chosen) if dask is None else f"the dask cluster at {dask}"
    for problem in grouped(remark for volume in volumes for remark in (*volume.remarks, *unknown_size(volume, card))):
        yield Warned(message=str(problem))
    yield Logged(message=f"Segmenting {count(len(volumes), 'volume')} on {where}.")
    with contextlib.nullcontext() if dask is None else connect(dask) as client:
        for index, (request, target) in enumerate(zip(requests, targets, strict=True)):
            yield Prepared(stage=f"segmenting {request.path.name}", done=index, total=len(requests))
            opened = request.open(card)
            yield from _Prediction(
                model, card, load, request, opened, target, probabilities, device, share, client
            ).events()
    if blocks is None:
        yield Prepared(stage="segmenting", done=len(volumes), total=len(volumes))


def _share(blocks: str | None, dask: str | None) -> tuple[int, int] | None:
    """Part I (count from 1) of N of the network's blocks, from ``I/N``."""
    if blocks is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", blocks)
    index, total = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= total:
        remedy = "Give I/N, with I from 1 to N, such as 1/8 for the first of 8."
        raise ConfigError(Problem("no-share", blocks, "is no share.", remedy, settings=("blocks",)))
    if dask is not None:
        message = "Shares of the blocks and a dask cluster are two ways of dividing the work."
        raise ConfigError(Problem("two-ways", "", message, "Give one of them.", settings=("blocks", "dask")))
    return index, total


def adjusted(card: ModelCard, threshold: float | None, decoding: ObjectDecoding | None) -> ModelCard:
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


@dataclass(frozen=True, slots=True)
class _Prediction:
    """One volume, and everything that its results depend on."""

    model: Path
    card: ModelCard
    load: Callable[[], Model]
    """Gives the model, which is loaded only where this process applies it."""
    request: InputRequest
    opened: OpenedInput
    target: Target
    probabilities: bool
    device: str
    share: tuple[int, int] | None
    client: Client | None

    @property
    def where(self) -> str:
        return self.opened.volume.where

    def events(self) -> Iterator[Event]:
        """Write the results. Ends with :class:`Saved`, or, where other processes have to finish, with a
        :class:`Logged` that says so."""
        folder, name = self.target.folder, self.target.name
        divided = self.share is not None or self.client is not None or bool(stores_for(folder, name))
        if not divided and fits_memory(self.card, self.opened.image, probabilities=self.probabilities):
            yield from self._at_once()
            return
        options = {"probabilities": self.probabilities, "resampled": self.opened.is_resampled}
        mark = fingerprint(self.model, self.card, self.opened.volume, **options)
        path = store_path(folder, name, mark)
        with files.writing(path, DataError):
            yield from self._by_blocks(path, mark)

    def _at_once(self) -> Iterator[Event]:
        image = self.opened.image
        statistics = self.card.measure(self.opened.raw, self.where)
        size = (self.card.network.out_channels if self.probabilities else 0, *zyx(image.shape))
        maps = np.zeros(size, np.float32)

        def collect(first: int, planes_CZYX: NDArray[np.float32]) -> None:
            maps[:, first : first + planes_CZYX.shape[1]] = planes_CZYX

        keep = collect if self.probabilities else None
        result = segment(self.load(), image, statistics, voxel_size=self.opened.voxel_size, probabilities=keep)
        for _ in self._write(result.labels, list(maps)):
            pass
        num_objects = int(result.labels.max(initial=0)) if self.card.label_kind == "objects" else None
        yield from self._finished(num_objects, int(np.count_nonzero(result.classes)))

    def _by_blocks(self, path: Path, mark: str) -> Iterator[Event]:
        store = yield from self._open_store(path, mark)
        numbers, done = range(len(store.plan.maps)), store.done["maps"]
        own = numbers if self.share is None else share_of(numbers, *self.share)
        yield from self._compute(store, "maps", done.missing(own))
        left = done.missing(numbers) if path.exists() else []
        if left:
            yield Logged(
                message=f"{self.where}: this share of the blocks is done; {count(len(left), 'block')} of other shares "
                "to go. The process that computes the last one makes the result; the same command without a share "
                "computes all that is left."
            )
            return
        with store.finishing() as alone:
            if not alone:
                yield Logged(message=f"{self.where}: all blocks are done, and another process makes the result.")
                return
            yield from self._finish(store)

    def _open_store(self, path: Path, mark: str) -> Generator[Event, None, BlockStore]:
        """The folder that an interrupted command has left, or a new one."""
        for other in stores_for(self.target.folder, self.target.name):
            if other != path:
                yield Warned(
                    message=f"{self.where}: the unfinished work of an earlier command is deleted, since the model, "
                    "the image or the options have changed since. Starting again."
                )
                remove_store(other)
        if path.exists():
            store = BlockStore(path)
            if (store.plan.fingerprint, store.plan.shape) != (mark, zyx(self.opened.image.shape)):
                raise DataError(f"{path} holds the work of another command. Delete this folder, and start again.")
            total = len(store.plan.maps)
            done = total - len(store.done["maps"].missing(range(total)))
            yield Logged(
                message=f"{self.where}: going on with what is there: {done} of {count(total, 'block')} are done."
            )
            return store
        yield Prepared(stage=f"measuring {self.where}")
        statistics = self.card.measure(self.opened.raw, self.where)
        spacing = self.opened.voxel_size or self.card.spacing
        plan = make_plan(self.card, self.opened.image, spacing, statistics, mark, probabilities=self.probabilities)
        return create_store(path, plan)

    def _compute(self, store: BlockStore, stage: Pass, numbers: list[int]) -> Iterator[Event]:
        """Compute blocks, here or by the cluster."""
        if not numbers:
            return
        what = "segmenting" if stage == "maps" else "finding objects in"
        progressed = partial(Prepared, stage=f"{what} {self.where}", total=len(numbers))
        yield progressed(done=0)
        if self.client is not None:
            task = Task(self.request, self.model.absolute(), self.card, self.device)
            blocks = compute_remotely(self.client, task, store, stage, numbers)
        elif stage == "maps":
            blocks = predict_maps(self.load(), self.opened.image, store, numbers)
        else:
            num_threads = min(2, os.cpu_count() or 1)  # each takes as much memory as the network
            blocks = decode_objects(self.card, store, numbers, num_threads)
        for done in blocks:
            yield progressed(done=done)

    def _finish(self, store: BlockStore) -> Iterator[Event]:
        """Make the result: by one process alone, helped by the cluster where there is one."""
        plan = store.plan
        if plan.objects is not None:
            numbers = store.done["objects"].missing(range(len(plan.objects)))
            yield from self._compute(store, "objects", numbers)
        labels, num_objects = labels_of(self.card, store)
        regions = map(plan.maps.region, range(len(plan.maps) if num_objects is None else 0))
        foreground = sum(int(np.count_nonzero(store.read("maps", region))) for region in regions)
        maps = [probability_of(store, channel) for channel in range(plan.num_outputs if plan.probabilities else 0)]
        growing = store.path / "labels.ome.zarr"
        if not growing.exists():  # not begun, or complete and moved to its place by a command that was interrupted then
            store.done["labels"].clear()
        yield from self._write(labels, maps, (growing, store.done["labels"]))
        remove_store(store.path)
        yield from self._finished(num_objects, foreground)

    def _write(
        self, labels: LazyArray, maps: Sequence[LazyArray], growing: tuple[Path, Checklist] | None = None
    ) -> Iterator[Event]:
        opened = self.opened
        suffixes = probability_suffixes(self.card) if maps else []
        results = [("", opened.labels_on_grid(labels), growing)]
        results += [(suffix, opened.map_on_grid(values), None) for suffix, values in zip(suffixes, maps, strict=True)]
        for suffix, array, partly in results:
            progressed = partial(Prepared, stage=f"writing {self.target.path(suffix).name}")
            yield progressed()
            for done, total in write_result(self.target, suffix, array, opened.volume.voxel_size, partly):
                yield progressed(done=done, total=total)

    def _finished(self, num_objects: int | None, foreground: int) -> Iterator[Event]:
        """``foreground`` is the number of voxels in it, for labels that are not objects."""
        share = foreground / voxels_in(self.opened.image.shape)
        found = f"{share:.1%} foreground" if num_objects is None else count(num_objects, "object")
        yield Logged(message=f"{self.where}: {found}")
        yield Saved(what="prediction", path=str(self.target.path()), epoch=self.card.training.epoch)
