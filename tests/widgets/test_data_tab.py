"""The Data tab, driven by its controls: what is chosen, what the check finds, and which side each pair is on."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QEvent, Qt
from qtpy.QtTest import QSignalSpy

from balls import VOXEL_SIZE, make_pair, write_ngff, write_pairs
from napari_celltrain.data import check
from napari_celltrain.data.check import check_data
from napari_celltrain.io.writer import write_volume
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.events import finish
from napari_celltrain.widgets.layers import PLUGIN_LAYER
from napari_celltrain.widgets.train import data_tab
from napari_celltrain.widgets.train.data_tab import DataTab
from napari_celltrain.widgets.train.pair_table import SIDE

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(data_tab, "DEBOUNCE_MS", 20)


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def tab(qtbot, viewer: ViewerModel) -> DataTab:
    widget = DataTab(viewer)
    qtbot.addWidget(widget)
    widget.resize(350, 800)
    widget.show()
    return widget


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_pairs(tmp_path / "data", NAMES)


def config_of(folders: tuple[Path, Path], **options: object) -> DataConfig:
    return DataConfig(images=folders[0], labels=folders[1], **options)


def wait(qtbot, tab: DataTab) -> None:
    qtbot.waitUntil(lambda: not tab.checker.is_busy, timeout=20_000)


def fill(qtbot, tab: DataTab, config: DataConfig) -> None:
    tab.setValue(config)
    wait(qtbot, tab)


def type_path(qtbot, editor, path: Path) -> None:
    """As a person does: into the field, then Enter."""
    editor.edit.clear()
    qtbot.keyClicks(editor.edit, str(path))
    qtbot.keyClick(editor.edit, Qt.Key.Key_Return)


# --- the value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_kind": "classes", "ignore_value": 2**32 - 1, "channel": 3, "axes": "CZYX"},
        {"voxel_size": (1.75, 0.1 + 0.2, 1 / 3), "validation_fraction": 0.33, "memory_budget_gb": 0.7},
        {"validation_images": Path("/v/images"), "validation_labels": Path("/v/labels"), "normalization": "zscore"},
        {"images": None, "labels": None, "results": Path("results")},
    ],
)
def test_gives_back_what_was_set(tab: DataTab, options: dict) -> None:
    config = DataConfig(**{"images": Path("/no/images"), "labels": Path("/no/labels"), "results": "/r"} | options)
    spy = QSignalSpy(tab.valueChanged)
    tab.setValue(config)
    assert tab.value() == config
    assert len(spy) == 1
    tab.setValue(config)
    assert len(spy) == 1
    tab.setValue(DataConfig())
    assert tab.value() == DataConfig()


def test_is_filled_in_by_hand(tab: DataTab, qtbot, folders) -> None:
    rows = tab.form.rows.editors
    type_path(qtbot, rows["data.images"], folders[0])
    type_path(qtbot, rows["data.labels"], folders[1])
    tab.form.validation_box.setCurrentIndex(1)
    assert tab.value() == config_of(folders, results=tab.value().results)
    assert {problem.where for problem in tab.blocking_problems()} == {"validation_images", "validation_labels"}
    type_path(qtbot, rows["data.validation_images"], folders[0])
    type_path(qtbot, rows["data.validation_labels"], folders[1])
    assert tab.value().validation_images == folders[0]


def test_what_cannot_be_is_a_problem_and_not_an_exception(tab: DataTab, qtbot, folders) -> None:
    tab.setValue(config_of(folders))
    tab.form.more_rows.editors["data.axes"].setValue("QX")
    assert tab.value().axes is None
    assert [problem.where for problem in tab.blocking_problems()] == ["axes"]
    assert tab.form.more_rows.editors["data.axes"].problem
    assert tab.form.more.is_open  # the mark is seen


def test_an_empty_form_invites_and_marks_only_when_asked_to(tab: DataTab) -> None:
    assert tab.report is None
    assert tab.problem_list.isHidden()
    assert {problem.code for problem in tab.blocking_problems()} == {"missing-folder"}
    assert {problem.where for problem in tab.blocking_problems()} == {"images", "labels"}
    tab.insist()
    assert not tab.problem_list.isHidden()
    assert tab.form.rows.editors["data.images"].problem


# --- the check ------------------------------------------------------------------------------------------------


def test_fills_the_table_in_the_background(tab: DataTab, qtbot, folders) -> None:
    config = config_of(folders)
    with qtbot.waitSignal(tab.reportChanged, timeout=20_000):
        tab.setValue(config)
    assert tab.report == finish(check_data(config))
    assert [row.report.name for row in tab.table.pairs.rows] == NAMES
    assert tab.blocking_problems() == []
    assert not tab.table.isHidden()
    assert [row.side for row in tab.table.pairs.rows].count("validation") == 1
    assert "held out for validation" in tab.summary.text()


def test_sides_follow_share_and_seed_without_reading_again(tab: DataTab, qtbot, folders, monkeypatch) -> None:
    fill(qtbot, tab, config_of(folders))
    monkeypatch.setattr(check, "check_data", None)  # calling it would be an error
    sides = set()
    for seed in range(5):
        tab.set_context(seed, None)
        assert tab.report is None or seed == 0
        wait(qtbot, tab)
        sides.add(tuple(row.side for row in tab.table.pairs.rows))
    assert len(sides) > 1
    tab.form.rows.editors["data.validation_fraction"].setValue(0.4)
    wait(qtbot, tab)
    assert [row.side for row in tab.table.pairs.rows].count("validation") == 2


def test_what_does_not_concern_the_data_leaves_the_report(tab: DataTab, qtbot, folders) -> None:
    fill(qtbot, tab, config_of(folders))
    report = tab.report
    tab.setValue(tab.value().model_copy(update={"results": Path("/elsewhere"), "normalization": "zscore"}))
    assert tab.report is report
    assert not tab.checker.is_busy


def test_validation_folders_are_read_too(tab: DataTab, qtbot, folders, tmp_path: Path) -> None:
    more = write_pairs(tmp_path / "more", ["x", "y"], num_objects=3)
    fill(qtbot, tab, config_of(folders, validation_images=more[0], validation_labels=more[1]))
    sides = {row.report.name: row.side for row in tab.table.pairs.rows}
    assert sides == dict.fromkeys(NAMES, "train") | {"x": "validation", "y": "validation"}


def test_labels_inside_images_are_found_in_the_folder_of_the_images(tab: DataTab, qtbot, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        image, labels = make_pair(seed)
        write_ngff(tmp_path / f"{name}.zarr", image, {"cells": labels})
    fill(qtbot, tab, config_of((tmp_path, tmp_path)))
    assert [row.report.name for row in tab.table.pairs.rows] == ["a", "b"]
    assert tab.blocking_problems() == []


def test_a_single_volume_is_on_both_sides(tab: DataTab, qtbot, tmp_path: Path) -> None:
    fill(qtbot, tab, config_of(write_pairs(tmp_path / "one", ["only"], shape=(16, 64, 32))))
    assert tab.table.pairs.index(0, SIDE).data() == "both"
    assert "single volume" in tab.summary.text()


def test_a_volume_too_small_to_divide_blocks(tab: DataTab, qtbot, tmp_path: Path) -> None:
    fill(qtbot, tab, config_of(write_pairs(tmp_path / "one", ["only"], shape=(16, 20, 20))))
    assert [problem.code for problem in tab.blocking_problems()] == ["too-small-to-divide"]
    assert "Add a second volume" in tab.problem_list.toPlainText()


def test_all_that_is_wrong_is_said_with_its_remedy(tab: DataTab, qtbot, folders) -> None:
    write_volume(folders[1] / "b.tif", np.zeros((4, 5, 6), np.uint16))
    (folders[0] / "c.tif").write_bytes(b"no image")
    shutil.copy(folders[0] / "a.tif", folders[0] / "alone.tif")
    fill(qtbot, tab, config_of(folders))
    text = tab.problem_list.toPlainText()
    for problem in finish(check_data(config_of(folders))).problems:
        assert problem.remedy in text
    assert {problem.code for problem in tab.blocking_problems()} == {"shape-mismatch", "unreadable-file"}
    assert "Fix these 2 problems" in tab.summary.text()

    # mended meanwhile
    image, labels = make_pair(7)
    for parent, array in zip(folders, (image, labels), strict=True):
        for name in ("b.tif", "c.tif"):
            write_volume(parent / name, array if name == "b.tif" else array[:, ::-1], VOXEL_SIZE)
    qtbot.mouseClick(tab.again_button, Qt.MouseButton.LeftButton)
    wait(qtbot, tab)
    assert tab.blocking_problems() == []


def test_a_folder_that_is_not_there_is_marked_at_its_field(tab: DataTab, qtbot, folders) -> None:
    fill(qtbot, tab, DataConfig(images="/no/such/folder", labels=folders[1]))
    assert "does not exist" in tab.form.rows.editors["data.images"].problem
    assert not tab.form.rows.editors["data.labels"].problem
    fill(qtbot, tab, DataConfig(images="/no/such/folder", labels="/no/such/either"))
    assert "does not exist" in tab.form.rows.editors["data.labels"].problem, "both at once"
    fill(qtbot, tab, config_of(folders))
    assert not tab.form.rows.editors["data.images"].problem


def test_refusals_from_elsewhere_are_marked_at_their_field(tab: DataTab) -> None:
    tab.mark([Problem("results-is-file", "data.results", "It is a file.", "Choose a folder.")])
    assert tab.form.rows.editors["data.results"].problem == "It is a file. Choose a folder."


def test_a_problem_of_a_file_is_marked_at_the_settings_that_help(tab: DataTab) -> None:
    settings = ("data.channel",)
    tab.mark([Problem("unreadable-file", "a.tif", "It has 2 channels.", "Choose one.", settings=settings)])
    assert tab.form.more_rows.editors["data.channel"].problem == "It has 2 channels. Choose one."
    assert not tab.form.more_rows.editors["data.axes"].problem


def test_objects_larger_than_a_patch_are_warned_of(tab: DataTab, qtbot, folders) -> None:
    fill(qtbot, tab, config_of(folders))
    tab.set_context(0, (2, 2, 2))
    wait(qtbot, tab)
    assert "objects-larger-than-patch" in {problem.code for problem in tab.report.problems}


def test_a_change_leaves_the_check_that_is_out_of_date(
    tab: DataTab, qtbot, folders, tmp_path: Path, monkeypatch
) -> None:
    seen: list[DataConfig] = []
    entered, may_go_on = threading.Event(), threading.Event()

    def slow(config: DataConfig, **options: object):
        seen.append(config)
        if len(seen) == 1:
            entered.set()
            assert may_go_on.wait(20)
        return check_data(config, **options)

    monkeypatch.setattr(check, "check_data", slow)
    tab.setValue(config_of(folders))
    qtbot.waitUntil(entered.is_set, timeout=5_000)
    spy = QSignalSpy(tab.reportChanged)
    others = write_pairs(tmp_path / "others", ["x", "y"])
    tab.setValue(config_of(others))
    assert tab.report is None
    may_go_on.set()
    wait(qtbot, tab)
    assert [row.report.name for row in tab.table.pairs.rows] == ["x", "y"]
    assert len(spy) == 1
    assert seen[1:] == [config_of(others)]


def test_typing_asks_once(tab: DataTab, qtbot, folders, monkeypatch) -> None:
    seen: list[DataConfig] = []

    def count(config: DataConfig, **options: object):
        seen.append(config)
        return check_data(config, **options)

    monkeypatch.setattr(check, "check_data", count)
    for kind in ("foreground", "classes", "objects"):
        tab.setValue(config_of(folders, label_kind=kind))
    wait(qtbot, tab)
    assert [config.label_kind for config in seen] == ["objects"]


def test_a_mistake_of_ours_is_said_and_can_be_repeated(tab: DataTab, qtbot, folders, monkeypatch) -> None:
    def broken(config: DataConfig, **options: object):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(check, "check_data", broken)
        with qtbot.captureExceptions():  # napari shows them as notifications
            fill(qtbot, tab, config_of(folders))
    assert "out of luck" in tab.summary.text()
    qtbot.mouseClick(tab.again_button, Qt.MouseButton.LeftButton)
    tab.check_again()
    wait(qtbot, tab)
    assert tab.report is not None


# --- while training ----------------------------------------------------------------------------------------------


def test_freezes_and_reads_nothing_while_a_run_goes_on(tab: DataTab, qtbot, folders) -> None:
    fill(qtbot, tab, config_of(folders))
    report = tab.report
    tab.set_running(True)
    assert not tab.form.isEnabled()
    assert tab.report is report
    tab.setValue(DataConfig(images="/of/the/run", labels="/that/is/watched"))
    assert tab.report is None
    assert not tab.checker.is_busy
    assert "run" in tab.summary.text()
    tab.set_running(False)
    assert tab.form.isEnabled()
    wait(qtbot, tab)
    assert tab.blocking_problems()


# --- pairs as layers -----------------------------------------------------------------------------------------------


def test_opens_a_pair_as_layers_once(tab: DataTab, qtbot, viewer: ViewerModel, folders) -> None:
    fill(qtbot, tab, config_of(folders))
    for _ in range(2):
        tab.table.picked.emit(1)
        qtbot.waitUntil(lambda: not tab.opener.is_busy, timeout=10_000)
    assert [layer.name for layer in viewer.layers] == ["b", "b labels"]
    for layer in viewer.layers:
        assert tuple(layer.scale) == VOXEL_SIZE
    image, labels = make_pair(1)
    np.testing.assert_array_equal(viewer.layers["b"].data, image)
    np.testing.assert_array_equal(viewer.layers["b labels"].data, labels)


# --- layers as data --------------------------------------------------------------------------------------------------


@pytest.fixture
def layered(tab: DataTab, viewer: ViewerModel) -> DataTab:
    """The tab with a pair of layers in the viewer, and layers as source."""
    image, labels = make_pair(0, shape=(16, 64, 32))
    viewer.add_image(image, name="cells", scale=VOXEL_SIZE, units=("um",) * 3)
    viewer.add_labels(labels, name="cells labels", scale=VOXEL_SIZE, units=("um",) * 3)
    viewer.add_image(image, name="a preview", metadata={PLUGIN_LAYER: "image"})
    tab.reset_choices()
    tab.form.layers_button.click()
    return tab


def test_trains_on_layers(layered: DataTab, qtbot, tmp_path: Path) -> None:
    wait(qtbot, layered)
    (found,) = layered.report.pairs
    assert (found.name, found.shape, found.voxel_size) == ("cells", (16, 64, 32), VOXEL_SIZE)
    assert layered.table.pairs.index(0, SIDE).data() == "both"
    assert layered.blocking_problems() == []
    assert layered.value().images is None

    config = layered.source().materialize(layered.value(), tmp_path)
    report = finish(check_data(config))
    assert report.errors == ()
    assert (report.pairs[0].num_objects, report.pairs[0].voxel_size) == (found.num_objects, VOXEL_SIZE)
    assert report.pairs[0].image_fingerprint == found.image_fingerprint


def test_offers_the_users_layers_only(layered: DataTab) -> None:
    assert [layer.name for layer in layered.form.image_layer.choices()] == ["cells"]


def test_what_is_chosen_stays_while_layers_come_and_go(layered: DataTab, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((8, 8, 8)), name="another")
    layered.reset_choices()
    assert layered.form.image_layer.value().name == "cells"
    assert {layer.name for layer in layered.form.image_layer.choices()} == {"another", "cells"}


def test_a_brush_stroke_is_counted(layered: DataTab, qtbot, viewer: ViewerModel) -> None:
    wait(qtbot, layered)
    before = layered.report.pairs[0].num_objects
    layer = viewer.layers["cells labels"]
    layer.n_edit_dimensions = 3
    layer.fill(tuple(np.argwhere(layer.data == 1)[0]), 0)
    wait(qtbot, layered)
    assert layered.report.pairs[0].num_objects == before - 1


def test_a_layer_that_changes_is_heard_until_it_is_removed(layered: DataTab, viewer: ViewerModel) -> None:
    box, layer = layered.form.labels_layer, viewer.layers["cells labels"]
    heard: list[str] = []
    box.edited.connect(lambda: heard.append("edited"))
    layer.scale = (2, 1, 1)
    layer.name = "called otherwise"
    layer.data = layer.data.copy()
    assert len(heard) >= 3
    viewer.layers.remove(layer)
    layered.reset_choices()
    heard.clear()
    layer.scale = (3, 1, 1)
    assert heard == []


def test_refuses_a_flat_layer_clearly(layered: DataTab, qtbot, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((30, 30)), name="flat")
    layered.reset_choices()
    layered.form.image_layer.setValue(viewer.layers["flat"])
    assert layered.report is None
    (problem,) = layered.blocking_problems()
    assert "flat: This is a 2D layer" in str(problem)
    assert "This is a 2D layer" in layered.problem_list.toPlainText()


def test_layers_that_are_removed_are_let_go(layered: DataTab, qtbot, viewer: ViewerModel) -> None:
    wait(qtbot, layered)
    held = weakref.ref(layered.source())
    viewer.layers.clear()
    layered.reset_choices()
    assert layered.report is None
    assert [problem.code for problem in layered.blocking_problems()] == ["layers"]
    assert layered.table.pairs.rows == []
    qtbot.waitUntil(lambda: gc.collect() >= 0 and held() is None, timeout=5_000)


def test_settings_with_folders_switch_back_to_folders(layered: DataTab, folders) -> None:
    layered.setValue(config_of(folders))
    assert layered.form.source() == "folders"
    assert layered.value() == config_of(folders)


def test_leaves_nothing_behind(qapp, viewer: ViewerModel, folders) -> None:
    viewer.add_labels(np.zeros((8, 8, 8), int))
    tab = DataTab(viewer)
    tab.reset_choices()
    tab.setValue(config_of(folders))
    gone = weakref.ref(tab)
    tab.cancel()
    tab.deleteLater()
    del tab
    qapp.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert gone() is None
