"""How good predictions are, compared with labels: of arrays, of files and folders, of the validation volumes of a run.

Every score and the source of its formula are explained in ``docs/scores.md``. Comparisons are generators that yield
how far they are, so that a reader may close them; ``values.events.finish`` gives the result alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path

import numpy as np

from napari_celltrain.data.differences import Difference, WrongObject, wrong_objects
from napari_celltrain.data.labels import IGNORE, MAX_CLASSES, LabelScheme, distinct_values, whole_numbers
from napari_celltrain.data.objects import PartOverlaps, add_overlaps, overlaps_in, without_ignored
from napari_celltrain.data.pairs import pair_files
from napari_celltrain.engine.scores import ObjectScores, VoxelCounts, count_voxels, score_objects
from napari_celltrain.io.axes import Region
from napari_celltrain.io.volume import LazyArray, Volume, fingerprint, slabs
from napari_celltrain.io.volumes import open_labels
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.record import read_data
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.errors import DataError, Problem, RunFolderError, each_of, raise_problems
from napari_celltrain.values.events import finish
from napari_celltrain.values.outside import kind_of
from napari_celltrain.values.text import sizes

Step = tuple[int, int, str]
"""How many are done, how many there are, and the name of the next one or of the work."""
POOLED = "pooled"
"""Name of the scores of all volumes together."""


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
        objects = None if self.objects is None or other.objects is None else self.objects + other.objects
        return VolumeScores(POOLED, self.voxels + other.voxels, objects, self.class_values)

    def wrong_of(self, kind: Difference) -> tuple[WrongObject, ...]:
        """Those of one kind: ``MISSED_OBJECT``, ``FALSE_OBJECT``, ``SPLIT_OBJECT`` or ``MERGED_OBJECTS``."""
        return tuple(found for found in self.wrong if found.kind == kind)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all volumes."""

    label_kind: LabelKind
    volumes: tuple[VolumeScores, ...]
    pooled: VolumeScores
    problems: tuple[Problem, ...] = ()
    """Warnings, such as of files that have no partner and were left out."""


def evaluate(
    predictions: Path, labels: Path, *, label_kind: LabelKind = "objects", ignore_value: int | None = None
) -> Generator[Step, None, Evaluation]:
    """Compare the volumes of two folders, or two files, paired by name as images and labels are.

    Raises :class:`DataError` naming the file, where one cannot be read or has another shape than its partner.
    """
    found = pair_files(predictions, labels, only_labels=True)
    paths = [(pair.name, pair.labels, pair.image) for pair in found.pairs]
    if not paths:
        # Words such as _masks are taken off the names of labels alone, and predictions are called so as well.
        swapped = pair_files(labels, predictions, only_labels=True)
        paths = [(pair.name, pair.image, pair.labels) for pair in swapped.pairs]
        found = swapped if paths else found
    raise_problems(found.problems, DataError, "Predictions and labels do not pair up:")
    volumes = each_of(partial(open_labels, path) for _, *both in paths for path in both)
    batched = zip(volumes[::2], volumes[1::2], strict=True)
    pairs = [_Pair.of(path[0], *both) for path, both in zip(paths, batched, strict=True)]
    problems = [*found.problems, *(remark for volume in volumes for remark in volume.remarks)]
    return (yield from _evaluate_pairs(pairs, LabelScheme(label_kind, ignore_value), problems))


