"""The data check: every pair is read once, and all that is wrong is reported at once, each with its remedy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_celltrain.data.check_rules import (
    alignment_problems,
    image_problems,
    intensity_reason,
    label_problems,
    labels_are_intensities,
    measure_intensities,
    negative_labels,
    sample_planes,
    warning,
)
from napari_celltrain.data.labels import LabelScheme, scheme_for
from napari_celltrain.data.objects import summarize
from napari_celltrain.data.pairs import Pair, open_pair_image, open_pair_labels, pair_files
from napari_celltrain.data.split import DIVISION_CODES, Side, Split, split_cases
from napari_celltrain.io.axes import COLOR_IMAGE, zyx
from napari_celltrain.io.volume import LazyArray, Volume, fingerprint
from napari_celltrain.io.volumes import VolumeCache, find_volumes
from napari_celltrain.values.config import ZYX, DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem, raise_problems
from napari_celltrain.values.text import sizes

_MANY_VALUES = 8
_MAX_SPACING_RATIO = 1.05
_UNKNOWN: ZYX = (0, 0, 0)

Step = tuple[int, int, str]
"""Pairs that are done, all pairs, and the name of the next one."""
Check = Generator[Step, None, "DataReport"]


@dataclass(frozen=True, slots=True)
class PairReport:
    """One pair; what could not be found out, as of a damaged file, is None."""

    pair: Pair
    side: Side | None
    """None where training and validation are still to be split."""
    problems: tuple[Problem, ...] = ()
    shape: ZYX | None = None
    dtype: str | None = None
    label_dtype: str | None = None
    voxel_size: Spacing | None = None
    num_objects: int | None = None
    foreground_fraction: float | None = None
    ignored_fraction: float | None = None
    intensity_range: tuple[float, float] | None = None
    object_extent_median: tuple[float, float, float] | None = None
    """Typical size of an object along z, y and x, in voxels."""
    image_fingerprint: str | None = None
    labels_fingerprint: str | None = None

    @property
    def name(self) -> str:
        return self.pair.name

    @property
    def is_usable(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


@dataclass(frozen=True, slots=True)
class DataReport:
    """All pairs, and all problems: those of pairs, of files without a partner, and of the data as a whole."""

    pairs: tuple[PairReport, ...]
    problems: tuple[Problem, ...]
    scheme: LabelScheme | None = None
    """How the labels are read; None where they cannot be."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def can_be_divided(self) -> bool:
        """Whether enough is known: some pair, and of a single one, which is cut in two, its shape and its labels."""
        if any(problem.code in DIVISION_CODES for problem in self.errors):
            return False  # the check has tried, and reported why not
        if len(self.pairs) == 1:
            return self.pairs[0].shape is not None and self.scheme is not None and not self.errors
        return bool(self.pairs)

    def raise_errors(self) -> None:
        """Raise :class:`DataError` naming every error, if there is any."""
        raise_problems(self.problems, DataError, "The data cannot be used:")


def check_data(
    config: DataConfig, *, patch_size: ZYX | None = None, cache: VolumeCache | None = None, division: bool = True
) -> Check:
    """Read all pairs of ``config``, step by step; returns what they hold and what is wrong, and raises nothing for
    bad data.

    What is decoded stays in ``cache`` for the next reader; without one, each volume is released again. ``patch_size``
    is compared with the size of the objects. With ``division`` a try is made whether the volumes can be divided.
    """
    pairs, problems = _find_pairs(config)
    check = _PairCheck(config, cache or VolumeCache(VolumeCache.default_budget(config)), cache is not None)
    report = yield from _check(check, pairs, problems, patch_size)
    if not division or report.errors or not report.pairs:
        return report
    try:
        # the seed plays no part in whether volumes can be divided
        divide(config, 0, report, lambda pair: check.cache.get(open_pair_labels(pair, config)))
    except DataError as error:
        return replace(report, problems=(*report.problems, *error.problems))
    return report


