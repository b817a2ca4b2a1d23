"""Work in the background: results, errors, how it is left, and that napari's workers keep nothing large alive."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.qt.threading import create_worker
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QApplication

from balls import VOXEL_SIZE, make_pair
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets import background
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.layers import LayerData, take_layers
from napari_celltrain.widgets.train.data_tab import Question, answer
from napari_celltrain.widgets.train.patch_preview import PatchPreview


@pytest.fixture
def kept(monkeypatch) -> list[Any]:
    """Every worker, kept as napari keeps them."""
    workers: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        workers.append(create_worker(*args, **kwargs))
        return workers[-1]

    monkeypatch.setattr(background, "create_worker", make)
    return workers


@pytest.fixture
def work(qtbot) -> Background:
    return Background("Testing", QObject(QApplication.instance()))


def run(qtbot, work: Background, function: Any) -> None:
    with qtbot.waitSignal(work.ended, timeout=20_000):
        work.start(function)


def test_a_generator_reports_progress_notes_and_its_result(qtbot, work: Background) -> None:
    seen, noted, found = [], [], []
    reported = threading.Event()
    work.progressed.connect(lambda *values: (seen.append(values), reported.set()))
    work.noted.connect(noted.append)
    work.answered.connect(found.append)

    def steps(job: Job):
        yield 1, 3, "one"
        yield None
        yield "a note"
        assert reported.wait(20)
        return "result"

    run(qtbot, work, steps)
    assert (seen, noted, found) == ([(1, 3, "one")], ["a note"], ["result"])
    assert not work.is_busy


@pytest.mark.parametrize(
    ("error", "message"),
    [(DataError("a.tif: is gone."), "a.tif: is gone."), (RuntimeError("no memory"), "RuntimeError: no memory")],
)
@pytest.mark.parametrize("yields", [False, True])
def test_errors_are_reported_also_runtime_errors(qtbot, work: Background, error, message: str, yields: bool) -> None:
    failures = []
    work.failed.connect(failures.append)

    def fail(job: Job):
        raise error

    def fail_later(job: Job):
        yield 0, 1, ""
        raise error

    run(qtbot, work, fail_later if yields else fail)
    assert len(failures) == 1
    assert message in failures[0]


def test_a_generator_is_closed_when_it_is_given_up(qtbot, work: Background) -> None:
    begun, closed, found = threading.Event(), threading.Event(), []
    work.answered.connect(found.append)

    def steps(job: Job):
        try:
            begun.set()
            assert job.cancelled.wait(20)
            yield None
            found.append("went on")
        finally:
            closed.set()

    work.start(steps)
    qtbot.waitUntil(begun.is_set, timeout=20_000)
    with qtbot.waitSignal(work.ended, timeout=20_000):
        work.cancel()
    assert closed.wait(20)
    assert found == []


def test_only_the_last_work_is_answered_and_two_never_run_at_once(qtbot, work: Background) -> None:
    work._patience.setInterval(150_000)
    begun, running, found = threading.Event(), [], []
    work.answered.connect(found.append)

    def first(job: Job):
        begun.set()
        job.cancelled.wait(20)
        running.append("first left")
        return 1

    def last(job: Job):
        running.append("last begun")
        return 3

    work.start(first)
    qtbot.waitUntil(begun.is_set, timeout=20_000)
    work.start(lambda job: 2)
    run(qtbot, work, last)
    assert running == ["first left", "last begun"]
    assert found == [3]


def test_work_begins_when_nothing_else_was_asked_for(qtbot, work: Background) -> None:
    asked: list[int] = []
    for number in range(3):
        work.start(lambda job, number=number: asked.append(number), delay_ms=50)
    assert work.is_busy
    with qtbot.waitSignal(work.ended, timeout=20_000):
        pass
    assert asked == [2]
    work.start(lambda job: asked.append(3), delay_ms=150_000)
    with qtbot.waitSignal(work.ended, timeout=20_000):
        work.cancel()
    assert not work.is_busy
    assert asked == [2]


def test_work_that_does_not_listen_is_no_longer_waited_for(qtbot, work: Background) -> None:
    may_leave = threading.Event()
    work._patience.setInterval(0)
    work.start(lambda job: may_leave.wait(20))
    with qtbot.waitSignal(work.ended, timeout=20_000):
        work.cancel()
    found = []
    work.answered.connect(found.append)
    run(qtbot, work, lambda job: "next")
    may_leave.set()
    assert found == ["next"]


def test_napari_need_not_wait_for_a_generator(qtbot, work: Background, kept: list[Any]) -> None:
    """``quit`` is what napari calls when it is closed."""

    def endless(job: Job):
        while True:
            job.cancelled.wait(0.01)
            yield None

    work.start(endless)
    with qtbot.waitSignal(work.ended, timeout=20_000):
        kept[0].quit()


def source(folder: Path) -> tuple[LayerData, DataConfig]:
    image, labels = make_pair(1, shape=(32, 48, 48), num_objects=30)
    viewer = ViewerModel()
    options = {"scale": VOXEL_SIZE}
    layers = viewer.add_image(image, name="cells", **options), viewer.add_labels(labels, name="objects", **options)
    config = DataConfig(results=folder)
    return take_layers(*layers, config), config


def is_gone(held: weakref.ref) -> bool:
    gc.collect()
    return held() is None


def test_the_data_check_lets_layers_go(qtbot, work: Background, kept: list[Any], tmp_path: Path) -> None:
    layers, config = source(tmp_path)
    with qtbot.waitSignal(work.answered, timeout=150_000):
        work.start(partial(answer, Question(config, layers, 0), None))
    held = weakref.ref(layers)
    del layers
    assert kept
    qtbot.waitUntil(lambda: is_gone(held), timeout=10_000)


def test_the_preview_lets_layers_and_volumes_go(qtbot, kept: list[Any], tmp_path: Path) -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 8, 8)), name="mine")
    preview = PatchPreview(viewer)
    held = shown_twice(qtbot, preview, tmp_path)
    preview.release()
    assert len(kept) == 2
    qtbot.waitUntil(lambda: all(map(is_gone, held)), timeout=10_000)


def shown_twice(qtbot, preview: PatchPreview, folder: Path) -> list[weakref.ref]:
    """The layers, and what the first draw has read and the second is given."""
    layers, data = source(folder)
    config = RunConfig(data=data, augmentation=AugmentationConfig(patch_size=(8, 16, 16), samples_per_volume=1))
    for _ in range(2):
        with qtbot.waitSignal(preview.ended, timeout=150_000):
            preview.show(config, layers)
    assert preview._ready is not None
    return [weakref.ref(layers), weakref.ref(preview._ready)]
