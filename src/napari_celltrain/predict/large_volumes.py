"""Segmenting one volume that does not fit the memory, by one process or by many that share a folder.

Three passes over blocks: the network; the objects that it shows; their numbering, which is written straight to the
result. Each goes on where it was interrupted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_celltrain.nets.normalize import measure
from napari_celltrain.predict.blocks import (
    BlockStore,
    Stage,
    create_store,
    fingerprint,
    folder_for,
    make_plan,
    others_for,
    remove_folder,
)
from napari_celltrain.predict.blockwise import (
    StoredLabels,
    StoredProbability,
    compute_maps,
    compute_objects,
    share_of,
    stored_labels,
)
from napari_celltrain.predict.inputs import OpenedInput
from napari_celltrain.predict.outputs import Target, probability_suffixes, write_result
from napari_celltrain.runs.model import Model, ModelCard
from napari_celltrain.values.events import Event, Logged, Prepared, Saved, Warned
from napari_celltrain.values.text import count

if TYPE_CHECKING:
    from distributed import Client

Share = tuple[int, int]
"""Part I (count from 1) of N of the network's blocks."""


@dataclass(frozen=True, slots=True)
class LargeVolume:
    """One volume to be segmented by blocks."""

    model: Path
    card: ModelCard
    load: Callable[[], Model]
    """Loads the model when there is something left for it to do here."""
    opened: OpenedInput
    target: Target
    probabilities: bool
    device: str
    cancelled: Callable[[], bool]
    share: Share | None = None
    client: Client | None = None

    @property
    def where(self) -> str:
        return self.opened.volume.where


def segment_large(job: LargeVolume) -> Iterator[Event]:
    """Write the results of one volume. Ends with :class:`Saved`, or, where something is left for others to do,
    with a :class:`Logged` that says so. Ends early, keeping what is done, where ``job.cancelled()`` turns true."""
    store = yield from _open(job)
    grid = store.plan.maps
    missing = store.missing("maps", len(grid))
    if job.share is not None:
        own = share_of(range(len(grid)), *job.share)
        missing = sorted(set(own).intersection(missing))
    yield from _pass(job, store, "maps", missing)
    if job.cancelled():
        return
    left = store.missing("maps", len(grid)) if store.path.exists() else None
    if left:
        yield Logged(
            message=f"{job.where}: this share of the blocks is done; {count(len(left), 'block')} of other shares "
            "to go. Whoever does the last one makes the result; the same command without --blocks does what is left."
        )
        return
    with store.finishing() if left is not None else contextlib.nullcontext(False) as alone:
        if alone:
            yield from _finish(job, store)
        else:
            yield Logged(message=f"{job.where}: all blocks are done, and another process makes the result of them.")


def _open(job: LargeVolume) -> Generator[Event, None, BlockStore]:
    """The folder of this task: what an interrupted command has left, or a new one."""
    volume, target = job.opened.volume, job.target
    resampled = job.opened.is_resampled
    mark = fingerprint(job.model, job.card, volume, probabilities=job.probabilities, resampled=resampled)
    for other in others_for(target.folder, target.name, mark):
        yield Warned(
            message=f"{job.where}: what an earlier command had begun is deleted, since the model, the image or the "
            "options have changed since. Starting anew."
        )
        remove_folder(other)
    path = folder_for(target.folder, target.name, mark)
    if path.exists():
        store = BlockStore(path)
        total = len(store.plan.maps)
        done = total - len(store.missing("maps", total))
        yield Logged(message=f"{job.where}: going on with what is there: {done} of {count(total, 'block')} are done.")
        return store
    yield Prepared(stage=f"measuring {job.where}")
    statistics = measure(job.opened.raw, job.card.normalization, name=volume.where)
    spacing = job.opened.voxel_size or job.card.spacing
    plan = make_plan(job.card, job.opened.image, spacing, statistics, mark, probabilities=job.probabilities)
    return create_store(path, plan)


def _finish(job: LargeVolume, store: BlockStore) -> Iterator[Event]:
    """What follows on the network: by one process alone, helped by the cluster where there is one."""
    if store.plan.objects is not None:
        yield from _pass(job, store, "objects", store.missing("objects", len(store.plan.objects)))
        if job.cancelled():
            return
    labels = stored_labels(job.card, store)
    found = _found(labels, store)
    yield from _write(job, store, labels)
    remove_folder(store.path)
    yield Logged(message=f"{job.where}: {found}")
    yield Saved(what="prediction", path=str(job.target.path()), epoch=job.card.training.epoch)


def _pass(
    job: LargeVolume, store: BlockStore, stage: Literal["maps", "objects"], numbers: list[int]
) -> Iterator[Event]:
    """Compute blocks, here or by the cluster; tells how far it is."""
    if not numbers:
        return
    what = "segmenting" if stage == "maps" else "finding objects in"
    tell = partial(Prepared, stage=f"{what} {job.where}", total=len(numbers))
    yield tell(done=0)
    if job.client is not None:
        from napari_celltrain.predict.cluster import Task, compute_remotely

        task = Task(job.opened.request, job.model.absolute(), job.card, store.path.absolute(), job.device)
        for done in compute_remotely(job.client, task, stage, numbers, job.cancelled):
            yield tell(done=done)
        return
    if stage == "maps":
        blocks = compute_maps(job.load(), job.opened.image, store, numbers, job.cancelled)
    else:
        blocks = compute_objects(job.card, store, numbers, job.cancelled, _num_decoders())
    for done, _ in enumerate(blocks, start=1):
        yield tell(done=done)


def _num_decoders() -> int:
    """How many blocks of objects are decoded at once: two, as each takes as much memory as the network."""
    return min(2, os.cpu_count() or 1)


def _write(job: LargeVolume, store: BlockStore, labels: StoredLabels) -> Iterator[Event]:
    size = job.opened.volume.voxel_size
    tell = partial(Prepared, stage=f"writing {job.target.path().name}")
    yield tell()
    growing = (store.path / "labels.ome.zarr", _Written(store, "labels"))
    if not growing[0].exists():  # not begun, or complete and moved to its place by a command that was interrupted then
        store.forget("labels")
    on_grid = job.opened.labels_on_grid(labels)
    for done, total in write_result(job.target, "", on_grid, size, job.cancelled, partial=growing):
        yield tell(done=done, total=total)
    if store.probabilities is None:
        return
    for channel, suffix in enumerate(probability_suffixes(job.card)):
        values = job.opened.map_on_grid(StoredProbability(store, channel))
        tell = partial(Prepared, stage=f"writing {job.target.path(suffix).name}")
        yield tell()
        for done, total in write_result(job.target, suffix, values, size, job.cancelled):
            yield tell(done=done, total=total)


@dataclass(frozen=True, slots=True)
class _Written:
    """Which blocks of the result are written."""

    store: BlockStore
    stage: Stage

    def is_done(self, number: int) -> bool:
        return self.store.is_done(self.stage, number)

    def mark_done(self, number: int) -> None:
        self.store.mark_done(self.stage, number)


def _found(labels: StoredLabels, store: BlockStore) -> str:
    """For people."""
    if labels.num_objects is not None:
        return count(labels.num_objects, "object")
    grid = store.plan.maps
    foreground = sum(int(np.count_nonzero(store.read(store.maps, grid.region(n)))) for n in range(len(grid)))
    return f"{foreground / float(np.prod(store.plan.shape, dtype=float)):.1%} foreground"
