"""Where events come from: nothing is lost, nothing floods the window, and every error is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from napari_celltrain.runs.checkpoint import LAST, LAST_OF_0_1
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.events import EpochDone, Event, Failed, Finished, Logged, Started, StepDone
from napari_celltrain.widgets.run.sources import MAX_BATCH, NOT_BEGUN, ProcessRun, ThreadRun, WatchedRun


def started(run: str = "run", epochs: int = 3) -> Started:
    return Started(
        run=run,
        first_epoch=1,
        epochs=epochs,
        steps_per_epoch=1,
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


def step(number: int) -> StepDone:
    return StepDone(epoch=1, step=number, step_in_epoch=number, loss=0.5, learning_rate=0.1, seconds=0.1)


def epoch(number: int) -> EpochDone:
    return EpochDone(epoch=number, step=number, train_loss=0.5, learning_rate=0.1, seconds=0.1, remaining_seconds=1.0)


def finished() -> Finished:
    return Finished(
        reason="epochs",
        epoch=3,
        best_epoch=3,
        best_dice=0.5,
        best_f1=None,
        seconds=1,
        compute_share=0.9,
        validation_share=0.1,
        peak_memory_gb=1,
    )


def in_thread(events: Callable[[], Iterator[Event]], results: Path) -> ThreadRun:
    return ThreadRun(events, results)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", "unet")


def test_steps_are_thinned_out_and_the_latest_comes_before_what_follows(folder: RunFolder, tmp_path: Path) -> None:
    def events() -> Iterator[Event]:
        yield started()
        yield from (step(number) for number in range(1, 1001))
        yield epoch(1)

    told = [event for batch in in_thread(events, tmp_path).batches() for event in batch]
    assert isinstance(told[0], Started)
    assert isinstance(told[-1], EpochDone)
    assert told[-2] == step(1000)
    assert len(told) < 100


def test_what_a_worker_would_swallow_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def events() -> Iterator[Event]:
        yield Logged(message="so far so good")
        raise RuntimeError("CUDA error")

    with caplog.at_level(logging.CRITICAL):
        told = [event for batch in in_thread(events, tmp_path).batches() for event in batch]
    assert isinstance(told[-1], Failed)
    assert "CUDA error" in told[-1].message


def test_what_the_user_can_fix_is_told_as_it_is(tmp_path: Path) -> None:
    def events() -> Iterator[Event]:
        raise DataError("a.tif: is damaged. Export it again.")
        yield

    [[failed]] = in_thread(events, tmp_path).batches()
    assert failed.message == "a.tif: is damaged. Export it again."


def test_a_stop_before_the_beginning_ends_at_the_next_event_and_cleans_up(tmp_path: Path) -> None:
    cleaned = threading.Event()

    def events() -> Iterator[Event]:
        try:
            for _ in range(100):
                yield Logged(message="preparing")
        finally:
            cleaned.set()

    source = in_thread(events, tmp_path)
    batches = source.batches()
    next(batches)
    source.request_stop(now=False)
    rest = [event for batch in batches for event in batch]
    assert [event.message for event in rest] == [NOT_BEGUN]
    assert cleaned.is_set()


def test_a_stop_becomes_a_request_in_the_folder(folder: RunFolder, tmp_path: Path) -> None:
    def events() -> Iterator[Event]:
        yield started()
        while folder.stop_request() != "stop-now":
            yield step(1)
        yield finished()

    source = in_thread(events, tmp_path)
    batches = source.batches()
    next(batches)
    source.request_stop(now=False)
    assert folder.stop_request() == "stop"
    source.leave()  # napari is closed: the run must not be dropped, it has to end in order
    assert [event for batch in batches for event in batch][-1] == finished()


def test_a_watched_run_tells_its_past_in_bites(folder: RunFolder) -> None:
    lines = [started(epochs=3000), *(epoch(number) for number in range(1, 3001)), finished()]
    for event in lines:
        folder.append_line("events.jsonl", event.model_dump_json())
    batches = list(WatchedRun(folder).batches())
    assert [event for batch in batches for event in batch] == lines
    assert max(map(len, batches)) <= MAX_BATCH


def test_watching_can_be_left_at_once_while_the_run_goes_on(folder: RunFolder) -> None:
    folder.append_event(started())
    threads = set(threading.enumerate())
    with folder.lock():
        source = WatchedRun(folder)
        batches = source.batches()
        while not any(isinstance(event, Started) for event in next(batches)):
            pass
        source.leave()
        assert list(batches) == []
    assert set(threading.enumerate()) == threads


class Dead:
    """A process that has ended without saying why."""

    def __init__(self, folder: RunFolder) -> None:
        self.events_file = folder.events_file
        self.is_terminated = False

    def is_running(self) -> bool:
        return False

    def exit_message(self, what: str, rescue: str) -> str:
        return f"{what} is dead. {rescue}"

    def terminate(self) -> None:
        self.is_terminated = True


@pytest.mark.parametrize(
    ("has_begun", "saved", "rescue"),
    [
        (False, "", "had not begun"),
        (True, "", "continue with Resume"),
        (True, LAST, "continue with Resume"),
        (True, LAST_OF_0_1, "continue with Resume"),
    ],
)
def test_a_process_that_is_gone_is_a_failure_that_says_how_to_go_on(
    folder: RunFolder, has_begun: bool, saved: str, rescue: str
) -> None:
    if has_begun:
        folder.append_event(started())
    if saved:
        (folder.path / saved).touch()
    source = ProcessRun(Dead(folder), folder.path.parent)  # type: ignore[arg-type]
    *_, failed = [event for batch in source.batches() for event in batch]
    assert isinstance(failed, Failed)
    assert failed.message.startswith("The training process is dead. ")
    assert rescue in failed.message


def test_a_process_that_was_stopped_before_the_beginning_says_just_that(folder: RunFolder) -> None:
    child = Dead(folder)
    source = ProcessRun(child, folder.path.parent)  # type: ignore[arg-type]
    source.request_stop(now=False)
    assert child.is_terminated
    [[failed]] = source.batches()
    assert failed.message == NOT_BEGUN
    assert folder.stop_request() is None


def test_a_stop_that_meets_the_beginning_becomes_a_request_in_the_folder(folder: RunFolder) -> None:
    """Asked for before its process has told that training has begun."""
    source = ProcessRun(Dead(folder), folder.path.parent)  # type: ignore[arg-type]
    source.request_stop(now=True)
    folder.append_event(started())
    told = [event for batch in source.batches() for event in batch]
    assert told[0] == started()
    assert folder.stop_request() == "stop-now"
