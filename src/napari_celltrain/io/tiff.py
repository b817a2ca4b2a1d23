"""TIFF volumes: plain stacks, ImageJ's, OME's and tifffile's own.

The header is checked before anything is allocated: a file that was cut off, or that announces more voxels than its
bytes can hold, is refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_celltrain.io.axes import micrometres_per, plan_layout, spacing_of, unreadable
from napari_celltrain.io.volume import LazyArray, LazyView, Volume, damaged, in_gb, is_of_the_disk, plain_dtype
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import DataError

# How many bytes one compressed byte can at most become. Deflate's limit follows from its format; LZW's from
# 12-bit codes for strings of at most 4096 bytes; the others are generous.
_MAX_RATIO = {1: 1, 5: 2731, 8: 1032, 32773: 64, 32946: 1032}
_MAX_RATIO_OF_OTHERS = 100_000
# Room for padding of tiles and rows beyond the image.
_SLACK_BYTES = 1 << 20

_AGAIN = "Copy or export it again."


@dataclass(frozen=True, slots=True)
class _Header:
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    offset: int | None
    """Where the bytes of the whole array lie, uncompressed and in one piece; None where they do not."""
    voxel_size: Spacing | None


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
        header = _read_header(path)
        self._header = header
        self._layout = plan_layout(path.name, header.axes, header.shape, axes=axes, channel=channel)
        dtype = plain_dtype(path.name, header.dtype)
        super().__init__(name, self._layout.shape, dtype, voxel_size or header.voxel_size, path)
        self._file = path

    @property
    def key(self) -> Hashable:
        return str(self._file.resolve()), self._layout

    @property
    def _bytes_to_decode(self) -> int:
        return math.prod(self._header.shape) * self._header.dtype.itemsize

    def lazy(self) -> LazyArray | None:
        header = self._header
        if header.offset is None:
            return None
        try:
            mapped = np.memmap(self._file, header.stored_dtype, mode="r", offset=header.offset, shape=header.shape)
        except (OSError, ValueError) as error:
            raise unreadable(self.where, f"The file cannot be read ({error}).") from error
        end = mapped.offset + mapped.nbytes

        def read(key: Any) -> NDArray[Any]:
            # Where a mapped file has become shorter, the system ends the program. Parts are copied at once, so that
            # nothing that is handed on still depends on the file.
            size = self._file.stat().st_size
            if size < end:
                raise ValueError(f"{size} bytes instead of {end} at least")
            return np.array(mapped[key])

        return LazyView(self.where, read, self._layout, self.dtype)

    def _decode(self) -> NDArray[Any]:
        with _quietly(), tifffile.TiffFile(self._file) as tif:
            array = tif.series[_main_series(tif, self.where)].asarray()
        if array.shape != self._header.shape:
            return array  # Volume.read refuses it, naming both shapes
        return self._layout.take(array.__getitem__)


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as file:
            complete = _pages_are_complete(file)
        if complete:
            with _quietly(), tifffile.TiffFile(path) as tif:
                return _check_header(tif, path)
    except DataError:
        raise
    except PermissionError:
        raise unreadable(path.name, "The file may not be read.", f"Ask for permission to read {path}.") from None
    except FileNotFoundError:
        raise unreadable(path.name, f"The file does not exist in {path.parent}.") from None
    except Exception as error:  # a damaged header fails in any way
        if is_of_the_disk(error):
            raise damaged(path.name, error) from error
        message = f"This is not a TIFF file that can be read ({error})."
        raise unreadable(path.name, message, "Export it again.") from error
    raise unreadable(path.name, "The file is cut off: its list of planes leads past its end.", _AGAIN)


def _pages_are_complete(file: BinaryIO) -> bool:
    """Follow the chain of page headers to its end; False where it leads out of the file, as after an aborted copy.

    tifffile stops at the break with a log line and returns fewer planes, which is why we look ourselves.
    Format: TIFF 6.0, section 2, and the BigTIFF extension.
    """
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(16)
    if size == 0:
        raise unreadable(Path(file.name).name, "The file is empty (0 bytes).", _AGAIN)
    if len(head) < 8 or head[:2] not in (b"II", b"MM"):
        raise unreadable(Path(file.name).name, "This is not a TIFF file, despite its name.", "Export it as TIFF.")
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    count_format, offset_format, entry = (order + "Q", order + "Q", 20) if big else (order + "H", order + "I", 12)
    count_size, offset_size = struct.calcsize(count_format), struct.calcsize(offset_format)
    start = 8 if big else 4
    seen: set[int] = set()
    offset = struct.unpack(offset_format, head[start : start + offset_size])[0]
    while offset:
        if offset in seen or offset + count_size > size:
            return False
        seen.add(offset)
        file.seek(offset)
        num_entries = struct.unpack(count_format, file.read(count_size))[0]
        end = offset + count_size + num_entries * entry
        if end + offset_size > size:
            return False
        file.seek(end)
        offset = struct.unpack(offset_format, file.read(offset_size))[0]
    return bool(seen)


def _check_header(tif: tifffile.TiffFile, path: Path) -> _Header:
    series = tif.series[_main_series(tif, path.name)]
    announced = _announced_voxels(tif)
    held = math.prod(series.shape)
    if announced is not None and announced > held:
        raise unreadable(
            path.name,
            f"The file announces {announced:,} voxels but holds the planes of {held:,}; it is cut off, or parts of it "
            "are missing.",
            _AGAIN,
        )
    dtype = np.dtype(series.dtype)
    # tifffile writes and reads 1-bit images packed: such bytes are no array.
    offset = series.dataoffset if dtype.kind != "b" else None
    _check_bytes(tif, series, offset, path)
    return _Header(
        axes=series.axes,
        shape=tuple(int(length) for length in series.shape),
        dtype=dtype,
        stored_dtype=dtype.newbyteorder(">" if tif.byteorder == ">" else "<"),
        offset=offset,
        voxel_size=_voxel_size(tif),
    )


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


def _announced_voxels(tif: tifffile.TiffFile) -> int | None:
    """How many voxels the metadata promises, where they say it apart from the planes themselves."""
    if tif.is_ome:
        pixels = _ome_pixels(tif)
        lengths = [int(pixels.get(f"Size{letter}", "1")) for letter in "TCZYX"]
        return math.prod(lengths) if pixels else None
    if tif.is_imagej:
        planes = (tif.imagej_metadata or {}).get("images", 1)
        return int(planes) * int(tif.pages.first.size)
    if tif.shaped_metadata:
        return max(int(math.prod(entry["shape"])) for entry in tif.shaped_metadata)
    return None


def _check_bytes(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, offset: int | None, path: Path) -> None:
    """Refuse what the file's bytes cannot hold, before anything of that size is allocated."""
    size, voxels = tif.filehandle.size, math.prod(series.shape)
    needed = voxels * np.dtype(series.dtype).itemsize
    if offset is not None:
        if offset + needed > size:
            message = f"The file announces {in_gb(needed)} of voxels but has {in_gb(size)}; it is cut off or damaged."
            raise unreadable(path.name, message, _AGAIN)
        return
    stored = 0
    for page in series.pages:
        if page is None:
            raise unreadable(path.name, "Planes are missing, perhaps in a second file that was not copied along.")
        if page.parent.filehandle.path != tif.filehandle.path:
            return  # OME-TIFF over several files: each is checked by its decoder
        ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if ends and max(ends) > size:
            raise unreadable(path.name, "The file is cut off: planes lie past its end.", _AGAIN)
        stored += sum(page.databytecounts)
    first = series.keyframe
    bits = voxels * (first.bitspersample or 8)
    if bits // 8 > stored * _MAX_RATIO.get(int(first.compression), _MAX_RATIO_OF_OTHERS) + _SLACK_BYTES:
        raise unreadable(
            path.name,
            f"The file announces {in_gb(needed)} of voxels, more than its {in_gb(stored)} of data can hold; it is "
            "damaged.",
            _AGAIN,
        )


