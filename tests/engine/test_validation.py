"""Scoring a network on validation volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.engine.predictor import Predictor
from napari_celltrain.engine.scores import Counts, VoxelCounts
from napari_celltrain.engine.validation import ValidationVolume, Validator
from napari_celltrain.nets.normalize import IntensityStatistics
from napari_celltrain.values.decoding import ObjectDecoding

PLAIN = IntensityStatistics(kind="zscore", offset=0.0, scale=1.0)
WINDOW = (8, 8, 8)


class Sign(nn.Module):
    """Foreground where the image is positive; as many outputs as there are classes."""

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, image: Tensor) -> Tensor:
        if self.num_outputs == 1:
            return 9.0 * image
        return torch.cat([-(image - value).abs() for value in range(self.num_outputs)], dim=1)


def predictor(num_outputs: int = 1) -> Predictor:
    return Predictor(Sign(num_outputs), num_outputs, WINDOW, torch.device("cpu"), NumericFormat())


def volume(name: str, image: np.ndarray, labels: np.ndarray) -> ValidationVolume:
    return ValidationVolume(name, image.astype(np.float32), labels, PLAIN)


def cubes(*corners: int, size: int = 3) -> np.ndarray:
    labels = np.zeros((8, 8, 30), np.uint16)
    for number, corner in enumerate(corners, start=1):
        labels[2 : 2 + size, 2 : 2 + size, corner : corner + size] = number
    return labels


def test_each_volume_gets_its_score_and_they_pool_by_counts() -> None:
    truth = cubes(1, 10)
    found = np.where(truth == 1, 1.0, -1.0)
    validator = Validator(
        [volume("all", np.where(truth > 0, 1.0, -1.0), truth), volume("half", found, truth)],
        LabelScheme("objects"),
        ObjectDecoding(),
    )
    first, second = (score for _, score, _ in validator.score(predictor(), [0, 1]))
    assert (first.dice, first.f1) == (1.0, 1.0)
    assert (second.dice, second.f1) == pytest.approx((2 / 3, 2 / 3))
    pooled = first + second
    assert pooled.dice == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert pooled.f1 == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert [score.name for score in validator.by_volume([first, second])] == ["all", "half"]


def test_what_is_shown_are_the_objects_or_the_classes() -> None:
    truth = cubes(1, 10)
    volumes = [volume("a", np.where(truth > 0, 1, -1), truth)]
    [(_, _, objects)] = Validator(volumes, LabelScheme("objects"), ObjectDecoding()).score(predictor(), [0])
    assert np.array_equal(objects, truth)
    [(_, _, classes)] = Validator(volumes, LabelScheme("foreground")).score(predictor(), [0])
    assert np.array_equal(classes, truth > 0)


def test_only_the_volumes_asked_for_are_scored() -> None:
    truth = cubes(1)
    volumes = [volume(name, np.where(truth > 0, 1, -1), truth) for name in "abc"]
    validator = Validator(volumes, LabelScheme("foreground"))
    assert [index for index, _, _ in validator.score(predictor(), [2, 0])] == [2, 0]


def test_classes_are_scored_one_by_one() -> None:
    image = np.repeat([[[0, 1, 2, 2]]], 8, axis=0)
    truth = np.array([0, 4, 6, 4], np.uint16)[None, None].repeat(8, axis=0)
    validator = Validator([volume("a", image, truth)], LabelScheme("classes", None, (0, 4, 6)))
    [(_, score, _)] = validator.score(predictor(3), [0])
    assert score.f1 is None
    assert score.dice == pytest.approx(np.mean([2 / 3, 2 / 3]))


def test_ignored_voxels_do_not_count() -> None:
    truth = cubes(1)
    image = np.where(truth > 0, 1.0, -1.0)
    image[:, :, 20:] = 1.0
    labels = truth.copy()
    labels[:, :, 20:] = 99
    validator = Validator([volume("a", image, labels)], LabelScheme("objects", 99), ObjectDecoding())
    [(_, score, _)] = validator.score(predictor(), [0])
    assert (score.dice, score.f1) == (1.0, 1.0)


def test_score_of_objects_leaves_out_what_is_ignored() -> None:
    truth = np.array([[[1, 1, 0, 9, 9, 0, 3]]], np.int32)
    found = np.array([[[1, 1, 0, 2, 0, 0, 0]]], np.int32)
    validator = Validator([volume("a", truth, truth)], LabelScheme("objects", 9), ObjectDecoding())
    score = validator.compare(0, (found > 0).astype(np.uint8), found)
    assert score.objects == Counts(1, 0, 1)
    assert score.voxels == VoxelCounts((Counts(2, 0, 1),))


def test_a_rehearsal_looks_at_one_window_and_estimates_all() -> None:
    truth = cubes(1)
    validator = Validator(
        [volume("a", np.where(truth > 0, 1, -1), truth)] * 2, LabelScheme("objects"), ObjectDecoding()
    )
    assert validator.num_windows(WINDOW) == 2 * 5
    assert validator.rehearse(predictor()) > 0
    assert validator.tuning_seconds("foreground") == 0.0, "a cold start says nothing of the time that decoding takes"
    list(validator.score(predictor(), [0]))
    assert validator.tuning_seconds("foreground") > 0


def test_a_rehearsal_meets_what_cannot_work() -> None:
    truth = cubes(1)
    validator = Validator([volume("a", np.where(truth > 0, 1, -1), truth)], LabelScheme("objects"), ObjectDecoding())

    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        validator.rehearse(Predictor(Broken(), 1, WINDOW, torch.device("cpu"), NumericFormat()))


def test_a_volume_for_tuning_leaves_ignored_voxels_out() -> None:
    truth = cubes(1, 10)
    truth[:, :, 20:] = 99
    validator = Validator([volume("a", truth, truth)], LabelScheme("objects", 99), ObjectDecoding(), (2.0, 1.0, 1.0))
    [tuning] = validator.tuning_volumes({0: np.zeros((1, *truth.shape), np.uint8)})
    assert tuning.objects.max() == 2
    assert tuning.ignored is not None
    assert tuning.ignored[:, :, 20:].all()
    assert tuning.spacing == (2.0, 1.0, 1.0)
