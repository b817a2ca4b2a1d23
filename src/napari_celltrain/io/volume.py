"""What every volume can do, wherever it comes from: :class:`Volume`, and :class:`ArrayVolume` for memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.io.axes import WHOLE, Layout, Region, plan_layout, unreadable, zyx
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import CellTrainError, DataError, Problem
from napari_celltrain.values.outside import kind_of, shown

SLAB_VOXELS = 2**23
"""Voxels that a pass over a volume holds at a time: large enough to be quick, small beside any volume."""

MAX_SAMPLED_VOXELS = 2**24
"""Of larger volumes, a regular grid of about so many voxels gives the percentiles."""

_OF_THE_DISK = {
    getattr(errno, name)
    for name in (
        *("EIO", "EACCES", "EPERM", "EBUSY", "EMFILE", "ENFILE", "ELOOP", "ENOKEY"),
        *("ENODEV", "ENXIO", "ENOTDIR", "ENOMEDIUM", "ESTALE", "EREMOTEIO", "ENOLINK", "ENOTCONN", "ETIMEDOUT"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNABORTED", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
}
"""Errors of a disk, a share or its permissions, and never of a file whose content is wrong."""

COPY_AGAIN = "Copy or export it again."


_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def is_zarr(path: Path, *, by_name: bool = True) -> bool:
    """Whether a folder is a Zarr group or array itself, by its metadata or its name, and not a folder of files."""
    if by_name and path.suffix.lower() == ".zarr" and kind_of(path) == "folder":
        return True
    return any(kind_of(path / name) == "file" for name in _ZARR_METADATA)


def called(path: Path) -> str:
    """What messages call a file: its name, and where it lies inside an OME-Zarr, this as well."""
    above = list(itertools.takewhile(is_zarr, path.parents))
    return path.relative_to(above[-1].parent).as_posix() if above else path.name


class LazyArray(Protocol):
    """Anything with axes Z, Y, X that gives NumPy arrays when indexed by three slices; arrays themselves, too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Volume(ABC):
    """One 3D volume of which only the header has been read."""

    key: tuple[Hashable, Layout]
    """Equal for two volumes exactly when both give the same array."""

    def __init__(
        self, name: str, layout: Layout, dtype: np.dtype[Any], voxel_size: Spacing | None, path: Path | None = None
    ) -> None:
        self.name = name
        self.path = path
        self.where = called(path) if path else name
        """What messages call it."""
        self.shape = layout.shape
        self.dtype = plain_dtype(self.where, dtype)
        self.voxel_size = voxel_size
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        """Memory that the decoded volume takes."""
        self.remarks: tuple[Problem, ...] = ()
        """Warnings of what was assumed of the file, and of what is missing beside it."""
        self._layout = layout
        self._bytes_to_decode = self.nbytes

    def lazy(self) -> LazyArray | None:
        """The volume as a view that reads what is indexed; None where it can only be decoded whole."""
        return _LazyView(self)

    @abstractmethod
    def _part(self, key: Any) -> Any:
        """A part of the file's array, indexed along its own axes; any exception means that the file is damaged."""

    def _decode(self, region: Region | None) -> NDArray[Any]:
        """The whole or a region, axes Z, Y, X; exceptions as in :meth:`_part`."""
        return self._layout.take(self._part, region or WHOLE)

    def lazy_or_whole(self) -> LazyArray:
        """The lazy view, or the decoded array where there is none."""
        lazy = self.lazy()
        return self.read() if lazy is None else lazy

    def read(self, region: Region | None = None) -> NDArray[Any]:
        """The whole array or a region, in its own type, native byte order, C-contiguous. Raises :class:`DataError`.

        A region can only be read where there is a lazy view.
        """
        try:
            if region is None:
                refuse_beyond_memory(self.where, self._bytes_to_decode)
            array = np.ascontiguousarray(self._decode(region), dtype=self.dtype)
        except CellTrainError:
            raise
        except MemoryError:
            message = f"The volume does not fit the memory ({in_gb(self._bytes_to_decode)})."
            raise unreadable(self.where, message) from None
        except Exception as error:  # decoders meet damaged files in every imaginable way
            raise damaged(self.where, error) from error
        if region is None and array.shape != self.shape:
            message = f"The file holds {array.shape} voxels where its header announces {self.shape}"
            raise unreadable(self.where, f"{message}; it is cut off or damaged.", COPY_AGAIN)
        return array


class ArrayVolume(Volume):
    """An array in memory, or any array-like of dask or Zarr, with axes Z, Y, X unless ``axes`` says otherwise."""

    def __init__(
        self,
        name: str,
        array: Any,
        voxel_size: Spacing | None = None,
        *,
        axes: str | None = None,
        channel: int | None = None,
    ) -> None:
        layout = plan_layout(name, "", tuple(map(int, array.shape)), axes=axes, channel=channel)
        super().__init__(name, layout, np.dtype(array.dtype), voxel_size)
        self.key = id(array), layout
        self._array = array

    def _part(self, key: Any) -> Any:
        return self._array[key]


class _LazyView:
    """A volume of which only what is indexed by three slices is read."""

    ndim = 3

    def __init__(self, volume: Volume) -> None:
        self.shape: tuple[int, ...] = volume.shape
        self.dtype = volume.dtype
        self._volume = volume

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        return self._volume.read(three_slices(key))


