"""Errors of each kind: told once, as a sentence, by the real widget, which can then start again."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import Qt

from balls import make_pair, write_pairs
from napari_celltrain.io.writer import write_volume
from napari_celltrain.runs.process import Child
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.widgets.preferences import Preferences
from napari_celltrain.widgets.run import closing
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.run.sources import ProcessRun
from napari_celltrain.widgets.train import widget as widget_module
from napari_celltrain.widgets.train.widget import TrainWidget

pytestmark = pytest.mark.usefixtures("plain_plots")


@pytest.fixture
def balls(tmp_path: Path) -> tuple[Path, Path]:
    return write_pairs(tmp_path / "data", ["a_1", "b_1", "c_1"])


@pytest.fixture
def widget(qtbot, make_napari_viewer, balls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainWidget]:
    """Filled in, with training in napari's thread; a run takes as long as it is let."""
    for module in (widget_module, closing):
        monkeypatch.setattr(module, "preferences", lambda: Preferences(runs_in="napari", on_close="stop"))
    viewer = make_napari_viewer(strict_qt=False)
    controller = RunController()
    made = TrainWidget(viewer, controller)
    viewer.window.add_dock_widget(made, name="CellTrain")
    made.setValue(config_of(balls, tmp_path / "results"))
    notification_manager.records.clear()
    yield made
    if controller.is_busy:
        controller.request_stop(now=True)
        wait(qtbot, lambda: not controller.is_busy)
    # a thread that still draws or reads would hold on to the viewer
    wait(qtbot, lambda: not any(thread.name == "celltrain-plot" for thread in threading.enumerate()))
    wait(qtbot, lambda: not made.panel.predictions.is_busy)
    # pytest itself still holds the widget when napari looks whether any window is left
    viewer.window.remove_dock_widget(made)


def config_of(balls: tuple[Path, Path], results: Path) -> RunConfig:
    return RunConfig(
        data=DataConfig(images=balls[0], labels=balls[1], results=results),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1, augment=False),
        training=TrainingConfig(
            epochs=10_000, max_minutes=10, validation_interval=1, model_size="small", deterministic=True
        ),  # the minutes end a child whose tests were killed
    )


def wait(qtbot, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=150_000)


def press(qtbot, widget: TrainWidget) -> None:
    qtbot.mouseClick(widget.panel.button, Qt.MouseButton.LeftButton)


def the_error() -> str:
    """What was told; it must have been told once, and be a sentence."""
    messages = [
        str(record.message) for record in notification_manager.records if record.severity >= NotificationSeverity.ERROR
    ]
    notification_manager.records.clear()
    assert len(messages) == 1, messages
    message = messages[0]
    assert message.rstrip().endswith((".", ")"))
    assert "Traceback" not in message
    assert "Error:" not in message
    assert "unexpected" not in message
    assert "mistake" not in message
    return message


def starts_again(qtbot, widget: TrainWidget) -> None:
    """And ends in order."""
    wait(qtbot, lambda: widget.panel.button.text() == "Start" and widget.panel.button.isEnabled())
    press(qtbot, widget)
    wait(qtbot, lambda: widget.controller.state != "preparing")
    assert widget.controller.state == "training", widget.controller.message
    assert widget.panel.message.text() == ""
    assert notification_manager.records == []
    press(qtbot, widget)
    wait(qtbot, lambda: widget.controller.state == "finished" and not widget.panel.predictions.is_busy)


def fails(qtbot, widget: TrainWidget, *, by: Callable[[], object] | None = None) -> str:
    """Start, do ``by`` after the first validation, and wait for the error."""
    controller = widget.controller
    assert (widget.panel.button.text(), widget.panel.button.isEnabled()) == ("Start", True)
    press(qtbot, widget)
    assert widget.panel.message.text() == ""
    if by is not None:
        wait(qtbot, lambda: controller.history().points("dice") or not controller.is_busy)
        assert controller.is_busy, controller.message
        by()
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state == "failed"
    message = the_error()
    assert widget.panel.message.text() == controller.message == message
    return message


