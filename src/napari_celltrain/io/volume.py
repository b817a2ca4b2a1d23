"""What every volume can do, wherever it comes from: :class:`Volume`, and :class:`ArrayVolume` for memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_celltrain.io.axes import WHOLE, Layout, Region, plan_layout, unreadable
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import CellTrainError, DataError

SLAB_VOXELS = 2**23
"""Voxels that a pass over a volume holds at a time: large enough to be quick, small beside any volume."""

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


class LazyArray(Protocol):
    """Anything with axes Z, Y, X that gives NumPy arrays when indexed by three slices; arrays themselves, too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Volume(ABC):
    """One 3D volume of which only the header has been read."""

    def __init__(
        self, name: str, shape: ZYX, dtype: np.dtype[Any], voxel_size: Spacing | None, path: Path | None = None
    ) -> None:
        self.name = name
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.voxel_size = voxel_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}, {self.shape}, {self.dtype})"

    @property
    def where(self) -> str:
        """What messages call it: the file's name where there is a file."""
        return self.path.name if self.path else self.name

    @property
    def nbytes(self) -> int:
        """Memory that the decoded volume takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Equal for two volumes exactly when both give the same array."""

    @abstractmethod
    def lazy(self) -> LazyArray | None:
        """The volume as a view that reads what is indexed; None where it can only be decoded whole."""

    @abstractmethod
    def _decode(self) -> NDArray[Any]:
        """The array, axes Z, Y, X; any exception is taken to mean that the file is damaged."""

    @property
    def _bytes_to_decode(self) -> int:
        return self.nbytes

    def lazy_or_whole(self) -> LazyArray:
        """The lazy view, or the decoded array where there is none."""
        lazy = self.lazy()
        return self.read() if lazy is None else lazy

    def read(self) -> NDArray[Any]:
        """The whole array in its own type, native byte order, C-contiguous. Raises :class:`DataError`."""
        refuse_beyond_memory(self.where, self._bytes_to_decode)
        try:
            array = np.ascontiguousarray(self._decode(), dtype=self.dtype)
        except CellTrainError:
            raise
        except MemoryError:
            raise unreadable(
                self.where, f"The volume does not fit the memory ({in_gb(self._bytes_to_decode)})."
            ) from None
        except Exception as error:  # decoders meet damaged files in every imaginable way
            raise damaged(self.where, error) from error
        if array.shape != self.shape:
            raise unreadable(
                self.where,
                f"The file holds {array.shape} voxels where its header announces {self.shape}; it is cut off or "
                "damaged.",
                "Copy or export it again.",
            )
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
        shape = tuple(int(length) for length in array.shape)
        self._layout = plan_layout(name, "", shape, axes=axes, channel=channel)
        super().__init__(name, self._layout.shape, plain_dtype(name, np.dtype(array.dtype)), voxel_size)
        self._array = array

    @property
    def key(self) -> Hashable:
        return id(self._array), self._layout

    def lazy(self) -> LazyArray:
        return LazyView(self.where, self._array.__getitem__, self._layout, self.dtype)

    def _decode(self) -> NDArray[Any]:
        return self._layout.take(self._array.__getitem__)


class LazyView:
    """A file's array seen as Z, Y, X: reads only what is indexed by three slices, in native byte order."""

    ndim = 3

    def __init__(self, where: str, read: Callable[[Any], Any], layout: Layout, dtype: np.dtype[Any]) -> None:
        self.shape: tuple[int, ...] = layout.shape
        self.dtype = dtype
        self._where = where
        self._read = read
        self._layout = layout

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        region = three_slices(key)
        try:
            return np.ascontiguousarray(self._layout.take(self._read, region), dtype=self.dtype)
        except CellTrainError:
            raise
        except Exception as error:  # as in Volume.read: a damaged chunk fails in any way
            raise damaged(self._where, error) from error


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
        raise unreadable(
            where,
            f"The volume needs {in_gb(num_bytes)} of memory, and {in_gb(available)} are free.",
            "Close other programs, cut the volume into smaller ones, or save it as OME-Zarr or uncompressed TIFF, which"
            " are read piece by piece.",
        )


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


def damaged(where: str, error: Exception) -> DataError:
    """Why a volume cannot be decoded; the disk may be to blame, and not the file."""
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return gone(where, error.filename or where)
    if is_of_the_disk(error):
        reason = getattr(error, "strerror", None) or error
        remedy = "Check the drive it is on, and its permissions."
        return unreadable(where, f"The file cannot be read ({reason}).", remedy)
    reason = str(error).strip() or type(error).__name__
    message = f"The file cannot be decoded; it may be cut off or damaged ({reason})."
    return unreadable(where, message, "Copy or export it again.")


def is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _OF_THE_DISK


def gone(where: str, path: Path | str) -> DataError:
    message = f"The file cannot be read, since {path} is gone."
    return unreadable(where, message, "Check the drive it was on, or put it back.")


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
