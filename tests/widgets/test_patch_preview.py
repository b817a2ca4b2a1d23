"""The preview shows what the network would get, and disturbs nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from balls import VOXEL_SIZE, make_pair, write_pairs
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig
from napari_celltrain.widgets.layers import find_layer, take_layers
from napari_celltrain.widgets.train import patch_preview
from napari_celltrain.widgets.train.patch_preview import IMAGE_LAYER, LABELS_LAYER, PatchPreview, draw_patches, mosaic

PATCH = (8, 16, 12)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    images, labels = write_pairs(tmp_path / "data", ["a", "b", "c"])
    data = DataConfig(images=images, labels=labels, results=tmp_path / "results")
    return RunConfig(data=data, augmentation=AugmentationConfig(patch_size=PATCH, samples_per_volume=2))


@pytest.fixture
def viewer() -> ViewerModel:
    model = ViewerModel()
    model.add_image(np.zeros((20, 30, 40)), name="mine", scale=VOXEL_SIZE)
    return model


def press(preview: PatchPreview, qtbot, config: RunConfig, layers=None) -> None:
    with qtbot.waitSignal(preview.ended, timeout=150_000):
        preview.show(config, layers)


def result_of(steps: Generator) -> Any:
    found = []

    def keep() -> Generator:
        found.append((yield from steps))

    deque(keep(), maxlen=0)
    return found[0]


def test_patches_are_those_of_training(config: RunConfig) -> None:
    from napari_celltrain.data.labels import readable_target
    from napari_celltrain.engine.patches import plan_epoch
    from napari_celltrain.runs.prepare import prepare

    source = result_of(prepare(config)).source
    for epoch in (1, 2):
        drawn = result_of(draw_patches(config, None, epoch, None))
        requests = plan_epoch(len(source.volumes), 2, config.training.seed, epoch)
        images, targets = zip(*map(source.patch, requests), strict=True)
        np.testing.assert_array_equal(drawn.image, mosaic(images, min(map(np.min, images))))
        np.testing.assert_array_equal(drawn.labels, mosaic([readable_target(target) for target in targets], 0))
    assert drawn.ready.run.network.voxel_size == VOXEL_SIZE


def test_renews_two_layers_beside_those_of_the_user(config: RunConfig, viewer: ViewerModel, qtbot) -> None:
    preview = PatchPreview(viewer)
    viewer.dims.set_point(0, 7.0)
    viewer.layers.selection.active = viewer.layers["mine"]
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.zoom = 3.5
    before = viewer.dims.point, viewer.dims.range[0]

    press(preview, qtbot, config)
    assert camera.zoom != 3.5  # what was asked for is brought into view, once
    camera.zoom = 3.5
    first = find_layer(viewer, IMAGE_LAYER).data.copy()
    press(preview, qtbot, config)
    assert [layer.name for layer in viewer.layers] == ["mine", IMAGE_LAYER, LABELS_LAYER]
    assert not np.array_equal(find_layer(viewer, IMAGE_LAYER).data, first)

    assert (viewer.dims.point, viewer.dims.range[0]) == before
    assert camera.zoom == 3.5
    assert viewer.layers.selection.active.name == "mine"
    mine = viewer.layers["mine"].extent.world
    for key in (IMAGE_LAYER, LABELS_LAYER):
        layer = find_layer(viewer, key)
        assert tuple(layer.scale) == VOXEL_SIZE
        assert layer.extent.world[1, 2] < mine[0, 2]
        assert layer.extent.world[0, 0] <= 7.0 <= layer.extent.world[1, 0]


@pytest.mark.parametrize("shown", [None, 0.0, 7.0, 19.0])
def test_the_plane_in_view_has_most_foreground(config: RunConfig, viewer: ViewerModel, qtbot, shown) -> None:
    """Also at the ends of the slider, and where nothing else is open."""
    if shown is None:
        viewer.layers.clear()
    else:
        viewer.dims.set_point(0, shown * VOXEL_SIZE[0])
    press(PatchPreview(viewer), qtbot, config)
    layer = find_layer(viewer, LABELS_LAYER)
    plane = round(layer.world_to_data(viewer.dims.point)[0])
    counts = np.count_nonzero((layer.data > 0) & (layer.data < 255), axis=(1, 2))
    assert counts[plane] == counts.max() > 0


def test_a_renamed_layer_is_renewed_and_a_removed_one_comes_back(config: RunConfig, viewer: ViewerModel, qtbot) -> None:
    preview = PatchPreview(viewer)
    press(preview, qtbot, config)
    find_layer(viewer, IMAGE_LAYER).name = "look at this"
    viewer.layers.remove(find_layer(viewer, LABELS_LAYER))
    press(PatchPreview(viewer), qtbot, config)  # as by a widget that was closed and opened again
    assert sorted(layer.name for layer in viewer.layers) == ["look at this", "mine", LABELS_LAYER]


def test_reads_the_volumes_once_until_they_are_released(
    config: RunConfig, viewer: ViewerModel, qtbot, monkeypatch
) -> None:
    calls = []
    prepare = patch_preview._prepare
    monkeypatch.setattr(patch_preview, "_prepare", lambda config: calls.append(config) or prepare(config))
    preview = PatchPreview(viewer)
    press(preview, qtbot, config)
    press(preview, qtbot, config.model_copy(update={"training": config.training.model_copy(update={"epochs": 3})}))
    assert len(calls) == 1
    press(preview, qtbot, config.model_copy(update={"augmentation": AugmentationConfig(patch_size=(8, 8, 8))}))
    assert len(calls) == 2
    preview.release()
    press(preview, qtbot, config)
    assert len(calls) == 3


def test_layers_can_be_previewed(viewer: ViewerModel, qtbot, tmp_path: Path) -> None:
    image, labels = make_pair(0, shape=(16, 64, 32))
    source = take_layers(Image(image, scale=VOXEL_SIZE), Labels(labels), DataConfig())
    config = RunConfig(data=DataConfig(results=tmp_path), augmentation=AugmentationConfig(patch_size=PATCH))
    press(PatchPreview(viewer), qtbot, config, source)
    assert find_layer(viewer, LABELS_LAYER).data.max() in (1, 2)  # cells, and where they meet


def test_whole_images_of_different_size_are_shown(config: RunConfig, viewer: ViewerModel, qtbot) -> None:
    press(
        PatchPreview(viewer),
        qtbot,
        config.model_copy(update={"augmentation": AugmentationConfig(patches=False, augment=False)}),
    )
    assert find_layer(viewer, IMAGE_LAYER).data.shape[0] == 16


def test_says_in_a_sentence_what_keeps_it(viewer: ViewerModel, qtbot, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(patch_preview, "show_error", said.append)
    preview = PatchPreview(viewer)
    press(preview, qtbot, RunConfig(data=DataConfig(images="/no/such", labels="/folder")))
    assert "does not exist" in said[0]
    assert [layer.name for layer in viewer.layers] == ["mine"]
    assert not preview.is_busy


def test_a_mosaic_keeps_every_patch_whole() -> None:
    patches = [np.full((2 + n, 3, 4), n + 1) for n in range(5)]
    whole = mosaic(patches, 0)
    assert whole.shape == (6, 2 * 3 + 2, 3 * 4 + 2 * 2)
    for number, patch in enumerate(patches, start=1):
        assert (whole == number).sum() == patch.size
