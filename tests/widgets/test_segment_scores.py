"""The panels that score and measure layers, and the jump to an object."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from balls import make_pair
from napari_celltrain.data.differences import Difference
from napari_celltrain.evaluate.evaluation import evaluate_arrays
from napari_celltrain.values.events import finish
from napari_celltrain.widgets.layers import find_layer
from napari_celltrain.widgets.segment.object_panels import ERRORS, MeasurePanel, ScoresPanel, jump_to
from napari_celltrain.widgets.table import Table
from segment_support import add_image, add_truth, click, wait


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def spoil(labels: np.ndarray) -> np.ndarray:
    """One object missed, one false, one split."""
    spoiled = labels.copy()
    spoiled[labels == 1] = 0
    spoiled[0, 0, :4] = 50
    where = np.argwhere(labels == 2)
    half = where[where[:, 2] <= np.median(where[:, 2])]
    spoiled[tuple(half.T)] = 51
    return spoiled


@pytest.fixture
def scores(qtbot, viewer: ViewerModel) -> ScoresPanel:
    panel = ScoresPanel(viewer)
    qtbot.addWidget(panel)
    viewer.layers.events.inserted.connect(panel.reset_choices)
    viewer.layers.events.removed.connect(panel.reset_choices)
    _, labels = add_truth(viewer)
    predicted, _ = add_truth(viewer, name="found")
    predicted.data = spoil(labels)
    panel.propose(predicted)
    return panel


def compare(qtbot, panel: ScoresPanel) -> None:
    click(qtbot, panel.run.button)
    wait(qtbot, lambda: not panel.run.is_running)


def test_scores_are_those_of_the_runs_layer(qtbot, viewer: ViewerModel, scores: ScoresPanel) -> None:
    assert (scores.truth.value().name, scores.prediction.value().name) == ("truth", "found")
    compare(qtbot, scores)
    truth, found = viewer.layers["truth"].data, viewer.layers["found"].data
    expected = finish(evaluate_arrays(truth, found, (1.0, 0.5, 0.5), name="found"))
    assert scores.scores == expected
    assert scores.facts.texts["Dice"] == f"{expected.voxels.dice:.4f}"
    assert scores.facts.texts["F1 at IoU 0.7"] == f"{expected.objects.at(0.7).f1:.4f}"
    assert set(scores.facts.texts) >= {"IoU", "F1 at IoU 0.5", "F1 at IoU 0.9", "Mean AP", "PQ", "SEG", "Objects"}


def test_errors_are_listed_shown_and_jumped_to(qtbot, viewer: ViewerModel, scores: ScoresPanel) -> None:
    compare(qtbot, scores)
    table = scores.table.rows
    assert table.rowCount() == len(scores.scores.wrong) >= 3
    marks = find_layer(viewer, ERRORS)
    assert Difference.MISSED_OBJECT in marks.data
    assert tuple(marks.scale) == (1.0, 0.5, 0.5)
    missed = next(n for n, found in enumerate(scores.scores.wrong) if found.kind == Difference.MISSED_OBJECT)
    index = table.index(missed, 0)
    qtbot.mouseClick(scores.table.viewport(), Qt.MouseButton.LeftButton, pos=scores.table.visualRect(index).center())
    found = scores.scores.wrong[missed]
    assert viewer.layers.selection.active is viewer.layers["truth"]
    assert viewer.layers["truth"].selected_label == found.label == 1
    assert abs(viewer.dims.point[0] - found.centre_zyx[0]) <= 0.5
    scores.filter.setCurrentIndex(scores.filter.findData(Difference.MISSED_OBJECT))
    assert table.rowCount() == 1
    assert marks.colormap.map(int(Difference.FALSE_OBJECT))[3] == 0
    assert marks.colormap.map(int(Difference.MISSED_OBJECT))[3] == 1
    compare(qtbot, scores)
    assert len([layer for layer in viewer.layers if layer.name == ERRORS]) == 1


def test_voxels_alone_have_no_objects(qtbot, scores: ScoresPanel) -> None:
    scores.rows.editors["data.label_kind"].setValue("foreground")
    compare(qtbot, scores)
    assert list(scores.facts.texts) == ["Dice", "IoU", "Precision", "Recall"]
    assert scores.table.isHidden()


def test_other_shapes_are_refused(qtbot, viewer: ViewerModel, scores: ScoresPanel) -> None:
    viewer.layers["truth"].data = viewer.layers["truth"].data[:-1]
    compare(qtbot, scores)
    assert "shape" in scores.run.message.text() or "voxels" in scores.run.message.text()
    assert scores.scores is None
    scores.truth.setValue(scores.prediction.value())
    compare(qtbot, scores)
    assert "chosen twice" in scores.run.message.text()


def test_scores_are_saved(qtbot, scores: ScoresPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(qtbot, scores)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "scores"))
    scores.save_button.click()
    with (tmp_path / "scores" / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert any(f"{scores.scores.voxels.dice:.6f}"[:6] in str(row) for row in rows)


@pytest.fixture
def measure(qtbot, viewer: ViewerModel) -> MeasurePanel:
    panel = MeasurePanel(viewer)
    qtbot.addWidget(panel)
    viewer.layers.events.inserted.connect(panel.reset_choices)
    add_image(viewer)
    add_truth(viewer)
    panel.propose(viewer.layers["truth"], viewer.layers["mine"])
    return panel


def test_objects_are_measured_into_features_and_a_file(
    qtbot, viewer: ViewerModel, measure: MeasurePanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    click(qtbot, measure.run.button)
    wait(qtbot, lambda: not measure.run.is_running)
    labels = viewer.layers["truth"].data
    numbers = np.unique(labels[labels > 0])
    np.testing.assert_array_equal(measure.columns["label"], numbers)
    features = viewer.layers["truth"].features
    assert list(features["index"]) == list(numbers)
    assert len(features.columns) > 5
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "a.csv"), ""))
    measure.save_button.click()
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == list(numbers)
    measure.table.picked.emit(2)
    assert viewer.layers["truth"].selected_label == numbers[2]


def test_an_image_of_another_shape_is_refused(qtbot, viewer: ViewerModel, measure: MeasurePanel) -> None:
    viewer.layers["mine"].data = viewer.layers["mine"].data[:-1]
    click(qtbot, measure.run.button)
    wait(qtbot, lambda: not measure.run.is_running)
    assert "has another shape (15 × 32 × 32) than the labels (16 × 32 × 32)" in measure.run.message.text()
    assert measure.table.isHidden()


def test_a_table_is_sorted_whatever_is_missing(qtbot) -> None:
    table = Table("test")
    qtbot.addWidget(table)
    table.set_columns(
        {"label": np.array([1, 2, 3]), "size": np.array([2.0, np.nan, 1.0]), "word": np.array(list("bca"))}
    )

    def shown(column: int = 0) -> list[str]:
        return [table.rows.index(row, column).data() for row in range(table.rows.rowCount())]

    assert shown() == ["1", "2", "3"]
    table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert shown() == ["3", "1", "2"]
    assert shown(1) == ["1", "2", "–"]
    table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    assert shown() == ["1", "3", "2"]
    table.sortByColumn(2, Qt.SortOrder.AscendingOrder)
    assert shown(2) == ["a", "b", "c"]
    table.show_rows(np.array([0, 2]))
    assert shown(2) == ["a", "b"]
    with qtbot.waitSignal(table.picked, timeout=1000) as picked:
        table._pick(table.rows.index(0, 0))
    assert picked.args == [2]


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_the_view_goes_to_an_object(viewer: ViewerModel, ndisplay: int) -> None:
    image, labels = make_pair(0)
    viewer.add_image(np.stack([image, image]), scale=(1, 1, 0.5, 0.5), contrast_limits=(0, 1))
    layer = viewer.add_labels(labels, scale=(1, 0.5, 0.5), translate=(0, 10, 20))
    viewer.dims.ndisplay = ndisplay
    jump_to(viewer, layer, 3, (4, 8, 12))
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    assert camera.center[1:] == pytest.approx((14, 26))
    assert viewer.dims.point[1:] == pytest.approx((4, 14, 26), abs=0.5)
    assert layer.selected_label == 3

    viewer.layers.remove(layer)
    jump_to(viewer, layer, 4, (0, 0, 0))  # of a layer that is gone there is nothing to see
    assert layer.selected_label == 3
