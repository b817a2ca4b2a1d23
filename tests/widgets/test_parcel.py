"""napari keeps its workers and what they were given for good; what is large must not be among it."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.qt.threading import create_worker

from balls import VOXEL_SIZE, make_pair
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig
from napari_celltrain.widgets.background import Parcel
from napari_celltrain.widgets.layers import LayerSource, take_layers
from napari_celltrain.widgets.train import data_check, patch_preview
from napari_celltrain.widgets.train.data_check import DataChecker, Question
from napari_celltrain.widgets.train.patch_preview import PatchPreview


@pytest.fixture
def kept(monkeypatch) -> list[Any]:
    """Every worker, kept as napari keeps them."""
    workers: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        workers.append(create_worker(*args, **kwargs))
        return workers[-1]

    for module in (data_check, patch_preview):
        monkeypatch.setattr(module, "create_worker", make)
    return workers


def source(folder: Path) -> tuple[LayerSource, DataConfig]:
    image, labels = make_pair(1, shape=(32, 48, 48), num_objects=30)
    viewer = ViewerModel()
    options = {"scale": VOXEL_SIZE}
    layers = viewer.add_image(image, name="cells", **options), viewer.add_labels(labels, name="objects", **options)
    config = DataConfig(results=folder)
    return take_layers(*layers, config), config


def is_gone(held: weakref.ref) -> bool:
    gc.collect()
    return held() is None


def test_a_parcel_is_taken_once() -> None:
    parcel = Parcel("content")
    assert parcel.take() == "content"
    with pytest.raises(LookupError):
        parcel.take()


def test_the_data_check_lets_layers_go(qtbot, kept: list[Any], tmp_path: Path) -> None:
    layers, config = source(tmp_path)
    checker = DataChecker()
    with qtbot.waitSignal(checker.answered, timeout=60_000):
        checker.ask(Question(config, layers, 0), now=True)
    held = weakref.ref(layers)
    del layers
    checker.forget()
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
        with qtbot.waitSignal(preview.finished, timeout=60_000):
            preview.show(config, layers)
    assert preview._ready is not None
    return [weakref.ref(layers), weakref.ref(preview._ready)]