def _voxel_size(tif: tifffile.TiffFile) -> Spacing | None:
    """(z, y, x) in micrometres, where the file says all three."""
    if tif.is_ome:
        pixels = _ome_pixels(tif)
        # OME: where the unit is left out, it is the micrometre.
        factors = [micrometres_per(pixels.get(f"PhysicalSize{letter}Unit", "µm")) for letter in "ZYX"]
        try:
            return spacing_of([float(pixels.get(f"PhysicalSize{letter}", "nan")) for letter in "ZYX"], factors)
        except ValueError:
            return None
    if tif.is_imagej:
        metadata = dict(tif.imagej_metadata or {})
        # ImageJ leaves out a spacing of exactly 1; other writers that claim to be ImageJ leave out what they
        # do not know. tifffile signs as 1.11a.
        if str(metadata.get("ImageJ", "")) != "1.11a":
            metadata.setdefault("spacing", 1.0)
    elif tif.shaped_metadata:
        metadata = dict(tif.shaped_metadata[0])
    else:  # a plain TIFF has tags for x and y only, and they mostly hold dots per inch of a screen
        return None
    factors = [micrometres_per(str(metadata.get(key, metadata.get("unit")))) for key in ("zunit", "yunit", "unit")]
    tags = tif.pages.first.tags
    per_pixel = []
    for tag in ("YResolution", "XResolution"):
        numerator, denominator = tags[tag].value if tag in tags else (0, 0)
        per_pixel.append(denominator / numerator if numerator else math.nan)
    try:
        return spacing_of([abs(float(metadata.get("spacing", math.nan))), *per_pixel], factors)
    except (TypeError, ValueError):
        return None


def _ome_pixels(tif: tifffile.TiffFile) -> dict[str, str]:
    """The attributes of the first ``Pixels`` element; empty where the XML is damaged."""
    try:
        root = ET.fromstring(tif.ome_metadata or "")
    except ET.ParseError:
        return {}
    return next((dict(element.attrib) for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), {})
