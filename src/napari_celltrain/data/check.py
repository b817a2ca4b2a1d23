"""The data check: every pair is read once, and all that is wrong is reported at once, each with its remedy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
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
from napari_celltrain.io.volumes import VolumeCache
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
    def image(self) -> Path:
        return self.pair.image

    @property
    def labels(self) -> Path:
        return self.pair.labels

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
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")

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
    entries, problems = _find_pairs(config)
    check = _PairCheck(config, cache or VolumeCache(VolumeCache.default_budget(config)), cache is not None)
    report = yield from _check(check, entries, problems, patch_size)
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
    check = _PairCheck(config, VolumeCache(VolumeCache.default_budget(config)), keep=True)
    return _check(check, [_Entry(pair, None, (image, labels))], [], patch_size)


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


@dataclass(frozen=True, slots=True)
class _Entry:
    """A pair to check; ``volumes`` are its image and labels where these are no files."""

    pair: Pair
    side: Side | None
    volumes: tuple[Volume, Volume] | None = None

    @property
    def names(self) -> tuple[str, str]:
        """What problems call the image and the labels: by the file's name, and its folder where both have one name."""
        image, labels = self.pair.image, self.pair.labels
        if image.name != labels.name:
            return image.name, labels.name
        return f"{image.parent.name}/{image.name}", f"{labels.parent.name}/{labels.name}"

    def open_image(self, config: DataConfig) -> Volume:
        return self.volumes[0] if self.volumes else open_pair_image(self.pair, config)

    def open_labels(self, config: DataConfig) -> Volume:
        return self.volumes[1] if self.volumes else open_pair_labels(self.pair, config)


def _find_pairs(config: DataConfig) -> tuple[list[_Entry], list[Problem]]:
    """All pairs with their side, and the problems of finding and pairing files."""
    if config.images is None or config.labels is None:
        missing = "images" if config.images is None else "labels"
        return [], [Problem(f"no-{missing}", missing, f"No folder of {missing} is given.", "Choose one.")]
    if config.validation_images is None or config.validation_labels is None:
        return _pair_folders(config.images, config.labels, None)
    training, problems = _pair_folders(config.images, config.labels, "train")
    validation, more = _pair_folders(config.validation_images, config.validation_labels, "validation")
    return training + validation, problems + more


def _pair_folders(images: Path, labels: Path, side: Side | None) -> tuple[list[_Entry], list[Problem]]:
    try:
        pairing = pair_files(images, labels)
    except DataError as error:
        return [], [replace(problem, code="no-volumes") for problem in error.problems]
    return [_Entry(pair, side) for pair in pairing.pairs], list(pairing.problems)


def _check(check: _PairCheck, entries: Sequence[_Entry], problems: Sequence[Problem], patch_size: ZYX | None) -> Check:
    scheme_problems = check.find_scheme(entries)
    reports = []
    for index, entry in enumerate(entries):
        yield index, len(entries), entry.pair.name
        reports.append(check.report(entry))
    yield len(entries), len(entries), ""
    problems = [*problems, *scheme_problems, *(problem for report in reports for problem in report.problems)]
    problems += [*_duplicates(reports), *_mixed_voxel_sizes(reports), *large_objects(reports, patch_size)]
    problems += _nothing_labelled(reports)
    if check.many_values:
        message = "The labels hold many values, as if each object had a number of its own, but are read as foreground."
        remedy = "Read the labels as objects, so that objects are counted and scored, too."
        problems.append(warning("labels-look-like-objects", "label_kind", message, remedy, "data.label_kind"))
    return DataReport(tuple(reports), (*problems, *_no_background_class(check.scheme)), check.scheme)


