"""Scores of objects against StarDist's and py-ctcmetrics', and by hand where these leave something open."""

from __future__ import annotations

from functools import cache, reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import tifffile

from label_pairs import line, random_pair
from napari_celltrain.data.objects import find_overlaps
from napari_celltrain.engine.scores import THRESHOLDS, ObjectScores, count_objects, score_objects

SEEDS = range(12)
EMPTY = np.zeros((10, 28, 28), np.uint16)


def scores_of(truth: np.ndarray, predicted: np.ndarray) -> ObjectScores:
    return score_objects(find_overlaps(truth, predicted))


@cache
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    found = [random_pair(seed) for seed in SEEDS]
    return [*found, (found[0][0], EMPTY), (EMPTY, found[0][1]), (found[1][0], found[1][0])]


def test_random_pairs_hold_mistakes_of_all_sizes() -> None:
    """Otherwise the comparisons below would show nothing."""
    f1s = [[scores_of(*pair).at(threshold).f1 for threshold in THRESHOLDS] for pair in pairs()[: len(SEEDS)]]
    assert 0.1 < np.mean(f1s) < 0.9
    assert all(row[0] > row[-1] for row in f1s)


class TestAgainstStarDist:
    @pytest.fixture(autouse=True)
    def matching(self):
        self.stardist = pytest.importorskip("stardist.matching", reason="StarDist has no build for this Python")

    @pytest.mark.parametrize("threshold", THRESHOLDS)
    def test_objects_found(self, threshold: float) -> None:
        for truth, predicted in pairs():
            theirs = self.stardist.matching(truth, predicted, thresh=threshold)
            ours = scores_of(truth, predicted).at(threshold)
            assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
            assert (ours.f1, ours.precision, ours.recall, ours.average_precision) == pytest.approx(
                (theirs.f1, theirs.precision, theirs.recall, theirs.accuracy)
            )

    def test_panoptic_quality(self) -> None:
        for truth, predicted in pairs():
            # StarDist asks for at least as much, in single precision
            above_half = self.stardist.matching(truth, predicted, thresh=0.5 + 1e-6)
            ours = scores_of(truth, predicted)
            assert ours.panoptic_quality == pytest.approx(above_half.panoptic_quality)
            assert ours.segmentation_quality == pytest.approx(above_half.mean_matched_score)
            assert ours.recognition_quality == pytest.approx(above_half.f1)

    def test_pooled(self) -> None:
        truths, predictions = zip(*pairs(), strict=True)
        ours = reduce(add, map(scores_of, truths, predictions))
        theirs = [
            self.stardist.matching_dataset(truths, predictions, thresh=threshold, show_progress=False)
            for threshold in THRESHOLDS
        ]
        assert [counts.f1 for counts in ours.counts] == pytest.approx([each.f1 for each in theirs])
        assert ours.mean_average_precision == pytest.approx(np.mean([each.accuracy for each in theirs]))
        assert (ours.num_true, ours.num_predicted) == (theirs[0].n_true, theirs[0].n_pred)


def seg_of_ctcmetrics(folder: Path, truth: np.ndarray, predicted: np.ndarray) -> tuple[list[int], list[float]]:
    """Labels of the truth, and the Jaccard indices of those that are matched."""
    from ctc_metrics.utils.representations import match

    files = [folder / "truth.tif", folder / "predicted.tif"]
    for file, labels in zip(files, (truth, predicted), strict=True):
        tifffile.imwrite(file, labels)
    labels_of_truth, _, _, _, jaccard = match(str(files[0]), str(files[1]))
    return labels_of_truth, jaccard


def test_seg_against_ctcmetrics(tmp_path: Path) -> None:
    from ctc_metrics.metrics import seg

    with_truth = [pair for pair in pairs() if pair[0].any()]
    theirs = [seg_of_ctcmetrics(tmp_path, *pair) for pair in with_truth]
    for pair, (labels, jaccard) in zip(with_truth, theirs, strict=True):
        assert scores_of(*pair).seg == pytest.approx(seg([labels], [jaccard]))
    pooled = reduce(add, (scores_of(*pair) for pair in with_truth))
    assert pooled.seg == pytest.approx(seg([labels for labels, _ in theirs], [jaccard for _, jaccard in theirs]))


def test_one_prediction_over_two_objects_counts_for_both_in_seg_and_for_one_in_f1() -> None:
    scores = scores_of(line((1, 4), (2, 2), (0, 4)), line((7, 6), (0, 4)))
    assert scores.seg == pytest.approx((4 / 6 + 2 / 6) / 2)
    assert scores.at(0.5).tp == 1


def test_half_an_object_is_not_covered() -> None:
    assert scores_of(line((1, 4)), line((1, 2), (0, 2))).seg == 0.0


def test_exactly_half_overlaps_count_at_half_but_not_in_the_panoptic_quality() -> None:
    scores = scores_of(line((1, 4)), line((1, 2), (2, 2)))
    assert (scores.at(0.5).tp, scores.at(0.5).fp) == (1, 1)
    assert scores.panoptic_quality == 0.0


def test_nothing_to_find_and_nothing_found_is_perfect_but_has_no_seg() -> None:
    scores = scores_of(EMPTY, EMPTY)
    assert scores.mean_average_precision == scores.panoptic_quality == scores.at(0.9).precision == 1.0
    assert scores.seg is None


def test_counts_objects_too_many_and_too_few() -> None:
    assert scores_of(line((1, 2), (0, 1), (2, 2)), line((1, 2), (0, 3))).count_error == -1
    assert scores_of(EMPTY, random_pair(0)[1]).count_error > 0


def test_the_first_threshold_is_the_f1_of_training() -> None:
    for truth, predicted in pairs():
        assert scores_of(truth, predicted).at(0.5) == count_objects(truth, predicted)
