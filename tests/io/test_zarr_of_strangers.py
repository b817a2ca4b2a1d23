"""Zarr folders that are damaged, or made to harm: each ends in one sentence, quickly and with little memory."""

from __future__ import annotations

import bz2
import gzip
import inspect
import json
import lzma
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import psutil
import pytest
import zarr

from napari_celltrain.io.volumes import find_volumes, open_volume
from napari_celltrain.values.errors import DataError

SHAPE = (4, 16, 16)
VOXELS = np.arange(1024, dtype=np.uint16).reshape(SHAPE) + 1


def make(tmp_path: Path, version: int = 2, **options: Any) -> Path:
    """A Zarr array of one chunk, unless ``options`` say otherwise."""
    path = tmp_path / "a.zarr"
    options = {"chunks": SHAPE, **options}
    zarr.create_array(str(path), data=VOXELS, zarr_format=version, **options)  # type: ignore[arg-type]
    return path


def change(path: Path, **values: Any) -> None:
    file = next(path / name for name in ("zarr.json", ".zarray") if (path / name).exists())
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def chunk(path: Path) -> Path:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] not in ".z")
    return next(files)


def refused(path: Path, match: str) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError, match=match) as raised:
        open_volume(path).read()
    assert len(str(raised.value)) < 1200
    assert "\n" not in str(raised.value)
    assert psutil.Process().memory_info().rss - before < 5e8


def zstd_of_zeros(blocks: int) -> bytes:
    """A frame that says nothing of its size: blocks of 128 KiB, in four bytes each."""
    body = b"".join(((1 << 17 << 3) | 2 | (i == blocks - 1)).to_bytes(3, "little") + b"\0" for i in range(blocks))
    return struct.pack("<I", 0xFD2FB528) + b"\x00\x58" + body


def packed(kind: str, content: bytes) -> bytes:
    packers = {"zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
    return packers[kind](content) if kind in packers else bytes(numcodecs.get_codec({"id": kind}).encode(content))


KINDS = ["zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [2, 3])
def test_every_compression_is_read_and_bounded(tmp_path: Path, kind: str, version: int) -> None:
    path = make(tmp_path, version, compressors=None)
    if version == 2:
        change(path, compressor={"id": kind})
    else:
        name = kind if kind in ("gzip", "zstd", "blosc") else f"numcodecs.{kind}"
        change(path, codecs=[{"name": "bytes", "configuration": {"endian": "little"}}, {"name": name}])
    chunk(path).write_bytes(packed(kind, VOXELS.tobytes()))
    assert np.array_equal(open_volume(path).read(), VOXELS)
    bomb = packed(kind, bytes(4_000_000))
    chunk(path).write_bytes(bomb)
    refused(path, r"a\.zarr: The file cannot be decoded")
    chunk(path).write_bytes(packed(kind, VOXELS.tobytes())[:-9])
    refused(path, r"a\.zarr: The file cannot be decoded")


def test_zstandard_that_does_not_say_its_size(tmp_path: Path) -> None:
    path = make(tmp_path, compressors=numcodecs.Zstd())
    change(path, shape=[2, 256, 256], chunks=[2, 256, 256], dtype="|u1")
    chunk(path).write_bytes(zstd_of_zeros(1))
    assert not open_volume(path).read().any()
    chunk(path).write_bytes(zstd_of_zeros(40_000))  # 5 GB
    refused(path, r"a\.zarr: The file cannot be decoded")


def test_shards_are_bounded(tmp_path: Path) -> None:
    gzipped = {"compressors": zarr.codecs.GzipCodec(), "chunks": (2, 16, 16), "shards": SHAPE}
    path = make(tmp_path, 3, **gzipped)
    assert np.array_equal(open_volume(path).read(), VOXELS)
    bomb = gzip.compress(bytes(4_000_000))
    index = np.frombuffer(struct.pack("<QQ", 0, len(bomb)) * 2, np.uint8)
    chunk(path).write_bytes(bomb + bytes(numcodecs.checksum32.CRC32C(location="end").encode(index)))
    refused(path, "unpacks to more than")
    lazy = open_volume(path).lazy()
    assert lazy is not None
    with pytest.raises(DataError, match="unpacks to more than"):
        lazy[:1, :, :]
    chunk(path).write_bytes(b"12")
    with pytest.raises(DataError, match="is cut off"):
        lazy[:1, :, :]


def test_a_chain_of_compressions_is_bounded(tmp_path: Path) -> None:
    path = make(tmp_path)
    change(path, filters=[{"id": "zlib"}], compressor={"id": "zlib"})
    chunk(path).write_bytes(zlib.compress(zlib.compress(bytes(4_000_000))))
    refused(path, "unpacks to more than")
    change(path, filters=[{"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<U100000"}], compressor=None)
    refused(path, "'astype', which is not a codec for images")


def test_a_codec_that_runs_code_is_found_in_a_shard(tmp_path: Path) -> None:
    path = make(tmp_path, 3)
    inner = {"chunk_shape": SHAPE, "codecs": [{"name": "numcodecs.pickle"}], "index_codecs": [{"name": "bytes"}]}
    change(path, codecs=[{"name": "sharding_indexed", "configuration": inner}])
    refused(path, "'pickle', which is not a codec for images")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe or a device"),
        ("/dev/zero", "leads out of the folder, to /dev/zero"),
        ("/etc/hostname", "leads out of the folder, to /etc/hostname"),
        ("nothing", "does not exist"),
        ("huge", "far more than its metadata announce"),
    ],
)
def test_what_is_no_chunk_is_not_read_and_not_zero(tmp_path: Path, version: int, place: str, match: str) -> None:
    path = make(tmp_path, version)
    file = chunk(path)
    file.unlink()
    if place == "folder":
        file.mkdir()
    elif place == "pipe":
        os.mkfifo(file)
    elif place == "huge":
        with file.open("wb") as empty:
            empty.truncate(2**33)
    else:
        file.symlink_to(place)
    refused(path, match)


