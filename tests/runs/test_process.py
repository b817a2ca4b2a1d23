import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_celltrain.runs import process
from napari_celltrain.runs.checkpoint import LAST, LAST_OF_0_1
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.errors import RunFolderError
from napari_celltrain.values.events import Event, Failed, Finished, Logged, Started, StopRequested, Warned

# A stand-in for `celltrain train - --json`: the same protocol, without the seconds that torch takes to load.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from napari_celltrain.values.events import Finished, Logged, Started, StopRequested, to_json
from napari_celltrain.runs.config_file import parse_config
from napari_celltrain.runs.folder import RunFolder

def tell(event):
    try:
        print(to_json(event), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

# as `celltrain train` does; a shell that runs the tests in the background may have had it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
mode = sys.argv[1]
config = parse_config(sys.stdin.read(), "standard input")
priority, own_session = os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0) == os.getpid()
tell(Logged(message=f"{os.environ['OMP_WAIT_POLICY']} {priority} {own_session}"))
if mode == "slow":
    time.sleep(30)
print("a library says hello", flush=True)
folder = RunFolder.create(config.data.results, "run", "unet")
folder.write_config(config)
tell(Started(run="run", first_epoch=1, epochs=1, steps_per_epoch=1, num_training=1, num_validation=1, num_parameters=1,
    model="unet", loss="dice_ce", patch_size=None, batch_size=1, device="CPU", numeric_format="float32"))
if mode == "crash":
    print("the reason", file=sys.stderr)
    os._exit(3)
if mode == "chatty":
    for _ in range(20_000):
        tell(Logged(message="x" * 100))
else:
    while folder.stop_request() is None:
        time.sleep(0.01)
    tell(StopRequested(now=folder.stop_request() == "stop-now"))
tell(Finished(reason="stopped", epoch=1, best_epoch=1, best_dice=0.5, best_f1=None, seconds=1, compute_share=0.9,
    validation_share=0.1, peak_memory_gb=1))
(folder.path / "done").touch()
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in asks for POSIX facts")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Start the stand-in in one of its modes."""
    children = []
    popen = subprocess.Popen

    def start(mode: str) -> process.ChildRun:
        def stand_in(arguments: list[str], **options: object) -> subprocess.Popen[str]:
            assert arguments == [sys.executable, "-P", "-m", "napari_celltrain", "train", "-", "--json"]
            return popen([sys.executable, "-c", CHILD, mode], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(subprocess, "Popen", stand_in)
        child = process.start(RunConfig(data=DataConfig(results=tmp_path)))
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_from_start_to_stop(start, tmp_path):
    child = start("polite")
    seen: list[Event] = []
    for event in child.events():
        seen.append(event)
        if isinstance(event, Started):
            assert child.folder is not None
            assert child.folder.path == tmp_path / "run"
            assert child.poll() is None
            child.request_stop(now=True)
    assert [event.event for event in seen] == ["logged", "started", "stop_requested", "finished"]
    assert isinstance(seen[0], Logged)
    niceness = max(10, os.getpriority(os.PRIO_PROCESS, 0))
    assert seen[0].message == f"PASSIVE {niceness} True"
    assert seen[2] == StopRequested(now=True)
    assert child.poll() == 0
    assert (tmp_path / "run" / "done").exists()


@pytest.mark.parametrize("saved", ["", LAST, LAST_OF_0_1])
def test_a_killed_child_is_a_failure_that_says_how_to_go_on(start, saved):
    child = start("polite")
    last: Event | None = None
    for event in child.events():
        last = event
        if isinstance(event, Started):
            assert child.folder is not None
            if saved:
                (child.folder.path / saved).parent.mkdir(parents=True, exist_ok=True)
                (child.folder.path / saved).touch()
            os.kill(child.pid, signal.SIGKILL)
    assert isinstance(last, Failed)
    assert "signal 9, SIGKILL" in last.message
    assert ("celltrain resume" if saved else "celltrain train") in last.message


def test_a_crashed_child_tells_its_last_words(start):
    *_, last = start("crash").events()
    assert isinstance(last, Failed)
    assert "exit code 3" in last.message
    assert "the reason" in last.message


def test_stop_before_training_has_begun(start, tmp_path):
    child = start("slow")
    events = child.events()
    next(events)
    child.request_stop(now=False)
    (last,) = events
    assert isinstance(last, Failed)
    assert "before it had begun" in last.message
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_when_nobody_listens(start, tmp_path):
    """More output than a pipe holds must not bring the child to a halt."""
    child = start("chatty")
    wait_for((tmp_path / "run" / "done").exists)
    assert sum(isinstance(event, Logged) for event in child.events()) == 20_001


def test_a_process_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunFolderError, match="could not be started"):
        process.start(RunConfig())


class TestWaiting:
    def test_a_waiting_child_can_be_closed(self, monkeypatch):
        popen = subprocess.Popen
        monkeypatch.setattr(
            subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", CHILD, "polite"], **options)
        )
        waiting = process.prepare()
        assert waiting.is_alive()
        waiting.close()
        assert not waiting.is_alive()

    def test_the_run_is_done_by_the_child_that_waited(self, monkeypatch, tmp_path):
        popen = subprocess.Popen
        monkeypatch.setattr(
            subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", CHILD, "crash"], **options)
        )
        waiting = process.prepare()
        child = process.start(RunConfig(data=DataConfig(results=tmp_path)), waiting)
        assert child.pid == waiting.process.pid
        assert any(isinstance(event, Started) for event in child.events())


FINISHED = Finished(
    reason="stopped",
    epoch=1,
    best_epoch=1,
    best_dice=0.5,
    best_f1=None,
    seconds=1,
    compute_share=0.9,
    validation_share=0.1,
    peak_memory_gb=1,
)


class TestWatching:
    def test_a_finished_run(self, tmp_path):
        folder = RunFolder.create(tmp_path, "run", "unet")
        folder.append_event(Logged(message="1"))
        folder.append_event(FINISHED)
        assert [event.event for event in process.watch(folder)] == ["logged", "finished"]

    def test_a_run_whose_process_is_gone(self, tmp_path):
        folder = RunFolder.create(tmp_path, "run", "unet")
        folder.append_event(Logged(message="1"))
        *_, last = process.watch(folder)
        assert isinstance(last, Warned)
        assert "is gone" in last.message

    def test_a_run_that_goes_on(self, tmp_path):
        folder = RunFolder.create(tmp_path, "run", "unet")

        def train() -> None:
            with folder.lock():
                ready.set()
                for number in range(5):
                    folder.append_event(Logged(message=str(number)))
                    time.sleep(0.02)
                folder.append_event(FINISHED)

        ready = threading.Event()
        trainer = threading.Thread(target=train)
        trainer.start()
        ready.wait()
        seen = [event.event for event in process.watch(folder, poll_seconds=0.01)]
        trainer.join()
        assert seen == ["logged"] * 5 + ["finished"]

    def test_an_earlier_end_does_not_hide_a_resumed_run(self, tmp_path):
        folder = RunFolder.create(tmp_path, "run", "unet")
        folder.append_event(FINISHED)
        with folder.lock():
            events = process.watch(folder, poll_seconds=0.01)
            assert next(events) == FINISHED
            folder.append_event(Logged(message="again"))
            assert next(events).event == "logged"
