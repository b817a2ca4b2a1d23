"""The panel of the run: its one button, its bars, its log, and what it offers at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.events import (
    EpochDone,
    Event,
    Failed,
    Finished,
    Prepared,
    Started,
    StepDone,
    StopRequested,
    Validated,
)
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.run.panel import RunPanel
from napari_celltrain.widgets.run.progress import RunLog, RunProgress

STARTED = Started(
    run="run",
    first_epoch=1,
    epochs=4,
    steps_per_epoch=10,
    num_training=1,
    num_validation=1,
    num_parameters=1,
    model="unet",
    loss="dice",
    patch_size=None,
    batch_size=1,
    device="CPU",
    numeric_format="float32",
)
STEP = StepDone(epoch=2, step=13, step_in_epoch=3, loss=0.25, learning_rate=0.1, seconds=0.1)
VALIDATED = Validated(epoch=1, step=10, dice=0.75, f1=0.5, volumes=(), seconds=1, is_best=True)
FINISHED = Finished(
    reason="stopped",
    epoch=2,
    best_epoch=1,
    best_dice=0.75,
    best_f1=0.5,
    seconds=9,
    compute_share=0.9,
    validation_share=0.1,
    peak_memory_gb=1,
)


def make_run(results: Path, *events: Event) -> RunFolder:
    folder = RunFolder.create(results, None, "unet")
    folder.write_config(RunConfig())
    folder.write_text("data.json", json.dumps({}))
    for event in events:
        folder.append_event(event)
    return folder


@pytest.fixture
def panel(qtbot) -> RunPanel:
    controller = RunController()
    panel = RunPanel(ViewerModel(), controller)
    controller.setParent(panel)
    qtbot.addWidget(panel)
    panel.resize(350, 500)
    panel.show()
    return panel


def test_bars_and_numbers_follow_the_events(qtbot) -> None:
    progress = RunProgress()
    qtbot.addWidget(progress)
    progress.begin()
    progress.addEvents([Prepared(stage="reading 100%v.tif", done=1, total=3)])
    assert "100%" in progress.steps.text()
    assert "v.tif" in progress.steps.text()
    progress.addEvents([STARTED, VALIDATED, STEP])
    assert progress.steps.text() == "Step 3 of 10"
    assert (progress.epochs.value(), progress.epochs.maximum()) == (0, 4)
    assert progress.numbers.text() == "loss 0.2500   Dice 0.7500, F1 0.5000   best 0.7500 at epoch 1"
    progress.addEvents([FINISHED])
    progress.end()
    assert progress.numbers.text() == "Best: Dice 0.7500, F1 0.5000, at epoch 1"


def test_the_log_follows_unless_one_reads_above(qtbot, tmp_path: Path) -> None:
    log = RunLog()
    qtbot.addWidget(log)
    log.resize(300, 120)
    log.show()
    bar = log.text.verticalScrollBar()
    log.addEvents([VALIDATED] * 100)
    assert bar.value() == bar.maximum()
    log.resize(300, 90)
    assert bar.value() == bar.maximum()
    bar.triggerAction(bar.SliderAction.SliderPageStepSub)
    above = bar.value()
    log.addEvents([VALIDATED] * 10)
    assert bar.value() == above < bar.maximum()
    log.saveTo(tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text().count("Dice 0.7500") == 110


def test_the_log_of_a_run_is_saved_with_its_times(qtbot, tmp_path: Path) -> None:
    log = RunLog()
    qtbot.addWidget(log)
    folder = make_run(tmp_path)
    folder.append_line("training.log", "2026-11-22 12:00:00  hello")
    log.folder = folder
    log.saveTo(tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "2026-11-22 12:00:00  hello\n"


def test_names_in_the_log_are_plain_text(qtbot) -> None:
    log = RunLog()
    qtbot.addWidget(log)
    log.addEvents([Failed(message="<img src=x>.tif: is damaged.")])
    assert "<img src=x>.tif" in log.text.toPlainText()


def test_a_run_that_ended_can_be_watched_resumed_and_repeated(
    qtbot, panel: RunPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not panel.log.isVisible()
    panel.watch(make_run(tmp_path, STARTED, VALIDATED, FINISHED).path)
    qtbot.waitUntil(lambda: panel._controller.state == "finished", timeout=10_000)
    assert panel.button.text() == "Start"
    assert panel.state.text() == "Watching: stopped at epoch 2"
    assert "Best: Dice 0.7500" in panel.progress.numbers.text()
    assert "stopped as asked" in panel.log.text.toPlainText()
    assert panel.end_row.isVisible()
    assert not panel.segment_row.isVisible()  # it has no model
    assert panel.end_row.epochs.value() == 4
    with qtbot.waitSignal(panel.settingsRequested, timeout=1000):
        qtbot.mouseClick(panel.end_row.settings_button, Qt.MouseButton.LeftButton)
    asked: list[int | None] = []
    monkeypatch.setattr(panel._controller, "resume", lambda folder, epochs, own_process: asked.append(epochs))
    for epochs in (4, 9):
        panel.end_row.epochs.setValue(epochs)
        qtbot.mouseClick(panel.end_row.resume_button, Qt.MouseButton.LeftButton)
    assert asked == [None, 9]


def test_the_button_has_three_texts(qtbot, panel: RunPanel, tmp_path: Path) -> None:
    with qtbot.waitSignal(panel.startRequested, timeout=1000):
        qtbot.mouseClick(panel.button, Qt.MouseButton.LeftButton)
    folder = make_run(tmp_path, STARTED)
    with folder.lock():
        panel.watch(folder.path)
        qtbot.waitUntil(lambda: panel._controller.state == "training", timeout=10_000)
        assert panel.watch_button.text() == "Stop watching"
        for before, request in (("Stop", "stop"), ("Stop now", "stop-now")):
            assert panel.button.text() == before
            qtbot.mouseClick(panel.button, Qt.MouseButton.LeftButton)
            assert folder.stop_request() == request
        assert panel.button.text() == "Stopping …"
        assert not panel.button.isEnabled()
        qtbot.mouseClick(panel.watch_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: panel._controller.state == "idle", timeout=10_000)


def test_a_run_whose_process_is_gone_says_so_and_offers_to_resume(qtbot, panel: RunPanel, tmp_path: Path) -> None:
    panel.watch(make_run(tmp_path, STARTED, VALIDATED).path)
    qtbot.waitUntil(lambda: panel._controller.state == "failed", timeout=10_000)
    assert "is gone" in panel.message.text()
    assert "continue with Resume, below" in panel.message.text()
    assert panel.end_row.resume_button.isEnabled()


@pytest.mark.parametrize(("width", "height"), [(350, 200), (350, 500), (800, 250)])
def test_what_does_not_fit_is_scrolled_to_and_not_cut(
    qtbot, panel: RunPanel, tmp_path: Path, width: int, height: int
) -> None:
    panel.resize(width, height)
    panel.watch(make_run(tmp_path, STARTED, VALIDATED).path)
    qtbot.waitUntil(lambda: panel._controller.state == "failed", timeout=10_000)
    panel.wanted_height()  # lays out
    row = panel.end_row
    for widget in (row.open_button, row.settings_button, row.resume_button, row.epochs, panel.progress.epochs):
        # its row is laid out when Qt comes to it
        qtbot.waitUntil(lambda widget=widget: widget.size().expandedTo(widget.minimumSizeHint()) == widget.size())
    for label in (panel.message, panel.progress.numbers):
        assert label.height() >= label.heightForWidth(label.width())


def test_a_run_that_has_ended_has_no_time_left(qtbot) -> None:
    progress = RunProgress()
    qtbot.addWidget(progress)
    progress.begin()
    done = EpochDone(epoch=1, step=10, train_loss=0.5, learning_rate=0.1, seconds=1, remaining_seconds=3600)
    progress.addEvents([STARTED, done])
    assert "left" in progress.numbers.text()
    progress.end()
    assert "left" not in progress.numbers.text()
    progress.begin()
    progress.addEvents([STARTED, done, StopRequested(now=False), done])  # when it ends is no longer as planned
    assert "left" not in progress.numbers.text()
    progress.end()


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(
    qtbot, panel: RunPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_celltrain.widgets.run.controller.show_error", told.append)
    panel.watch(tmp_path)
    assert len(told) == 1
    assert "is not a run folder" in told[0]


def test_a_panel_that_comes_later_shows_all_of_it(qtbot, panel: RunPanel, tmp_path: Path) -> None:
    panel.watch(make_run(tmp_path, STARTED, VALIDATED, FINISHED).path)
    qtbot.waitUntil(lambda: panel._controller.state == "finished", timeout=10_000)
    later = RunPanel(ViewerModel(), panel._controller)
    qtbot.addWidget(later)
    assert later.log.text.toPlainText() == panel.log.text.toPlainText()
    assert later.progress.numbers.text() == panel.progress.numbers.text()
