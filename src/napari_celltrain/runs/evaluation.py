"""How good predictions are, compared with labels: of arrays, of files and folders, of a run's validation volumes.

What each score means, and where its formula comes from, is told in ``docs/scores.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

from napari_celltrain.config import LabelKind, Spacing
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.differences import Difference, WrongObject
from napari_celltrain.engine.metrics import VoxelCounts
from napari_celltrain.engine.object_scores import ObjectScores
from napari_celltrain.errors import Problem
from napari_celltrain.runs.comparison import compare, find_class_values
from napari_celltrain.runs.evaluated_files import FilePair, pair_predictions, read_run

__all__ = ["Evaluation", "VolumeScores", "evaluate", "evaluate_arrays", "evaluate_run", "write_evaluation"]

POOLED = "pooled"
"""Name of the scores of all volumes together."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, name). It may raise, to end the comparison: the exception passes through."""


@dataclass(frozen=True, slots=True)
class VolumeScores:
    """The scores of one volume, or of several added up (``+``), which adds counts and averages nothing."""

    name: str
    voxels: VoxelCounts
    """Has ``dice``, ``iou``, ``precision`` and ``recall``, means over classes; ``of_class(k)`` is the k-th alone."""
    objects: ObjectScores | None
    """None where labels are not objects."""
    class_values: tuple[int, ...] = ()
    """The label value of each class of ``voxels``, background left out; empty unless labels are classes."""
    wrong: tuple[WrongObject, ...] = ()
    """Objects that were not found as labelled, largest first; empty for several volumes."""
    voxel_size: Spacing | None = None

    def __add__(self, other: VolumeScores) -> VolumeScores:
        objects = None
        if self.objects is not None and other.objects is not None:
            objects = self.objects + other.objects
        return VolumeScores(POOLED, self.voxels + other.voxels, objects, self.class_values)

    def wrong_of(self, kind: Difference) -> tuple[WrongObject, ...]:
        """Those of one kind: ``MISSED_OBJECT``, ``FALSE_OBJECT``, ``SPLIT_OBJECT`` or ``MERGED_OBJECTS``."""
        return tuple(found for found in self.wrong if found.kind == kind)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What :func:`evaluate` found; :func:`write_evaluation` writes it."""

    label_kind: LabelKind
    volumes: tuple[VolumeScores, ...]
    pooled: VolumeScores
    problems: tuple[Problem, ...] = ()
    """Warnings, such as of files that have no partner and were left out."""


def evaluate(
    predictions: Path,
    labels: Path,
    *,
    label_kind: LabelKind = "objects",
    ignore_value: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the volumes of two folders, or two files, paired by name as images and labels are.

    Raises :class:`DataError` naming the file, where one cannot be read or has another shape than its partner.
    """
    pairs, problems = pair_predictions(predictions, labels)
    return _evaluate_pairs(pairs, label_kind, ignore_value, (), problems, progress)


def evaluate_run(run: Path, *, progress: Progress | None = None) -> Evaluation:
    """Compare ``validation/*.tif`` of a run folder with the labels that it was validated on.

    Raises :class:`RunFolderError` where these are not there yet, :class:`DataError` where labels cannot be read.
    """
    found = read_run(run)
    return _evaluate_pairs(
        found.pairs, found.label_kind, found.ignore_value, found.class_values, found.problems, progress
    )


def evaluate_arrays(
    truth_ZYX: LazyArray,
    predicted_ZYX: LazyArray,
    voxel_size: Spacing | None = None,
    *,
    name: str = "",
    label_kind: LabelKind = "objects",
    ignore_value: int | None = None,
    class_values: Sequence[int] = (),
    progress: Progress | None = None,
) -> VolumeScores:
    """Compare two arrays of label values (any integer type, 0 background); they are read slab by slab.

    ``class_values`` of kind ``classes``, the background first, are found out where left empty. ``progress`` hears of
    planes. For a picture of what is wrong see :func:`napari_celltrain.data.differences.mark_wrong`. Raises
    :class:`DataError` for other shapes, and for fractions.
    """
    sides = (f"{name} (labels)", f"{name} (prediction)") if name else ("The labels", "The prediction")
    if label_kind == "classes":
        class_values = find_class_values([(truth_ZYX, predicted_ZYX, sides)], ignore_value, class_values)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, name)

    found = compare(truth_ZYX, predicted_ZYX, sides, label_kind, ignore_value, class_values, tell)
    foreground = tuple(class_values[1:]) if label_kind == "classes" else ()
    return VolumeScores(name, found.voxels, found.objects, foreground, found.wrong, voxel_size)


def _evaluate_pairs(
    pairs: Sequence[FilePair],
    label_kind: LabelKind,
    ignore_value: int | None,
    class_values: Sequence[int],
    problems: Sequence[Problem],
    progress: Progress | None,
) -> Evaluation:
    """One volume is in memory at a time, and of it no more than its file makes necessary."""
    if label_kind == "classes":
        volumes = ((*pair.open(), pair.sides) for pair in pairs)
        class_values = find_class_values(volumes, ignore_value, class_values)
    scores = []
    for index, pair in enumerate(pairs):
        if progress is not None:
            progress(index, len(pairs), pair.name)
        truth, predicted = pair.open()
        found = compare(truth, predicted, pair.sides, label_kind, ignore_value, class_values, _silent)
        foreground = tuple(class_values[1:]) if label_kind == "classes" else ()
        scores.append(VolumeScores(pair.name, found.voxels, found.objects, foreground, found.wrong, pair.voxel_size))
    if progress is not None:
        progress(len(pairs), len(pairs), "")
    pooled = replace(reduce(add, scores), name=POOLED, wrong=(), voxel_size=None)
    return Evaluation(label_kind, tuple(scores), pooled, (*problems, *_masks(scores, pairs)))


def _silent(done: int, total: int) -> None:
    return None


def _masks(scores: Iterable[VolumeScores], pairs: Iterable[FilePair]) -> list[Problem]:
    """A mask in which all objects have one number looks like a single, huge object."""
    problems = []
    for score, pair in zip(scores, pairs, strict=True):
        if score.objects is None:
            continue
        counts = (score.objects.num_true, score.objects.num_predicted)
        if min(counts) == 1 and max(counts) > 2:
            message = f"All that is in it has one number, so it counts as one object against {max(counts)}."
            remedy = "If it is a mask, number its objects first, or compare as label kind foreground."
            side = pair.sides[0 if counts[0] == 1 else 1]
            problems.append(Problem("looks-like-mask", side, message, remedy, "warning"))
    return problems


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write ``scores.csv``, ``scores.json`` and ``scores.png`` to ``folder``, which is made; gives their paths.

    Raises :class:`DataError` where that cannot be done.
    """
    from napari_celltrain.runs.score_files import write_scores

    return write_scores(evaluation, folder)
