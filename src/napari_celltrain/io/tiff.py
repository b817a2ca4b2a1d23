"""TIFF volumes of every kind.

The header is checked before anything is allocated: a file that was cut off, or that announces more voxels than its
bytes can hold, is refused. A file gives the planes that it holds, also where its metadata are those of a set of files.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_celltrain.io.axes import Region, plan_layout, plane_grid, unreadable
from napari_celltrain.io.tiff_metadata import TiffFacts, facts_in, quietly, remarks_on
from napari_celltrain.io.volume import COPY_AGAIN, LazyArray, Volume, in_gb, opening
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.outside import kind_of

# How many bytes one compressed byte can at most become. Deflate's limit follows from its format; LZW's from
# 12-bit codes for strings of at most 4096 bytes; the others are generous.
_MAX_RATIO = {1: 1, 5: 2731, 8: 1032, 32773: 64, 32946: 1032}
_MAX_RATIO_OF_OTHERS = 100_000
# Room for padding of tiles and rows beyond the image.
_SLACK_BYTES = 1 << 20


class TiffVolume(Volume):
    """The volume of one TIFF file."""

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        axes: str | None,
        channel: int | None,
        voxel_size: Spacing | None,
        as_plane: bool = False,
    ) -> None:
        """``as_plane``: the file must hold one plane, which is a volume of one slice."""
        self._file = path
        with opening(path, "a TIFF file", "Export it again."):
            for _ in _pages(path):
                pass
            with quietly(), tifffile.TiffFile(path, _multifile=False) as tif:
                self._facts = facts_in(tif, path)
            with quietly(), self._open() as tif:
                series = tif.series[_main_series(tif, path.name)]
                self._shape, file_axes = tuple(map(int, series.shape)), series.axes
                self._stored_dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
                # where the array lies in the file, uncompressed and in one piece; 1-bit images are packed
                self._offset = None if self._stored_dtype.kind == "b" else series.dataoffset
                _check_size(tif, series, self._offset, path.name, self._facts)
                if as_plane:
                    self._shape, file_axes = (1, *self._shape), f"Z{file_axes}"
                elif self._facts.planes:
                    grid, lengths = plane_grid(path.name, self._facts.planes, self._facts.slices)
                    page = series.keyframe
                    self._shape, file_axes = (*lengths, *map(int, page.shape)), grid + page.axes
        layout = plan_layout(path.name, file_axes, self._shape, axes=axes, channel=channel, flat=as_plane)
        super().__init__(name, layout, self._stored_dtype, voxel_size or self._facts.voxel_size, path)
        self.key = str(path.resolve()), layout
        self.plane = self._facts.planes[0] if as_plane and self._facts.planes else None
        """Of a set of files, where it is one."""
        self.slices = self._facts.slices
        self._bytes_to_decode = math.prod(self._shape) * self._stored_dtype.itemsize
        self.remarks = remarks_on(self._facts, path.name, voxel_size is None, as_plane)

    def _open(self) -> tifffile.TiffFile:
        """Where the metadata are those of a set of files, tifffile must not follow them."""
        names = ("is_ome", "is_imagej", "is_mmstack", "is_ndtiff") if self._facts.planes else ()
        flags: dict[str, Any] = dict.fromkeys(names, False)
        return tifffile.TiffFile(self._file, _multifile=False, **flags)

    def lazy(self) -> LazyArray | None:
        return None if self._offset is None else super().lazy()

    def _part(self, key: Any) -> NDArray[Any]:
        assert self._offset is not None
        # Where a mapped file has become shorter, the system ends the program: so each part is copied at once.
        size, end = self._file.stat().st_size, self._offset + self._bytes_to_decode
        if size < end:
            raise ValueError(f"{size} bytes instead of {end} at least")
        return np.array(np.memmap(self._file, self._stored_dtype, "r", self._offset, self._shape)[key])

    def _decode(self, region: Region | None) -> NDArray[Any]:
        if region is not None:
            return super()._decode(region)
        with quietly(), self._open() as tif:
            array = tif.series[_main_series(tif, self.where)].asarray()
        if array.size != math.prod(self._shape):
            return array  # read() refuses it, naming both shapes
        return self._layout.take(array.reshape(self._shape).__getitem__)


def is_single_page(path: Path) -> bool:
    """Whether a file has one page, as that of a single plane has; False where it cannot be read."""
    with contextlib.suppress(DataError, OSError):
        return kind_of(path) == "file" and len(list(itertools.islice(_pages(path), 2))) == 1
    return False


def _pages(path: Path) -> Iterator[int]:
    """Follow the chain of page headers to its end, and refuse one that leads out of the file, as after an aborted copy.

    tifffile stops at the break with a log line and returns fewer planes, which is why we look ourselves.
    Format: TIFF 6.0, section 2, and the BigTIFF extension.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)

        def number(at: int, kind: str) -> int:
            file.seek(min(at, size))
            found: int = struct.unpack(order + kind, file.read(struct.calcsize(order + kind)))[0]
            return found

        file.seek(0)
        head = file.read(8)
        if not head:
            raise unreadable(path.name, "The file is empty (0 bytes).", COPY_AGAIN)
        if len(head) < 8 or head[:2] not in (b"II", b"MM"):
            raise unreadable(path.name, "This is not a TIFF file, despite its name.", "Export it as TIFF.")
        order = "<" if head[:2] == b"II" else ">"
        count, offset, entry, start = ("Q", "Q", 20, 8) if number(2, "H") == 43 else ("H", "I", 12, 4)
        seen: set[int] = set()
        with contextlib.suppress(struct.error):  # beyond the end of the file
            page = number(start, offset)
            while page and page not in seen:
                seen.add(page)
                after = number(page + struct.calcsize(order + count) + entry * number(page, count), offset)
                yield page
                page = after
            if seen and not page:
                return
    raise unreadable(path.name, "The file is cut off: its list of planes leads past its end.", COPY_AGAIN)