# --- data: found before the start --------------------------------------------------------------------------


def is_refused(qtbot, widget: TrainWidget) -> str:
    wait(qtbot, lambda: widget.data_tab.report is not None and widget.data_tab.report.errors)
    widget.tabs.setCurrentIndex(2)
    press(qtbot, widget)
    assert widget.controller.state == "idle"
    assert widget.tabs.currentIndex() == 0
    assert widget.tabs.tabText(0).endswith("⚠")
    return the_error()


def mend(qtbot, widget: TrainWidget, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    widget.data_tab.check_again()
    wait(qtbot, lambda: widget.data_tab.report is not None and not widget.data_tab.report.errors)


def test_data_that_cannot_be_used(qtbot, widget: TrainWidget, balls: tuple[Path, Path]) -> None:
    """An unreadable file and shapes that differ, found before the start; a file damaged, and a folder gone, after."""
    path = balls[0] / "b_1.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    widget.data_tab.check_again()
    message = is_refused(qtbot, widget)
    assert "b_1.tif" in message
    assert "cut off" in message
    mend(qtbot, widget, path, whole)

    other = balls[1] / "c_1.tif"
    before = other.read_bytes()
    write_volume(other, make_pair(2)[1][:-3], (1.0, 0.5, 0.5))
    widget.data_tab.check_again()
    message = is_refused(qtbot, widget)
    assert all(part in message for part in ("c_1", "13", "16"))
    mend(qtbot, widget, other, before)

    path.write_bytes(whole[:300])
    assert "b_1.tif" in fails(qtbot, widget)
    path.write_bytes(whole)

    hidden = balls[0].with_name("hidden")
    balls[0].rename(hidden)
    press(qtbot, widget)
    wait(qtbot, lambda: not widget.controller.is_busy)  # the form may have noticed already
    assert str(balls[0]) in the_error()
    hidden.rename(balls[0])
    starts_again(qtbot, widget)


# --- memory and disk: met while training -------------------------------------------------------------------


def test_what_happens_while_training(
    qtbot, widget: TrainWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and space that run out, a folder that may not be written, and one that goes away; one after the other."""
    from napari_celltrain.engine.learner import Learner

    results = tmp_path / "results"
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB")):
        with monkeypatch.context() as patch:
            message = fails(qtbot, widget, by=lambda: patch.setattr(Learner, "step", raising(error)))  # noqa: B023
        assert "ran out of memory" in message
        assert "smaller batch size" in message

    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        message = fails(qtbot, widget, by=lambda: patch.setattr(os, "fsync", raising(full)))
    assert "no space left" in message
    assert widget.panel.end_row.resume_button.isEnabled()

    make = Path.mkdir

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        if results in (path, *path.parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:  # patched, since whoever is root may write everywhere
        patch.setattr(Path, "mkdir", refuse)
        message = fails(qtbot, widget)
    assert "permission denied" in message
    assert str(results) in message

    message = fails(qtbot, widget, by=lambda: results.rename(tmp_path / "gone"))  # as a drive that is unplugged
    assert "cannot be written" in message
    assert str(results) in message
    assert widget.panel.end_row.isHidden()
    starts_again(qtbot, widget)


def raising(error: Exception) -> Callable[..., object]:
    def refuse(*_: object) -> object:
        raise error

    return refuse


# --- settings that only the other process refuses -----------------------------------------------------------


def test_what_the_process_refuses_is_told_as_a_sentence(tmp_path: Path) -> None:
    """The configuration is read before there is any run; its refusal comes as an event all the same."""
    child = Child("train", "-", "--json")
    child.send("training: {epochs: -3}")
    [failed] = [event for batch in ProcessRun(child, tmp_path).batches() for event in batch]
    assert failed.event == "failed"
    assert "training.epochs" in failed.message
    assert "exit code" not in failed.message
