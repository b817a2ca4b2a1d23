"""OME-Zarr 0.5 as this program writes it: read back by itself and by Zarr alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from disks import Synced
from napari_celltrain.io import writer
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.io.writer import plan_levels, refuse_foreign, replace_folder, write_ome_zarr
from napari_celltrain.values.errors import DataError


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Labels of several chunks and levels."""
    monkeypatch.setattr(writer, "CHUNK", (8, 8, 8))
    monkeypatch.setattr(writer, "_AT_ONCE", (1, 2, 2))
    monkeypatch.setattr(writer, "_SMALLEST", 10)
    return np.random.default_rng(0).integers(0, 150_000, (11, 37, 25)).astype(np.uint16)


def write(folder: Path, array: np.ndarray, voxel_size=None, **options) -> list[tuple[int, int]]:
    return list(write_ome_zarr(folder, array, voxel_size, **{"kind": "labels", "name": "n", **options}))


def ome(folder: Path) -> dict:
    return json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]


def test_it_is_opened_again_with_its_voxel_size(tmp_path, labels):
    write(tmp_path / "n.ome.zarr", labels, (2.0, 0.5, 0.25))
    volume = open_volume(tmp_path / "n.ome.zarr")
    assert volume.voxel_size == (2.0, 0.5, 0.25)
    np.testing.assert_array_equal(volume.read(), labels)


def test_an_unknown_voxel_size_stays_unknown(tmp_path, labels):
    write(tmp_path / "n.ome.zarr", labels)
    assert open_volume(tmp_path / "n.ome.zarr").voxel_size is None


def test_coarser_levels_take_every_second_voxel(tmp_path, labels):
    write(tmp_path / "n.ome.zarr", labels, (1.0, 1.0, 1.0))
    group = zarr.open_group(tmp_path / "n.ome.zarr", mode="r")
    for level in range(len(ome(tmp_path / "n.ome.zarr")["multiscales"][0]["datasets"])):
        np.testing.assert_array_equal(group[str(level)][:], labels[:: 2**level, :: 2**level, :: 2**level])


def test_a_block_is_on_the_disk_before_it_is_marked(tmp_path, labels, monkeypatch):
    synced, folder = Synced(monkeypatch), tmp_path / "growing"

    class Marks(list[int]):
        def is_done(self, number: int) -> bool:
            return False

        def mark_done(self, number: int) -> None:
            assert synced.missing(folder) == []
            self.append(number)

    marks = Marks()
    write(folder, labels, checklist=marks)
    assert len(marks) > 2
    synced.inodes.clear()
    replace_folder(folder, tmp_path / "n.ome.zarr")
    assert synced.names(tmp_path) == [""]


def test_what_a_kill_left_in_the_middle_of_a_chunk_is_removed(tmp_path, labels):
    folder = tmp_path / "n.ome.zarr"
    (folder / "0" / "c").mkdir(parents=True)
    (folder / "0" / "c" / "0.1234.partial").write_text("half a chunk")
    write(folder, labels)
    assert not list(folder.rglob("*.partial"))
    np.testing.assert_array_equal(open_volume(folder).read(), labels)


def test_the_metadata_are_those_of_labels_of_version_05(tmp_path, labels):
    write(tmp_path / "n.ome.zarr", labels, (1.0, 0.5, 0.5))
    metadata = ome(tmp_path / "n.ome.zarr")
    image = metadata["multiscales"][0]
    assert metadata["version"] == "0.5"
    assert "image-label" in metadata
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in image["axes"]} == {"micrometer"}
    assert image["datasets"][1]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    assert zarr.open_array(tmp_path / "n.ome.zarr" / "0", mode="r").metadata.dimension_names == ("z", "y", "x")


def test_an_image_is_not_called_labels(tmp_path, labels):
    write(tmp_path / "n.ome.zarr", labels.astype(np.float32), kind="image")
    assert "image-label" not in ome(tmp_path / "n.ome.zarr")


@pytest.mark.parametrize(
    ("shape", "voxel_size", "factors"),
    [
        ((100, 1000, 1000), (4.0, 1.0, 1.0), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
        ((1000, 1000, 1000), None, [(1, 1, 1), (2, 2, 2), (4, 4, 4)]),
        ((1, 600, 100), (1.0, 1.0, 1.0), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
        ((300, 20, 20), (0.1, 5.0, 5.0), [(1, 1, 1), (2, 1, 1)]),
        ((200, 200, 200), None, [(1, 1, 1)]),
    ],
)
def test_levels_make_voxels_more_even(shape, voxel_size, factors):
    assert plan_levels(shape, voxel_size) == factors


class Written:
    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def is_done(self, number: int) -> bool:
        return number in self.numbers

    def mark_done(self, number: int) -> None:
        self.numbers.add(number)


def test_an_interrupted_writing_goes_on(tmp_path, labels):
    written = Written()
    reads = []

    class Source:
        shape, dtype = labels.shape, labels.dtype

        def __getitem__(self, key):
            reads.append(key)
            return labels[key]

    options = {"kind": "labels", "name": "n", "checklist": written}
    writing = write_ome_zarr(tmp_path / "n.ome.zarr", Source(), **options)
    next(writing)
    next(writing)
    writing.close()
    assert len(reads) == 2
    total = list(write_ome_zarr(tmp_path / "n.ome.zarr", Source(), **options))[-1][1]
    assert written.numbers == set(range(total))
    assert len(reads) == len(set(map(str, reads)))
    np.testing.assert_array_equal(open_volume(tmp_path / "n.ome.zarr").read(), labels)


def test_its_own_earlier_result_is_replaced_and_nothing_else(tmp_path, labels):
    target = tmp_path / "n.ome.zarr"
    for value in (1, 2):
        write(tmp_path / "new", np.full_like(labels, value))
        replace_folder(tmp_path / "new", target)
    assert (open_volume(target).read() == 2).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["n.ome.zarr"]
    foreign = tmp_path / "theirs.ome.zarr"
    zarr.create_group(foreign)
    with pytest.raises(DataError, match=r"theirs.ome.zarr: This exists and was not written by CellTrain"):
        refuse_foreign(foreign)


def test_a_full_disk_is_one_sentence(tmp_path, labels, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(DataError, match=r"n.ome.zarr: cannot be written: there is no space left on the disk"):
        write(tmp_path / "n.ome.zarr", labels)
