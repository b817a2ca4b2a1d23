"""The arrays of Zarr folders from strangers, within bounds.

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
from typing import TYPE_CHECKING, Any

import imagecodecs
import numcodecs  # type: ignore[import-untyped]  # it comes without annotations
import zarr
from pydantic import BaseModel, PositiveInt
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import StorePath

from napari_celltrain.io.axes import unreadable
from napari_celltrain.io.volume import COPY_AGAIN, in_gb, refuse_beyond_memory
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
EXPORT = "Export it as OME-Zarr 0.4 or 0.5, or as TIFF."


def read_metadata(file: Path) -> Any:
    """None where there is no such file."""
    if kind_of(file) is None:
        return None
    inside(file.parent.resolve(), file)
    # what Python writes into metadata may hold NaN
    return read_json(file, limit=_MAX_METADATA_BYTES, allow_nan=True)


def inside(folder: Path, path: Path) -> Path:
    """``path`` without links. Raises :class:`DataError` where it leads out of ``folder``."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(folder):
        message = f"A link or path in it leads out of the folder, to {shown(real)}."
        raise unreadable(shown(folder), message, "Copy it with what its links lead to.")
    return real


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


def open_array(folder: Path, where: str) -> zarr.Array[Any]:
    file = folder / ("zarr.json" if kind_of(folder / "zarr.json") else ".zarray")
    content = read_metadata(file)
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
            raise unreadable(shown(file), message, EXPORT)
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


def check_chunks(folder: Path, where: str, array: zarr.Array[Any]) -> None:
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
        real = inside(self._folder, path)
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
        """In the place of what a store must have and the reading of one array never calls."""
        raise NotImplementedError

    # each of these has a signature of its own
    get_partial_values = exists = set = delete = list = list_prefix = list_dir = _refuse  # type: ignore[assignment]


@dataclass(frozen=True)
class _Bounded(numcodecs.abc.Codec):  # type: ignore[misc]  # the base class comes without annotations
    """A compressor whose chunks may not unpack to more than ``limit`` bytes, for Zarr v2."""

    name: str
    settings: dict[str, Any]
    limit: int
    codec_id = "celltrain-bounded"

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError  # abstract in the base class; nothing is written by this codec

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
        raise NotImplementedError  # abstract in the base class; asked for by writers only

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        unpacked = await asyncio.to_thread(self.bounded.decode, chunk_bytes.to_bytes())
        return chunk_spec.prototype.buffer.from_bytes(unpacked)
