"""The run behind the widget: the same tests for a process of its own and for napari's thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balls import write_pairs
from napari_celltrain.runs import process
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.values.events import Event, Started, Validated, Warned
from napari_celltrain.widgets.preferences import last_run
from napari_celltrain.widgets.run import controller as controller_module
from napari_celltrain.widgets.run.controller import RunController

# The protocol of `celltrain train - --json`, without the seconds that torch takes to load.
CHILD = """
import sys, time
from napari_celltrain.values.events import *
from napari_celltrain.runs.config_file import parse_config
from napari_celltrain.runs.folder import RunFolder

def tell(event):
    folder.append_event(event)
    try:
        print(to_json(event), flush=True)
    except BrokenPipeError:
        pass

text = sys.stdin.read()
if not text:
    sys.exit()
config = parse_config(text, "standard input")
folder = RunFolder.create(config.data.results, None, "unet")
folder.write_config(config)
with folder.lock():
    tell(Started(run=folder.name, first_epoch=1, epochs=9, steps_per_epoch=1, num_training=1, num_validation=1,
        num_parameters=1, model="unet", loss="dice_ce", patch_size=None, batch_size=1, device="CPU",
        numeric_format="float32"))
    while folder.stop_request() is None:
        time.sleep(0.01)
    tell(StopRequested(now=folder.stop_request() == "stop-now"))
    tell(Finished(reason="stopped", epoch=1, best_epoch=1, best_dice=0.5, best_f1=None, seconds=1, compute_share=0.9,
        validation_share=0.1, peak_memory_gb=1))
