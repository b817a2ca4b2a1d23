"""The folder in which a large volume is segmented block by block: what is done, and what it gave.

    .NAME-FINGERPRINT.celltrain-partial/
      plan.json          the BlockPlan
      maps/              Zarr: what the network says, uint8 (C, Z, Y, X): class indices, or probabilities in 255 steps
      objects/           Zarr: numbered objects (Z, Y, X), each block counting from 1
      parts/N.npz        the names and sizes of the objects of block N
      probabilities/     Zarr: float32 (C, Z, Y, X), where they are asked for
      done/STAGE/N       block N of a stage is done: written after all that it holds
      labels.ome.zarr    the result, until it is complete

A block is written by whoever computes it, and no two blocks share a chunk; so any number of processes on any number
of machines can work in one folder. Whatever is interrupted is simply not done.
"""

from __future__ import annotations

import contextlib
import glob
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.writer import refusal
from napari_celltrain.engine.windows import Region
from napari_celltrain.errors import DataError, RunFolderError
from napari_celltrain.runs import atomic
from napari_celltrain.runs.block_plan import BlockPlan
from napari_celltrain.runs.lock import RunLock, owner_of

if TYPE_CHECKING:
    import zarr

Stage = Literal["maps", "objects", "labels"]
_ENDING = ".celltrain-partial"
_PLAN = "plan.json"


class BlockStore:
    """An opened folder. Raises :class:`DataError` where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.plan = BlockPlan.model_validate_json((path / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}). Delete this folder, and start again.") from error
        self.maps = self._array("maps")
        self.objects = self._array("objects") if self.plan.objects is not None else None
        self.probabilities = self._array("probabilities") if self.plan.probabilities else None

    def missing(self, stage: Stage, total: int) -> list[int]:
        """The blocks of a stage that nobody has done yet."""
        with disk_errors_explained(self.path):
            done = {entry.name for entry in (self.path / "done" / stage).iterdir()}
        return [number for number in range(total) if str(number) not in done]

    def mark_done(self, stage: Stage, number: int) -> None:
        with disk_errors_explained(self.path):
            (self.path / "done" / stage / str(number)).touch()

    def forget(self, stage: Stage) -> None:
        """Nothing of a stage is done: what it gave is not here any more."""
        with disk_errors_explained(self.path):
            for entry in (self.path / "done" / stage).iterdir():
                entry.unlink(missing_ok=True)

    def is_done(self, stage: Stage, number: int) -> bool:
        return (self.path / "done" / stage / str(number)).exists()

    def write(self, array: zarr.Array[Any], region: Region, values: NDArray[Any]) -> None:
        """Write one block of an array whose last three axes are Z, Y, X."""
        with disk_errors_explained(self.path):
            array[(..., *region)] = values

    def read(self, array: zarr.Array[Any], region: Region) -> NDArray[Any]:
        with self.damage_explained():
            return np.asarray(array[(..., *region)])

    def write_part(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options

        with disk_errors_explained(self.path):
            atomic.write_with(self.path / "parts" / f"{number}.npz", write)

    def read_part(self, number: int) -> dict[str, NDArray[Any]]:
        with self.damage_explained(), np.load(self.path / "parts" / f"{number}.npz") as file:
            return dict(file)

    @contextlib.contextmanager
    def finishing(self) -> Iterator[bool]:
        """For what one process alone may do; gives False where another one is at it."""
        lock = self.path / "finishing" / "lock"
        with contextlib.ExitStack() as stack:
            if owner_of(lock) is not None:
                yield False
                return
            try:
                stack.enter_context(RunLock(lock))
            except RunFolderError:
                if owner_of(lock) is None:
                    raise
                yield False  # it came first by a moment
                return
            yield True

    @contextlib.contextmanager
    def damage_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # decoders meet chunks that were cut off in any way
            raise DataError(f"{self.path} is damaged ({error}). Delete this folder, and start again.") from error

    def _array(self, name: str) -> zarr.Array[Any]:
        import zarr

        try:
            return zarr.open_array(str(self.path / name), mode="r+", zarr_format=3)
        except Exception as error:  # damaged metadata fail in any way
            raise DataError(f"{self.path} is damaged ({error}). Delete this folder, and start again.") from error


def folder_for(output: Path, name: str, fingerprint: str) -> Path:
    return output / f".{name}-{fingerprint[:12]}{_ENDING}"


def others_for(output: Path, name: str, fingerprint: str) -> list[Path]:
    """Folders of other tasks (another model, a changed input) for the same result."""
    own = folder_for(output, name, fingerprint)
    length = len(own.name)
    with disk_errors_explained(output):
        entries = [entry for entry in output.iterdir() if entry.name.startswith(f".{name}-")]
    return [entry for entry in entries if entry.name.endswith(_ENDING) and entry != own and len(entry.name) == length]


def has_folder(output: Path, name: str) -> bool:
    """Whether an interrupted command, or part of one, has left something for this result."""
    return any(output.glob(f".{glob.escape(name)}-*{_ENDING}"))


def remove_folder(path: Path) -> None:
    """Delete a folder; renamed first, so that nobody takes what is half deleted for something to go on with."""
    doomed = path.with_name(f"{atomic.TEMPORARY_PREFIX}{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def create_store(path: Path, plan: BlockPlan) -> BlockStore:
    """A new folder; where another process makes it at the same moment, the one that comes first is used by both."""
    temporary = path.with_name(f"{atomic.TEMPORARY_PREFIX}{secrets.token_hex(4)}")
    try:
        with disk_errors_explained(path):
            _fill(temporary, plan)
            try:
                temporary.rename(path)
            except OSError:
                if not (path / _PLAN).exists():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return BlockStore(path)


def _fill(folder: Path, plan: BlockPlan) -> None:
    import zarr

    for part in ("parts", "finishing", "done/maps", "done/objects", "done/labels"):
        (folder / part).mkdir(parents=True)

    def make(name: str, channels: tuple[int, ...], dtype: type[np.generic]) -> None:
        chunks = (*(1 for _ in channels), *plan.chunk)
        zarr.create_array(
            store=str(folder / name), shape=(*channels, *plan.shape), chunks=chunks, dtype=dtype, zarr_format=3
        )

    make("maps", (plan.num_outputs if plan.objects is not None else 1,), np.uint8)
    if plan.objects is not None:
        make("objects", (), np.uint32)
    if plan.probabilities:
        make("probabilities", (plan.num_outputs,), np.float32)
    atomic.write_text(folder / _PLAN, plan.model_dump_json(indent=2))


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a sentence; what is done stays done."""
    try:
        yield
    except OSError as error:
        raise DataError(refusal(path, error)) from error
