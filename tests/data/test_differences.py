"""Where a prediction differs from the labels."""

from __future__ import annotations

import numpy as np
import pytest

from label_pairs import line, random_pair
from napari_celltrain.data.differences import (
    Difference,
    ObjectComparison,
    compare_voxels,
    mark_wrong,
    wrong_objects,
)
from napari_celltrain.data.labels import IGNORE
from napari_celltrain.data.objects import find_overlaps
from napari_celltrain.engine.scores import count_objects


def kinds(differences: np.ndarray) -> list[Difference]:
    return [Difference(value) for value in np.unique(differences) if value]


def test_voxels_are_missed_false_of_a_wrong_class_or_ignored() -> None:
    target = np.array([[[0, 0, 1, 1, 1, IGNORE, 2]]], np.uint8)
    predicted = np.array([[[0, 1, 0, 1, 2, 1, 0]]], np.uint8)
    expected = [
        Difference.NONE,
        Difference.FALSE_VOXEL,
        Difference.MISSED_VOXEL,
        Difference.NONE,
        Difference.WRONG_CLASS,
        Difference.NONE,
        Difference.MISSED_VOXEL,
    ]
    assert compare_voxels(target, predicted).ravel().tolist() == expected


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (line((1, 9), (0, 3)), line((7, 9), (0, 3)), []),
        (line((1, 9), (0, 3)), line((7, 8), (0, 4)), [Difference.MISSED_VOXEL]),
        (line((1, 9), (0, 3)), line((0, 12)), [Difference.MISSED_OBJECT]),
        (line((0, 12)), line((1, 9), (0, 3)), [Difference.FALSE_OBJECT]),
        (line((1, 6), (2, 6)), line((3, 12)), [Difference.MERGED_OBJECTS]),
        (line((1, 12)), line((1, 5), (0, 2), (2, 5)), [Difference.SPLIT_OBJECT]),
        (line((1, 4), (2, 8)), line((3, 12)), [Difference.MERGED_OBJECTS]),  # one of the two counts as found
        (line((1, 12)), line((1, 8), (0, 1), (2, 3)), [Difference.MISSED_VOXEL, Difference.SPLIT_OBJECT]),
        (line((1, 12)), line((1, 11), (2, 1)), [Difference.FALSE_OBJECT]),  # a speck is no half
    ],
    ids=["equal", "edge", "missed", "false", "merged", "split", "small one merged", "piece beside", "speck"],
)
def test_objects(truth: np.ndarray, predicted: np.ndarray, expected: list[Difference]) -> None:
    assert kinds(ObjectComparison(truth, predicted).differences()) == expected


def test_whole_objects_are_marked_but_not_the_gap_between_merged_ones() -> None:
    truth, predicted = line((1, 4), (0, 1), (2, 4)), line((1, 9))
    marks = ObjectComparison(truth, predicted).differences().ravel()
    assert set(marks[truth.ravel() > 0]) == {Difference.MERGED_OBJECTS}
    assert marks[4] == Difference.FALSE_VOXEL


def test_marks_explain_the_objects_of_the_f1() -> None:
    """Whatever the volumes: those labelled objects are marked whole that the F1 does not count as found."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        truth = np.repeat(rng.integers(0, 4, 12), rng.integers(1, 9))[None, None].astype(np.int32)
        predicted = np.roll(truth, rng.integers(0, 3), axis=2) * rng.integers(0, 2, truth.shape).astype(np.int32)
        marks = ObjectComparison(truth, predicted).differences()
        whole = (Difference.MISSED_OBJECT, Difference.SPLIT_OBJECT, Difference.MERGED_OBJECTS)
        marked = sum(bool(np.isin(marks[truth == n], whole).all()) for n in np.unique(truth) if n)
        found = len(set(np.unique(truth)) - {0}) - marked
        assert found == count_objects(truth, predicted, min_iou=0.5 + 1e-9).tp


def test_wrong_objects_are_listed_with_what_they_share() -> None:
    truth = line((1, 4), (2, 5), (0, 3), (8, 2), (0, 4))
    predicted = line((30, 9), (0, 7), (40, 1), (0, 1))
    found = {each.kind: each for each in wrong_objects(find_overlaps(truth, predicted)) if each.label != 2}
    merged, missed, false = (
        found[kind] for kind in (Difference.MERGED_OBJECTS, Difference.MISSED_OBJECT, Difference.FALSE_OBJECT)
    )
    assert (missed.kind, missed.side, missed.label) == (Difference.MISSED_OBJECT, "labels", 8)
    assert (missed.start_zyx, missed.stop_zyx, missed.centre_zyx) == ((0, 0, 12), (1, 1, 14), (0.0, 0.0, 12.5))
    assert (false.kind, false.side, false.label, false.partners) == (Difference.FALSE_OBJECT, "prediction", 40, ())
    assert (merged.kind, merged.label, merged.partners) == (Difference.MERGED_OBJECTS, 1, (30,))
    assert merged.best_iou == pytest.approx(4 / 9)


def test_a_split_object_names_its_pieces_and_they_name_it() -> None:
    found = wrong_objects(find_overlaps(line((1, 12)), line((5, 4), (0, 1), (6, 5), (0, 2))))
    assert [(each.side, each.label, each.partners) for each in found] == [
        ("labels", 1, (6, 5)),
        ("prediction", 6, (1,)),
        ("prediction", 5, (1,)),
    ]
    assert {each.kind for each in found} == {Difference.SPLIT_OBJECT}


def test_wrong_objects_are_marked_as_a_comparison_marks_them() -> None:
    for seed in range(5):
        truth, predicted = (labels.astype(np.int32) for labels in random_pair(seed))
        whole = ObjectComparison(truth, predicted).differences()
        whole[whole < Difference.MISSED_OBJECT] = Difference.NONE
        wrong = wrong_objects(find_overlaps(truth, predicted))
        assert wrong
        assert np.array_equal(mark_wrong(truth, predicted, wrong), whole)


def test_nothing_is_marked_where_nobody_annotated() -> None:
    truth, predicted = line((9, 3), (1, 3)), line((5, 3), (0, 3))
    wrong = wrong_objects(find_overlaps(np.where(truth == 9, 0, truth), predicted))
    assert mark_wrong(truth, predicted, wrong, ignore_value=9).ravel().tolist() == [0, 0, 0, 4, 4, 4]


def test_predicted_objects_take_the_numbers_of_the_labels() -> None:
    truth, predicted = line((5, 4), (0, 2), (9, 4), (0, 4)), line((2, 4), (0, 2), (1, 3), (0, 3), (3, 2))
    numbered = ObjectComparison(truth, predicted).matched().ravel()
    assert set(numbered[:4]) == {5}
    assert set(numbered[6:9]) == {9}
    assert set(numbered[12:14]) == {10}
    assert np.array_equal(numbered > 0, predicted.ravel() > 0)


def test_nothing_at_all() -> None:
    empty = np.zeros((2, 3, 4), np.int32)
    assert not ObjectComparison(empty, empty).differences().any()
    assert not ObjectComparison(empty, empty).matched().any()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        compare_voxels(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 4), np.uint8))
