"""How a volume that does not fit the memory is cut into blocks, and what tells one such task from another."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from napari_celltrain.config import ZYX, Frozen, Spacing
from napari_celltrain.data.arrays import LazyArray, Volume, voxels_in
from napari_celltrain.engine.windows import BlockGrid, WindowGrid
from napari_celltrain.errors import DataError
from napari_celltrain.parts.normalization import IntensityStatistics
from napari_celltrain.runs.model_file import CARD, WEIGHTS, ModelCard, model_folder

if TYPE_CHECKING:
    from napari_celltrain.decoding import ObjectDecoding

CHUNK: ZYX = (32, 128, 128)
"""Voxels of a chunk on the disk. Flat, so that a plane can be read without many others."""
COLUMN_BYTES = 800 * 2**20
"""Memory for the sums of one column of blocks: the wider a column, the fewer windows are computed twice."""
OBJECT_VOXELS = 12 * 2**20
"""Voxels, with what lies around, in which objects are decoded at once; decoding takes some 60 bytes for each, and two
blocks may be decoded side by side."""
WHOLE_BYTES = 1500 * 2**20
"""Volumes that need less memory than this are segmented in one go."""
_BYTES_TO_DECODE = 60


class BlockPlan(Frozen):
    """Written once, before the first block; whoever computes a block reads it here."""

    schema_version: Literal[1] = 1
    fingerprint: str
    """Of the model, the input and the options: a plan serves only the same task."""
    shape: ZYX
    chunk: ZYX
    """Voxels of a chunk of the arrays on the disk; all blocks are whole numbers of chunks."""
    map_block: ZYX
    """Size of the blocks that the network computes."""
    object_block: ZYX | None
    """Size of the blocks in which objects are decoded; None where labels are no objects."""
    num_outputs: int
    """Of the network."""
    statistics: IntensityStatistics
    """Measured once: every block is normalized alike."""
    spacing: Spacing
    """Voxel size in µm that objects are decoded with."""
    probabilities: bool
    """Whether probabilities are kept, besides what the labels are made of."""

    @property
    def maps(self) -> BlockGrid:
        return BlockGrid(self.shape, self.map_block)

    @property
    def objects(self) -> BlockGrid | None:
        return None if self.object_block is None else BlockGrid(self.shape, self.object_block)


def make_plan(
    card: ModelCard,
    image: LazyArray,
    spacing: Spacing,
    statistics: IntensityStatistics,
    fingerprint: str,
    *,
    probabilities: bool,
) -> BlockPlan:
    """``image`` is as the network sees it, with voxels of ``spacing`` µm."""
    shape = shape_of(image)
    chunk = _clipped(CHUNK, shape)
    num_outputs = card.network.out_channels
    return BlockPlan(
        fingerprint=fingerprint,
        shape=shape,
        chunk=chunk,
        map_block=_map_block(
            WindowGrid(shape, card.window), chunk, num_outputs, image.dtype.itemsize, probabilities=probabilities
        ),
        object_block=_object_block(shape, chunk, card.decoding, spacing) if card.label_kind == "objects" else None,
        num_outputs=num_outputs,
        statistics=statistics,
        spacing=spacing,
        probabilities=probabilities,
    )


def fits_memory(card: ModelCard, image: LazyArray, *, probabilities: bool) -> bool:
    """Whether a volume is segmented in one go."""
    shape = shape_of(image)
    num_outputs = card.network.out_channels
    per_voxel = _BYTES_TO_DECODE + num_outputs if card.label_kind == "objects" else 3
    if probabilities:
        per_voxel += 4 * num_outputs
    sums = WindowGrid(shape, card.window).memory(shape[1:], num_outputs, image.dtype.itemsize)
    needed = voxels_in(shape) * (per_voxel + image.dtype.itemsize) + sums
    return needed <= min(WHOLE_BYTES, int(psutil.virtual_memory().available) // 2)


def _map_block(grid: WindowGrid, chunk: ZYX, num_outputs: int, itemsize: int, *, probabilities: bool) -> ZYX:
    """One chunk deep, and as wide as the memory allows."""
    budget = min(COLUMN_BYTES, psutil.virtual_memory().available // 4)
    # planes are gathered, in two copies, until they fill a block
    gathered = 2 * chunk[0] * num_outputs * (5 if probabilities else 1)
    parts = [1, 1]
    while True:
        height, width = (
            -(-length // (count * size)) * size
            for length, count, size in zip(grid.shape[1:], parts, chunk[1:], strict=True)
        )
        needed = grid.memory((height, width), num_outputs, itemsize) + gathered * height * width
        if needed <= budget or (height, width) == chunk[1:]:
            return chunk[0], height, width
        parts[int(width > height)] += 1


def _object_block(shape: ZYX, chunk: ZYX, decoding: ObjectDecoding, spacing: Spacing) -> ZYX:
    """Whole chunks, with as little around them as possible for what the memory allows."""
    from napari_celltrain.engine.objects import halo

    around = halo(decoding, spacing)
    best, best_share = chunk, 0.0
    choices = (range(size, length + size, size) for size, length in zip(chunk, shape, strict=True))
    for z, y, x in product(*(list(choice)[:16] for choice in choices)):
        whole = voxels_in((z + 2 * around[0], y + 2 * around[1], x + 2 * around[2]))
        share = z * y * x / whole
        if whole <= OBJECT_VOXELS and (share, z * y * x) > (best_share, voxels_in(best)):
            best, best_share = (z, y, x), share
    return best


def shape_of(image: LazyArray) -> ZYX:
    z, y, x = (int(length) for length in image.shape)
    return z, y, x


def _clipped(size: ZYX, shape: ZYX) -> ZYX:
    z, y, x = (min(a, b) for a, b in zip(size, shape, strict=True))
    return z, y, x


def fingerprint(model: Path, card: ModelCard, volume: Volume, **options: object) -> str:
    """Equal for the same model, the same file in the same state, and the same options."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(card.model_dump_json(exclude={"training", "batch_size"}).encode())
    digest.update(repr((volume.key, volume.shape, volume.voxel_size, sorted(options.items()))).encode())
    try:
        with _weights_of(model).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
        for line in _state_of(volume.path):
            digest.update(line)
    except OSError as error:
        raise DataError(f"{error.filename or volume.where}: cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()


def _weights_of(model: Path) -> Path:
    if model.is_file() and model.name not in (CARD, WEIGHTS):
        return model  # a package: it holds them
    return model_folder(model) / WEIGHTS


def _state_of(path: Path | None) -> list[bytes]:
    """Size and time of change of a file, or of all files in a folder (the chunks of a Zarr array)."""
    if path is None:
        return []
    files = [path] if path.is_file() else [Path(root, name) for root, _, names in os.walk(path) for name in names]
    states = []
    for file in sorted(files):
        status = file.stat()
        states.append(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}".encode())
    return states
