"""How a large volume is cut into blocks, and the folder in which they are computed.

    .NAME-FINGERPRINT.celltrain-partial/
      plan.json          the BlockPlan
      maps/              Zarr, uint8 (C, Z, Y, X): class indices, or probabilities in 255 steps
      objects/           Zarr (Z, Y, X): objects, numbered from 1 in each block
      parts/N.npz        names and sizes of the objects of block N
      probabilities/     Zarr, float32 (C, Z, Y, X), where they are asked for
      done/STAGE/N       block N of a stage is done: written after all that it holds
      labels.ome.zarr    the result, until it is complete

No two blocks share a chunk, so any number of processes on any number of computers can work in one folder. An
interrupted block is simply not done.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray
from pydantic import model_validator

from napari_celltrain.engine.windows import BlockGrid, WindowGrid
from napari_celltrain.io.axes import Region, zyx
from napari_celltrain.io.volume import LazyArray, Volume, voxels_in
from napari_celltrain.io.writer import CHUNK, lasting_store
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.runs.folder import owner_of, run_lock
from napari_celltrain.runs.model import ModelCard, is_package, model_folder
from napari_celltrain.runs.model_package import WEIGHTS
from napari_celltrain.values import files, outside
from napari_celltrain.values.config import ZYX, Frozen, Spacing
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import DataError, ModelFileError, RunFolderError

COLUMN_BYTES = 800 * 2**20
"""Memory for the sums of one column of blocks: the wider a column, the fewer windows are computed twice."""
OBJECT_VOXELS = 12 * 2**20
"""Voxels of a block of objects with its surroundings; decoding takes some 60 bytes for each, and two blocks may be
decoded side by side."""
WHOLE_BYTES = 1500 * 2**20
"""Volumes that need less memory are predicted in one go."""
_BYTES_TO_DECODE = 60
_ENDING = ".celltrain-partial"
_PLAN = "plan.json"

STAGES = ("maps", "objects", "labels")


class BlockPlan(Frozen):
    """Written once, before the first block; every process reads it here."""

    schema_version: Literal[1] = 1
    fingerprint: str
    """Of the model, the input and the options: a plan serves only the same task."""
    shape: ZYX
    chunk: ZYX
    """Voxels of a chunk of the arrays on the disk; all blocks are whole numbers of chunks."""
    map_block: ZYX
    """Size of the blocks that the network computes."""
    object_block: ZYX | None
    """Size of the blocks in which objects are decoded; None where labels are not objects."""
    num_outputs: int
    """Of the network."""
    statistics: IntensityStatistics
    """Measured once: every block is normalized alike."""
    spacing: Spacing
    """Voxel size in µm that objects are decoded with."""
    probabilities: bool
    """Whether probabilities are kept, besides the maps that the labels are made from."""

    @model_validator(mode="after")
    def _check(self) -> BlockPlan:
        for size, chunk, *blocks in zip(
            self.shape, self.chunk, self.map_block, self.object_block or self.chunk, strict=True
        ):
            if not 1 <= chunk <= size or any(block < 1 or block % chunk for block in blocks):
                raise ValueError("its blocks are not whole numbers of chunks")
        return self

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Channels and type of each Zarr array."""
        channels = (self.num_outputs,)
        arrays: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {"maps": ((1,), np.uint8)}
        if self.object_block is not None:
            arrays = {"maps": (channels, np.uint8), "objects": ((), np.uint32)}
        return arrays | ({"probabilities": (channels, np.float32)} if self.probabilities else {})

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
    shape = zyx(image.shape)
    chunk, num_outputs = zyx(map(min, CHUNK, shape)), card.network.out_channels
    grid, itemsize = WindowGrid(shape, card.window), image.dtype.itemsize
    return BlockPlan(
        fingerprint=fingerprint,
        shape=shape,
        chunk=chunk,
        map_block=_map_block(grid, chunk, num_outputs, itemsize, probabilities=probabilities),
        object_block=_object_block(shape, chunk, card.decoding, spacing) if card.label_kind == "objects" else None,
        num_outputs=num_outputs,
        statistics=statistics,
        spacing=spacing,
        probabilities=probabilities,
    )


def fits_memory(card: ModelCard, image: LazyArray, *, probabilities: bool) -> bool:
    """Whether a volume is predicted in one go."""
    shape = zyx(image.shape)
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
    """Whole chunks, with the smallest share of surroundings that the memory allows."""
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