def check_arrays(config: DataConfig, image: Volume, labels: Volume, *, patch_size: ZYX | None = None) -> Check:
    """As :func:`check_data`, for one image and its labels; settings of ``config`` about files play no part."""
    # chosen by hand, so that the paths are only names
    pair = Pair(image.name, Path("image") / image.name, Path("labels") / labels.name, "chosen in the viewer")
    check = _PairCheck(config, VolumeCache(VolumeCache.default_budget(config)), keep=True, volumes=(image, labels))
    return _check(check, [PairReport(pair, None)], [], patch_size)


def divide(config: DataConfig, seed: int, report: DataReport, read_labels: Callable[[Pair], LazyArray]) -> Split:
    """Divide the pairs of ``report`` as ``config`` says. Raises :class:`DataError` where that cannot be done.

    ``read_labels`` is only called for a single volume, which is cut where both parts have labels.
    """
    own_folder = config.validation_images is not None
    train = [pair for pair in report.pairs if not own_folder or pair.side == "train"]
    validation = [pair.pair for pair in report.pairs if own_folder and pair.side == "validation"]
    return split_cases(
        [pair.pair for pair in train],
        [pair.shape or _UNKNOWN for pair in train],
        config.validation_fraction,
        seed,
        validation_pairs=validation,
        labels=read_labels(train[0].pair) if len(train) == 1 and not own_folder else None,
        scheme=report.scheme,
        fingerprints=[pair.image_fingerprint for pair in train],
    )


# --- the pairs


def _find_pairs(config: DataConfig) -> tuple[list[PairReport], list[Problem]]:
    """All pairs with their side, still to be checked, and the problems of finding and pairing files."""
    if config.images is None or config.labels is None:
        missing = "images" if config.images is None else "labels"
        return [], [Problem(f"no-{missing}", missing, f"No folder of {missing} is given.", "Choose one.")]
    folders: list[tuple[Path, Path, str, Side | None]] = [(config.images, config.labels, "data.", None)]
    if config.validation_images is not None and config.validation_labels is not None:
        folders = [
            (config.images, config.labels, "data.", "train"),
            (config.validation_images, config.validation_labels, "data.validation_", "validation"),
        ]
    pairs: list[PairReport] = []
    problems: list[Problem] = []
    for images, labels, prefix, side in folders:
        try:
            pairing = pair_files(images, labels)
        except DataError as error:
            problems += _unusable({f"{prefix}images": images, f"{prefix}labels": labels}) or error.problems
        else:
            pairs += [PairReport(pair, side) for pair in pairing.pairs]
            problems += pairing.problems
    return pairs, problems


def _unusable(folders: dict[str, Path]) -> list[Problem]:
    """Why the folders of images and labels (by their settings), or one of them, hold no volumes."""
    problems = []
    for folder in dict.fromkeys(folders.values()):
        try:
            find_volumes(folder)
        except DataError as error:
            settings = tuple(setting for setting, path in folders.items() if path == folder)
            problems += [replace(problem, code="no-volumes", settings=settings) for problem in error.problems]
    return problems


def _check(
    check: _PairCheck, pairs: Sequence[PairReport], problems: Sequence[Problem], patch_size: ZYX | None
) -> Check:
    problems = [*problems, *check.find_scheme(pairs)]
    reports = []
    for index, pair in enumerate(pairs):
        yield index, len(pairs), pair.name
        reports.append(check.report(pair))
        problems += reports[-1].problems
    yield len(pairs), len(pairs), ""
    problems += [*_duplicates(reports), *_mixed_voxel_sizes(reports), *large_objects(reports, patch_size)]
    problems += _odd_labels(reports, check)
    return DataReport(tuple(reports), tuple(problems), check.scheme)