def test_links_within_are_followed_and_those_that_lead_out_are_not(tmp_path: Path) -> None:
    path = make(tmp_path, 3)
    (path / "c").rename(path / "elsewhere")
    (path / "c").symlink_to("elsewhere")
    assert np.array_equal(open_volume(path).read(), VOXELS)
    linked = tmp_path / "linked.zarr"
    linked.symlink_to(path)
    assert np.array_equal(open_volume(linked).read(), VOXELS)
    (path / "elsewhere").rename(tmp_path / "outside")
    (path / "c").unlink()
    (path / "c").symlink_to(tmp_path / "outside")
    refused(path, r"leads out of the folder, to .*outside.* Copy it with what its links lead to")
    shutil.rmtree(path)
    path.mkdir()
    (path / "zarr.json").symlink_to("/dev/zero")
    refused(path, "leads out of the folder|without .zattrs")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("shape", "chunks", "match"),
    [
        ([10**19] * 3, SHAPE, "more than can be processed"),
        ([10**5] * 3, SHAPE, "more than can be processed"),
        ([10**300, 8, 8], SHAPE, "more than can be processed"),
        ([1000] * 3, [1, 1, 1], "1,000,000,000 chunks of 1 × 1 × 1 voxels"),
        (SHAPE, [10**19] * 3, "more than the whole volume holds"),
        (SHAPE, [1024, 1024, 1024], "more than the whole volume holds"),
        (SHAPE, [0, 16, 16], "should be greater than 0"),
        (SHAPE, "x", "should be a valid list"),
        (SHAPE, [2, 2], "same"),
        ([-1, 16, 16], SHAPE, "This is not an OME-Zarr image"),
        (None, SHAPE, "This is not an OME-Zarr image"),
        ({"a": 1}, SHAPE, "This is not an OME-Zarr image"),
    ],
)
def test_absurd_sizes(tmp_path: Path, version: int, shape: Any, chunks: Any, match: str) -> None:
    path = make(tmp_path, version)
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    change(path, shape=shape, **({"chunks": chunks} if version == 2 else {"chunk_grid": grid}))
    refused(path, match)


def test_chunks_whose_names_the_metadata_do_not_fit(tmp_path: Path) -> None:
    """To Zarr these would be zeros."""
    path = make(tmp_path, chunk_key_encoding={"name": "v2", "separator": "/"})
    change(path, dimension_separator=".")
    refused(path, "Its chunks are not named as the metadata say: '0', and not such as '0.0.0'")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[",
            "[]",
            "5",
            "\xff",
            "[" * 100_000,
            '{"a":' * 100_000,
            " " * 17_000_000,
            '{"a": ' + "1" * 10_000 + "}",
        ),
        *('{"multiscales": 5}', '{"multiscales": [5]}', '{"multiscales": [{"datasets": []}]}', '{"labels": 5}'),
        *('{"multiscales": [{"datasets": [{"path": 5}]}]}', '{"multiscales": [{"datasets": [{"path": "/etc"}]}]}'),
        *('{"multiscales": [{"datasets": [{"path": "0\\u0000"}]}]}', '{"ome": 5}'),
        '{"multiscales": [{"datasets": [{"path": "0"}], "axes": [5, 6, 7]}]}',
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / ".zattrs").write_bytes(text.encode("latin-1"))
    refused(path, r"a\.zarr.*\.")


def test_a_pipe_in_the_place_of_metadata_or_of_an_image(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / ".zattrs").unlink(missing_ok=True)
    os.mkfifo(path / ".zattrs")
    refused(path, "it is a pipe or a device")
    os.mkfifo(tmp_path / "b.tif")
    assert find_volumes(tmp_path / "b.tif") == [tmp_path / "b.tif"]
    refused(tmp_path / "b.tif", r"b\.tif: This is a pipe or a device, not a file\.")


def test_nan_in_attributes_is_nothing_bad(tmp_path: Path) -> None:
    """Python's own writer of JSON puts it there."""
    path = make(tmp_path)
    (path / ".zattrs").write_text('{"omero": {"window": NaN}}')
    assert np.array_equal(open_volume(path).read(), VOXELS)


def test_folders_nested_deeply(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d"] * 200)
    folder.mkdir(parents=True)
    (folder / "a.tif").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        assert find_volumes(tmp_path) == [folder / "a.tif"]
    finally:
        sys.setrecursionlimit(limit)
