"""Segmenting a layer with the widget in a real viewer, by its controls."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QWidget

from balls import make_pair
from napari_celltrain.data.resample import labels_back, resampled
from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.nets.normalize import measure
from napari_celltrain.predict.volumes import adjusted
from napari_celltrain.runs.model import load_model, segment
from napari_celltrain.values.decoding import ObjectDecoding
from napari_celltrain.widgets import background
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.segment import widget as segment_widget
from napari_celltrain.widgets.segment import work
from napari_celltrain.widgets.segment.widget import SegmentWidget
from napari_celltrain.widgets.train.widget import TrainWidget
from segment_support import UNITS, add_image, choose_model, click, held_at_the_network, open_widget, run, wait
from tiny_models import VOXEL_SIZE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("results"))


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(strict_qt=False)
    viewer.window._qt_window.resize(1200, 900)
    return viewer


@pytest.fixture
def widget(viewer) -> SegmentWidget:
    return open_widget(viewer)


def expected(
    model: Path, image: np.ndarray, threshold: float | None = None, decoding: ObjectDecoding | None = None
) -> np.ndarray:
    """What the runs layer makes of the image, without any window."""
    loaded = load_model(model, torch.device("cpu"))
    statistics = measure(image, loaded.card.normalization, name="image")
    loaded = replace(loaded, card=adjusted(loaded.card, threshold, decoding))
    return segment(loaded, image, statistics, voxel_size=VOXEL_SIZE).labels


def test_a_layer_is_segmented_with_its_scale_and_its_name(qtbot, viewer, widget: SegmentWidget, model: Path) -> None:
    image = add_image(viewer, translate=(3, 2, 1))
    choose_model(qtbot, widget, model)
    run(qtbot, widget)
    layer = viewer.layers["mine – run"]
    np.testing.assert_array_equal(layer.data, expected(model, image.data))
    for name in ("scale", "translate", "units"):
        assert tuple(getattr(layer, name)) == tuple(getattr(image, name))
    assert widget.run.message.text() == f"{layer.data.max():,} objects found."
    assert widget.run.bar.isHidden()


def test_running_again_renews_the_layer_unless_it_was_painted_in(
    qtbot, viewer, widget: SegmentWidget, model: Path
) -> None:
    add_image(viewer)
    choose_model(qtbot, widget, model)
    run(qtbot, widget)
    layer = viewer.layers["mine – run"]
    layer.name = "called otherwise"
    widget.options.threshold.setValue(0.3)
    run(qtbot, widget)
    assert [each.name for each in viewer.layers] == ["mine", "called otherwise"]
    np.testing.assert_array_equal(layer.data, expected(model, viewer.layers["mine"].data, threshold=0.3))
    layer.paint((8, 16, 16), 77)
    painted = layer.data.copy()
    run(qtbot, widget)
    np.testing.assert_array_equal(layer.data, painted)
    assert len(viewer.layers) == 3


def test_objects_are_recomputed_without_the_network(
    qtbot, viewer, widget: SegmentWidget, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add_image(viewer)
    choose_model(qtbot, widget, model)
    click(qtbot, widget.options_fold.button)
    assert not widget.options.apply_button.isEnabled()
    assert widget.options.value()["decoding"] is None
    assert not widget.options.reset_button.isEnabled()
    run(qtbot, widget)
    monkeypatch.setattr(segment_widget, "segment_volume", None)
    options = widget.options
    options.method.setValue("watershed")
    options.numbers["min_size_um3"].setValue(4.0)
    assert options.reset_button.isEnabled()
    wanted = options.value()["decoding"]
    assert wanted.method == "watershed"
    assert wanted.min_size_um3 == 4.0
    click(qtbot, options.apply_button)
    wait(qtbot, lambda: not widget.run.is_running)
    assert len(viewer.layers) == 2
    np.testing.assert_array_equal(viewer.layers["mine – run"].data, expected(model, image.data, decoding=wanted))
    click(qtbot, options.reset_button)
    assert options.value()["decoding"] is None
    assert not options.reset_button.isEnabled()
    image.data = image.data + 1  # the probability maps are of another image now
    assert not options.apply_button.isEnabled()


def test_options_are_those_of_the_model_and_of_the_method(qtbot, widget: SegmentWidget, tmp_path: Path) -> None:
    tuned = ObjectDecoding(method="watershed", seed_distance_um=3.0, min_size_um3=7.0, context_um=11.0)
    path = write_tiny_model(tmp_path, "plain", target="foreground", objects=tuned, threshold=0.35)
    choose_model(qtbot, widget, write_tiny_model(tmp_path, "learned"))
    choose_model(qtbot, widget, path)
    options = widget.options
    assert options.threshold.value() == 0.35
    assert options.value()["threshold"] is options.value()["decoding"] is None
    assert options._decoding.model_copy(update=options.rows.values()) == tuned
    assert [choice.key for choice in options.method.choices] == ["components", "watershed"]
    assert options.numbers["seed_distance_um"].isVisibleTo(options)
    options.method.setValue("components")
    assert not options.numbers["seed_distance_um"].isVisibleTo(options)
    assert options.numbers["min_size_um3"].isVisibleTo(options)
    classes = write_tiny_model(
        tmp_path, "classes", target="foreground", objects=None, label_kind="classes", class_values=(0, 5, 9)
    )
    choose_model(qtbot, widget, classes)
    assert options.value()["decoding"] is None
    assert not options.threshold.isVisibleTo(options)
    assert not options.method.isVisibleTo(options)


def test_tuned_sizes_are_shown_with_three_digits_and_kept_exactly(qtbot, widget: SegmentWidget, tmp_path: Path) -> None:
    tuned = ObjectDecoding(method="watershed", smoothing_um=4 / 3, seed_distance_um=13.6 / 3, min_size_um3=12345.6)
    choose_model(qtbot, widget, write_tiny_model(tmp_path, target="foreground", objects=tuned))
    options = widget.options
    boxes = [editor.box for editor in options.numbers.values()]
    assert [box.text() for box in boxes] == ["1.33", "4.53", "0", "12346"]
    assert options._decoding.model_copy(update=options.rows.values()) == tuned
    boxes[1].setFocus()
    boxes[1].interpretText()  # as at the end of typing
    assert options.value()["decoding"] is None
    boxes[1].lineEdit().setText("4.5")
    assert options.value()["decoding"].seed_distance_um == 4.5


def test_it_becomes_a_tab_of_the_training_widget_on_the_same_side(qtbot, make_napari_viewer) -> None:
    viewer = make_napari_viewer(strict_qt=False, show=True)
    window = viewer.window._qt_window
    train = viewer.window.add_dock_widget(TrainWidget(viewer), name="Train")
    bottom = viewer.window.add_dock_widget(QWidget(), name="other")
    widget = SegmentWidget(viewer)
    dock = viewer.window.add_dock_widget(widget, name="Segment")
    wait(qtbot, lambda: window.tabifiedDockWidgets(dock) == [train])
    assert bottom not in window.tabifiedDockWidgets(dock)
    wait(qtbot, lambda: not widget.visibleRegion().isEmpty())
    left = viewer.window.add_dock_widget(SegmentWidget(viewer), name="Again", area="left")
    qtbot.wait(50)
    assert window.tabifiedDockWidgets(left) == []


@pytest.mark.parametrize("kind", ["dask", "zarr", "multiscale", "channels first", "channels second"])
def test_every_kind_of_layer(qtbot, viewer, widget: SegmentWidget, model: Path, kind: str, tmp_path: Path) -> None:
    image, _ = make_pair(0)
    data: Any = {
        "dask": lambda: da.from_array(image, chunks=(8, 16, 16)),
        "zarr": lambda: zarr.array(image, chunks=(8, 16, 16)),
        "multiscale": lambda: [image, image[:, ::2, ::2]],
        "channels first": lambda: np.stack([image * 0, image]),
        "channels second": lambda: np.stack([image * 0, image], axis=1),
    }[kind]()
    scale, units = VOXEL_SIZE, UNITS
    if kind == "channels first":
        scale, units = (1.0, *VOXEL_SIZE), ("pixel", *UNITS)
    elif kind == "channels second":
        scale, units = (1.0, 1.0, 0.5, 0.5), ("um", "pixel", "um", "um")
    viewer.add_image(data, name="mine", scale=scale, units=units, contrast_limits=(0, 1500), multiscale="multi" in kind)
    choose_model(qtbot, widget, model)
    assert widget.input.channel.isVisibleTo(widget) == ("channels" in kind)
    if "channels" in kind:
        widget.input.channel.setCurrentIndex(1)
    assert "1 × 0.5 × 0.5 µm" in widget.input.message.text()
    run(qtbot, widget)
    layer = viewer.layers["mine – run"]
    found = layer.data[:, 0] if kind == "channels second" else layer.data
    np.testing.assert_array_equal(found, expected(model, image))
    if kind == "channels second":
        assert layer.translate[1] == 1  # it stands at the channel that it is of


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((32, 32), {}, "is a 2D layer"),
        ((1, 32, 32), {}, "is a 2D layer"),
        ((16, 32, 32, 3), {"rgb": True}, "colour"),
        ((2, 2, 16, 32, 32), {}, "5 axes"),
    ],
)
def test_what_is_no_volume_is_refused_in_a_sentence(
    qtbot, viewer, widget: SegmentWidget, model: Path, shape, options, reason: str
) -> None:
    viewer.add_image(np.zeros(shape, np.uint8), name="mine", contrast_limits=(0, 1), **options)
    choose_model(qtbot, widget, model)
    assert reason in widget.input.message.text()
    run(qtbot, widget)
    assert reason in widget.run.message.text()
    assert len(viewer.layers) == 1
    assert widget.run.button.isEnabled()


def test_objects_are_decoded_after_the_last_batch(model: Path) -> None:
    image = ArrayVolume("mine", make_pair(0)[0], VOXEL_SIZE)
    job = Job(lambda job: None, "Segmenting")
    steps = [(stage, list(job.progress)) for _, _, stage in work.segment_volume(job, model, image, device="cpu")]
    stages = ["Loading the model", "Reading the image", work.PREDICTING, "Decoding objects"]
    assert [stage for stage, _ in steps] == stages
    ((done, total, shown),) = steps[-1][1]  # since the last batch began
    assert (done + 1, shown) == (total, work.PREDICTING)


def test_another_voxel_size_is_refused_or_resampled(qtbot, viewer, widget: SegmentWidget, model: Path) -> None:
    add_image(viewer)
    choose_model(qtbot, widget, model)
    assert not widget.options.resample.isEnabled()
    size = (2.0, 1.0, 1.0)
    viewer.layers["mine"].scale = size
    assert widget.options.resample.isEnabled()
    assert "2 × 2 × 2 times" in widget.options.resample_text.text()
    run(qtbot, widget)
    assert "too unlike those of 1 × 0.5 × 0.5 µm" in widget.run.message.text()
    click(qtbot, widget.options_fold.button)
    widget.scroll_area.ensureWidgetVisible(widget.options.resample)
    widget.options.resample.box.click()
    run(qtbot, widget)
    layer, image = viewer.layers["mine – run"], viewer.layers["mine"].data
    seen = resampled(image, size, VOXEL_SIZE)
    loaded = load_model(model, torch.device("cpu"))
    found = segment(loaded, seen, measure(image, loaded.card.normalization, name="image"), voxel_size=VOXEL_SIZE)
    np.testing.assert_array_equal(layer.data, labels_back(found.labels, image.shape))
    assert tuple(layer.scale) == size


def test_cancelled_it_leaves_nothing_and_can_start_again(qtbot, viewer, widget: SegmentWidget, model: Path) -> None:
    add_image(viewer)
    choose_model(qtbot, widget, model)
    with held_at_the_network() as jobs:
        click(qtbot, widget.run.button)
        assert widget.run.button.text() == "Cancel"
        wait(qtbot, lambda: jobs)
        click(qtbot, widget.run.button)
        assert not widget.run.button.isEnabled()
        wait(qtbot, lambda: not widget.run.is_running)
        assert jobs[0].cancelled.is_set()
    assert len(viewer.layers) == 1
    run(qtbot, widget)
    assert "mine – run" in viewer.layers


def test_what_cannot_be_interrupted_is_no_longer_waited_for(
    qtbot, viewer, widget: SegmentWidget, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(background, "_PATIENCE_MS", 0)
    widget.run._work._patience.setInterval(0)
    monkeypatch.setattr(work, "spare_cores", lambda: let_go.wait(30) and 1)
    add_image(viewer)
    choose_model(qtbot, widget, model)
    click(qtbot, widget.run.button)
    click(qtbot, widget.run.button)
    wait(qtbot, lambda: not widget.run.is_running)
    let_go.set()
    run(qtbot, widget)
    assert len(viewer.layers) == 2


def test_a_mistake_in_the_work_is_told_and_the_button_lives(
    qtbot, viewer, widget: SegmentWidget, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(work, "spare_cores", fail)
    add_image(viewer)
    choose_model(qtbot, widget, model)
    run(qtbot, widget)
    assert "out of luck" in widget.run.message.text()
    assert widget.run.button.isEnabled()


def test_nothing_keeps_a_layer_that_was_removed(qtbot, viewer, widget: SegmentWidget, model: Path) -> None:
    layer = add_image(viewer)
    choose_model(qtbot, widget, model)
    run(qtbot, widget)
    image, result = weakref.ref(layer.data), weakref.ref(viewer.layers["mine – run"].data)
    viewer.layers.clear()
    del layer
    widget.run.start(lambda job: None, lambda result: None)  # napari's own status thread looks at the next layer
    wait(qtbot, lambda: not widget.run.is_running)

    def are_gone() -> bool:
        gc.collect()
        return image() is None and result() is None

    wait(qtbot, are_gone)


def test_it_opens_without_torch_and_without_reading_files() -> None:
    code = (
        "import sys, napari_celltrain.widgets.segment.widget;"
        "print(*[name for name in ('torch', 'monai', 'scipy.optimize', 'pandas', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert set(done.stdout.split()) <= {"pandas"}  # napari itself loads it in some versions


def test_closed_while_working_it_gives_up(qtbot, viewer, widget: SegmentWidget, model: Path) -> None:
    add_image(viewer)
    choose_model(qtbot, widget, model)
    with held_at_the_network() as jobs:
        click(qtbot, widget.run.button)
        wait(qtbot, lambda: jobs)
        viewer.window.remove_dock_widget(widget)
        wait(qtbot, lambda: jobs[0].cancelled.is_set() and jobs[0].is_done)
    assert len(viewer.layers) == 1


def test_every_control_is_reached_by_tab(qtbot, make_napari_viewer, model: Path) -> None:
    viewer = make_napari_viewer(strict_qt=False, show=True)
    widget = open_widget(viewer)
    add_image(viewer)
    choose_model(qtbot, widget, model)
    widget.options_fold.set_open(True)
    viewer.window._qt_window.activateWindow()
    qtbot.waitUntil(lambda: viewer.window._qt_window.isActiveWindow(), timeout=10_000)
    widget.model.path.edit.setFocus()
    reached: list[QWidget] = []
    while (focused := QApplication.focusWidget()) is not None and focused not in reached:
        reached.append(focused)
        qtbot.keyClick(focused, Qt.Key.Key_Tab)
    for control in (
        widget.input.layer,
        widget.options.method.box,
        widget.options.device.box,
        widget.run.button,
        widget.scores_fold.button,
        widget.measure_fold.button,
    ):
        assert control in reached


@pytest.mark.parametrize("width", [300, 350, 800])
def test_nothing_is_cut(qtbot, viewer, widget: SegmentWidget, model: Path, width: int) -> None:
    add_image(viewer, name="a layer with a name that is far too long for a narrow window")
    choose_model(qtbot, widget, model)
    for fold in (widget.options_fold, widget.scores_fold, widget.measure_fold):
        fold.set_open(True)
    widget.setParent(None)
    widget.resize(width, 900)
    widget.show()
    QApplication.processEvents()
    right = widget.scroll_area.viewport().width()
    for child in widget.findChildren(QWidget):
        if child.isVisible() and widget.scroll_area.widget().isAncestorOf(child):
            edge = child.mapTo(widget.scroll_area.widget(), QPoint(child.width(), 0)).x()
            assert edge <= right, child