@dataclass(slots=True)
class _PairCheck:
    """Checks pair after pair with the same settings."""

    config: DataConfig
    cache: VolumeCache
    keep: bool
    """Whether volumes stay in the cache."""
    volumes: tuple[Volume, Volume] | None = None
    """Image and labels of the only pair, where these are no files."""
    scheme: LabelScheme | None = None
    many_values: bool = False
    """Whether labels that are read as foreground hold many values."""

    def open_labels(self, pair: Pair) -> Volume:
        return self.volumes[1] if self.volumes else open_pair_labels(pair, self.config)

    def find_scheme(self, pairs: Sequence[PairReport]) -> Sequence[Problem]:
        """Set the scheme; for classes all labels are read first, since a class may occur in one volume only."""
        arrays = []
        for report in pairs if self.config.label_kind == "classes" else ():
            try:
                array = self.cache.get(self.open_labels(report.pair))
            except DataError:
                continue  # reported with the pair
            if intensity_reason(sample_planes(array), self.config.ignore_value) is None:
                arrays.append(array)
        if self.config.label_kind == "classes" and not arrays:
            return ()
        try:
            self.scheme = scheme_for(self.config, arrays)
        except DataError as error:
            return error.problems
        return ()

    def report(self, found: PairReport) -> PairReport:
        """``found`` with what its files hold, and what is wrong with them."""
        pair, opened = found.pair, list[Volume]()
        where, where_labels = pair.image.name, pair.labels.name
        if where == where_labels:
            where, where_labels = (f"{path.parent.name}/{path.name}" for path in (pair.image, pair.labels))
        image = None
        try:
            opened.append(self.volumes[0] if self.volumes else open_pair_image(pair, self.config))
            image = self.cache.get(opened[0])
            opened.append(self.open_labels(pair))
            facts = replace(
                found,
                shape=opened[0].shape,
                dtype=opened[0].dtype.name,
                label_dtype=opened[1].dtype.name,
                voxel_size=opened[0].voxel_size,
            )
            if opened[0].shape != opened[1].shape:
                return replace(facts, problems=(_mismatch(where_labels, *opened),))
            return self._measure(facts, where, where_labels, image, self.cache.get(opened[1]))
        except DataError as error:
            if image is not None:
                where = where_labels
                if error.problems[0].code == COLOR_IMAGE:
                    return replace(found, problems=(labels_are_intensities(where, "it is a colour (RGB) image"),))
            problems = (
                # a folder that cannot be read stays named
                replace(each, code="unreadable-file", where=each.where if Path(each.where).is_absolute() else where)
                for each in error.problems
            )
            return replace(found, problems=tuple(problems))
        finally:
            for volume in opened if not self.keep else ():
                self.cache.release(volume)

    def _measure(
        self, facts: PairReport, where: str, where_labels: str, image: LazyArray, labels: LazyArray
    ) -> PairReport:
        scheme = self.scheme or LabelScheme("foreground", self.config.ignore_value)
        intensities = measure_intensities(image)
        problems = image_problems(where, image.dtype, intensities)
        image_is_sound = all(problem.severity == "warning" for problem in problems)
        planes = sample_planes(labels)
        reason = intensity_reason(planes, scheme.ignore_value)
        report = replace(
            facts,
            intensity_range=(intensities.low, intensities.high),
            image_fingerprint=fingerprint(image),
            labels_fingerprint=fingerprint(labels),
        )
        if reason is not None:
            return replace(report, problems=(*problems, labels_are_intensities(where_labels, reason)))
        summary = summarize(labels, scheme)
        problems += label_problems(where_labels, labels, scheme, summary)
        if self.config.label_kind != "classes":  # among classes they are refused
            problems += negative_labels(where_labels, summary)
        if image_is_sound:
            problems += alignment_problems(where_labels, image, labels, scheme)
        self.many_values |= self.config.label_kind == "foreground" and len(np.unique(planes)) > _MANY_VALUES
        return replace(
            report,
            problems=tuple(problems),
            num_objects=summary.num_objects,
            foreground_fraction=summary.foreground_fraction,
            ignored_fraction=summary.ignored_fraction,
            object_extent_median=summary.median_extent,
        )