def evaluate_run(run: Path) -> Generator[Step, None, Evaluation]:
    """Compare ``validation/*.tif`` of a run folder with the labels that it was validated on.

    Raises :class:`RunFolderError` where these are not there yet, :class:`DataError` where labels cannot be read.
    """
    folder = RunFolder.open(run)
    config = folder.read_config().data
    pairs, problems = [], []
    try:
        record = read_data(folder.data_file)
    except RunFolderError as error:
        raise RunFolderError(
            f"{error} So the labels of this run are unknown. Give its predictions and the labels: celltrain evaluate "
            f"{folder.validation} LABELS."
        ) from error
    files = {case: folder.validation / f"{case.name}.tif" for case in record.validation}
    missing = [case.name for case, path in files.items() if kind_of(path) != "file"]
    if missing or not files:
        lacking = f"of {', '.join(missing[:4])}" if missing else "of volumes"
        raise RunFolderError(
            f"{folder.path} has no predictions {lacking} in its folder validation: they are written when a run "
            "ends. Let it end, or continue it with `celltrain resume`."
        )
    for case, path in files.items():
        labels = open_labels(case.labels, axes=config.axes, voxel_size=config.voxel_size)
        pairs.append(_Pair.of(case.name, labels, open_labels(path), case.region))
        if case.labels_fingerprint not in (None, fingerprint(labels)):
            message = "The labels have changed since the run was made."
            remedy = "The scores are of the labels as they are now."
            problems.append(Problem("labels-changed", labels.where, message, remedy, "warning"))
    scheme = LabelScheme(record.label_kind, config.ignore_value, record.class_values)
    return (yield from _evaluate_pairs(pairs, scheme, problems))


