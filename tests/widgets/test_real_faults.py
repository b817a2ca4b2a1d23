"""Disks that are really full, read-only or gone, while the real widget trains on them. Each is told once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from napari.utils.notifications import notification_manager

from balls import VOXEL_SIZE, make_pair, write_pairs
from disks import UNREADABLE, MakeDisk, mounted_disks
from napari_celltrain.io.tensors import read_tensors
from napari_celltrain.io.writer import write_ome_zarr, write_volume
from napari_celltrain.runs.checkpoint import BEST, read_last
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import read_card
from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.train import widget as widget_module
from napari_celltrain.widgets.train.widget import TrainWidget
from train_support import config_of, fails, press, stops, the_error, trains, wait


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1"])


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    with mounted_disks(tmp_path / "disks") as make:
        yield make


@pytest.fixture
def wish(monkeypatch: pytest.MonkeyPatch):
    def wish(runs_in: str) -> None:
        wanted = Preferences(runs_in=runs_in, on_close="stop")  # type: ignore[arg-type]
        for module in (widget_module, closing):
            monkeypatch.setattr(module, "preferences", lambda: wanted)

    wish("napari")
    return wish


@pytest.fixture
def widget(qtbot, make_disk, make_napari_viewer, wish) -> Iterator[TrainWidget]:
    viewer = make_napari_viewer(strict_qt=False)
    controller = RunController()
    made = TrainWidget(viewer, controller)
    viewer.window.add_dock_widget(made, name="CellTrain")
    notification_manager.records.clear()
    yield made
    controller.dismiss()
    if controller.is_busy:
        controller.request_stop(now=True)
        wait(qtbot, lambda: not controller.is_busy)
    # a thread that still draws or reads would hold on to the viewer
    wait(qtbot, lambda: not any(thread.name == "celltrain-plot" for thread in threading.enumerate()))
    wait(qtbot, lambda: not made.panel.predictions.is_busy)
    # pytest itself still holds the widget when napari looks whether any window is left
    viewer.window.remove_dock_widget(made)


def only_run(results: Path) -> RunFolder:
    [path] = results.glob("20*")
    return RunFolder.open(path)


def is_whole(folder: RunFolder) -> None:
    """All that was saved can be read, and nothing lies about that nobody will take away."""
    epoch = read_last(folder).progress.epoch
    assert epoch > 1
    weights, _ = read_tensors(folder.path / BEST)
    model, _ = read_tensors(folder.model / "model.safetensors")
    assert weights.keys() == model.keys()
    read_card(folder.path)
    assert not list(folder.path.rglob(".tmp-*"))
    assert not folder.is_running()


def test_a_disk_of_results_in_napari(qtbot, widget: TrainWidget, make_disk, balls, tmp_path: Path) -> None:
    """No byte free at the start; full while training; read-only; and pulled out."""
    disk = make_disk("usb", 150)
    widget.setValue(config_of(balls, disk.path))
    disk.fill()
    message = fails(qtbot, widget)
    assert "no space left" in message.lower()
    assert str(disk.path) in message
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]
    disk.free()

    message = fails(qtbot, widget, by=disk.fill)
    assert "no space left" in message.lower()
    assert str(disk.path) in message
    is_whole(only_run(disk.path))
    disk.free()

    disk.make_read_only()
    message = fails(qtbot, widget)
    assert "cannot be written: the disk is read-only" in message
    assert str(disk.path) in message
    disk.make_writable()

    message = fails(qtbot, widget, by=disk.detach)
    assert "cannot be written" in message
    assert str(disk.path) in message
    assert list(disk.path.iterdir()) == []  # nothing was made where the disk had been
    assert widget.panel.end_row.isHidden()

    widget.setValue(config_of(balls, tmp_path / "elsewhere"))
    press(qtbot, widget)
    trains(qtbot, widget)
    stops(qtbot, widget)


def test_a_disk_of_results_of_a_process_of_its_own(qtbot, widget: TrainWidget, wish, make_disk, balls) -> None:
    """Full while training; then, after a new start on the same disk, pulled out."""
    wish("a process of its own")
    disk = make_disk("usb", 150)
    widget.setValue(config_of(balls, disk.path))
    message = fails(qtbot, widget, by=disk.fill)
    assert "no space left" in message.lower()
    assert str(disk.path) in message
    is_whole(only_run(disk.path))
    disk.free()

    message = fails(qtbot, widget, by=disk.detach)
    assert "cannot be written" in message
    assert str(disk.path) in message
    assert list(disk.path.iterdir()) == []
    assert (widget.panel.button.text(), widget.panel.button.isEnabled()) == ("Start", True)


def write_zarr_pairs(folder: Path) -> tuple[Path, Path]:
    for seed, name in enumerate("abc"):
        for array, kind in zip(make_pair(seed), ("image", "labels"), strict=True):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            list(write_ome_zarr(folder / kind / f"{name}.ome.zarr", array, VOXEL_SIZE, kind=kind, name=name))
    return folder / "image", folder / "labels"


def test_a_disk_of_images(qtbot, widget: TrainWidget, make_disk, tmp_path: Path) -> None:
    """A file that may not be read, found before the start; and a disk that is pulled out while it is read from."""
    disk = make_disk("usb", 5)
    images, labels = write_zarr_pairs(disk.path)
    if UNREADABLE.exists():
        (images / "d.tif").symlink_to(UNREADABLE)
        write_volume(labels / "d.tif", make_pair(3)[1])
        widget.setValue(config_of((images, labels), tmp_path))
        wait(qtbot, lambda: widget.data_tab.report is not None and widget.data_tab.report.errors)
        press(qtbot, widget)
        assert "d.tif: the file may not be read" in the_error().lower()
        assert widget.controller.state == "idle"
        (images / "d.tif").unlink()
        (labels / "d.tif").unlink()
    # read piece by piece, since nothing may be kept in memory
    widget.setValue(config_of((images, labels), tmp_path, memory_budget_gb=1e-9))
    widget.data_tab.check_again()
    wait(qtbot, lambda: widget.data_tab.report is not None and not widget.data_tab.report.errors)
    message = fails(qtbot, widget, by=disk.detach)
    assert f"since {images}" in message
    assert "is gone. Check the drive" in message
    is_whole(only_run(tmp_path))
