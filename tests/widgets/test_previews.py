"""The preview volume as layers: renewed, not added again, and never in the user's way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels

from balls import VOXEL_SIZE, make_pair
from napari_celltrain.data.differences import Difference
from napari_celltrain.io.writer import write_volume
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.events import Failed, Finished, Validated
from napari_celltrain.widgets.layers import find_layer
from napari_celltrain.widgets.previews import open_preview_volume, read_preview
from napari_celltrain.widgets.run import shown as module
from napari_celltrain.widgets.run.shown import ERRORS, IMAGE, LABELS, PREDICTION, PredictionLayers


def validated(epoch: int) -> Validated:
    return Validated(
        epoch=epoch,
        step=epoch,
        dice=0.5,
        f1=None,
        volumes=(),
        seconds=1,
        is_best=True,
        preview=f"previews/epoch_{epoch:04d}.tif",
    )


def make_run(tmp_path: Path, kind: str = "objects", region: list[list[int]] | None = None, seed: int = 0) -> RunFolder:
    """A run folder with one validation volume, and predictions of three epochs: nothing, everything, all right."""
    image, labels = make_pair(seed)
    paths = {"image": tmp_path / f"image{seed}.tif", "labels": tmp_path / f"labels{seed}.tif"}
    write_volume(paths["image"], image, VOXEL_SIZE)
    write_volume(paths["labels"], labels, VOXEL_SIZE)
    folder = RunFolder.create(tmp_path / "results", f"run{seed}", "unet")
    folder.write_config(RunConfig(data=DataConfig(label_kind=kind)))
    case = {
        "name": "a",
        "side": "validation",
        "image": str(paths["image"]),
        "labels": str(paths["labels"]),
        "region_zyx": region,
        "voxel_size_um": list(VOXEL_SIZE),
    }
    training = case | {"side": "train", "image": "gone.tif"}
    record = {"label_kind": kind, "class_values": [], "pairs": [training, case]}
    folder.write_text("data.json", json.dumps(record))
    block = tuple(slice(*span) for span in region or [[None, None]] * 3)
    truth = (labels[block] > 0).astype(np.uint8)
    for epoch, prediction in enumerate((truth * 0, truth * 0 + 1, truth), start=1):
        write_volume(folder.path / f"previews/epoch_{epoch:04d}.tif", prediction, VOXEL_SIZE)
    return folder


@pytest.fixture
def viewer() -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((10, 20, 30)), name="mine", scale=(2, 1, 1))
    viewer.dims.set_point(0, 6.0)
    return viewer


@pytest.fixture
def layers(qtbot, viewer: ViewerModel) -> PredictionLayers:
    layers = PredictionLayers(viewer)
    qtbot.addWidget(layers)
    return layers


def show(qtbot, layers: PredictionLayers, folder: RunFolder, *epochs: int) -> None:
    layers.add_events(tuple(map(validated, epochs)), folder)
    qtbot.waitUntil(lambda: layers.epoch == epochs[-1], timeout=10_000)


def test_a_block_of_a_volume_is_cut_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path, region=[[8, 16], [0, 32], [0, 32]])
    volume = open_preview_volume(folder)
    image, labels = make_pair(0)
    assert np.array_equal(volume.image, image[8:])
    assert np.array_equal(volume.labels, labels[8:])
    assert volume.voxel_size == VOXEL_SIZE
    assert volume.contrast[0] < volume.contrast[1]


@pytest.mark.parametrize(
    ("kind", "missed"), [("objects", Difference.MISSED_OBJECT), ("foreground", Difference.MISSED_VOXEL)]
)
def test_errors_are_those_of_the_prediction(tmp_path: Path, kind: str, missed: Difference) -> None:
    folder = make_run(tmp_path, kind)
    volume = open_preview_volume(folder)
    truth = volume.target > 0
    nothing = read_preview(folder, volume, "previews/epoch_0001.tif", 1)
    assert np.array_equal(nothing.errors, np.where(truth, missed, 0))
    right = read_preview(folder, volume, "previews/epoch_0003.tif", 3)
    if kind == "foreground":
        assert not right.errors.any()
    assert np.array_equal(right.labels > 0, truth)


def test_layers_are_added_once_with_the_right_scale_beside_the_users(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path
) -> None:
    before = (viewer.dims.point, viewer.layers.selection.active, viewer.dims.ndisplay)
    show(qtbot, layers, make_run(tmp_path), 1)
    assert [layer.name for layer in viewer.layers] == ["mine", IMAGE, LABELS, PREDICTION, ERRORS]
    assert (viewer.dims.point, viewer.layers.selection.active, viewer.dims.ndisplay) == before
    for name in (IMAGE, LABELS, PREDICTION, ERRORS):
        layer = find_layer(viewer, name)
        assert tuple(layer.scale) == VOXEL_SIZE
        assert layer.extent.world[0][-1] > viewer.layers["mine"].extent.world[1][-1]
    assert not find_layer(viewer, PREDICTION).data.any()
    show(qtbot, layers, layers._folder, 3)
    assert len(viewer.layers) == 5
    assert find_layer(viewer, PREDICTION).data.any()


def test_a_second_run_takes_the_layers_of_the_first(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path
) -> None:
    show(qtbot, layers, make_run(tmp_path, seed=0), 1)
    layers.forget()
    show(qtbot, layers, make_run(tmp_path, seed=1), 1)
    assert len(viewer.layers) == 5
    assert np.array_equal(np.asarray(find_layer(viewer, IMAGE).data), make_pair(1)[0])


def test_one_can_go_back_through_the_epochs_and_follow_again(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path
) -> None:
    folder = make_run(tmp_path)
    show(qtbot, layers, folder, 1, 2)
    assert layers.epochs == [1, 2]
    layers.slider.setValue(0)
    qtbot.waitUntil(lambda: layers.epoch == 1, timeout=10_000)
    assert not find_layer(viewer, PREDICTION).data.any()
    layers.add_events((validated(3),), folder)  # who looks at the past is left there
    assert layers.label.text() == "epoch 1"
    layers.slider.setValue(layers.slider.maximum())
    qtbot.waitUntil(lambda: layers.epoch == 3, timeout=10_000)


def test_predictions_rest_after_one_that_took_the_window_long(
    qtbot, layers: PredictionLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE", 1e-9)  # any time is long
    monkeypatch.setattr(module, "LONGEST_REST", 3600.0)
    folder = make_run(tmp_path)
    show(qtbot, layers, folder, 1)
    show(qtbot, layers, folder, 2)  # the first was added, not renewed
    layers.add_events((validated(3),), folder)
    assert not layers.is_busy
    layers.slider.setValue(0)  # what somebody asks for comes at once
    qtbot.waitUntil(lambda: layers.epoch == 1, timeout=10_000)
    layers.slider.setValue(layers.slider.maximum())
    qtbot.waitUntil(lambda: layers.epoch == 3, timeout=10_000)


def test_switched_off_and_on_again_no_rest_is_left(
    qtbot, layers: PredictionLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE", 1e-9)
    monkeypatch.setattr(module, "LONGEST_REST", 3600.0)
    folder = make_run(tmp_path)
    for epoch in (1, 2):
        show(qtbot, layers, folder, epoch)
    layers.add_events((validated(3),), folder)
    layers.box.setChecked(False)
    layers.box.setChecked(True)
    qtbot.waitUntil(lambda: layers.epoch == 3, timeout=10_000)


def test_a_run_whose_predictions_cannot_be_read_does_not_spoil_the_next(
    qtbot, layers: PredictionLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "show_warning", told.append)
    broken, whole = make_run(tmp_path, seed=0), make_run(tmp_path, seed=1)
    (broken.path / "previews" / "epoch_0001.tif").unlink()
    layers.add_events((validated(1),), broken)
    layers.forget()  # the next one begins while that is being found out
    layers.add_events((validated(2),), whole)
    qtbot.waitUntil(lambda: layers.epoch == 2, timeout=10_000)
    assert told == []


@pytest.mark.parametrize("end", [Finished, Failed])
def test_the_last_prediction_is_shown_when_the_run_ends(
    qtbot, layers: PredictionLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[Finished | Failed]
) -> None:
    monkeypatch.setattr(module, "SHARE", 1e-9)
    monkeypatch.setattr(module, "LONGEST_REST", 3600.0)
    folder = make_run(tmp_path)
    for epoch in (1, 2):
        show(qtbot, layers, folder, epoch)
    layers.add_events((validated(3),), folder)
    layers.add_events((end.model_construct(),), folder)
    qtbot.waitUntil(lambda: layers.epoch == 3, timeout=10_000)


def test_the_tools_of_a_layer_are_there(qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path) -> None:
    show(qtbot, layers, make_run(tmp_path), 1)
    of_napari = [overlay.visible for overlay in Labels(np.zeros((1, 1, 1), np.uint8))._overlays.values()]
    assert any(of_napari)
    for name in (LABELS, PREDICTION, ERRORS):
        overlays = find_layer(viewer, name)._overlays.values()
        assert [overlay.visible for overlay in overlays] == of_napari


def test_a_layer_that_the_user_removes_stays_away(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path
) -> None:
    folder = make_run(tmp_path)
    show(qtbot, layers, folder, 1)
    viewer.layers.remove(find_layer(viewer, ERRORS))
    show(qtbot, layers, folder, 3)
    assert find_layer(viewer, ERRORS) is None


def test_switched_off_nothing_is_shown_until_it_is_switched_on(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path
) -> None:
    layers.box.setChecked(False)
    layers.add_events((validated(1),), make_run(tmp_path))
    assert len(viewer.layers) == 1
    layers.box.setChecked(True)
    qtbot.waitUntil(lambda: layers.epoch == 1, timeout=10_000)


def test_data_that_are_gone_are_told_once(
    qtbot, viewer: ViewerModel, layers: PredictionLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "show_warning", told.append)
    folder = make_run(tmp_path)
    (tmp_path / "image0.tif").unlink()
    layers.add_events((validated(1),), folder)
    qtbot.waitUntil(lambda: bool(told), timeout=10_000)
    layers.add_events((validated(2),), folder)
    qtbot.waitUntil(lambda: not layers.is_busy, timeout=10_000)
    assert len(told) == 1
    assert len(viewer.layers) == 1


def test_an_uncompressed_volume_is_shown_without_being_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    image = make_pair(0)[0]
    tifffile.imwrite(tmp_path / "image0.tif", image, metadata={"axes": "ZYX"})
    view = open_preview_volume(folder).image
    assert not isinstance(view, np.ndarray)
    assert (view.shape, view.dtype, view.ndim, len(view)) == (image.shape, image.dtype, 3, len(image))
    whole = slice(None)
    for key in (3, -1, (2, slice(4, 9)), (whole, 5, whole), (..., 7), slice(1, 9, 3), slice(None, None, -1)):
        np.testing.assert_array_equal(view[key], image[key])
    np.testing.assert_array_equal(np.asarray(view), image)

    viewer = ViewerModel()
    layer = viewer.add_image(view, contrast_limits=(0, 1))
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        viewer.dims.order = order
        viewer.dims.set_point(order[0], 4)
        np.testing.assert_array_equal(layer._slice.image.raw, np.moveaxis(image, order, (0, 1, 2))[4])