def _mismatch(where: str, image: Volume, labels: Volume) -> Problem:
    message = f"The labels have {sizes(labels.shape)} voxels (z, y, x), their image {sizes(image.shape)}."
    if sorted(image.shape) == sorted(labels.shape):
        remedy = "Their axes seem to be in another order: save both with the same order, or give the axes."
        return Problem("shape-mismatch", where, message, remedy, settings=("data.axes",))
    remedy = "Check that both are of the same sample, and export them at the same size."
    return Problem("shape-mismatch", where, message, remedy)


# --- the data as a whole


def _duplicates(reports: Sequence[PairReport]) -> Iterator[Problem]:
    same: defaultdict[str | None, list[PairReport]] = defaultdict(list)
    for report in reports:
        same[report.image_fingerprint].append(report)
    for first, *others in (group for mark, group in same.items() if mark is not None and len(group) > 1):
        message = f"The same image is there again as {', '.join(report.pair.image.name for report in others)}"
        if any(report.side != first.side for report in others):
            message += ", in training and in validation: scores would be worthless."
            yield Problem("duplicate-volume", first.pair.image.name, message, "Remove it from one of the folders.")
        else:
            yield warning(
                "duplicate-volume", first.pair.image.name, f"{message}.", "Remove the copies: they count twice."
            )


def _mixed_voxel_sizes(reports: Sequence[PairReport]) -> Iterator[Problem]:
    known = [(report.pair.image.name, report.voxel_size) for report in reports if report.voxel_size is not None]
    voxel_sizes = np.array([size for _, size in known])
    if not known or bool(np.all(voxel_sizes.max(axis=0) <= _MAX_SPACING_RATIO * voxel_sizes.min(axis=0))):
        return
    typical = np.median(voxel_sizes, axis=0)
    name, size = known[int(np.argmax(np.abs(np.log(voxel_sizes / typical)).max(axis=1)))]
    message = (
        f"Voxel sizes differ between images: this one has {sizes(size)} µm (z, y, x), typical is {sizes(typical)} µm."
    )
    remedy = "Bring all images to one voxel size, or give the voxel size if the files are wrong."
    yield warning("mixed-voxel-sizes", name, message, remedy, "data.voxel_size")


def large_objects(reports: Sequence[PairReport], patch_size: ZYX | None) -> list[Problem]:
    """A warning where a typical object does not fit a patch."""
    extents = [report.object_extent_median for report in reports if report.object_extent_median is not None]
    if patch_size is None or not extents:
        return []
    typical = np.median(np.array(extents), axis=0)
    if all(typical <= patch_size):
        return []
    message = (
        f"A typical object spans {sizes(zyx(np.rint(typical)))} voxels (z, y, x), more than a patch of "
        f"{sizes(patch_size)}."
    )
    remedy = "Choose larger patches, so that the network sees whole objects."
    return [warning("objects-larger-than-patch", "patch_size", message, remedy, "augmentation.patch_size")]


def _odd_labels(reports: Sequence[PairReport], check: _PairCheck) -> Iterator[Problem]:
    """What is odd about all labels together."""
    fractions = [report.foreground_fraction for report in reports if report.side != "validation"]
    if fractions and all(fraction == 0 for fraction in fractions):
        message = "No voxel is labelled in any volume, so there is nothing to learn."
        yield Problem("nothing-labelled", "labels", message, "Label some objects, or choose the folder of the labels.")
    if check.many_values:
        message = "The labels hold many values, as if each object had a number of its own, but are read as foreground."
        remedy = "Read the labels as objects, so that objects are counted and scored, too."
        yield warning("labels-look-like-objects", "label_kind", message, remedy, "data.label_kind")
    # where only some voxels were annotated, the ignore value may have been forgotten
    if check.scheme is not None and check.scheme.kind == "classes" and 0 not in check.scheme.class_values:
        message = (
            f"No voxel has the value 0, so the lowest class, {check.scheme.class_values[0]}, counts as background."
        )
        yield warning("no-background-class", "labels", message, "Number the background 0 if it is another class.")
