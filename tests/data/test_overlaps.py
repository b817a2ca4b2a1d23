"""The table of objects and of what they share."""

from __future__ import annotations

import numpy as np
import pytest

from label_pairs import random_pair
from napari_celltrain.data.objects import Overlaps, find_objects, find_overlaps
from napari_celltrain.io import volume


def as_tuples(overlaps: Overlaps) -> set[tuple[int, int, int]]:
    true = overlaps.true.labels[overlaps.true_index].tolist()
    predicted = overlaps.predicted.labels[overlaps.predicted_index].tolist()
    return set(zip(true, predicted, overlaps.shared.tolist(), strict=True))


def by_hand(truth: np.ndarray, predicted: np.ndarray) -> set[tuple[int, int, int]]:
    both = (truth > 0) & (predicted > 0)
    values, counts = np.unique(np.stack([truth[both], predicted[both]]), axis=1, return_counts=True)
    return {(int(t), int(p), int(n)) for t, p, n in zip(*values, counts, strict=True)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("planes", [1, 3, 100])
def test_shared_voxels_of_every_pair(monkeypatch: pytest.MonkeyPatch, seed: int, planes: int) -> None:
    truth, predicted = random_pair(seed)
    monkeypatch.setattr(volume, "SLAB_VOXELS", planes * truth[0].size)
    assert as_tuples(find_overlaps(truth, predicted)) == by_hand(truth, predicted)


@pytest.mark.parametrize("planes", [1, 100])
def test_sizes_boxes_and_centres(monkeypatch: pytest.MonkeyPatch, planes: int) -> None:
    labels, _ = random_pair(5)
    monkeypatch.setattr(volume, "SLAB_VOXELS", planes * labels[0].size)
    table = find_objects(labels)
    assert table.labels.tolist() == sorted(set(np.unique(labels)) - {0})
    for index, label in enumerate(table.labels):
        places = np.argwhere(labels == label)
        assert table.sizes[index] == len(places)
        assert table.starts[index].tolist() == places.min(axis=0).tolist()
        assert table.stops[index].tolist() == (places.max(axis=0) + 1).tolist()
        assert table.centres[index] == pytest.approx(places.mean(axis=0))


@pytest.mark.parametrize("offset", [0, 2**25, 2**40])
def test_labels_may_be_huge(offset: int) -> None:
    truth, predicted = (labels.astype(np.int64) for labels in random_pair(1))
    shifted = np.where(truth > 0, truth + offset, 0)
    assert as_tuples(find_overlaps(shifted, predicted)) == {
        (true + offset, found, shared) for true, found, shared in by_hand(truth, predicted)
    }


def test_negative_labels_are_background() -> None:
    labels = np.array([[[-3, 0, 5, 5]]])
    assert find_objects(labels).labels.tolist() == [5]


def test_no_object_at_all() -> None:
    nothing = np.zeros((2, 3, 3), np.uint8)
    assert len(find_objects(nothing)) == 0
    assert len(find_overlaps(nothing, nothing).shared) == 0


def test_volumes_without_background() -> None:
    full = np.full((2, 2, 2), 9, np.uint16)
    assert as_tuples(find_overlaps(full, full)) == {(9, 9, 8)}