def evaluate_arrays(
    truth_ZYX: LazyArray,
    predicted_ZYX: LazyArray,
    voxel_size: Spacing | None = None,
    *,
    name: str = "",
    label_kind: LabelKind = "objects",
    ignore_value: int | None = None,
) -> Generator[Step, None, VolumeScores]:
    """Compare two arrays of label values (any integer type, 0 background), slab by slab; the steps count planes.

    For a picture of what is wrong see :func:`napari_celltrain.data.differences.mark_wrong`. Raises :class:`DataError`
    for other shapes, and for fractions.
    """
    sides = (f"{name} (labels)", f"{name} (prediction)") if name else ("The labels", "The prediction")
    pair = _Pair(name, sides, lambda: (truth_ZYX, predicted_ZYX), voxel_size)
    return (yield from _compare(pair, _with_classes([pair], LabelScheme(label_kind, ignore_value))))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Labels and a prediction of them."""

    name: str
    sides: tuple[str, str]
    """The names of both in messages."""
    open: Callable[[], tuple[LazyArray, LazyArray]]
    voxel_size: Spacing | None

    @classmethod
    def of(cls, name: str, labels: Volume, prediction: Volume, region: Region | None = None) -> _Pair:
        """Files of which only the headers are read; of the labels, ``region`` was predicted."""
        # with the folder, so that they differ also where both files have one name
        true, guessed = ("/".join(Path(each.path or each.where).parts[-2:]) for each in (labels, prediction))

        def read() -> tuple[LazyArray, LazyArray]:
            """Piece by piece where the files allow it. A region is read whole: it is part of a volume that was small
            enough to be the only one."""
            truth = labels.lazy_or_whole()
            return truth if region is None else truth[region], prediction.lazy_or_whole()

        return cls(name, (true, guessed), read, labels.voxel_size or prediction.voxel_size)


def _evaluate_pairs(
    pairs: Sequence[_Pair], scheme: LabelScheme, problems: Iterable[Problem]
) -> Generator[Step, None, Evaluation]:
    """One volume is in memory at a time, and of it no more than its file makes necessary."""
    scheme = _with_classes(pairs, scheme)
    scores = []
    for index, pair in enumerate(pairs):
        yield index, len(pairs), pair.name
        scores.append(finish(_compare(pair, scheme)))
    yield len(pairs), len(pairs), ""
    pooled = replace(reduce(add, scores), name=POOLED, wrong=(), voxel_size=None)
    return Evaluation(scheme.kind, tuple(scores), pooled, (*problems, *_masks(scores, pairs)))


def _masks(scores: Iterable[VolumeScores], pairs: Iterable[_Pair]) -> Iterator[Problem]:
    """A mask in which all objects have one number looks like a single, huge object."""
    for score, pair in zip(scores, pairs, strict=True):
        counts = (score.objects.num_true, score.objects.num_predicted) if score.objects is not None else (0, 0)
        if min(counts) == 1 and max(counts) > 2:
            message = f"All of its objects have one number, so they count as one object against {max(counts)}."
            remedy = "If it is a mask, number its objects first, or compare as label kind foreground."
            side = pair.sides[counts.index(1)]
            yield Problem("looks-like-mask", side, message, remedy, "warning", ("data.label_kind",))


def _compare(pair: _Pair, scheme: LabelScheme) -> Generator[Step, None, VolumeScores]:
    """Go through both arrays together, once and slab by slab, so that large volumes need little memory."""
    truth_ZYX, predicted_ZYX = pair.open()
    shape, other = tuple(truth_ZYX.shape), tuple(predicted_ZYX.shape)
    if len(shape) != 3:
        raise DataError(Problem("not-3d", pair.sides[0], f"has {len(shape)} axes, and a volume has 3 (z, y, x)."))
    if shape != other:
        message = f"has {sizes(other)} voxels, but {pair.sides[0]} {sizes(shape)}."
        remedy = "They can only be compared voxel by voxel; give the prediction of the same volume."
        raise DataError(Problem("shape-mismatch", pair.sides[1], message, remedy))
    classes, ignored = scheme.class_values, scheme.ignore_value
    order, size = np.argsort(classes), len(classes) or 2
    voxels, parts = VoxelCounts.of(np.zeros((size, size), np.int64)), list[PartOverlaps]()
    for start, slab in slabs(truth_ZYX):
        with _fractions_of(pair.sides[0]):
            truth = whole_numbers(slab)
        with _fractions_of(pair.sides[1]):
            predicted = whole_numbers(np.asarray(predicted_ZYX[start : start + len(slab), :, :]))
        if scheme.kind == "classes":
            true, guessed = (
                order.take(np.searchsorted(classes, values, sorter=order), mode="clip").astype(np.uint8)
                for values in (truth, predicted)
            )
            if ignored is not None:
                true[truth == ignored] = IGNORE
        else:
            truth, predicted = without_ignored(truth, predicted, ignored)
            true, guessed = (truth > 0).view(np.uint8), (predicted > 0).view(np.uint8)
        voxels += count_voxels(true, guessed, size)
        if scheme.kind == "objects":
            parts.append(overlaps_in(start, truth, predicted))
        yield start + len(slab), shape[0], "Comparing"
    scores = VolumeScores(pair.name, voxels, None, classes[1:], voxel_size=pair.voxel_size)
    if scheme.kind != "objects":
        return scores
    overlaps = add_overlaps(parts)
    return replace(scores, objects=score_objects(overlaps), wrong=wrong_objects(overlaps))


def _with_classes(pairs: Iterable[_Pair], scheme: LabelScheme) -> LabelScheme:
    """With all classes, the background first: it is the smallest value of the labels. Where some are known they are
    those, and the other values of the predictions. Raises :class:`DataError` for values that cannot be classes."""
    if scheme.kind != "classes":
        return scheme
    known = scheme.class_values
    true, predicted = set(known), set[int]()
    for pair in pairs:
        truth, prediction = pair.open()
        if not known:
            true |= _values(truth, scheme.ignore_value, pair.sides[0])
        predicted |= _values(prediction, None, pair.sides[1])
    every = _few(true | predicted, "All volumes together")
    background = known[0] if known else min(true, default=0)
    return replace(scheme, class_values=(background, *sorted(every - {background})))


def _values(array: LazyArray, ignore_value: int | None, side: str) -> set[int]:
    with _fractions_of(side):
        values = distinct_values(array, ignore_value, limit=MAX_CLASSES)
    return _few(values, side)


def _few(values: set[int], side: str) -> set[int]:
    if len(values) > MAX_CLASSES:
        message = f"more than {MAX_CLASSES} different values, so these look like objects, not classes."
        remedy = "Compare them as label kind objects."
        raise DataError(Problem("too-many-classes", side, message, remedy, settings=("data.label_kind",)))
    return values


@contextmanager
def _fractions_of(side: str) -> Iterator[None]:
    """Around code that refuses labels that are no whole numbers: names them."""
    try:
        yield
    except DataError as error:
        problem = error.problems[0]
        if problem.code == "nan-or-inf":
            raise DataError(replace(problem, where=side)) from None
        if problem.code != "labels-are-intensities":  # a file may also be damaged
            raise
        message = "holds fractions, where each voxel needs a whole number."
        remedy = "Give labels, not intensities or probabilities."
        raise DataError(Problem("fractions", side, message, remedy)) from None