@dataclass(slots=True)
class _PairCheck:
    """Checks pair after pair with the same settings."""

    config: DataConfig
    cache: VolumeCache
    keep: bool
    """Whether volumes stay in the cache."""
    scheme: LabelScheme | None = None
    many_values: bool = False
    """Whether labels that are read as foreground hold many values."""

    def find_scheme(self, entries: Sequence[_Entry]) -> list[Problem]:
        """Set the scheme; for classes all labels are read first, since a class may occur in one volume only."""
        arrays = []
        for entry in entries if self.config.label_kind == "classes" else ():
            try:
                array = self.cache.get(entry.open_labels(self.config))
            except DataError:
                continue  # reported with the pair
            if intensity_reason(sample_planes(array), self.config.ignore_value) is None:
                arrays.append(array)
        if self.config.label_kind == "classes" and not arrays:
            return []
        try:
            self.scheme = scheme_for(self.config, arrays)
        except DataError as error:
            return list(error.problems)
        return []

    def report(self, entry: _Entry) -> PairReport:
        opened: list[Volume] = []
        where, where_labels = entry.names
        try:
            opened.append(entry.open_image(self.config))
            image = self.cache.get(opened[0])
            where = where_labels
            opened.append(entry.open_labels(self.config))
            if opened[0].shape != opened[1].shape:
                return replace(_facts(entry, *opened), problems=(_mismatch(where, *opened),))
            return self._measure(entry, (opened[0], opened[1]), image, self.cache.get(opened[1]))
        except DataError as error:
            if where == where_labels and error.problems[0].code == COLOR_IMAGE:
                return PairReport(
                    entry.pair, entry.side, (labels_are_intensities(where, "it is a colour (RGB) image"),)
                )
            problems = (
                # a folder that cannot be read stays named
                replace(found, code="unreadable-file", where=found.where if Path(found.where).is_absolute() else where)
                for found in error.problems
            )
            return PairReport(entry.pair, entry.side, tuple(problems))
        finally:
            for volume in opened if not self.keep else ():
                self.cache.release(volume)

    def _measure(
        self, entry: _Entry, volumes: tuple[Volume, Volume], image: LazyArray, labels: LazyArray
    ) -> PairReport:
        scheme = self.scheme or LabelScheme("foreground", self.config.ignore_value)
        where, where_labels = entry.names
        intensities = measure_intensities(image)
        problems = image_problems(where, image.dtype, intensities)
        image_is_sound = all(problem.severity == "warning" for problem in problems)
        planes = sample_planes(labels)
        reason = intensity_reason(planes, scheme.ignore_value)
        report = replace(
            _facts(entry, *volumes),
            intensity_range=(intensities.low, intensities.high),
            image_fingerprint=fingerprint(volumes[0], image),
            labels_fingerprint=fingerprint(volumes[1], labels),
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


def _facts(entry: _Entry, image: Volume, labels: Volume) -> PairReport:
    """What the headers say."""
    return PairReport(
        entry.pair,
        entry.side,
        shape=image.shape,
        dtype=image.dtype.name,
        label_dtype=labels.dtype.name,
        voxel_size=image.voxel_size,
    )


def _mismatch(where: str, image: Volume, labels: Volume) -> Problem:
    message = f"The labels have {sizes(labels.shape)} voxels (z, y, x), their image {sizes(image.shape)}."
    if sorted(image.shape) == sorted(labels.shape):
        remedy = "Their axes seem to be in another order: save both with the same order, or give the axes."
        return Problem("shape-mismatch", where, message, remedy, settings=("data.axes",))
    remedy = "Check that both are of the same sample, and export them at the same size."
    return Problem("shape-mismatch", where, message, remedy)


# --- the data as a whole


def _duplicates(reports: Sequence[PairReport]) -> list[Problem]:
    same: defaultdict[str, list[PairReport]] = defaultdict(list)
    for report in reports:
        if report.image_fingerprint is not None:
            same[report.image_fingerprint].append(report)
    problems = []
    for group in same.values():
        if len(group) < 2:
            continue
        where = group[0].image.name
        message = f"The same image is there again as {', '.join(report.image.name for report in group[1:])}"
        if len({report.side for report in group}) > 1:
            message += ", in training and in validation: scores would be worthless."
            problems.append(Problem("duplicate-volume", where, message, "Remove it from one of the folders."))
        else:
            problems.append(warning("duplicate-volume", where, f"{message}.", "Remove the copies: they count twice."))
    return problems


def _mixed_voxel_sizes(reports: Sequence[PairReport]) -> list[Problem]:
    known = [(report.image.name, report.voxel_size) for report in reports if report.voxel_size is not None]
    voxel_sizes = np.array([size for _, size in known])
    if not known or bool(np.all(voxel_sizes.max(axis=0) <= _MAX_SPACING_RATIO * voxel_sizes.min(axis=0))):
        return []
    typical = np.median(voxel_sizes, axis=0)
    name, size = known[int(np.argmax(np.abs(np.log(voxel_sizes / typical)).max(axis=1)))]
    message = (
        f"Voxel sizes differ between images: this one has {sizes(size)} µm (z, y, x), typical is {sizes(typical)} µm."
    )
    remedy = "Bring all images to one voxel size, or give the voxel size if the files are wrong."
    return [warning("mixed-voxel-sizes", name, message, remedy, "data.voxel_size")]


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


def _nothing_labelled(reports: Sequence[PairReport]) -> list[Problem]:
    fractions = [report.foreground_fraction for report in reports if report.side != "validation"]
    if not fractions or any(fraction is None or fraction > 0 for fraction in fractions):
        return []
    message = "No voxel is labelled in any volume, so there is nothing to learn."
    return [Problem("nothing-labelled", "labels", message, "Label some objects, or choose the folder of the labels.")]


def _no_background_class(scheme: LabelScheme | None) -> list[Problem]:
    """Classes without the value 0: where only some voxels were annotated, the ignore value may have been forgotten."""
    if scheme is None or scheme.kind != "classes" or 0 in scheme.class_values:
        return []
    message = f"No voxel has the value 0, so the lowest class, {scheme.class_values[0]}, counts as background."
    return [warning("no-background-class", "labels", message, "Number the background 0 if it is another class.")]
