"""The whole widget in a real viewer, by its controls: from an empty form to a trained model, closed and reopened."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from balls import make_pair, write_pairs
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.widgets import preferences
from napari_celltrain.widgets.layers import find_layer
from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run import controller as controller_module
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.run.shown import ERRORS
from napari_celltrain.widgets.train import widget as widget_module
from napari_celltrain.widgets.train.widget import TrainWidget


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1"])


@pytest.fixture
def wishes(monkeypatch: pytest.MonkeyPatch):
    """Set the preferences: training in napari's thread, where torch is loaded already, unless told otherwise."""

    def wish(**fields: str) -> None:
        wanted = Preferences(**({"runs_in": "napari"} | fields))  # type: ignore[arg-type]
        for module in (widget_module, closing):
            monkeypatch.setattr(module, "preferences", lambda: wanted)

    wish()
    return wish


@pytest.fixture
def controller(qtbot) -> Iterator[RunController]:
    made = RunController()
    yield made
    made.dismiss()
    if made.is_busy:
        made.request_stop(now=True)
        qtbot.waitUntil(lambda: not made.is_busy, timeout=150_000)


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(strict_qt=False)
    viewer.window._qt_window.resize(1200, 900)
    return viewer


def dock(viewer, controller: RunController) -> TrainWidget:
    widget = TrainWidget(viewer, controller)
    viewer.window.add_dock_widget(widget, name="CellTrain")
    QApplication.processEvents()
    return widget


def fill(widget: TrainWidget, balls: tuple[Path, Path], results: Path, **training: object) -> RunConfig:
    config = RunConfig(
        data=DataConfig(images=balls[0], labels=balls[1], results=results),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1, augment=False),
        training=TrainingConfig(
            **({"epochs": 10_000, "validation_interval": 1, "model_size": "small", "deterministic": True} | training)  # type: ignore[arg-type]
        ),
    )
    widget.setValue(config)
    assert widget.value() == config
    return config


def click(qtbot, button) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def wait(qtbot, condition) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=150_000)


def texts() -> list[str]:
    return [str(record.message) for record in notification_manager.records]


