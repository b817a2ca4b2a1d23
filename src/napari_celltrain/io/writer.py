"""Writing volumes that Fiji and napari open with their voxel size."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_celltrain.values import files
from napari_celltrain.values.config import ZYX, Spacing
from napari_celltrain.values.errors import DataError

# What the ImageJ format knows, and how much: beyond it, OME-TIFF in 64-bit layout.
_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)
_IMAGEJ_BYTES = 2**32 - 2**25


def write_volume(path: Path, array: NDArray[Any], voxel_size: Spacing | None = None) -> None:
    """Write ``array`` (Z, Y, X) as compressed TIFF: whole or not at all.

    8-bit, 16-bit and 32-bit float volumes become ImageJ TIFF; others, and those beyond 4 GB, OME-TIFF. Whole
    numbers of 64 bits are stored with 32 where they fit. Raises :class:`DataError` naming the file.
    """
    if array.ndim != 3:
        raise ValueError(f"a volume has 3 axes, and this array has {array.ndim}")
    data = _storable(path, array)
    _write(path, data, data.shape, data.dtype, voxel_size)


def write_planes(
    path: Path,
    planes_YX: Iterator[NDArray[Any]],
    shape: ZYX,
    dtype: np.dtype[Any],
    voxel_size: Spacing | None = None,
) -> None:
    """As :func:`write_volume`, plane after plane, for what is larger than memory. The planes are of type ``dtype``,
    which is whole numbers of up to 32 bits or float32."""
    _write(path, planes_YX, shape, dtype, voxel_size)


def _write(
    path: Path,
    data: NDArray[Any] | Iterator[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    voxel_size: Spacing | None,
) -> None:
    imagej = dtype in _IMAGEJ_TYPES and prod(shape) * dtype.itemsize <= _IMAGEJ_BYTES
    options = _imagej_options(voxel_size) if imagej else _ome_options(voxel_size)
    if not isinstance(data, np.ndarray):
        options |= {"shape": shape, "dtype": dtype}

    def write(temporary: Path) -> None:
        tifffile.imwrite(temporary, data, compression="zlib", photometric="minisblack", **options)

    try:
        with files.writing(path, DataError):
            files.write_with(path, write)
    except MemoryError as error:
        raise DataError(f"{path.name}: there is not enough memory to write it. Close other programs.") from error
    except ValueError as error:
        raise DataError(f"{path.name}: cannot be written to {path.parent} ({error}).") from error


def _storable(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """``array`` in a type that TIFF readers know, values unchanged."""
    dtype = array.dtype
    if dtype.kind == "b":
        return array.astype(np.uint8)
    if dtype.kind == "f":
        return array.astype(np.float32 if dtype.itemsize <= 4 else np.float64, copy=False)
    if dtype.kind not in "ui":
        raise DataError(f"{path.name}: cannot be written, since TIFF does not hold data of type {dtype}.")
    if dtype.itemsize < 8:
        return array.astype(dtype.newbyteorder("="), copy=False)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for smaller in (np.uint32, np.int32):
        if np.iinfo(smaller).min <= low and high <= np.iinfo(smaller).max:
            return array.astype(smaller)
    raise DataError(f"{path.name}: cannot be written, since values from {low} to {high} do not fit 32 bits.")


def _imagej_options(voxel_size: Spacing | None) -> dict[str, Any]:
    options: dict[str, Any] = {"imagej": True, "metadata": {"axes": "ZYX"}}
    if voxel_size is not None:
        z, y, x = voxel_size
        options["resolution"] = (1 / x, 1 / y)
        options["metadata"] |= {"spacing": z, "unit": "um"}
    return options


def _ome_options(voxel_size: Spacing | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    if voxel_size is not None:
        for letter, size in zip("ZYX", voxel_size, strict=True):
            metadata |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": "µm"}
    return {"ome": True, "bigtiff": True, "metadata": metadata}