def fingerprint(model: Path, card: ModelCard, volume: Volume, **options: object) -> str:
    """Equal for the same model, the same file in the same state, and the same options."""
    digest = hashlib.blake2b(digest_size=16)
    unused = {"training", "batch_size"} | (set() if card.limit_outliers else {"limit_outliers"})  # as version 0.1.0 did
    digest.update(card.model_dump_json(exclude=unused).encode())
    digest.update(repr((volume.key, volume.shape, volume.voxel_size, sorted(options.items()))).encode())
    weights_file = model if is_package(model) else model_folder(model) / WEIGHTS
    try:
        with outside.open_file(weights_file, ModelFileError) as weights:
            digest.update(hashlib.file_digest(weights, "blake2b").digest())
        if volume.path is not None:
            # size and time of change of the file, or of all files in the folder (the chunks of a Zarr array)
            found = [Path(root, name) for root, _, names in os.walk(volume.path) for name in names]
            for file in sorted(found or [volume.path]):
                status = file.stat()
                digest.update(f"{file.relative_to(volume.path)} {status.st_size} {status.st_mtime_ns}".encode())
    except OSError as error:
        raise DataError(f"{error.filename or volume.where}: cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class DoneBlocks:
    """Which blocks of a stage are done: an empty file for each."""

    folder: Path

    def is_done(self, number: int) -> bool:
        return (self.folder / str(number)).exists()

    def mark_done(self, number: int) -> None:
        (self.folder / str(number)).touch()

    def missing(self, numbers: Iterable[int]) -> list[int]:
        done = {entry.name for entry in self.folder.iterdir()}
        return [number for number in numbers if str(number) not in done]

    def clear(self) -> None:
        for entry in self.folder.iterdir():
            entry.unlink(missing_ok=True)


class BlockStore:
    """An opened folder. Raises :class:`DataError` where it is damaged, ``OSError`` where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = {stage: DoneBlocks(path / "done" / stage) for stage in STAGES}
        with self._damage_explained():
            import zarr

            self.plan = outside.read_record(path / _PLAN, BlockPlan)
            self._arrays = {}
            for name, (channels, dtype) in self.plan.arrays.items():
                array = zarr.open_array(lasting_store(path / name), mode="r+", zarr_format=3)
                wanted = (*channels, *self.plan.shape), (*(1 for _ in channels), *self.plan.chunk), np.dtype(dtype)
                if (array.shape, array.chunks, array.dtype) != wanted:
                    raise ValueError(f"{name} is not as planned")
                self._arrays[name] = array

    def read(self, name: str, region: tuple[Any, ...]) -> NDArray[Any]:
        """A region of an array whose last three axes are Z, Y, X."""
        with self._damage_explained():
            return np.asarray(self._arrays[name][(..., *region)])

    def write(self, name: str, region: Region, values: NDArray[Any]) -> None:
        self._arrays[name][(..., *region)] = values

    def read_part(self, number: int) -> dict[str, NDArray[Any]]:
        with self._damage_explained(), np.load(self.path / "parts" / f"{number}.npz") as file:
            return dict(file)

    def write_part(self, number: int, arrays: dict[str, Any]) -> None:
        path = self.path / "parts" / f"{number}.npz"
        files.write_with(path, lambda temporary: np.savez_compressed(temporary, **arrays))

    @contextlib.contextmanager
    def finishing(self) -> Iterator[bool]:
        """For what one process alone may do; gives False where another one does it, or has done it."""
        lock = self.path / "finishing" / "lock"
        with contextlib.ExitStack() as stack:
            alone = self.path.exists() and owner_of(lock) is None
            try:
                if alone:
                    stack.enter_context(run_lock(lock))
            except RunFolderError:
                if owner_of(lock) is None:
                    raise
                alone = False  # another process was first by a moment
            yield alone

    @contextlib.contextmanager
    def _damage_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # decoders and readers of metadata fail in any way
            raise DataError(f"{self.path} is damaged ({error}). Delete this folder, and start again.") from error


def store_path(output: Path, name: str, fingerprint: str) -> Path:
    return output / f".{name}-{fingerprint[:12]}{_ENDING}"


def stores_for(output: Path, name: str) -> list[Path]:
    """All that interrupted commands have left for the result ``name``, also with other models or images."""
    return sorted(output.glob(f".{glob.escape(name)}-{'?' * 12}{_ENDING}"))


def create_store(path: Path, plan: BlockPlan) -> BlockStore:
    """A new folder; where another process makes it at the same moment, both use the first."""
    import zarr

    unfinished = files.temporary(path)
    try:
        for part in ("parts", *(f"done/{stage}" for stage in STAGES)):
            (unfinished / part).mkdir(parents=True)
        files.sync(unfinished / "done", unfinished)
        for name, (channels, dtype) in plan.arrays.items():
            shape, chunks = (*channels, *plan.shape), (*(1 for _ in channels), *plan.chunk)
            store = lasting_store(unfinished / name)
            zarr.create_array(store=store, shape=shape, chunks=chunks, dtype=dtype, zarr_format=3)
        files.write_text(unfinished / _PLAN, plan.model_dump_json(indent=2))
        try:
            unfinished.rename(path)
        except OSError:
            if not (path / _PLAN).exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    files.sync(path.parent)
    return BlockStore(path)


def remove_store(path: Path) -> None:
    """Delete a folder; renamed first, so that no process goes on with one that is half deleted."""
    doomed = files.temporary(path)
    with contextlib.suppress(OSError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
