"""Volumes whose files go away, or cannot be read any more, after they have been opened."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from disks import UNREADABLE
from napari_celltrain.io.volume import damaged
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import write_ome_zarr, write_volume
from napari_celltrain.values.errors import DataError


@pytest.fixture
def zarr_image(tmp_path: Path) -> Path:
    path = tmp_path / "disk" / "a.ome.zarr"
    path.parent.mkdir()
    list(write_ome_zarr(path, np.ones((4, 8, 8), np.uint8), kind="image", name="a"))
    return path


def test_a_zarr_image_that_is_gone_is_not_taken_for_an_empty_one(zarr_image: Path) -> None:
    """To Zarr, a chunk without a file is a chunk of zeros."""
    volume = open_volume(zarr_image)
    lazy = volume.lazy()
    assert lazy is not None
    assert lazy[0:1, 0:2, 0:2].all()
    zarr_image.parent.rename(zarr_image.parent.with_name("pulled out"))
    said = rf"a\.ome\.zarr: The file cannot be read, since {re.escape(str(zarr_image))}/0 is gone\. Check the drive"
    with pytest.raises(DataError, match=said):
        lazy[0:1, 0:2, 0:2]
    with pytest.raises(DataError, match=said):
        volume.read()


def test_a_chunk_that_was_never_written_is_of_zeros(zarr_image: Path) -> None:
    volume = open_volume(zarr_image)
    for chunk in (zarr_image / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    assert not volume.read().any()


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EACCES, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ENOTDIR, errno.EMFILE]
)
def test_what_the_disk_says_is_no_fault_of_the_file(number: int) -> None:
    error = damaged("a.tif", OSError(number, os.strerror(number), "/mnt/a.tif"))
    assert str(error).startswith(f"a.tif: The file cannot be read ({os.strerror(number)}). Check the drive")


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_volume(path, np.ones((4, 8, 8), np.uint8))
    volume = open_volume(path)
    path.unlink()
    with pytest.raises(DataError, match=rf"a\.tif: The file cannot be read, since {re.escape(str(path))} is gone\."):
        volume.read()


@pytest.mark.skipif(not UNREADABLE.exists(), reason="asks for a file of Linux that nobody may read")
def test_a_file_that_nobody_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.symlink_to(UNREADABLE)
    with pytest.raises(DataError, match=r"a\.tif: The file may not be read\. Ask for permission"):
        open_volume(path)


def test_a_mapped_file_that_was_cut_off_meanwhile(tmp_path: Path) -> None:
    """What is mapped beyond the end of its file ends the whole program when it is touched."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((64, 64, 64), np.uint16), metadata={"axes": "ZYX"})
    lazy = open_volume(path).lazy()
    assert lazy is not None
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"a\.tif: The file cannot be decoded; it may be cut off"):
        lazy[40:41, :, :]


def test_a_mapped_file_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((4, 8, 8), np.uint16), photometric="minisblack")
    lazy = open_volume(path).lazy()
    assert lazy is not None
    path.unlink()
    with pytest.raises(DataError, match=rf"a\.tif: The file cannot be read, since {re.escape(str(path))} is gone\."):
        lazy[0:1, :, :]
