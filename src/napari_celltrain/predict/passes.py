"""The passes over the blocks of a large volume: the network's maps, the objects in them, one numbering of these.

Every process that sees the folder of the :class:`BlockStore` can compute every block, in any order, and twice without
harm: what a block needs of its surroundings it reads or computes itself. A block numbers its objects 1…n and keeps
beside them their names in the volume (given by `engine.objects.decode_block`) and their voxels in the block; from these
the numbering of the volume is made, when the result is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_celltrain.engine.windows import BlockGrid
from napari_celltrain.io.axes import Region, with_margins, zyx
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.predict.blocks import BlockStore
from napari_celltrain.predict.files import View
from napari_celltrain.runs.model import ModelCard

if TYPE_CHECKING:
    from napari_celltrain.runs.model import Model

Pass = Literal["maps", "objects"]
Arrays = list[NDArray[Any]]
BlockObjects = dict[str, NDArray[Any]]
"""Of the objects 1…n of a block: their ``names`` in the volume (int64, ascending) and their ``sizes`` (voxels in the
block); for components, which may go on in the next block, also ``face0`` to ``face5``, the numbers on the first and the
last plane of each axis."""


def share_of(numbers: Sequence[int], index: int, count: int) -> list[int]:
    """Part ``index`` (count from 1) of ``count``: neighbours, so that they can be computed in one go."""
    ends = [round(len(numbers) * part / count) for part in range(count + 1)]
    return list(numbers[ends[index - 1] : ends[index]])


def predict_maps(model: Model, image: LazyArray, store: BlockStore, numbers: list[int]) -> Iterator[int]:
    """Run the network over blocks (ascending); gives how many are done.

    Consecutive blocks of a column share the windows in which they overlap.
    """
    grid, done = store.plan.maps, 0
    names = ["maps", "probabilities"] if store.plan.probabilities else ["maps"]
    for run in grid.runs(numbers):
        regions = [grid.region(number) for number in run]
        whole = (slice(regions[0][0].start, regions[-1][0].stop), *regions[0][1:])
        logits = model.predictor.logits(image, store.plan.statistics, region=whole)
        groups = ((first, _kept(model, planes, store.plan.probabilities)) for first, planes in logits)
        blocks = _cut(groups, [region[0].stop for region in regions])
        for number, region, block in zip(run, regions, blocks, strict=True):
            for name, values in zip(names, block, strict=True):
                store.write(name, region, values)
            store.done["maps"].mark_done(number)
            done += 1
            yield done


def _kept(model: Model, logits_CZYX: NDArray[np.float32], with_probabilities: bool) -> Arrays:
    """The maps (C, Z, Y, X), in 255 steps for objects, else class indices; and the probabilities."""
    from napari_celltrain.engine.objects import quantize
    from napari_celltrain.engine.predictor import decide

    has_objects = model.card.label_kind == "objects"
    probabilities = model.predictor.to_probabilities(logits_CZYX) if has_objects or with_probabilities else logits_CZYX
    maps = quantize(probabilities) if has_objects else decide(logits_CZYX, model.card.threshold)[None]
    return [maps, probabilities] if with_probabilities else [maps]


def _cut(groups: Iterable[tuple[int, Arrays]], stops: Iterable[int]) -> Iterator[Arrays]:
    """Arrays (C, Z, Y, X) that come in groups of planes, each with its first plane, as blocks that end at ``stops``."""
    waiting, held = deque(stops), list[Arrays]()
    for first, arrays in groups:
        held.append(arrays)
        end = first + arrays[0].shape[1]
        while waiting and waiting[0] <= end:
            whole = [np.concatenate(parts, axis=1) for parts in zip(*held, strict=True)]
            cut = whole[0].shape[1] - (end - waiting.popleft())
            yield [array[:, :cut] for array in whole]
            held = [[array[:, cut:].copy() for array in whole]]


def decode_objects(card: ModelCard, store: BlockStore, numbers: Sequence[int], num_threads: int = 1) -> Iterator[int]:
    """Decode the objects of blocks, several at once; gives how many are done."""
    with ThreadPoolExecutor(num_threads, "celltrain-objects") as pool:
        for done, _ in enumerate(pool.map(partial(_decode_block, card, store), numbers), start=1):
            yield done


def _decode_block(card: ModelCard, store: BlockStore, number: int) -> None:
    from napari_celltrain.engine.objects import decode_block, halo

    plan = store.plan
    assert plan.objects is not None, "labels of this store are not objects"
    region = plan.objects.region(number)
    outer, core = with_margins(region, halo(card.decoding, plan.spacing), plan.shape)
    maps, origin = store.read("maps", outer), zyx(part.start for part in outer)
    objects = decode_block(
        maps, card.threshold, card.decoding, plan.spacing, origin=origin, volume_shape=plan.shape, core=core
    )
    voxels, kept = number_block(objects, with_faces=card.decoding.method == "components")
    store.write("objects", region, voxels)
    store.write_part(number, kept)
    store.done["objects"].mark_done(number)


def number_block(objects: NDArray[np.int64], *, with_faces: bool) -> tuple[NDArray[np.uint32], BlockObjects]:
    """Number the voxels of a block 1…n; and what is kept beside them. ``objects`` holds names; 0 is background."""
    found = objects > 0
    names, inverse, sizes = np.unique(objects[found], return_inverse=True, return_counts=True)
    numbers = np.zeros(objects.shape, np.uint32)
    numbers[found] = inverse + 1
    ends = [(axis, end) for axis in range(3) for end in (0, -1)] if with_faces else []
    faces = {f"face{index}": np.asarray(numbers.take(end, axis)) for index, (axis, end) in enumerate(ends)}
    return numbers, {"names": names, "sizes": sizes.astype(np.int64), **faces}


def number_objects(
    grid: BlockGrid, blocks: list[BlockObjects], min_size_um3: float, voxel_um3: float
) -> tuple[int, list[NDArray[Any]]]:
    """The number of objects of at least ``min_size_um3``, and for each block a table from its own numbers (0 included)
    to those of the volume: 1…N in the order of names, 0 for background and objects that are too small.

    Parts of one name are one object, and so are components that touch across the faces of blocks, where these are kept.
    """
    ends = np.cumsum([len(block["names"]) for block in blocks])
    names, sizes = (
        np.concatenate([np.zeros(0, np.int64), *(block[key] for block in blocks)]) for key in ("names", "sizes")
    )
    unique, group = np.unique(names, return_inverse=True)
    pairs = list(_touching(grid, blocks))
    if pairs:
        first, second = np.searchsorted(unique, np.concatenate(pairs)).T
        graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(unique), len(unique)))
        _, component = connected_components(graph, directed=False)
        _, first_name = np.unique(component, return_index=True)
        _, group = np.unique(first_name[component][group], return_inverse=True)  # in the order of their first names
    kept = np.bincount(group, weights=sizes) * voxel_um3 >= max(min_size_um3, 1e-12)  # as `objects.without_small`
    count = int(kept.sum())
    numbers = np.cumsum(kept, dtype=np.uint32)
    numbers[~kept] = 0
    found = numbers[group].astype(np.uint16 if count < 2**16 else np.uint32)
    zero = np.zeros(1, found.dtype)
    return count, [np.concatenate([zero, part]) for part in np.split(found, ends[:-1])]


def _touching(grid: BlockGrid, blocks: list[BlockObjects]) -> Iterator[NDArray[np.int64]]:
    """(N, 2) names of components that share a face of two voxels on either side of a border between blocks."""
    for number, block in enumerate(blocks):
        position = grid.position(number)
        for axis in range(3) if "face0" in block else ():
            after = zyx(place + (a == axis) for a, place in enumerate(position))
            if after[axis] == grid.counts[axis]:
                continue
            neighbour = blocks[grid.number(after)]
            here, there = block[f"face{2 * axis + 1}"], neighbour[f"face{2 * axis}"]
            both = (here > 0) & (there > 0)
            if both.any():
                pairs = np.stack([block["names"][here[both] - 1], neighbour["names"][there[both] - 1]], axis=1)
                yield np.unique(pairs, axis=0)


def labels_of(card: ModelCard, store: BlockStore) -> tuple[LazyArray, int | None]:
    """The labels of the volume, made as they are read, and the number of objects (None where labels are not objects).

    All blocks must be done.
    """
    plan, grid = store.plan, store.plan.objects
    if grid is None:
        values = np.array(card.class_values if card.label_kind == "classes" else (0, 1))
        table = values.astype(np.uint16 if values.max() < 2**16 else np.uint32)
        return View(plan.shape, table.dtype, lambda region: table[store.read("maps", region)[0]]), None
    blocks = [store.read_part(number) for number in range(len(grid))]
    count, tables = number_objects(grid, blocks, card.decoding.min_size_um3, float(np.prod(plan.spacing)))

    def read(region: Region) -> NDArray[Any]:
        labels = np.empty([part.stop - part.start for part in region], tables[0].dtype)
        for number, table in enumerate(tables):
            pairs = zip(region, grid.region(number), strict=True)
            shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs]
            if all(part.start < part.stop for part in shared):
                inner = (slice(b.start - a.start, b.stop - a.start) for a, b in zip(region, shared, strict=True))
                labels[tuple(inner)] = table[store.read("objects", tuple(shared))]
        return labels

    return View(plan.shape, tables[0].dtype, read), count


def probability_of(store: BlockStore, channel: int) -> LazyArray:
    """One channel of the probabilities that were kept, read piece by piece."""
    return View(store.plan.shape, np.dtype(np.float32), lambda region: store.read("probabilities", (channel, *region)))
