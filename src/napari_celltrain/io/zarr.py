"""OME-Zarr images (NGFF 0.4 and 0.5), at full resolution, and bare Zarr arrays.

A stranger's array may name codecs that run code (``pickle``), chunks that unpack to far more than they announce, and
links or devices in the place of chunks. So the metadata are checked before Zarr sees them, only known codecs are let
through, and Zarr gets its chunks from :class:`_Chunks`. To import this module is slow, as it is to import Zarr.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import imagecodecs
import numcodecs  # type: ignore[import-untyped]
import zarr
from pydantic import BaseModel, Field, PositiveInt
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import StorePath

from napari_celltrain.io.axes import micrometres_per, plan_layout, spacing_of, unreadable
from napari_celltrain.io.volume import COPY_AGAIN, Volume, gone, in_gb, is_zarr, opening, refuse_beyond_memory
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.outside import check_record, kind_of, open_file, read_json, shown
from napari_celltrain.values.text import sizes

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype

_MAX_METADATA_BYTES = 16 * 2**20
_COMPRESSORS = frozenset({"blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd"})
_KNOWN_CODECS = _COMPRESSORS.union(
    {"bytes", "endian", "transpose", "sharding_indexed", "crc32c", "crc32", "adler32", "fletcher32"},
    {"delta", "fixedscaleoffset", "quantize", "astype", "bitround", "packbits", "shuffle"},
)
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]|u?int(8|16|32|64)|float(16|32|64)|bool")
"""The types that filters may convert to; others could make any number of bytes of one."""
_MAX_VOXELS = 10**13
"""More would take a year to segment."""
_MAX_SMALL_CHUNKS = 10**5
_MAX_CHUNKS_IN_SHARD = 2**20
_MAX_LABELS = 1000
"""Of one image; who has more is asked for a choice anyway."""
_EXPORT = "Export it as OME-Zarr 0.4 or 0.5, or as TIFF."


class ZarrVolume(Volume):
    """The full-resolution array of one OME-Zarr image."""

    def __init__(
        self, path: Path, name: str, *, axes: str | None, channel: int | None, voxel_size: Spacing | None
    ) -> None:
        with opening(path, "an OME-Zarr image", _EXPORT):
            self._folder, file_axes, own_size = _find_array(path)
            self._array = _open_array(self._folder, path.name)
            shape = tuple(map(int, self._array.shape))
            layout = plan_layout(path.name, file_axes, shape, axes=axes, channel=channel)
            _check_chunks(self._folder, path.name, self._array)
        super().__init__(name, layout, self._array.dtype, voxel_size or own_size, path)
        self.key = str(self._folder), layout

    def _part(self, key: Any) -> Any:
        part = self._array[key]
        # to Zarr, a chunk without a file is one of zeros
        if not is_zarr(self._folder):
            raise gone(self.where, self._folder)
        return part


# --- metadata


class _Axis(BaseModel):
    name: str = ""
    type: str | None = None
    unit: str | None = None


class _Transformation(BaseModel):
    type: str | None = None
    scale: list[float] = []


class _Scaled(BaseModel):
    steps: list[_Transformation] | None = Field(None, alias="coordinateTransformations")


class _Dataset(_Scaled):
    path: str


class _Image(_Scaled):
    axes: list[_Axis | str] | None = None
    datasets: Annotated[list[_Dataset], Field(min_length=1)]


class _Node(BaseModel):
    node_type: str = ""
    attributes: dict[str, Any] = {}


class _Group(BaseModel):
    multiscales: list[Any] = []
    labels: list[str] = []


def _read_json(file: Path) -> Any:
    """None where there is no such file."""
    if kind_of(file) is None:
        return None
    _inside(file.parent.resolve(), file)
    # what Python writes into metadata may hold NaN
    return read_json(file, limit=_MAX_METADATA_BYTES, allow_nan=True)


def _inside(folder: Path, path: Path) -> Path:
    """``path`` without links. Raises :class:`DataError` where it leads out of ``folder``."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(folder):
        message = f"A link or path in it leads out of the folder, to {shown(real)}."
        raise unreadable(shown(folder), message, "Copy it with what its links lead to.")
    return real


def _attributes(path: Path) -> tuple[_Group, dict[str, Any], bool]:
    """What a Zarr folder says of its images and labels, the whole of it, and whether the folder is an array."""
    file = path / "zarr.json"
    content = _read_json(file)
    node = check_record(file, _Node, {} if content is None else content)
    if content is None:
        file = path / ".zattrs"
        node = check_record(file, _Node, {"attributes": {} if (found := _read_json(file)) is None else found})
    inner = node.attributes.get("ome", node.attributes)  # version 0.5
    group = check_record(file, _Group, inner)
    return group, inner, node.node_type == "array" or kind_of(path / ".zarray") == "file"


