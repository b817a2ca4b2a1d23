"""From the objects that each block has found to one numbering of the volume.

A block numbers its objects 1…n for itself and keeps beside them what they are called in the volume (the name that
`engine.objects.decode_block` gives) and how many of their voxels lie in the block.

Segmenting a volume block by block: the network, then objects, then one numbering of them.

Each block of a stage can be computed by anyone who sees the folder of the :class:`BlockStore`, in any order, and twice
without harm. What a block needs of its surroundings it reads or computes itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_celltrain.engine.windows import BlockGrid, Region
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.predict.blocks import BlockStore
from napari_celltrain.runs.model import ModelCard
from napari_celltrain.values.config import ZYX

if TYPE_CHECKING:
    import zarr

    from napari_celltrain.runs.model import Model


@dataclass(frozen=True, slots=True)
class BlockObjects:
    """What is kept of the objects of a block, besides its voxels."""

    names: NDArray[np.int64]
    """(n,) ascending: in the volume, of the objects 1…n of the block."""
    sizes: NDArray[np.int64]
    """(n,) voxels in the block."""
    faces: tuple[NDArray[np.uint32], ...] = ()
    """For pieces that may go on in the next block: their numbers on the first and the last plane along each axis."""

    @classmethod
    def of(cls, objects: NDArray[np.int64], *, with_faces: bool) -> tuple[NDArray[np.uint32], BlockObjects]:
        """The voxels numbered 1…n, and the rest. ``objects`` holds names, and 0 for background."""
        found = objects > 0
        names, inverse, sizes = np.unique(objects[found], return_inverse=True, return_counts=True)
        numbers = np.zeros(objects.shape, np.uint32)
        numbers[found] = inverse + 1
        faces: list[NDArray[np.uint32]] = []
        for axis in range(3) if with_faces else ():
            faces += [np.asarray(numbers.take(0, axis)), np.asarray(numbers.take(-1, axis))]
        return numbers, cls(names, sizes.astype(np.int64), tuple(faces))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {"names": self.names, "sizes": self.sizes} | {f"face{i}": face for i, face in enumerate(self.faces)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> BlockObjects:
        faces = tuple(arrays[f"face{i}"] for i in range(6) if f"face{i}" in arrays)
        return cls(arrays["names"], arrays["sizes"], faces)


def number_objects(
    grid: BlockGrid, blocks: list[BlockObjects], min_size_um3: float, voxel_um3: float
) -> tuple[int, list[NDArray[Any]]]:
    """The number of objects of at least ``min_size_um3``, and for each block a table from its own numbers (0 included)
    to those of the volume: 1…N in the order of names, 0 for background and what is too small.

    Parts of one name are one object, and so are pieces that touch across the faces of blocks, where these were kept.
    """
    ends = np.cumsum([len(block.names) for block in blocks])
    names = np.concatenate([block.names for block in blocks]) if blocks else np.zeros(0, np.int64)
    sizes = np.concatenate([block.sizes for block in blocks]) if blocks else np.zeros(0, np.int64)
    unique, group = np.unique(names, return_inverse=True)
    pairs = list(_touching(grid, blocks))
    if pairs:
        group = _joined(unique, group, np.concatenate(pairs))
    kept = np.bincount(group, weights=sizes) * voxel_um3 >= max(min_size_um3, 1e-12)  # as `objects.without_small`
    count = int(kept.sum())
    numbers = np.cumsum(kept, dtype=np.uint32)
    numbers[~kept] = 0
    found = numbers[group].astype(np.uint16 if count < 2**16 else np.uint32)
    zero = np.zeros(1, found.dtype)
    return count, [np.concatenate([zero, part]) for part in np.split(found, ends[:-1])]


def _touching(grid: BlockGrid, blocks: list[BlockObjects]) -> Iterator[NDArray[np.int64]]:
    """(N, 2) names of pieces that share a face of two voxels on either side of a border between blocks."""
    for number, block in enumerate(blocks):
        position = grid.position(number)
        for axis in range(3) if block.faces else ():
            after = tuple(place + (a == axis) for a, place in enumerate(position))
            if after[axis] == grid.counts[axis]:
                continue
            neighbour = blocks[grid.number((after[0], after[1], after[2]))]
            here, there = block.faces[2 * axis + 1], neighbour.faces[2 * axis]
            both = (here > 0) & (there > 0)
            if both.any():
                pairs = np.stack([block.names[here[both] - 1], neighbour.names[there[both] - 1]], axis=1)
                yield np.unique(pairs, axis=0)


def _joined(unique: NDArray[np.int64], group: NDArray[np.integer], pairs: NDArray[np.int64]) -> NDArray[np.integer]:
    """``group`` with the groups of ``pairs`` made one, numbered in the order of their first name."""
    first, second = np.searchsorted(unique, pairs).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(unique), len(unique)))
    _, component = connected_components(graph, directed=False)
    # number the components by the first of their names, of which `unique` is in order
    _, first_seen = np.unique(component, return_index=True)
    rank = np.empty(len(first_seen), np.int64)
    rank[np.argsort(first_seen)] = np.arange(len(first_seen))
    renumbered: NDArray[np.integer] = rank[component][group]
    return renumbered


# --- blockwise -------------------------------------------------------------------------------------------

Cancelled = Callable[[], bool]


def share_of(numbers: Sequence[int], index: int, count: int) -> list[int]:
    """Part ``index`` (count from 1) of ``count``: neighbours, so that they can be computed in one go."""
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
    from napari_celltrain.engine.objects import quantize
    from napari_celltrain.engine.predictor import decide

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
