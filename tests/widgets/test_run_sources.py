"""Where events come from: nothing is lost, nothing floods the window, and every error is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.events import EpochDone, Event, Failed, Finished, Logged, Started, StepDone
from napari_celltrain.widgets.run.sources import MAX_BATCH, NOT_BEGUN, ThreadRun, WatchedRun


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


def test_what_the_user_can_mend_is_told_as_it_is(tmp_path: Path) -> None:
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
        began = time.monotonic()
        assert list(batches) == []
        for thread in set(threading.enumerate()) - threads:
            if thread.name == "celltrain-events":
                thread.join(5)
        assert time.monotonic() - began < 3