def _find_array(path: Path) -> tuple[Path, str, Spacing | None]:
    """The folder of the full-resolution array, its axes (empty: not given), and its voxel size."""
    if not is_zarr(path, by_name=False):
        message = "This is a folder without .zattrs or zarr.json, so it is no OME-Zarr."
        raise unreadable(path.name, message, _EXPORT)
    group, attributes, is_array = _attributes(path)
    if group.multiscales:
        return _full_resolution(path, check_record(path, _Image, group.multiscales[0]))
    if is_array:
        return path.resolve(), "", None
    if "bioformats2raw.layout" in attributes and kind_of(path / "0") == "folder":
        if kind_of(path / "1") is not None:
            remedy = f"Choose one of its subfolders, such as {path / '0'}."
            raise unreadable(path.name, "The folder holds several images.", remedy)
        return _find_array(_inside(path.resolve(), path / "0"))
    if "plate" in attributes:
        raise unreadable(path.name, "This is a plate of many images.", "Choose the folder of one field of view.")
    if inside := labels_inside(path):
        message = f"This is a group of labels ({', '.join(shown(each.name) for each in inside)})."
        raise unreadable(path.name, message, f"Choose one of them, such as {inside[0]}.")
    raise unreadable(path.name, "The metadata name no image (there is no 'multiscales').", _EXPORT)


def labels_inside(path: Path) -> list[Path]:
    """The labels that an OME-Zarr image holds, or that a group of labels holds; none for labels themselves."""
    with opening(path, "an OME-Zarr image", _EXPORT):
        group, attributes, _ = _attributes(path)
        if "bioformats2raw.layout" in attributes and kind_of(path / "0") == "folder":
            path = path / "0"
            group, attributes, _ = _attributes(path)
        if "image-label" in attributes:
            return []
        if group.multiscales:
            _inside(path.resolve(), path / "labels")
            path = path / "labels"
            if kind_of(path) != "folder":
                return []
            group, _, _ = _attributes(path)
        elif path.name != "labels" and not group.labels:
            return []
        names = list(dict.fromkeys(group.labels)) or sorted(entry.name for entry in path.iterdir() if is_zarr(entry))
        names = names[:_MAX_LABELS]
        for name in names:
            _inside(path.resolve(), path / name)
        return [path / name for name in names]


def _full_resolution(group: Path, image: _Image) -> tuple[Path, str, Spacing | None]:
    dataset = image.datasets[0]
    folder = _inside(group.resolve(), group / dataset.path)
    described = [axis if isinstance(axis, _Axis) else _Axis(name=axis) for axis in image.axes or []]
    names = [axis.name.upper() for axis in described]
    types = [{"channel": "C", "time": "T"}.get(axis.type or "", "Q") for axis in described]
    axes = "".join(name if name in tuple("ZYXCT") else kind for name, kind in zip(names, types, strict=True))
    return folder, axes, _voxel_size(described, axes, [*(dataset.steps or []), *(image.steps or [])])


def _voxel_size(described: list[_Axis], axes: str, steps: list[_Transformation]) -> Spacing | None:
    """The product of all scales, in micrometres.

    Many writers leave the unit out and mean micrometres; a scale of 1 without a unit means nothing, though.
    """
    if not {"Z", "Y", "X"} <= set(axes):
        return None
    scale = [1.0] * len(axes)
    for step in steps:
        if step.type == "scale":
            scale = [old * new for old, new in zip(scale, step.scale, strict=True)]
    units = [described[axes.index(letter)].unit for letter in "ZYX"]
    lengths = [scale[axes.index(letter)] for letter in "ZYX"]
    if not any(units) and lengths == [1.0, 1.0, 1.0]:
        return None
    return spacing_of(lengths, [micrometres_per(unit) if unit else 1.0 for unit in units])


# --- arrays


class _Codec(BaseModel):
    name: str = ""
    id: str = ""
    configuration: dict[str, Any] = {}


class _Grid(BaseModel):
    chunk_shape: list[PositiveInt]


class _ChunkGrid(BaseModel):
    configuration: _Grid


class _Shard(_Grid):
    codecs: list[dict[str, Any]]
    index_codecs: list[dict[str, Any]] = []


