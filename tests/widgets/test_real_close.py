"""napari's own window and its dock, really closed while the widget trains: asked once, and done as answered."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from napari._qt.widgets.qt_viewer_dock_widget import QtViewerDockWidget
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QApplication, QMainWindow, QMessageBox, QPushButton

from balls import write_pairs
from napari_celltrain.io.tensors import read_tensors
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import Finished, Validated
from napari_celltrain.widgets.preferences import OWN_PROCESS, Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.train import widget as widget_module
from napari_celltrain.widgets.train.widget import TrainWidget
from train_support import config_of, is_of_the_package, press, trains, wait


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1"])


@pytest.fixture
def runs_in(monkeypatch: pytest.MonkeyPatch):
    def runs_in(where: str) -> None:
        for module in (widget_module, closing):
            monkeypatch.setattr(module, "preferences", lambda: Preferences(runs_in=where, on_close="ask"))

    return runs_in


@pytest.fixture
def controller(qtbot) -> Iterator[RunController]:
    made = RunController()
    yield made
    made.dismiss()
    if made.is_busy:
        made.request_stop(now=True)
        wait(qtbot, lambda: not made.is_busy)
    for trainer in trainers():  # of a test that failed before it was told to stop
        trainer.kill()


@pytest.fixture
def viewer(qtbot, make_napari_viewer) -> Iterator[Any]:
    viewer = make_napari_viewer(show=True, strict_qt=False)
    viewer.window._qt_window.resize(900, 800)
    yield viewer
    wait(qtbot, lambda: not any(thread.name == "celltrain-plot" for thread in threading.enumerate()))
    if not is_open(viewer.window._qt_window):
        # Qt has deleted what a program that closes the viewer expects to be there still
        del viewer.window._qt_window
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        gc.collect()


def trainers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_of_the_package(child)]


def is_open(window: QMainWindow) -> bool:
    try:
        return window.isVisible()
    except RuntimeError:  # deleted, as napari's windows are when they are closed
        return False


def open_and_start(qtbot, viewer, controller: RunController, balls, results: Path) -> QtViewerDockWidget:
    """Trains, and has saved something. The widget itself is not given: whoever holds it holds the viewer."""
    widget = TrainWidget(viewer, controller)
    dock = viewer.window.add_dock_widget(widget, name="CellTrain")
    widget.setValue(config_of(balls, results))
    widget.panel.predictions.box.setChecked(False)  # which take a while to paint where there is no graphics card
    press(qtbot, widget)
    trains(qtbot, widget)
    return dock


class Answer:
    """Presses the button called ``text`` in the question that comes, and remembers which buttons there were."""

    def __init__(self, text: str) -> None:
        self.buttons: list[list[str]] = []
        self._text = text
        QTimer.singleShot(0, self._press)

    def _press(self) -> None:
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(10, self._press)
            return
        buttons = {button.text(): button for button in box.findChildren(QPushButton)}
        self.buttons.append(sorted(buttons))
        buttons[self._text].click()


def num_validations(folder: RunFolder) -> int:
    return sum(isinstance(event, Validated) for event in folder.read_events())


def is_complete(folder: RunFolder) -> bool:
    """Ended by itself, with a model and the files of the end."""
    last = list(folder.read_events())[-1]
    assert isinstance(last, Finished)
    assert last.reason in ("stopped", "stopped-now")
    read_tensors(folder.model / "model.safetensors")
    assert (folder.path / "training_final.png").is_file()
    assert not list(folder.path.rglob(".tmp-*"))
    return not folder.is_running()


def test_a_window_closed_on_a_process_of_its_own(
    qtbot, viewer, controller: RunController, runs_in, balls, tmp_path: Path
) -> None:
    """First somebody thinks better of it, then the run goes on without a window, until it is told to stop."""
    runs_in(OWN_PROCESS)
    open_and_start(qtbot, viewer, controller, balls, tmp_path)
    window, folder = viewer.window._qt_window, controller.folder
    assert folder is not None
    [trainer] = trainers()

    answer = Answer("Do not close")
    assert not window.close()
    assert answer.buttons == [["Do not close", "Keep training", "Stop"]]
    assert is_open(window)
    assert controller.state == "training"

    answer = Answer("Keep training")
    assert window.close()
    assert answer.buttons == [["Do not close", "Keep training", "Stop"]]
    assert not is_open(window)
    assert controller.state == "idle"
    before = num_validations(folder)
    wait(qtbot, lambda: num_validations(folder) > before + 1)
    assert trainer.is_running()
    folder.request_stop(now=True)
    wait(qtbot, lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)
    assert is_complete(folder)


def test_a_window_closed_with_stop(qtbot, viewer, controller: RunController, runs_in, balls, tmp_path: Path) -> None:
    """It closes at once; the process ends by itself, with all its files."""
    runs_in(OWN_PROCESS)
    open_and_start(qtbot, viewer, controller, balls, tmp_path)
    window, folder = viewer.window._qt_window, controller.folder
    answer = Answer("Stop")
    assert window.close()
    assert answer.buttons == [["Do not close", "Keep training", "Stop"]]
    assert not is_open(window)
    wait(qtbot, lambda: not folder.is_running())
    assert is_complete(folder)


def test_a_window_closed_on_training_inside_napari(
    qtbot, viewer, controller: RunController, runs_in, balls, tmp_path: Path
) -> None:
    """It stays until the best model is saved, and closes then."""
    runs_in("napari")
    open_and_start(qtbot, viewer, controller, balls, tmp_path)
    window, folder = viewer.window._qt_window, controller.folder
    answer = Answer("Stop, then close")
    assert not window.close()
    assert answer.buttons == [["Do not close", "Stop, then close"]]
    assert is_open(window)
    wait(qtbot, lambda: not is_open(window))
    assert controller.state == "finished"
    assert is_complete(folder)


def test_a_dock_closed_by_its_button(qtbot, viewer, controller: RunController, runs_in, balls, tmp_path: Path) -> None:
    """Kept at first: a widget opened later finds the run. Then stopped. The window stays in either case."""
    runs_in("napari")
    dock = open_and_start(qtbot, viewer, controller, balls, tmp_path)
    folder = controller.folder
    for text in ("Keep training", "Stop"):
        answer = Answer(text)
        qtbot.mouseClick(dock.title.close_button, Qt.MouseButton.LeftButton)
        wait(qtbot, lambda: answer.buttons)  # noqa: B023
        assert answer.buttons == [["Keep training", "Stop"]]
        assert viewer.window._qt_window.isVisible()
        if text == "Keep training":
            before = num_validations(folder)
            wait(qtbot, lambda: num_validations(folder) > before + 1)  # noqa: B023
            assert controller.state == "training"
            again = TrainWidget(viewer, controller)
            dock = viewer.window.add_dock_widget(again, name="CellTrain")
            assert again.panel.button.text() == "Stop"
            del again
            QApplication.processEvents()
    wait(qtbot, lambda: controller.state == "finished")
    assert is_complete(folder)
