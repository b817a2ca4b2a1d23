"""What a run saves to go on from: written whole, and read back without ever running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.trainer import Progress
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.runs.checkpoint import LAST, FolderCheckpointer, read_last
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Saved

FORMAT = NumericFormat("bfloat16", "channels_last")


def checkpointer(folder: RunFolder | None) -> FolderCheckpointer:
    def make_card() -> Any:
        raise AssertionError("no model is written here")

    return FolderCheckpointer(folder, FORMAT, make_card, preview_voxel_size=(1.0, 0.5, 0.5))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", "unet")


def save(folder: RunFolder, progress: Progress | None = None) -> Path:
    weight = torch.randn((4, 3, 2, 2, 2)).to(memory_format=torch.channels_last_3d)
    return folder.path / checkpointer(folder).save_last({"network": {"weight": weight}}, progress or Progress())


def test_what_was_saved_is_read_back(folder: RunFolder) -> None:
    progress = Progress(epoch=3, step=17, best_dice=0.1 + 0.2, loss_sum=float("inf"), planned_steps=40)
    assert save(folder, progress) == folder.path / "checkpoints" / "last.pt"
    found = read_last(folder)
    assert found.progress == progress
    assert found.numeric_format == FORMAT
    assert found.state["network"]["weight"].stride() == (24, 1, 12, 6, 3)
    assert not list(folder.path.rglob(".tmp-*"))


def test_without_one_a_run_begins_again_unless_it_was_lost(folder: RunFolder) -> None:
    assert read_last(folder) is None
    folder.append_event(Saved(what="last", path=LAST, epoch=1))
    with pytest.raises(RunFolderError, match=r"there is no .*last\.pt.*Put it back"):
        read_last(folder)


def test_what_a_newer_version_counts_is_passed_over(folder: RunFolder) -> None:
    path = save(folder, Progress(epoch=2))
    content = torch.load(path, weights_only=True)
    content["progress"]["moons"] = 3
    torch.save(content, path)
    assert read_last(folder).progress.epoch == 2


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no checkpoint at all, but long enough for a header"),
    "cut": cut,
    "overwritten": overwrite,
    "a list": lambda path: torch.save([1, 2], path),
    "of another program": lambda path: torch.save({"state_dict": {"weight": torch.zeros(3)}}, path),
    "an array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "code": lambda path: torch.save({"progress": Evil(path.parent / "made")}, path),
    "plain pickled code": lambda path: path.write_bytes(pickle.dumps(Evil(path.parent / "made"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_one_sentence_and_runs_nothing(folder: RunFolder, damage: str) -> None:
    path = save(folder)
    DAMAGE[damage](path)
    with pytest.raises(RunFolderError) as caught:
        read_last(folder)
    assert str(caught.value).startswith("The saved state of the run run cannot be read (last.pt in ")
    assert "\n" not in str(caught.value)
    assert "starting weights" in str(caught.value)
    assert not (path.parent / "made").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(folder: RunFolder) -> None:
    save(folder).chmod(0)
    with pytest.raises(RunFolderError, match="ermission"):
        read_last(folder)


@pytest.mark.parametrize(("highest", "kind"), [(8, np.uint8), (300, np.uint16)])
def test_a_preview_takes_as_few_bytes_as_hold_its_numbers(folder: RunFolder, highest: int, kind: type) -> None:
    name = checkpointer(folder).save_preview(7, np.arange(highest - 7, highest + 1, dtype=np.int32).reshape(2, 2, 2))
    assert name == "previews/epoch_0007.tif"
    volume = open_volume(folder.path / name)
    assert volume.read().dtype == kind
    assert volume.read().max() == highest
    assert volume.voxel_size == pytest.approx((1.0, 0.5, 0.5))


def test_other_processes_than_the_first_write_nothing(tmp_path: Path) -> None:
    nothing = checkpointer(None)
    assert nothing.save_last({}, Progress()) == LAST
    assert nothing.save_best({}, 1) == "checkpoints/best.safetensors"
    assert nothing.save_preview(1, np.zeros((1, 1, 1), np.uint8)) == "previews/epoch_0001.tif"
    assert nothing.stop_request() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["epoch", "step", "step_in_epoch", "best_epoch", "num_patches", "seconds"])
@pytest.mark.parametrize("value", ["3", None, [1], True, -5, 10**30])
def test_a_state_that_no_run_saves_is_refused(folder: RunFolder, name: str, value: object) -> None:
    if name == "seconds" and isinstance(value, int) and value is not True:
        return  # any number will do
    path = save(folder, Progress(epoch=2, step=3, num_patches=8, batch_size=2))
    content = torch.load(path, weights_only=True)
    content["progress"][name] = value
    torch.save(content, path)
    with pytest.raises(RunFolderError, match="was not written by this program"):
        read_last(folder)


@pytest.mark.parametrize("changes", [{"precision": "evil"}, {"layout": []}, {"progress": {"step_in_epoch": 4}}])
def test_other_facts_that_no_run_saves_are_refused(folder: RunFolder, changes: dict[str, Any]) -> None:
    path = save(folder, Progress(epoch=2, step=3, num_patches=8, batch_size=2))
    content = torch.load(path, weights_only=True)
    content["progress"] |= changes.pop("progress", {})
    torch.save(content | changes, path)
    with pytest.raises(RunFolderError, match="was not written by this program"):
        read_last(folder)


@pytest.mark.parametrize("name", ["bytearray", "bytes"])
def test_a_state_that_would_fill_the_memory_is_refused(folder: RunFolder, name: str) -> None:
    path = folder.path / LAST
    with zipfile.ZipFile(path, "w") as archive:  # bytearray(10 ** 12)
        size = (10**12).to_bytes(6, "little")
        archive.writestr("last/data.pkl", b"\x80\x02cbuiltins\n" + name.encode() + b"\n\x8a\x06" + size + b"\x85R.")
        archive.writestr("last/version", "3\n")
    with pytest.raises(RunFolderError, match="was not written by this program"):
        read_last(folder)


@given(st.binary(max_size=300), st.integers(0, 2**16), st.integers(1, 200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_state_or_one_error(folder: RunFolder, junk: bytes, place: int, length: int) -> None:
    path = save(folder)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + length] = junk
    path.write_bytes(content)
    with contextlib.suppress(RunFolderError):
        read_last(folder)
