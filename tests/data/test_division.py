"""The division that the window shows is the one that training uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balls import write_pairs
from napari_celltrain.data.check import check_data, divide
from napari_celltrain.data.pairs import open_pair
from napari_celltrain.runs.prepare import Preparation, prepare
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.values.events import finish


def prepared(config: RunConfig) -> Preparation:
    return finish(prepare(config))


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("case", ["names", "groups", "single", "own folder"])
def test_sides_are_those_of_training(case: str, seed: int, tmp_path: Path) -> None:
    names = {"groups": ["Emb1_t1", "Emb1_t2", "Emb2_t1", "Emb3_t1"], "single": ["only"]}.get(case, ["a", "b", "c", "d"])
    shape = (16, 64, 32)
    images, labels = write_pairs(tmp_path / "data", names, shape=shape)
    data = DataConfig(images=images, labels=labels, validation_fraction=0.4)
    if case == "own folder":
        more = write_pairs(tmp_path / "more", ["x"], shape=shape, num_objects=4)
        data = data.model_copy(update={"validation_images": more[0], "validation_labels": more[1]})
    report = finish(check_data(data))
    assert report.can_be_divided
    split = divide(data, seed, report, lambda pair: open_pair(pair, data)[1].read())

    augmentation = AugmentationConfig(patch_size=(16, 16, 16))
    used = prepared(RunConfig(data=data, augmentation=augmentation, training=TrainingConfig(seed=seed)))
    recorded = [pair["name"] for pair in json.loads(used.record)["pairs"] if pair["side"] == "train"]
    assert recorded == [case.name for case in split.train]
    assert len(used.source.volumes) == len(recorded)
    assert [volume.name for volume in used.validator.volumes] == [case.name for case in split.validation]


def test_copies_of_an_image_stay_on_one_side(tmp_path: Path) -> None:
    images, labels = write_pairs(tmp_path, ["a", "b", "c"], shape=(16, 32, 32))
    for folder in (images, labels):
        (folder / "copy.tif").write_bytes((folder / "a.tif").read_bytes())
    data = DataConfig(images=images, labels=labels, validation_fraction=0.3)
    report = finish(check_data(data))
    for seed in range(8):
        split = divide(data, seed, report, lambda pair: open_pair(pair, data)[1].read())
        train, validation = ({case.name for case in side} for side in (split.train, split.validation))
        assert {"a", "copy"} <= train or {"a", "copy"} <= validation


def test_what_the_check_refused_to_divide_is_not_tried_again(tmp_path: Path) -> None:
    images, labels = write_pairs(tmp_path, ["a"], shape=(16, 32, 32))
    report = finish(check_data(DataConfig(images=images, labels=labels)))
    assert [problem.code for problem in report.errors] == ["too-small-to-divide"]
    assert not report.can_be_divided
