"""Layers that the plugin adds agree in units with what is open: napari renders without units as soon as two differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager

from balls import VOXEL_SIZE, write_pairs
from napari_celltrain.data.pairs import pair_files
from napari_celltrain.values.config import DataConfig
from napari_celltrain.widgets import previews
from napari_celltrain.widgets.layers import add_layer, show_layer, sized
from napari_celltrain.widgets.previews import PairOpener, sample_folders, sample_nuclei
from napari_celltrain.widgets.segment.input_panel import place_of
from napari_celltrain.widgets.segment.widget import show_result

PIXELS: dict[str, Any] = {}
MICROMETRES = {"scale": (2.0, 0.5, 0.5), "units": ("um",) * 3}
NANOMETRES = {"scale": (2000.0, 500.0, 500.0), "units": ("nm",) * 3}
FLAT = {"scale": (1.0, 1.0), "units": ("um",) * 2}
KINDS = {"pixels": PIXELS, "µm": MICROMETRES, "nm": NANOMETRES, "2D in µm": FLAT}


def theirs(options: dict[str, Any]) -> Image:
    return Image(np.zeros((8, 16, 16)[-len(options.get("units", "zyx")) :]), **options)


def add_preview(viewer: ViewerModel) -> None:
    show_layer(viewer, "image", "preview", np.zeros((8, 16, 16)), **sized(viewer, VOXEL_SIZE))


def add_preview_of_unknown_size(viewer: ViewerModel) -> None:
    show_layer(viewer, "labels", "unknown", np.zeros((8, 16, 16), int), **sized(viewer, None))


def add_sample(viewer: ViewerModel) -> None:
    for data, options, kind in sample_nuclei():
        viewer._add_layer_from_data(data, options, kind)


def agree(viewer: ViewerModel) -> bool:
    """As napari's canvas asks before it draws."""
    return viewer.layers.extent.units is not None


ADDERS = [add_preview, add_preview_of_unknown_size, add_sample]


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> ViewerModel:
    viewer = ViewerModel()
    monkeypatch.setattr(previews, "current_viewer", lambda: viewer)
    return viewer


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("add", ADDERS)
def test_what_is_added_agrees_with_what_is_open(viewer: ViewerModel, add: Callable, options: dict) -> None:
    viewer.add_layer(theirs(options))
    add(viewer)
    assert agree(viewer)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("add", ADDERS)
def test_what_was_added_follows_what_is_opened_later(viewer: ViewerModel, add: Callable, options: dict) -> None:
    add(viewer)
    viewer.add_layer(theirs(options))
    assert agree(viewer)


@pytest.mark.parametrize("first", ADDERS)
@pytest.mark.parametrize("second", ADDERS)
def test_what_is_added_agrees_among_itself(viewer: ViewerModel, first: Callable, second: Callable) -> None:
    first(viewer)
    second(viewer)
    assert agree(viewer)


def test_the_voxel_size_stays_while_units_change(viewer: ViewerModel) -> None:
    add_preview(viewer)
    layer = viewer.layers["preview"]
    layer.translate = (1.0, 2.0, 3.0)
    assert {str(unit) for unit in layer.units} == {"micrometer"}
    other = theirs(PIXELS)
    viewer.add_layer(other)
    assert {str(unit) for unit in layer.units} == {"pixel"}
    assert tuple(layer.scale) == VOXEL_SIZE
    viewer.layers.remove(other)
    viewer.add_layer(theirs(NANOMETRES))
    assert {str(unit) for unit in layer.units} == {"nanometer"}
    np.testing.assert_allclose(layer.scale, 1000 * np.array(VOXEL_SIZE))
    np.testing.assert_allclose(layer.translate, (1000, 2000, 3000))


def test_a_layer_that_is_renewed_with_older_units_agrees_again(viewer: ViewerModel) -> None:
    options = sized(viewer, VOXEL_SIZE)
    for _ in range(2):
        show_layer(viewer, "image", "preview", np.zeros((8, 16, 16)), **options)
        if len(viewer.layers) == 1:
            viewer.add_layer(theirs(PIXELS))
        assert agree(viewer)


def test_the_users_own_layers_are_left_as_they_are(viewer: ViewerModel) -> None:
    viewer.add_layer(theirs(MICROMETRES))
    add_preview(viewer)
    viewer.add_layer(theirs(PIXELS))
    assert [str(layer.units[0]) for layer in viewer.layers] == ["micrometer", "pixel", "pixel"]


def test_a_result_follows_the_pair_that_it_was_made_of(viewer: ViewerModel) -> None:
    image = add_layer(viewer, "image", np.zeros((8, 16, 16)), name="pair", **sized(viewer, VOXEL_SIZE))
    show_result(viewer, "key", "pair – model", np.zeros((8, 16, 16), int), place_of(image))
    viewer.add_layer(theirs(PIXELS))
    assert agree(viewer)


def test_a_pair_beside_a_file_that_is_opened_later(qtbot, make_napari_viewer, tmp_path: Path) -> None:
    """With a canvas: napari would warn of it."""
    viewer = make_napari_viewer(strict_qt=False, show=True)
    images, labels = write_pairs(tmp_path, ["a"])
    opener = PairOpener(viewer)
    opener.open(pair_files(images, labels).pairs[0], DataConfig())
    qtbot.waitUntil(lambda: not opener.is_busy, timeout=20_000)
    notification_manager.records.clear()
    viewer.add_labels(np.zeros((8, 16, 16), int))
    viewer.screenshot(canvas_only=True, flash=False)
    assert agree(viewer)
    assert not [record for record in notification_manager.records if "units" in record.message]


def test_samples_beside_a_calibrated_layer(viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(previews, "preferences", lambda: type("Wishes", (), {"results_folder": tmp_path}))
    viewer.add_layer(Labels(np.zeros((8, 16, 16), int), **MICROMETRES))
    for data, options, kind in sample_folders():
        viewer._add_layer_from_data(data, options, kind)
    assert len(viewer.layers) == 3
    assert agree(viewer)
