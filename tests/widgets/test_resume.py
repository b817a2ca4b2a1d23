"""A run that is killed from outside is offered to be resumed, and is; a segmentation can be cancelled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt

from balls import write_pairs
from napari_celltrain.runs.model import read_card
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.values.events import Saved
from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.train import widget as widget_module
from napari_celltrain.widgets.train.widget import TrainWidget
from segment_support import held_at_the_network
from train_support import is_of_the_package


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1"])


@pytest.fixture
def widget(qtbot, make_napari_viewer, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainWidget]:
    for module in (widget_module, closing):
        monkeypatch.setattr(module, "preferences", lambda: Preferences(on_close="stop"))
    viewer = make_napari_viewer(strict_qt=False)
    controller = RunController()
    made = TrainWidget(viewer, controller)
    viewer.window.add_dock_widget(made, name="CellTrain")
    yield made
    controller.dismiss()
    if controller.is_busy:
        controller.request_stop(now=True)
        wait(qtbot, lambda: not controller.is_busy)
    # pytest itself still holds the widget when napari looks whether any window is left
    viewer.window.remove_dock_widget(made)


def wait(qtbot, condition) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=150_000)


def click(qtbot, button) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def child() -> psutil.Process:
    """The training process."""
    [found] = [process for process in psutil.Process().children() if is_of_the_package(process)]
    return found


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_is_resumed_by_its_button_and_its_model_segments_a_layer(
    qtbot, widget: TrainWidget, balls: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, panel = widget.controller, widget.panel
    notification_manager.records.clear()
    widget.setValue(
        RunConfig(
            data=DataConfig(images=balls[0], labels=balls[1], results=tmp_path),
            augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1, augment=False),
            training=TrainingConfig(
                epochs=10_000, max_minutes=10, validation_interval=1, model_size="small", deterministic=True
            ),  # the minutes end a child whose tests were killed
        )
    )
    click(qtbot, panel.button)
    wait(qtbot, lambda: any(isinstance(event, Saved) and event.what == "last" for event in controller.events))
    assert not panel.end_row.resume_button.isVisible()

    os.kill(child().pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: controller.state == "failed", timeout=1000)
    folder = controller.folder
    assert folder is not None
    done = controller.history().rows[-1].epoch
    [record] = notification_manager.records
    assert record.message == controller.message == panel.message.text()
    assert "SIGKILL" in controller.message
    assert panel.button.text() == "Start"
    assert not panel.end_row.isHidden()
    assert panel.end_row.resume_button.isEnabled()

    panel.end_row.epochs.setValue(done + 1)
    click(qtbot, panel.end_row.resume_button)
    assert panel.button.text() == "Stop"
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state == "finished", controller.message
    assert controller.folder.path == folder.path
    assert controller.history().finished.epoch == done + 1
    assert [row.epoch for row in controller.history().rows] == list(range(1, done + 2))
    assert panel.predictions.epochs[0] == 1
    assert controller.message == panel.message.text() == ""
    assert read_card(folder.path).training.epoch <= done + 1

    cancel_a_segmentation(qtbot, widget)


def cancel_a_segmentation(qtbot, widget: TrainWidget) -> None:
    """The button stops the work between two batches of windows; no layer comes, and it can be pressed again."""
    row = widget.panel.segment_row
    widget.viewer.add_image(np.zeros((16, 32, 32), np.uint16), name="mine", contrast_limits=(0, 1))
    layers = list(widget.viewer.layers)
    with held_at_the_network() as jobs:
        click(qtbot, row.run.button)
        assert row.run.button.text() == "Cancel"
        wait(qtbot, lambda: jobs)
        click(qtbot, row.run.button)
        assert not row.run.button.isEnabled()
        wait(qtbot, lambda: row.run.button.text() != "Cancel")
        assert jobs[0].cancelled.is_set()
    assert list(widget.viewer.layers) == layers
    assert row.run.button.isEnabled()
    assert row.run.bar.isHidden()

    click(qtbot, row.run.button)
    wait(qtbot, lambda: "mine segmentation" in widget.viewer.layers)
