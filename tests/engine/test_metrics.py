"""Dice and object F1 against counts made by hand and by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.engine.scores import Counts, VoxelCounts, count_objects, count_voxels


def test_dice_of_counts_made_by_hand():
    target = np.array([[[1, 1, 1, 0, 0]]], np.uint8)
    predicted = np.array([[[1, 1, 0, 1, 0]]], np.uint8)
    counts = count_voxels(target, predicted, 2)
    assert counts == VoxelCounts((Counts(2, 1, 1),))
    assert counts.dice == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_nothing_to_find_and_nothing_found_is_perfect():
    empty = np.zeros((2, 2, 2), np.uint8)
    assert count_voxels(empty, empty, 2).dice == 1.0
    assert count_objects(empty, empty).f1 == 1.0


def test_inventing_something_in_an_empty_volume_is_zero():
    empty, full = np.zeros((2, 2, 2), np.uint8), np.ones((2, 2, 2), np.uint8)
    assert count_voxels(empty, full, 2).dice == 0.0
    assert count_objects(empty, full).f1 == 0.0


def test_pooling_adds_counts_rather_than_averaging_scores():
    small = VoxelCounts((Counts(1, 0, 0),))
    large = VoxelCounts((Counts(10, 50, 50),))
    assert (small + large).dice == pytest.approx(22 / 122)
    assert (Counts(1, 0, 0) + Counts(0, 3, 0)).f1 == pytest.approx(2 / 5)


def test_ignored_voxels_do_not_count_whatever_is_predicted_there():
    target = np.array([[[1, IGNORE, IGNORE, 0]]], np.uint8)
    for inside in (0, 1):
        predicted = np.array([[[1, inside, 1 - inside, 0]]], np.uint8)
        assert count_voxels(target, predicted, 2) == VoxelCounts((Counts(1, 0, 0),))


def test_dice_of_classes_is_the_mean_over_the_classes_that_occur():
    target = np.array([[[0, 1, 1, 2]]], np.uint8)
    predicted = np.array([[[0, 1, 2, 2]]], np.uint8)
    counts = count_voxels(target, predicted, 4)
    assert counts.dice == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_counts_equal_a_count_voxel_by_voxel(num_classes):
    rng = np.random.default_rng(num_classes)
    target = rng.integers(0, num_classes, (5, 6, 7)).astype(np.uint8)
    target[rng.random(target.shape) < 0.1] = IGNORE
    predicted = rng.integers(0, num_classes, target.shape).astype(np.uint8)
    counts = count_voxels(target, predicted, num_classes)
    valid = target != IGNORE
    for c in range(1, num_classes):
        assert counts.classes[c - 1].tp == ((target == c) & (predicted == c) & valid).sum()
        assert counts.classes[c - 1].fp == ((target != c) & (predicted == c) & valid).sum()
        assert counts.classes[c - 1].fn == ((target == c) & (predicted != c) & valid).sum()


def brute_force_matches(truth, predicted, min_iou):
    """The largest one-to-one matching, by trying all of them."""
    true_ids, predicted_ids = np.unique(truth[truth > 0]), np.unique(predicted[predicted > 0])
    good = [
        (t, p)
        for t in true_ids
        for p in predicted_ids
        if ((truth == t) & (predicted == p)).sum() / ((truth == t) | (predicted == p)).sum() >= min_iou
    ]
    for size in range(len(good), 0, -1):
        for chosen in itertools.combinations(good, size):
            if len({t for t, _ in chosen}) == size and len({p for _, p in chosen}) == size:
                return size
    return 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("min_iou", [0.2, 0.5])
def test_matching_equals_brute_force(seed, min_iou):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, 5, (2, 2, 4)), 2, axis=2).astype(np.int32)
    predicted = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 5, truth.shape), truth)
    counts = count_objects(truth, predicted, min_iou)
    assert counts.tp == brute_force_matches(truth, predicted, min_iou)
    assert counts.tp + counts.fn == len(np.unique(truth[truth > 0]))
    assert counts.tp + counts.fp == len(np.unique(predicted[predicted > 0]))


def test_two_halves_of_one_object_match_once():
    truth = np.array([[[1, 1, 1, 1]]], np.uint16)
    halves = np.array([[[1, 1, 2, 2]]], np.uint16)
    assert count_objects(truth, halves) == Counts(1, 1, 0)


def test_numbers_of_objects_may_have_gaps_and_be_huge():
    truth = np.array([[[7, 7, 0, 900_000_000]]], np.int64)
    predicted = np.array([[[1, 1, 0, 2]]], np.int64)
    assert count_objects(truth, predicted) == Counts(2, 0, 0)