def three_slices(key: slice | tuple[slice, ...]) -> Region:
    """What a volume is indexed by, with the axes that are left out. Raises ``TypeError`` for anything but slices."""
    given = key if isinstance(key, tuple) else (key,)
    if len(given) > 3 or not all(isinstance(part, slice) for part in given):
        raise TypeError("a volume is indexed by up to three slices")
    z, y, x = (*given, *WHOLE[len(given) :])
    return z, y, x


def voxels_in(shape: Sequence[int]) -> int:
    """The product as a Python integer, which cannot overflow however absurd a header is."""
    return math.prod(int(length) for length in shape)


def in_gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"


def refuse_beyond_memory(where: str, num_bytes: int) -> None:
    """Raise :class:`DataError` where an array could only be made by swapping or being killed."""
    available = psutil.virtual_memory().available
    if num_bytes > available:
        message = f"The volume needs {in_gb(num_bytes)} of memory, and {in_gb(available)} are free."
        how = "save it as OME-Zarr or uncompressed TIFF, which are read piece by piece."
        raise unreadable(where, message, f"Close other programs, cut the volume into smaller ones, or {how}")


def plain_dtype(where: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a volume of ``dtype`` is handed on: native byte order, and one that SciPy can work with."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    if dtype.kind in "ui":
        return dtype.newbyteorder("=")
    what = "complex numbers" if dtype.kind == "c" else f"data of type {dtype}"
    raise unreadable(where, f"The volume holds {what}.", "Save it as whole numbers (8 or 16 bit) or as 32-bit float.")


@contextlib.contextmanager
def may_be_denied(folder: Path) -> Iterator[None]:
    """Around looking into ``folder``: a refusal by the system becomes a :class:`DataError` that names it."""
    try:
        yield
    except PermissionError:
        remedy = "Ask for permission to read it, or choose another one."
        raise unreadable(str(folder), "The folder may not be read.", remedy) from None
    except OSError as error:
        remedy = "Check the drive it is on, or choose another folder."
        raise unreadable(str(folder), f"The folder cannot be read ({error.strerror or error}).", remedy) from error


@contextlib.contextmanager
def opening(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """Around reading the header of a file of this ``kind``: whatever fails becomes a :class:`DataError` naming it."""
    try:
        yield
    except DataError:
        raise
    except PermissionError:
        raise unreadable(path.name, "The file may not be read.", f"Ask for permission to read {path}.") from None
    except Exception as error:  # a damaged header fails in any way
        raise damaged(path.name, error, f"This is not {kind} that can be read", remedy) from error


def damaged(
    where: str,
    error: Exception,
    message: str = "The file cannot be decoded; it may be cut off or damaged",
    remedy: str = COPY_AGAIN,
) -> DataError:
    """Why a volume cannot be read: by ``message``, unless the disk is to blame, and not the file."""
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return gone(where, error.filename or where)
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        message, reason = "The file cannot be read", error.strerror or reason
        remedy = "Check the drive it is on, and its permissions."
    return unreadable(where, f"{message} ({shown(reason)}).", remedy)


def gone(where: str, path: Path | str) -> DataError:
    remedy = "Check the drive it was on, or put it back."
    return unreadable(where, f"The file cannot be read, since {path} is gone.", remedy)


def slabs(array: LazyArray, *, multiple_of: int = 1) -> Iterator[tuple[int, NDArray[Any]]]:
    """Go through ``array`` along z once: (first plane, slab). All slabs but the last hold a multiple of planes."""
    plane = max(1, math.prod(array.shape[1:]))
    step = max(1, SLAB_VOXELS // plane // multiple_of) * multiple_of
    for start in range(0, array.shape[0], step):
        yield start, np.asarray(array[start : start + step, :, :])


def fingerprint(volume: Volume | LazyArray) -> str:
    """A hash of shape, type and every voxel: equal for equal content, whatever the file and its compression."""
    array = volume.lazy_or_whole() if isinstance(volume, Volume) else volume
    digest = hashlib.blake2b(f"{tuple(array.shape)} {array.dtype.name}".encode(), digest_size=16)
    for _, slab in slabs(array):
        digest.update(np.ascontiguousarray(slab).data)
    return digest.hexdigest()


def sample_voxels(volume_ZYX: LazyArray, max_voxels: int = MAX_SAMPLED_VOXELS) -> NDArray[Any]:
    """All voxels, or a regular grid of them: (planes, voxels of each).

    They are read in few slabs, as neighbouring ones share their chunks.
    """
    steps = _steps(volume_ZYX.shape, max_voxels)
    z, y, x = (slice(step // 2, None, step) for step in steps)
    planes = range(*z.indices(volume_ZYX.shape[0]))
    voxels_per_plane = math.prod(
        len(range(*part.indices(length))) for part, length in zip((y, x), volume_ZYX.shape[1:], strict=True)
    )
    at_once = max(1, SLAB_VOXELS // 2 // voxels_per_plane)
    parts = [
        np.asarray(volume_ZYX[group.start : group.stop : group.step, y, x]).reshape(len(group), -1)
        for group in (planes[first : first + at_once] for first in range(0, len(planes), at_once))
    ]
    sample = np.concatenate(parts)
    return sample.astype(np.uint8) if sample.dtype == bool else sample


def _steps(shape: tuple[int, ...], max_voxels: int) -> ZYX:
    """Every how many voxels along z, y and x; always the axis with the most voxels left is thinned out first."""
    steps = [1, 1, 1]
    left = list(shape)
    while math.prod(left) > max_voxels:
        axis = left.index(max(left))
        steps[axis] += 1
        left[axis] = len(range(steps[axis] // 2, shape[axis], steps[axis]))
    return zyx(steps)