def test_opening_it_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import napari_celltrain.widgets.train.widget, sys; print({'torch', 'monai', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "set()"


def test_start_says_all_that_is_wrong_once_and_turns_to_it(qtbot, viewer, controller, wishes, tmp_path: Path) -> None:
    notification_manager.records.clear()
    widget = dock(viewer, controller)
    widget.tabs.setCurrentIndex(2)
    training = widget.training_tab.value()
    widget.training_tab.setValue(training.model_copy(update={"starting_weights": tmp_path}))
    click(qtbot, widget.panel.button)
    assert controller.state == "idle"
    assert widget.tabs.currentIndex() == 0
    assert [widget.tabs.tabText(index).endswith("⚠") for index in range(3)] == [True, False, True]
    [message] = texts()
    assert all(part in message for part in ("images:", "labels:", "training.starting_weights:"))


def test_from_the_form_to_a_model_and_a_segmented_layer(
    qtbot, viewer, controller, wishes, counts_costs, balls: tuple[Path, Path], tmp_path: Path
) -> None:
    viewer.add_image(make_pair(9)[0], name="mine", scale=(1, 0.5, 0.5), translate=(3, 0, 0))
    widget = dock(viewer, controller)
    config = fill(widget, balls, tmp_path)
    click(qtbot, widget.panel.button)
    assert widget.panel.button.text() == "Stop"
    assert not widget.training_tab.learning_rows.isEnabled()
    wait(qtbot, lambda: find_layer(viewer, ERRORS) is not None and widget.curves.plot is not None)
    num_layers = len(viewer.layers)
    click(qtbot, widget.panel.button)
    assert widget.panel.button.text() == "Stop now"
    wait(qtbot, lambda: controller.state == "finished")

    assert len(viewer.layers) == num_layers
    assert widget.training_tab.learning_rows.isEnabled()
    assert widget.value() == config
    assert (controller.folder.path / "training_final.png").exists()
    assert widget.panel.progress.numbers.text().startswith("Best: Dice")

    row = widget.panel.segment_row
    assert row.layer.value() is viewer.layers["mine"]
    click(qtbot, row.run.button)
    wait(qtbot, lambda: "mine segmentation" in viewer.layers)
    made = viewer.layers["mine segmentation"]
    assert tuple(made.scale) == (1, 0.5, 0.5)
    assert tuple(made.translate) == (3, 0, 0)
    assert made.data.shape == (16, 32, 32)

    assert widget.panel.state.text().startswith("Stopped at epoch")
    viewer.scene.camera.center = (0, -1e6, -1e6)
    click(qtbot, widget.panel.predictions.find_button)
    assert viewer.scene.camera.center[-1] > -1000

    viewer.window.remove_dock_widget(widget)
    again = dock(viewer, controller)
    assert again.value() == config  # not lost when the widget is opened anew
    qtbot.waitUntil(lambda: again.tabs.height() > again.splitter.height() // 4)


@pytest.mark.usefixtures("plain_plots")
def test_layers_are_written_and_trained_on(qtbot, viewer, controller, wishes, tmp_path: Path) -> None:
    image, labels = make_pair(3, shape=(32, 48, 48), num_objects=30)
    viewer.add_image(image, name="cells", scale=(1, 0.5, 0.5))
    viewer.add_labels(labels, name="annotation", scale=(1, 0.5, 0.5))
    widget = dock(viewer, controller)
    widget.setValue(
        RunConfig(
            data=DataConfig(results=tmp_path),
            augmentation=AugmentationConfig(patch_size=(8, 16, 16), samples_per_volume=1, augment=False),
            training=TrainingConfig(epochs=1, validation_interval=1, model_size="small", deterministic=True),
        )
    )
    widget.data_tab.form.layers_button.setChecked(True)
    click(qtbot, widget.panel.button)
    wait(qtbot, lambda: controller.state in ("finished", "failed"))
    assert controller.state == "finished", controller.message
    assert controller.config.data.images.is_relative_to(tmp_path)
    assert widget.data_tab.form.source() == "layers"


@pytest.mark.usefixtures("plain_plots")
def test_closed_while_training_it_goes_on_and_is_found_again(
    qtbot, viewer, controller, wishes, balls: tuple[Path, Path], tmp_path: Path
) -> None:
    wishes(on_close="keep training")
    widget = dock(viewer, controller)
    config = fill(widget, balls, tmp_path)
    click(qtbot, widget.panel.button)
    wait(qtbot, lambda: controller.history().points("dice"))
    viewer.window.remove_dock_widget(widget)
    gone = weakref.ref(widget)
    del widget
    wait(qtbot, lambda: gc.collect() >= 0 and gone() is None)
    assert controller.state == "training"

    again = dock(viewer, controller)
    assert again.panel.button.text() == "Stop"
    assert again.value().data == config.data
    assert again.value().augmentation == config.augmentation
    assert "Validation after epoch 1" in again.panel.log.text.toPlainText()
    wishes(on_close="stop")
    viewer.window.remove_dock_widget(again)
    wait(qtbot, lambda: controller.state == "finished")


def test_settings_are_saved_and_loaded_as_the_command_line_has_them(
    qtbot, viewer, controller, wishes, balls: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = dock(viewer, controller)
    config = fill(widget, balls, tmp_path, loss="tversky", epochs=7)
    path = tmp_path / "mine.yaml"
    monkeypatch.setattr(preferences.QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    monkeypatch.setattr(preferences.QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    widget.save_settings()
    assert load_config(path) == config
    widget.setValue(RunConfig())
    widget.load_settings()
    assert widget.value() == config


@pytest.mark.usefixtures("plain_plots")
def test_a_run_of_an_earlier_session_is_found(
    qtbot, viewer, controller, wishes, balls: tuple[Path, Path], tmp_path: Path
) -> None:
    widget = dock(viewer, controller)
    fill(widget, balls, tmp_path)
    click(qtbot, widget.panel.button)
    wait(qtbot, lambda: controller.state == "training")
    other = RunController()
    found = TrainWidget(viewer, other)
    qtbot.addWidget(found)
    wait(qtbot, lambda: other.state == "training")
    assert other.watching
    assert other.folder.path == controller.folder.path
    other.stop()
    wait(qtbot, lambda: other.state == "finished" and controller.state == "finished")
    wait(qtbot, lambda: not any(shown.panel.predictions.is_busy for shown in (widget, found)))


def test_the_process_is_started_when_the_last_tab_is_first_seen(
    qtbot, viewer, controller, wishes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes(runs_in="a process of its own")
    started: list[str] = []
    monkeypatch.setattr(controller_module, "Child", lambda *_: started.append("process") or _Waiting())
    widget = dock(viewer, controller)
    viewer.window._qt_window.show()
    assert started == []
    widget.tabs.setCurrentIndex(2)
    widget.tabs.setCurrentIndex(0)
    widget.tabs.setCurrentIndex(2)
    assert started == ["process"]


class _Waiting:
    def close(self, patience: float) -> None:
        return None


def test_plotting_leaves_matplotlib_as_it_was(qtbot, viewer, controller, wishes) -> None:
    import matplotlib as mpl

    from napari_celltrain.widgets.run.curves import CurvesPlot

    before = dict(mpl.rcParams)
    plot = CurvesPlot(viewer)
    qtbot.addWidget(plot)
    plot.resize(600, 250)
    plot.show()
    wait(qtbot, lambda: plot.canvas._image is not None)
    dark = plot.canvas._image.pixelColor(2, 2)
    viewer.theme = "light"
    wait(qtbot, lambda: plot.canvas._image.pixelColor(2, 2) != dark)
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or np.size(sys.modules["matplotlib.pyplot"].get_fignums()) == 0
    plot.forget_viewer()
