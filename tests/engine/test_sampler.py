"""The plan of an epoch and the place of a patch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.engine.device import Ranks
from napari_celltrain.engine.patches import index_foreground, place_patch, plan_batches, plan_epoch


def test_an_epoch_takes_every_volume_as_often_as_asked():
    plan = plan_epoch(5, 3, seed=1, epoch=1)
    assert Counter(request.case for request in plan) == dict.fromkeys(range(5), 3)
    assert len({request.seed for request in plan}) == 15


def test_epochs_differ_and_repeat():
    assert plan_epoch(5, 3, 1, 1) == plan_epoch(5, 3, 1, 1)
    assert plan_epoch(5, 3, 1, 1) != plan_epoch(5, 3, 1, 2)
    assert plan_epoch(5, 3, 1, 1) != plan_epoch(5, 3, 2, 1)


def test_every_patch_comes_once_though_the_last_batch_is_smaller():
    batches = list(plan_batches(5, 3, 4, 0, range(1, 3)))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3] * 2
    assert [request for batch in batches[:4] for request in batch] == plan_epoch(5, 3, 0, 1)


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_resuming_in_the_middle_gives_the_batches_that_were_left(step):
    everything = list(plan_batches(5, 3, 4, 0, range(1, 4)))
    rest = list(plan_batches(5, 3, 4, 0, range(2, 4), step))
    assert rest == everything[4 + step :]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_without_overlap(world):
    for batch in plan_batches(5, 3, 4, 0, range(1, 2)):
        shares = [Ranks(rank, world).share(batch) for rank in range(world)]
        assert Counter(request for share in shares for request in share) == Counter(batch)


def labels_with_two_objects() -> np.ndarray:
    labels = np.zeros((20, 30, 40), np.uint16)
    labels[2:4, 3:6, 30:38] = 1
    labels[15:18, 20:25, 5:9] = 7
    return labels


def test_foreground_index_points_at_labelled_voxels_of_all_objects():
    labels = labels_with_two_objects()
    index = index_foreground(labels, LabelScheme("objects"), seed=0)
    values = labels[tuple(index.T)]
    assert set(values.tolist()) == {1, 7}


def test_of_classes_each_is_indexed_alike():
    labels = labels_with_two_objects()
    labels[labels == 7] = 2
    labels[0, 0, 0] = 3
    index = index_foreground(labels, LabelScheme("classes", None, (0, 1, 2, 3)), seed=0)
    counts = Counter(labels[tuple(index.T)].tolist())
    assert set(counts) == {1, 2, 3}
    assert max(counts.values()) == min(counts.values())


def test_ignored_voxels_are_not_sought():
    labels = labels_with_two_objects()
    index = index_foreground(labels, LabelScheme("objects", 7), seed=0)
    assert set(labels[tuple(index.T)].tolist()) == {1}


def test_without_labels_the_index_is_empty_and_patches_lie_anywhere():
    labels = np.zeros((20, 30, 40), np.uint8)
    index = index_foreground(labels, LabelScheme("objects"), seed=0)
    assert index.shape == (0, 3)
    starts = {place_patch((20, 30, 40), (8, 8, 8), index, 1.0, seed) for seed in range(50)}
    assert len(starts) > 40


def test_patches_lie_inside_and_hold_foreground_when_asked_to():
    labels = labels_with_two_objects()
    index = index_foreground(labels, LabelScheme("objects"), seed=0)
    for seed in range(200):
        start = place_patch(labels.shape, (8, 10, 12), index, 1.0, seed)
        block = tuple(slice(a, a + n) for a, n in zip(start, (8, 10, 12), strict=True))
        assert labels[block].shape == (8, 10, 12)
        assert labels[block].any()


def test_a_volume_smaller_than_the_patch_is_taken_from_its_first_voxel():
    start = place_patch((20, 30, 40), (32, 10, 64), np.zeros((0, 3), np.int32), 0.5, 3)
    assert (start[0], start[2]) == (0, 0)
    assert 0 <= start[1] <= 20
