"""Segmenting files with the widget: a process of its own, followed, cancelled, and its results opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from balls import write_pairs
from napari_celltrain.io.volumes import open_labels
from napari_celltrain.runs.process import PredictRequest
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.values.errors import CellTrainError
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.segment import work
from napari_celltrain.widgets.segment.widget import SegmentWidget
from segment_support import choose_model, click, open_widget, run, wait
from tiny_models import LEARNED, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1"])[0]


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(strict_qt=False)


@pytest.fixture
def widget(qtbot, viewer) -> Iterator[SegmentWidget]:
    widget = open_widget(viewer)
    yield widget
    wait(qtbot, lambda: not children())


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended just now
            if "predict" in child.cmdline():
                found.append(child)
    return found


def drop(field, path: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    nothing, left = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    field.dropEvent(QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, data, left, nothing))


def fill(qtbot, widget: SegmentWidget, model: Path, images: Path, output: Path) -> None:
    choose_model(qtbot, widget, model)
    click(qtbot, widget.input.files_button)
    drop(widget.input.images, images)
    widget.input.output.setValue(output)


def test_a_folder_becomes_files_that_open_as_layers(
    qtbot, viewer, widget: SegmentWidget, model: Path, images: Path, tmp_path: Path
) -> None:
    fill(qtbot, widget, model, images, tmp_path / "out")
    run(qtbot, widget)
    assert "2 volumes segmented" in widget.run.message.text()
    assert [widget.files.item(n).text() for n in range(widget.files.count())] == ["a_1.tif", "b_1.tif"]
    widget.files.itemActivated.emit(widget.files.item(1))
    wait(qtbot, lambda: len(viewer.layers) == 2)
    np.testing.assert_array_equal(viewer.layers["b_1 labels"].data, open_labels(tmp_path / "out" / "b_1.tif").read())
    assert tuple(viewer.layers["b_1"].scale) == (1.0, 0.5, 0.5)


def test_what_is_missing_is_marked(qtbot, widget: SegmentWidget, model: Path, images: Path) -> None:
    choose_model(qtbot, widget, model)
    click(qtbot, widget.input.files_button)
    run(qtbot, widget)
    assert "No images are chosen" in widget.run.message.text()
    assert widget.input.images.problem
    widget.input.images.setValue(images)
    assert not widget.input.images.problem
    run(qtbot, widget)
    assert "No folder for the results" in widget.run.message.text()


def test_what_the_process_refuses_is_told_here(qtbot, widget: SegmentWidget, model: Path, images: Path) -> None:
    fill(qtbot, widget, model, images, images)
    run(qtbot, widget)
    assert "holds the images themselves" in widget.run.message.text()
    assert widget.run.button.isEnabled()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_cancelled_the_process_is_gone(qtbot, widget: SegmentWidget, model: Path, images: Path, tmp_path: Path) -> None:
    fill(qtbot, widget, model, images, tmp_path / "out")
    click(qtbot, widget.run.button)
    wait(qtbot, children)
    click(qtbot, widget.run.button)
    wait(qtbot, lambda: not widget.run.is_running)
    wait(qtbot, lambda: not children())
    assert widget.run.message.text() == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_process_that_was_killed_is_told(model: Path, images: Path, tmp_path: Path) -> None:
    request = PredictRequest(model, (images,), tmp_path / "out", device="cpu")

    def segment_and_kill() -> None:
        for _ in work.segment_files(Job(lambda job: None, "Segmenting"), request):
            for child in children():
                child.kill()

    with pytest.raises(CellTrainError, match="SIGKILL"):
        segment_and_kill()


def test_the_options_reach_the_command_line() -> None:
    decoding = ObjectDecoding(method="watershed", seed_distance_um=1.5, min_size_um3=2.0)
    request = PredictRequest(
        Path("run"), (Path("a"),), Path("out"), probabilities=True, resample=True, threshold=0.25, decoding=decoding,
        channel=1, voxel_size=(1.0, 0.5, 0.5), axes="CZYX",
    )  # fmt: skip
    given = " ".join(request.arguments())
    for part in (
        "predict run a --output out --json",
        "--probabilities --resample",
        "--threshold 0.25",
        "--method watershed",
        "--seed-distance 1.5",
        "--min-size 2",
        "--channel 1",
        "--voxel-size 1,0.5,0.5",
        "--axes CZYX",
    ):
        assert part in given
    assert "--threshold" not in PredictRequest(Path("run"), (Path("a"),), Path("out")).arguments()


def test_other_options_than_the_tuned_ones_are_those_of_the_files(
    qtbot, widget: SegmentWidget, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PredictRequest] = []
    monkeypatch.setattr(
        "napari_celltrain.widgets.segment.widget.segment_files", lambda job, request: asked.append(request) or ""
    )
    fill(qtbot, widget, model, images, tmp_path)
    run(qtbot, widget)
    widget.options.numbers["min_size_um3"].setValue(9.0)
    widget.options.resample.setValue(True)
    widget.options.probabilities.setValue(True)
    run(qtbot, widget)
    assert [request.decoding for request in asked] == [None, LEARNED.model_copy(update={"min_size_um3": 9.0})]
    assert asked[1].resample
    assert asked[1].probabilities