def _check_size(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, offset: int | None, where: str, facts: TiffFacts
) -> None:
    """Refuse what the file's bytes cannot hold, before anything of that size is allocated."""
    size, voxels = tif.filehandle.size, math.prod(series.shape)
    announced = facts.announced if not facts.planes else len(facts.planes) * series.keyframe.size
    if announced > voxels:
        message = f"The file announces {announced:,} voxels but holds the planes of {voxels:,}"
        raise unreadable(where, f"{message}; it is cut off, or parts of it are missing.", COPY_AGAIN)
    needed = voxels * np.dtype(series.dtype).itemsize
    if offset is not None:
        if offset + needed > size:
            message = f"The file announces {in_gb(needed)} of voxels but has {in_gb(size)}; it is cut off or damaged."
            raise unreadable(where, message, COPY_AGAIN)
        return
    stored = 0
    for page in series.pages:
        if page is None:
            raise unreadable(where, "Planes are missing, perhaps in a second file that was not copied along.")
        ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if ends and max(ends) > size:
            raise unreadable(where, "The file is cut off: planes lie past its end.", COPY_AGAIN)
        stored += sum(page.databytecounts)
    first = series.keyframe
    bits = voxels * (first.bitspersample or 8)
    if bits // 8 > stored * _MAX_RATIO.get(int(first.compression), _MAX_RATIO_OF_OTHERS) + _SLACK_BYTES:
        message = f"The file announces {in_gb(needed)} of voxels, more than its {in_gb(stored)} of data can hold"
        raise unreadable(where, f"{message}; it is damaged.", COPY_AGAIN)


def _main_series(tif: tifffile.TiffFile, where: str) -> int:
    """The index of the one series that is a volume, or the first where none is."""
    if not tif.series:
        raise unreadable(where, "The file holds no image.", "Export it again.")
    volumes = [i for i, series in enumerate(tif.series) if sum(length > 1 for length in series.shape) >= 3]
    if len(volumes) > 1:
        message = f"The file holds {len(volumes)} separate volumes."
        raise unreadable(where, message, "Save each as a file of its own.")
    if not volumes and len(tif.series) > 1:
        message = f"The {len(tif.pages)} planes differ in size or type, so they are no volume."
        raise unreadable(where, message)
    return volumes[0] if volumes else 0
