"""Segmenting a volume block by block: the network, then objects, then one numbering of them.

Each block of a stage can be computed by anyone who sees the folder of the :class:`BlockStore`, in any order, and twice
without harm. What a block needs of its surroundings it reads or computes itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.config import ZYX
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.engine.numbering import BlockObjects, number_objects
from napari_celltrain.engine.windows import BlockGrid, Region
from napari_celltrain.runs.block_store import BlockStore
from napari_celltrain.runs.model_file import ModelCard

if TYPE_CHECKING:
    import zarr

    from napari_celltrain.runs.model_file import Model

Cancelled = Callable[[], bool]


def share_of(numbers: Sequence[int], index: int, count: int) -> list[int]:
    """Part ``index`` (counted from 1) of ``count``: neighbours, so that they can be computed in one go."""
    ends = [round(len(numbers) * part / count) for part in range(count + 1)]
    return list(numbers[ends[index - 1] : ends[index]])


def compute_maps(
    model: Model, image: LazyArray, store: BlockStore, numbers: list[int], cancelled: Cancelled
) -> Iterator[int]:
    """Run the network over blocks (ascending); gives the number of each one that is done.

    Blocks that follow each other in a column share what overlaps. Ends early where ``cancelled()`` turns true.
    """
    for run in store.plan.maps.runs(numbers):
        regions = [store.plan.maps.region(number) for number in run]
        whole = (slice(regions[0][0].start, regions[-1][0].stop), *regions[0][1:])
        maps, probabilities = _Gathered(), _Gathered()
        waiting = list(zip(run, regions, strict=True))
        for first, logits in model.predictor.logits(image, store.plan.statistics, cancelled, whole):
            maps.add(first, _to_maps(model, logits))
            if store.probabilities is not None:
                probabilities.add(first, model.predictor.to_probabilities(logits))
            while waiting and maps.end >= waiting[0][1][0].stop:
                number, region = waiting.pop(0)
                store.write(store.maps, region, maps.take(region[0].stop))
                if store.probabilities is not None:
                    store.write(store.probabilities, region, probabilities.take(region[0].stop))
                store.mark_done("maps", number)
                yield number


def _to_maps(model: Model, logits_CZYX: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What is kept (C, Z, Y, X): probabilities in 255 steps for objects, else class indices."""
    from napari_celltrain.engine.inference import decide
    from napari_celltrain.engine.objects import quantize

    if model.card.label_kind == "objects":
        return quantize(model.predictor.to_probabilities(logits_CZYX))
    return decide(logits_CZYX, model.card.threshold)[None]


class _Gathered:
    """Planes that come in groups, until they fill a block."""

    def __init__(self) -> None:
        self._groups: list[NDArray[Any]] = []
        self._first = self.end = 0

    def add(self, first: int, planes_CZYX: NDArray[Any]) -> None:
        if not self._groups:
            self._first = first
        self._groups.append(planes_CZYX)
        self.end = first + planes_CZYX.shape[1]

    def take(self, stop: int) -> NDArray[Any]:
        """All planes before ``stop``; those behind it stay."""
        whole = np.concatenate(self._groups, axis=1)
        cut = stop - self._first
        self._groups, self._first = [whole[:, cut:].copy()], stop
        return whole[:, :cut]


def compute_objects(
    card: ModelCard, store: BlockStore, numbers: Sequence[int], cancelled: Cancelled, num_threads: int = 1
) -> Iterator[int]:
    """Decode the objects of blocks, several at once; gives the number of each one that is done."""
    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(num_threads, "celltrain-objects") as pool:
        for number in numbers:
            if cancelled():
                break
            if len(waiting) == num_threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_compute_objects, card, store, number))
        for future in waiting:
            yield future.result()


def _compute_objects(card: ModelCard, store: BlockStore, number: int) -> int:
    from napari_celltrain.engine.objects import decode_block, halo

    plan = store.plan
    grid, array = _objects_of(store)
    region = grid.region(number)
    outer, core = _with_halo(region, halo(card.decoding, plan.spacing), plan.shape)
    objects = decode_block(
        store.read(store.maps, outer),
        card.threshold,
        card.decoding,
        plan.spacing,
        origin=(outer[0].start, outer[1].start, outer[2].start),
        volume_shape=plan.shape,
        core=core,
    )
    voxels, kept = BlockObjects.of(objects, with_faces=card.decoding.method == "components")
    store.write(array, region, voxels)
    store.write_part(number, kept.to_arrays())
    store.mark_done("objects", number)
    return number


def _objects_of(store: BlockStore) -> tuple[BlockGrid, zarr.Array[Any]]:
    grid = store.plan.objects
    assert grid is not None, "labels of this store are no objects"
    assert store.objects is not None, "a store with such a plan has this array"
    return grid, store.objects


def _with_halo(region: Region, around: ZYX, shape: ZYX) -> tuple[Region, Region]:
    """The region with what lies around it in the volume, and where the region lies in that."""
    outer = tuple(
        slice(max(0, part.start - width), min(length, part.stop + width))
        for part, width, length in zip(region, around, shape, strict=True)
    )
    core = tuple(
        slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(region, outer, strict=True)
    )
    return (outer[0], outer[1], outer[2]), (core[0], core[1], core[2])


@dataclass(frozen=True, slots=True)
class StoredLabels:
    """The final labels, made on reading from what the blocks hold. Indexed by three slices (a :class:`LazyArray`)."""

    store: BlockStore
    tables: tuple[NDArray[Any], ...]
    """From what an array holds to labels: for each block of objects one, or a single one for classes."""
    num_objects: int | None
    """None where labels are no objects."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.store.plan.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tables[0].dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        z, y, x = (slice(*part.indices(length)[:2]) for part, length in zip(key, self.shape, strict=True))
        if self.num_objects is None:
            return np.asarray(self.tables[0][self.store.read(self.store.maps, (z, y, x))[0]])
        grid, array = _objects_of(self.store)
        result = np.empty([part.stop - part.start for part in (z, y, x)], self.dtype)
        for number, table in enumerate(self.tables):
            shared = [_overlap(a, b) for a, b in zip((z, y, x), grid.region(number), strict=True)]
            if all(part.start < part.stop for part in shared):
                target = tuple(
                    slice(part.start - whole.start, part.stop - whole.start)
                    for part, whole in zip(shared, (z, y, x), strict=True)
                )
                result[target] = table[self.store.read(array, (shared[0], shared[1], shared[2]))]
        return result


def _overlap(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def stored_labels(card: ModelCard, store: BlockStore) -> StoredLabels:
    """Number the objects of all blocks, which are done, and leave out the small ones; or look up the classes."""
    if store.plan.objects is None:
        values = np.array(card.class_values if card.label_kind == "classes" else (0, 1))
        table = np.zeros(256, np.uint16 if values.max() < 2**16 else np.uint32)
        table[: len(values)] = values
        return StoredLabels(store, (table,), None)
    grid, _ = _objects_of(store)
    blocks = [BlockObjects.from_arrays(store.read_part(number)) for number in range(len(grid))]
    voxel = float(np.prod(store.plan.spacing))
    count, tables = number_objects(grid, blocks, card.decoding.min_size_um3, voxel)
    return StoredLabels(store, tuple(tables), count)


@dataclass(frozen=True, slots=True)
class StoredProbability:
    """One channel of the probabilities, as a :class:`LazyArray`."""

    store: BlockStore
    channel: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.store.plan.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        array = self.store.probabilities
        assert array is not None, "probabilities are read only where they were kept"
        with self.store.damage_explained():
            return np.asarray(array[(self.channel, *key)])