class _Array(BaseModel):
    """Of the metadata of an array, in both versions of the format, what is used before Zarr checks them itself."""

    chunks: list[PositiveInt] = []
    chunk_grid: _ChunkGrid | None = None
    dtype: Any = None
    data_type: Any = None
    codecs: list[dict[str, Any]] = []
    filters: list[dict[str, Any]] | None = None
    compressor: dict[str, Any] | None = None


def _open_array(folder: Path, where: str) -> zarr.Array[Any]:
    file = folder / ("zarr.json" if kind_of(folder / "zarr.json") else ".zarray")
    content = _read_json(file)
    if content is None:
        raise unreadable(where, f"The full-resolution array {shown(folder.name)!r} is missing.", COPY_AGAIN)
    array = check_record(file, _Array, content)
    digits = re.search(r"\d{1,4}$", str(array.data_type or array.dtype))
    itemsize = min(16, -(-int(digits[0]) // (8 if array.data_type else 1))) if digits else 16
    chunk = array.chunk_grid.configuration.chunk_shape if array.chunk_grid else array.chunks
    num_bytes = math.prod(chunk) * itemsize
    guarded: dict[str, Any] = {"attributes": {}, "codecs": _guarded(file, array.codecs, num_bytes, itemsize)}
    if file.name == ".zarray":
        factor = 8 if array.filters else 1  # a filter such as packbits may make 8 bytes of one
        filters = _guarded(file, array.filters or [], num_bytes, itemsize)
        compressors = _guarded(file, [array.compressor] if array.compressor else [], factor * num_bytes, itemsize)
        guarded = {"filters": filters or None, "compressor": next(iter(compressors), None)}
    return zarr.Array.from_dict(StorePath(_Chunks(folder, 2 * num_bytes + 2**25)), content | guarded)


def _guarded(file: Path, codecs: list[dict[str, Any]], num_bytes: int, itemsize: int) -> list[Any]:
    """The codecs of chunks of so many bytes, the compressors among them replaced by bounded ones."""
    guarded: list[Any] = []
    for each in codecs:
        codec = check_record(file, _Codec, each)
        name = (codec.name or codec.id).removeprefix("numcodecs.")
        settings = codec.configuration if codec.name else each
        types = [value for key, value in settings.items() if key.endswith(("dtype", "astype"))]
        if name not in _KNOWN_CODECS or not all(isinstance(t, str) and _NUMBERS.fullmatch(t) for t in types):
            message = f"The image is encoded by {shown(name)!r}, which is not a codec for images."
            raise unreadable(shown(file), message, _EXPORT)
        if name in _COMPRESSORS:
            unpack = _Bounded(name, settings, num_bytes + 1024)  # 1024: a checksum may be appended
            guarded.append(_BoundedBytes(unpack) if codec.name else unpack)
        elif name == "sharding_indexed":
            shard = check_record(file, _Shard, settings)
            inner = math.prod(shard.chunk_shape) * itemsize
            parts = {"codecs": _guarded(file, shard.codecs, inner, itemsize)}
            if shard.index_codecs:
                parts["index_codecs"] = _guarded(file, shard.index_codecs, num_bytes, itemsize)
            guarded.append(each | {"configuration": settings | parts})
        else:
            guarded.append(each)
    return guarded


def _check_chunks(folder: Path, where: str, array: zarr.Array[Any]) -> None:
    """Raise :class:`DataError` for what would take days to read, or more memory than there is."""
    shape, chunk, shard = array.shape, array.chunks, array.shards or array.chunks
    num_chunks, in_shard = _ratio(shape, chunk), _ratio(shard, chunk)
    voxels, itemsize = math.prod(map(int, shape)), array.dtype.itemsize
    if voxels > _MAX_VOXELS:
        message = f"The metadata announce {shown(sizes(shape))} voxels, more than can be processed."
        raise unreadable(where, message, COPY_AGAIN)
    if (math.prod(chunk) < 16**3 and num_chunks > _MAX_SMALL_CHUNKS) or in_shard > _MAX_CHUNKS_IN_SHARD:
        message = f"The volume is cut into {num_chunks:,} chunks of {sizes(chunk)} voxels, which would take too long."
        raise unreadable(where, message, "Save it with larger chunks, such as 64 × 64 × 64 voxels.")
    num_bytes = math.prod(chunk) * itemsize
    if num_bytes > max(2**28, 2 * voxels * itemsize):
        message = f"The metadata announce chunks of {in_gb(num_bytes)}, which is more than the whole volume holds."
        raise unreadable(where, message, "Save it with smaller chunks, such as 64 × 64 × 64 voxels.")
    refuse_beyond_memory(where, num_bytes)
    first = array.metadata.encode_chunk_key((0,) * len(shape))
    named = re.compile(re.sub("0", r"\\d+", re.escape(first.partition("/")[0])))
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if not entry.name.startswith(".") and entry.name != "zarr.json")
        other = next(names, None)
        if other is not None and not any(map(named.fullmatch, (other, *names))):
            message = f"Its chunks are not named as the metadata say: {shown(other)!r}, and not such as {first!r}."
            raise unreadable(where, message, "Correct the 'dimension_separator' of its metadata, or export it again.")


def _ratio(shape: Sequence[int], chunk: Sequence[int]) -> int:
    return math.prod(-(-int(length) // int(step)) for length, step in zip(shape, chunk, strict=True))


class _Chunks(Store):
    """The chunks of one array, for Zarr to read: regular files in its folder, of at most ``limit`` bytes."""

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, folder: Path, limit: int) -> None:
        super().__init__(read_only=True)
        self._folder, self._limit = folder, limit

    def __eq__(self, other: object) -> bool:
        return self is other

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        content = await asyncio.to_thread(self._read, key, byte_range)
        return None if content is None else prototype.buffer.from_bytes(content)

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        path = self._folder / key
        real = _inside(self._folder, path)
        try:
            path.lstat()
        except FileNotFoundError:
            if real == path:
                return None  # to Zarr, a chunk of nothing but the fill value
            raise
        with open_file(path) as file:
            size = end = file.seek(0, os.SEEK_END)
            start = 0
            if isinstance(part, RangeByteRequest):
                start, end = part.start, part.end
            elif isinstance(part, OffsetByteRequest):
                start = part.offset
            elif isinstance(part, SuffixByteRequest):
                start = size - part.suffix
            if not 0 <= start <= end <= size:
                raise ValueError(f"its chunk {key} is cut off")
            if end - start > self._limit:
                raise ValueError(f"its chunk {key} has {end - start:,} bytes, far more than its metadata announce")
            file.seek(start)
            return file.read(end - start)

    async def _refuse(self, *_: Any) -> Any:
        raise NotImplementedError

    get_partial_values = exists = set = delete = list = list_prefix = list_dir = _refuse  # type: ignore[assignment]


@dataclass(frozen=True)
class _Bounded(numcodecs.abc.Codec):  # type: ignore[misc]  # untyped
    """A compressor whose chunks may not unpack to more than ``limit`` bytes, for Zarr v2."""

    name: str
    settings: dict[str, Any]
    limit: int
    codec_id = "celltrain-bounded"

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        packed = bytes(buf)
        if self.name == "zstd":
            return imagecodecs.zstd_decode(packed, out=self.limit)
        if self.name in ("blosc", "lz4"):  # both say in their header what they unpack to
            at = 4 if self.name == "blosc" else 0
            if int.from_bytes(packed[at : at + 4], "little") > self.limit:
                raise self._too_large()
            if self.name == "blosc" and int.from_bytes(packed[12:16], "little") > len(packed):
                raise ValueError("a chunk is cut off")  # Blosc itself would read on behind the end
            return numcodecs.get_codec({"id": self.name}).decode(packed)
        unpacked = b""
        while packed:
            stream = self._stream()
            unpacked += stream.decompress(packed, self.limit + 1 - len(unpacked))
            if len(unpacked) > self.limit:
                raise self._too_large()
            if not stream.eof:
                raise ValueError("a chunk is cut off")
            packed = stream.unused_data
        return unpacked

    def _stream(self) -> Any:
        if self.name == "bz2":
            return bz2.BZ2Decompressor()
        if self.name == "lzma":
            form = self.settings.get("format", lzma.FORMAT_XZ)
            filters = self.settings.get("filters") if form == lzma.FORMAT_RAW else None
            memory = None if form == lzma.FORMAT_RAW else 2**28
            return lzma.LZMADecompressor(form, memory, filters)
        return zlib.decompressobj(47)  # zlib's or gzip's header

    def _too_large(self) -> ValueError:
        return ValueError(f"a chunk unpacks to more than the {self.limit:,} bytes that its metadata announce")


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """The same for Zarr v3."""

    bounded: _Bounded
    is_fixed_size = False

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: Any) -> int:
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        unpacked = await asyncio.to_thread(self.bounded.decode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.buffer.from_bytes(unpacked)
