"""TIFF volumes: plain stacks, ImageJ's, OME's and tifffile's own.

The header is checked before anything is allocated: a file that was cut off, or that announces more voxels than its
bytes can hold, is refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_celltrain.io.axes import Region, micrometres_per, plan_layout, spacing_of, unreadable
from napari_celltrain.io.volume import COPY_AGAIN, LazyArray, Volume, in_gb, opening
from napari_celltrain.values.config import Spacing

# How many bytes one compressed byte can at most become. Deflate's limit follows from its format; LZW's from
# 12-bit codes for strings of at most 4096 bytes; the others are generous.
_MAX_RATIO = {1: 1, 5: 2731, 8: 1032, 32773: 64, 32946: 1032}
_MAX_RATIO_OF_OTHERS = 100_000
# Room for padding of tiles and rows beyond the image.
_SLACK_BYTES = 1 << 20

_reading: list[None] = []
"""One entry for each read that is going on, in whichever thread: appending and popping need no lock."""
# Our own errors say what is wrong, so tifffile's lines are dropped, those of the threads that it decodes in as well.
logging.getLogger("tifffile").addFilter(lambda _: not _reading)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Neither tifffile's log lines nor NumPy's warnings of what a damaged header made it compute."""
    _reading.append(None)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _reading.pop()


class TiffVolume(Volume):
    """The volume of one TIFF file."""

    def __init__(
        self, path: Path, name: str, *, axes: str | None, channel: int | None, voxel_size: Spacing | None
    ) -> None:
        self._file = path
        with opening(path, "a TIFF file", "Export it again."):
            _check_pages(path)
            with _quietly(), tifffile.TiffFile(path) as tif:
                series = tif.series[_main_series(tif, path.name)]
                self._shape = tuple(map(int, series.shape))
                self._stored_dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
                # where the array lies in the file, uncompressed and in one piece; 1-bit images are packed
                self._offset = None if self._stored_dtype.kind == "b" else series.dataoffset
                _check_size(tif, series, self._offset, path.name)
                file_axes, own_size = series.axes, _voxel_size(tif)
        layout = plan_layout(path.name, file_axes, self._shape, axes=axes, channel=channel)
        super().__init__(name, layout, self._stored_dtype, voxel_size or own_size, path)
        self.key = str(path.resolve()), layout
        self._bytes_to_decode = math.prod(self._shape) * self._stored_dtype.itemsize

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
        with _quietly(), tifffile.TiffFile(self._file) as tif:
            array = tif.series[_main_series(tif, self.where)].asarray()
        # read() refuses another shape, naming both
        return array if array.shape != self._shape else self._layout.take(array.__getitem__)


def _check_pages(path: Path) -> None:
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
                page = number(page + struct.calcsize(order + count) + entry * number(page, count), offset)
            if seen and not page:
                return
    raise unreadable(path.name, "The file is cut off: its list of planes leads past its end.", COPY_AGAIN)


def _check_size(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, offset: int | None, where: str) -> None:
    """Refuse what the file's bytes cannot hold, before anything of that size is allocated."""
    size, voxels = tif.filehandle.size, math.prod(series.shape)
    announced = _announced_voxels(tif)
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
        if page.parent.filehandle.path != tif.filehandle.path:
            return  # OME-TIFF over several files: each is checked by its decoder
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


def _announced_voxels(tif: tifffile.TiffFile) -> int:
    """How many voxels the metadata promise; 0 where they do not say it apart from the planes themselves."""
    if tif.is_ome:
        pixels = _ome_pixels(tif)
        return math.prod(int(pixels.get(f"Size{letter}", "1")) for letter in "TCZYX") if pixels else 0
    if tif.is_imagej:
        return int((tif.imagej_metadata or {}).get("images", 1)) * int(tif.pages.first.size)
    return max((int(math.prod(entry["shape"])) for entry in tif.shaped_metadata or ()), default=0)


def _voxel_size(tif: tifffile.TiffFile) -> Spacing | None:
    """(z, y, x) in micrometres, where the file says all three."""
    if tif.is_ome:
        pixels = _ome_pixels(tif)
        # OME: where the unit is left out, it is the micrometre.
        factors = [micrometres_per(pixels.get(f"PhysicalSize{letter}Unit", "µm")) for letter in "ZYX"]
        lengths: list[Any] = [pixels.get(f"PhysicalSize{letter}", math.nan) for letter in "ZYX"]
    elif tif.is_imagej or tif.shaped_metadata:
        metadata = dict(tif.imagej_metadata or {}) if tif.is_imagej else dict(*(tif.shaped_metadata or ())[:1])
        # ImageJ leaves out a spacing of exactly 1; other writers that claim to be ImageJ leave out what they
        # do not know. tifffile signs as 1.11a.
        if tif.is_imagej and str(metadata.get("ImageJ", "")) != "1.11a":
            metadata.setdefault("spacing", 1.0)
        factors = [micrometres_per(str(metadata.get(key, metadata.get("unit")))) for key in ("zunit", "yunit", "unit")]
        spacing = metadata.get("spacing", math.nan)
        lengths = [abs(spacing) if isinstance(spacing, float | int) else spacing]
        for tag in ("YResolution", "XResolution"):
            numerator, denominator = tif.pages.first.tags[tag].value if tag in tif.pages.first.tags else (0, 0)
            lengths.append(denominator / numerator if numerator else math.nan)
    else:  # a plain TIFF has tags for x and y only, and they mostly hold dots per inch of a screen
        return None
    try:
        return spacing_of(lengths, factors)
    except (TypeError, ValueError):  # not numbers
        return None


def _ome_pixels(tif: tifffile.TiffFile) -> dict[str, str]:
    """The attributes of the first ``Pixels`` element; empty where the XML is damaged."""
    try:
        root = ET.fromstring(tif.ome_metadata or "")
    except ET.ParseError:
        return {}
    return next((dict(element.attrib) for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), {})
