"""What a kill, a power cut or a refusing disk leaves of the files that are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from disks import Synced
from napari_celltrain.io.writer import write_volume
from napari_celltrain.values import files
from napari_celltrain.values.errors import RunFolderError

KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from napari_celltrain.values import files
def fill(path):
    path.write_bytes(b"half")
    os._exit(9)
files.temporary(Path(sys.argv[1])).mkdir()
files.write_with(Path(sys.argv[1]), fill)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(folder / "model.zip")], check=False)
    left = sorted(path.suffix for path in folder.iterdir())
    assert left == [".zip", ".zip"], "a file and a folder"
    kept = {"model.zip", ".tmp-of-another-program.zip", ".tmp-1234abcd.tif"}
    living = files.temporary(folder / "model.zip").name
    elsewhere = f".tmp-1234abcd-00000000-{2**22}-1.zip"  # of another computer, or since it was started
    for name in kept | {living, elsewhere}:
        (folder / name).write_text("")
    (outside / "mine").write_text("")
    dead = next(path.name for path in folder.iterdir() if path.is_dir())
    (folder / f"{dead.removesuffix('.zip')}.tif").symlink_to(outside, target_is_directory=True)
    files.remove_leftovers(folder)
    assert {path.name for path in folder.iterdir()} == kept | {living, elsewhere}
    files.remove_leftovers(folder, of_others=True)
    assert {path.name for path in folder.iterdir()} == {"model.zip"}
    assert (outside / "mine").exists()


@pytest.mark.parametrize("clock", [-1e7, 1e7])
def test_a_process_is_known_by_its_start_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch, clock: float) -> None:
    own = files.start_of(os.getpid())
    monkeypatch.setattr("time.time", lambda: clock)
    monkeypatch.setattr("psutil.boot_time", lambda: clock)
    assert own
    assert files.start_of(os.getpid()) == own
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert files.start_of(child.pid) is None


@pytest.mark.parametrize("pid", [-5, 0, 2**40, 2**31])
def test_numbers_that_no_process_has(pid: int) -> None:
    assert files.start_of(pid) in (None, "") or pid == 0


def test_a_file_and_its_name_outlast_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Synced(monkeypatch)
    files.write_text(tmp_path / "a.txt", "text")
    write_volume(tmp_path / "a.tif", np.zeros((2, 3, 4), np.uint8))
    assert synced.names(tmp_path) == ["a.txt", "", "a.tif", ""]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, r"the disk is read-only\. Make it writable"),
        (errno.EACCES, r"permission denied\. Ask for permission"),
        (errno.ENOSPC, r"no space left on the disk\. Free some"),
        (errno.EIO, r"cannot be written: .*\. Check the disk"),
    ],
)
def test_why_a_file_cannot_be_written(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(RunFolderError, match=rf"run.*{message}"), files.writing(tmp_path / "run"):
        raise OSError(number, os.strerror(number))
