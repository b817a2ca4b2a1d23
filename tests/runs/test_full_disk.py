"""A run on a disk that is really full: what it leaves, and that it goes on where there is space again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import MakeDisk, mounted_disks
from napari_celltrain.io.tensors import read_tensors
from napari_celltrain.runs import session
from napari_celltrain.runs.checkpoint import LAST, read_last
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Finished, Saved, Validated


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    with mounted_disks(tmp_path / "disks") as make:
        yield make


def test_a_run_that_met_a_full_disk_is_resumed_where_it_was(make_config, make_disk) -> None:
    disk = make_disk("usb", 80)
    events = session.run(make_config(data_results=disk.path, run_name="run", epochs=3))
    with pytest.raises(RunFolderError, match=r"usb/run.*no space left"):
        fill_when_saved(events, disk.fill)
    folder = RunFolder.open(disk.path / "run")
    assert not list(folder.path.rglob(".tmp-*"))
    assert not folder.is_running()
    saved = read_last(folder).progress
    read_tensors(folder.model / "model.safetensors")
    disk.free()

    resumed = list(session.resume(folder.path))
    assert isinstance(resumed[-1], Finished)
    assert resumed[-1].epoch == 3
    validated = [event.epoch for event in folder.read_events() if isinstance(event, Validated)]
    assert validated[-1] == 3
    assert saved.epoch <= 3


def fill_when_saved(events: Iterator[Event], fill) -> None:
    full = False
    for event in events:
        if isinstance(event, Saved) and event.path == LAST and not full:
            fill()
            full = True


def test_no_byte_free_leaves_nothing_behind(make_config, make_disk) -> None:
    disk = make_disk("usb", 1)
    disk.fill()
    with pytest.raises(RunFolderError, match=r"usb.*no space left"):
        list(session.run(make_config(data_results=disk.path, epochs=1)))
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]