"""


@pytest.fixture
def controller(qtbot) -> Iterator[RunController]:
    made = RunController()
    yield made
    made.dismiss()
    if made.is_busy:
        made.request_stop(now=True)
        made.leave()
        qtbot.waitUntil(lambda: not made.is_busy, timeout=30_000)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown as a notification."""
    messages: list[str] = []
    for name in ("show_error", "show_info", "show_warning"):
        monkeypatch.setattr(controller_module, name, messages.append)
    return messages


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Children are the stand-in; those that were started."""
    children: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(arguments: list[str], **options: object) -> subprocess.Popen[str]:
        children.append(popen([sys.executable, "-c", CHILD], **options))  # type: ignore[call-overload]
        return children[-1]

    monkeypatch.setattr(process.subprocess, "Popen", start)
    return children


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1"])


@pytest.fixture
def config(balls: tuple[Path, Path], tmp_path: Path) -> RunConfig:
    """Trains for very long, in short epochs."""
    return RunConfig(
        data=DataConfig(images=balls[0], labels=balls[1], results=tmp_path / "results"),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1, augment=False),
        training=TrainingConfig(
            epochs=10_000, max_minutes=10, validation_interval=1, model_size="small", deterministic=True
        ),  # the minutes end a child whose tests were killed
    )


def wait(qtbot, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=150_000)


@pytest.mark.parametrize("own_process", [True, False], ids=["process", "napari"])
def test_starts_tells_stops_and_can_start_again(
    qtbot, controller: RunController, config: RunConfig, told: list[str], own_process: bool
) -> None:
    states: list[str] = []
    events: list[Event] = []
    controller.stateChanged.connect(lambda: states.append(controller.state))
    controller.eventsReceived.connect(events.extend)

    controller.start(config, own_process)
    assert controller.state == "preparing"
    wait(qtbot, lambda: any(isinstance(event, Validated) for event in events))
    assert controller.folder is not None
    assert controller.folder.is_running()
    assert last_run() == controller.folder.path
    controller.stop()
    assert (controller.state, controller.stop_request) == ("stopping", "stop")
    wait(qtbot, lambda: not controller.is_busy)

    assert list(dict.fromkeys(states)) == ["preparing", "training", "stopping", "finished"]
    assert controller.history().finished is not None
    assert controller.history().finished.reason == "stopped"
    assert (controller.folder.model / "model.yaml").exists()
    assert not controller.folder.is_running()
    assert len(told) == 1
    assert told[0].startswith("Finished")

    gone = config.data.model_copy(update={"labels": config.data.results / "gone"})
    controller.start(config.model_copy(update={"data": gone}), own_process)
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state == "failed"
    assert told[1:] == [controller.message]
    assert "gone" in controller.message
    assert "exit code" not in controller.message
    assert controller.history().rows == ()


def test_a_second_press_stops_now(qtbot, controller: RunController, config: RunConfig, stand_in, told) -> None:
    controller.start(config)
    wait(qtbot, lambda: controller.state == "training")
    controller.request_stop(now=True)
    assert controller.stop_request == "stop-now"
    wait(qtbot, lambda: controller.state == "finished")


def test_a_stop_before_the_beginning_is_no_failure(
    qtbot, controller: RunController, config: RunConfig, stand_in, told: list[str]
) -> None:
    controller.start(config)
    controller.stop()
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state in ("idle", "finished")  # the stand-in may have been quicker
    assert not any("ended by signal" in message for message in told)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_process_is_told_within_a_second(
    qtbot, controller: RunController, config: RunConfig, stand_in, told: list[str]
) -> None:
    controller.start(config)
    wait(qtbot, lambda: controller.state == "training")
    os.kill(stand_in[-1].pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: controller.state == "failed", timeout=1000)
    assert told == [controller.message]
    assert "SIGKILL" in controller.message
    assert "continue with Resume" in controller.message
    controller.start(config)
    wait(qtbot, lambda: controller.state == "training")


def test_the_process_started_ahead_is_used_once_and_dismissed_when_not_needed(
    qtbot, controller: RunController, config: RunConfig, stand_in, told
) -> None:
    controller.prepare()
    controller.prepare()
    assert len(stand_in) == 1
    controller.start(config)
    wait(qtbot, lambda: controller.state == "training")
    assert len(stand_in) == 1
    controller.prepare()  # not while training
    assert len(stand_in) == 1
    controller.stop()
    wait(qtbot, lambda: controller.state == "finished")
    assert stand_in[0].poll() == 0
    controller.prepare()
    assert len(stand_in) == 2
    controller.dismiss()
    assert stand_in[1].poll() is not None


def test_where_no_process_can_be_started_training_runs_in_napari_and_says_so(
    qtbot, controller: RunController, config: RunConfig, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(process.subprocess, "Popen", refuse)
    events: list[Event] = []
    controller.eventsReceived.connect(events.extend)
    controller.start(config)
    assert not controller.outlives_napari
    assert isinstance(events[0], Warned)
    assert told == [events[0].message]
    assert "inside napari" in told[0]
    controller.stop()
    wait(qtbot, lambda: not controller.is_busy)


def test_a_run_that_was_left_goes_on_and_can_be_watched(
    qtbot, controller: RunController, config: RunConfig, stand_in, told
) -> None:
    controller.start(config)
    wait(qtbot, lambda: controller.state == "training")
    folder = controller.folder
    assert folder is not None
    controller.leave()  # as when napari is closed
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state == "idle"
    assert stand_in[0].poll() is None

    other = RunController()  # as in another session
    events: list[Event] = []
    other.eventsReceived.connect(events.extend)
    other.watch(RunFolder.open(folder.path))
    wait(qtbot, lambda: other.state == "training")
    assert other.watching
    assert other.config == folder.read_config()
    assert isinstance(events[0], Started)
    other.stop()
    wait(qtbot, lambda: other.state == "finished")
    assert stand_in[0].wait(10) == 0


def test_another_run_can_be_watched_while_one_is_watched(qtbot, controller: RunController, tmp_path: Path) -> None:
    folders = [RunFolder.create(tmp_path, name, "unet") for name in ("a", "b")]
    for folder in folders:
        folder.write_config(RunConfig())
        folder.append_event(Started.model_validate(_STARTED | {"run": folder.name}))
    with folders[0].lock(), folders[1].lock():
        controller.watch(folders[0])
        wait(qtbot, lambda: controller.state == "training")
        controller.watch(folders[1])
        wait(qtbot, lambda: controller.folder is not None and controller.folder.name == "b" and controller.events)
        assert [event.run for event in controller.events if isinstance(event, Started)] == ["b"]
        controller.leave()
        wait(qtbot, lambda: controller.state == "idle")


def test_a_watched_run_whose_process_is_gone_has_failed(qtbot, controller: RunController, tmp_path: Path, told) -> None:
    folder = RunFolder.create(tmp_path, "a", "unet")
    folder.write_config(RunConfig())
    folder.append_event(Started.model_validate(_STARTED))
    controller.watch(folder)
    wait(qtbot, lambda: controller.state == "failed")
    assert "is gone" in controller.message


_STARTED = {
    "run": "a",
    "first_epoch": 1,
    "epochs": 3,
    "steps_per_epoch": 1,
    "num_training": 1,
    "num_validation": 1,
    "num_parameters": 1,
    "model": "unet",
    "loss": "dice",
    "patch_size": None,
    "batch_size": 1,
    "device": "CPU",
    "numeric_format": "float32",
}
