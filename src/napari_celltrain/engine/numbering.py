"""From the objects that each block has found to one numbering of the volume.

A block numbers its objects 1…n for itself and keeps beside them what they are called in the volume (the name that
`engine.objects.decode_block` gives) and how many of their voxels lie in the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_celltrain.engine.windows import BlockGrid


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
