import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from napari_celltrain.runs import process
from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.process import Child
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

mode = sys.argv[1]
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
config = parse_config(sys.stdin.read(), "standard input")
priority, own_session = os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0) == os.getpid()
tell(Logged(message=f"{os.environ['OMP_WAIT_POLICY']} {priority} {own_session}"))
if mode in ("slow", "deaf"):
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
    children: list[Child] = []
    popen = subprocess.Popen

    def start(mode: str) -> Child:
        def stand_in(arguments: list[str], **options: object) -> subprocess.Popen[str]:
            assert arguments == [sys.executable, "-P", "-m", "napari_celltrain", "train", "-", "--json"]
            return popen([sys.executable, "-c", CHILD, mode], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(subprocess, "Popen", stand_in)
        children.append(Child("train", "-", "--json"))
        children[-1].send(dump_config(RunConfig(data=DataConfig(results=tmp_path))))
        return children[-1]

    start.children = children
    yield start
    for child in children:
        child.close(patience=0)


def events_of(child: Child) -> Iterator[Event]:
    """All of them; where it did not end its run itself, the last says how it ended."""
    for look in process.follow(child, lambda: Failed(message=child.exit_message("It", "All is well."))):
        yield from look


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_from_start_to_stop(start, tmp_path):
    child = start("polite")
    seen: list[Event] = []
    for event in events_of(child):
        seen.append(event)
        if isinstance(event, Started):
            assert child.is_running()
            RunFolder.open(tmp_path / event.run).request_stop(now=True)
    assert [event.event for event in seen] == ["logged", "started", "stop_requested", "finished"]
    assert isinstance(seen[0], Logged)
    niceness = max(10, os.getpriority(os.PRIO_PROCESS, 0))
    assert seen[0].message == f"PASSIVE {niceness} True"
    assert seen[2] == StopRequested(now=True)
    assert child.exit_code == 0
    assert (tmp_path / "run" / "done").exists()


def test_a_killed_child_is_a_failure(start):
    child = start("polite")
    last: Event | None = None
    for event in events_of(child):
        last = event
        if isinstance(event, Started):
            os.kill(child._process.pid, signal.SIGKILL)
    assert isinstance(last, Failed)
    assert (
        last.message == "It was ended by signal 9, SIGKILL (often because the computer ran out of memory). All is well."
    )


def test_a_crashed_child_leaves_its_last_lines(start):
    *_, last = events_of(start("crash"))
    assert isinstance(last, Failed)
    assert last.message == "It ended with exit code 3. All is well.\nthe reason"


def test_a_child_that_has_not_begun_ends_when_asked(start, tmp_path):
    child = start("slow")
    events = events_of(child)
    next(events)
    child.terminate()
    (last,) = events
    assert isinstance(last, Failed)
    assert "SIGTERM" in last.message
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_does_not_listen_is_killed(start):
    child = start("deaf")
    next(events_of(child))
    child.close(patience=0)
    assert child.exit_code == -signal.SIGKILL


def test_training_goes_on_when_nobody_listens(start, tmp_path):
    """More output than a pipe holds must not bring the child to a halt."""
    child = start("chatty")
    wait_for((tmp_path / "run" / "done").exists)
    assert sum(isinstance(event, Logged) for event in events_of(child)) == 20_001


def test_a_child_leaves_no_files_behind(start):
    child = start("crash")
    assert list(events_of(child))
    place = child.events_file.parent
    del child
    start.children.clear()
    wait_for(lambda: not place.exists())


def test_a_process_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunFolderError, match="could not be started"):
        Child("train", "-", "--json")


def test_a_child_that_waits_for_its_configuration_can_be_closed(monkeypatch):
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", CHILD, "polite"], **options)
    )
    waiting = Child("train", "-", "--json")
    assert waiting.is_running()
    waiting.close(patience=0)
    assert not waiting.is_running()


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
