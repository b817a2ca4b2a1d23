"""The data check: every pair is read once, and all that is wrong is reported at once, each with its remedy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_celltrain.data import check_rules as rules
from napari_celltrain.data.labels import LabelScheme, not_finite, scheme_for
from napari_celltrain.data.objects import summarize
from napari_celltrain.data.pairs import Pair, open_pair_image, open_pair_labels, pair_files
from napari_celltrain.data.split import DIVISION_CODES, Side, Split, split_cases
from napari_celltrain.io.axes import COLOR_IMAGE, zyx
from napari_celltrain.io.volume import LazyArray, Volume, called, fingerprint
from napari_celltrain.io.volumes import VolumeCache, find_volumes
from napari_celltrain.values.config import ZYX, DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem, raise_problems
from napari_celltrain.values.text import sizes

_MANY_VALUES = 8
_MAX_SPACING_RATIO = 1.05

Step = tuple[int, int, str]
"""Pairs that are done, all pairs, and the name of the next one."""
Check = Generator[Step, None, "DataReport"]


@dataclass(slots=True)
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
    check = _Check(config, cache or VolumeCache(VolumeCache.default_budget(config)), cache is not None)
    report = yield from check.run(pairs, problems, patch_size)
    if not division or report.errors or not report.pairs:
        return report
    try:
        # the seed plays no part in whether volumes can be divided
        divide(config, 0, report, lambda pair: check.cache.get(open_pair_labels(pair, config)))
    except DataError as error:
        return replace(report, problems=(*report.problems, *error.problems))
    return report


def check_arrays(config: DataConfig, image: Volume, labels: Volume) -> Check:
    """As :func:`check_data`, for one image and its labels; settings of ``config`` about files play no part."""
    # chosen by hand, so that the paths are only names
    pair = Pair(image.name, Path("image") / image.name, Path("labels") / labels.name, "chosen in the viewer")
    check = _Check(config, VolumeCache(VolumeCache.default_budget(config)), keep=True, volumes=(image, labels))
    return check.run([PairReport(pair, None)], [], None)


def divide(config: DataConfig, seed: int, report: DataReport, read_labels: Callable[[Pair], LazyArray]) -> Split:
    """Divide the pairs of ``report`` as ``config`` says. Raises :class:`DataError` where that cannot be done.

    ``read_labels`` is only called for a single volume, which is cut where both parts have labels.
    """
    own_folder = config.validation_images is not None
    train = [pair for pair in report.pairs if not own_folder or pair.side == "train"]
    validation = [pair.pair for pair in report.pairs if own_folder and pair.side == "validation"]
    return split_cases(
        [pair.pair for pair in train],
        [pair.shape or (0, 0, 0) for pair in train],
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
    folders: list[tuple[Side, str, Path, Path]] = [("train", "data.", config.images, config.labels)]
    if config.validation_images is not None and config.validation_labels is not None:
        folders.append(("validation", "data.validation_", config.validation_images, config.validation_labels))
    pairs: list[PairReport] = []
    problems: list[Problem] = []
    for side, prefix, images, labels in folders:
        try:
            pairing = pair_files(images, labels)
        except DataError as error:
            problems += _unusable({f"{prefix}images": images, f"{prefix}labels": labels}) or error.problems
        else:
            pairs += [PairReport(pair, side if len(folders) > 1 else None) for pair in pairing.pairs]
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


@dataclass(slots=True)
class _Check:
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

    def run(self, pairs: Sequence[PairReport], problems: Sequence[Problem], patch_size: ZYX | None) -> Check:
        problems = [*problems, *self._find_scheme(pairs)]
        for index, pair in enumerate(pairs):
            yield index, len(pairs), pair.name
            self._examine(pair)
            problems += pair.problems
        yield len(pairs), len(pairs), ""
        problems += [*_duplicates(pairs), *_mixed_voxel_sizes(pairs), *large_objects(pairs, patch_size)]
        problems += self._odd_labels(pairs)
        return DataReport(tuple(pairs), tuple(problems), self.scheme)

    def _open_labels(self, pair: Pair) -> Volume:
        return self.volumes[1] if self.volumes else open_pair_labels(pair, self.config)

    def _find_scheme(self, pairs: Sequence[PairReport]) -> Sequence[Problem]:
        """Set the scheme; for classes all labels are read first, since a class may occur in one volume only."""
        arrays = []
        for report in pairs if self.config.label_kind == "classes" else ():
            with suppress(DataError):  # reported with the pair
                array = self.cache.get(self._open_labels(report.pair))
                reason = rules.intensity_reason(rules.sample_planes(array), self.config.ignore_value)
                if reason is None and not rules.count_not_finite(array):
                    arrays.append(array)
        if self.config.label_kind == "classes" and not arrays:
            return ()
        try:
            self.scheme = scheme_for(self.config, arrays)
        except DataError as error:
            return error.problems
        return ()

    def _examine(self, report: PairReport) -> None:
        """Add what the files of a pair hold, and what is wrong with them."""
        pair, opened = report.pair, list[Volume]()
        where, where_labels = pair.image.name, called(pair.labels)
        if where == where_labels:
            where, where_labels = (f"{path.parent.name}/{path.name}" for path in (pair.image, pair.labels))
        image = None
        try:
            opened.append(self.volumes[0] if self.volumes else open_pair_image(pair, self.config))
            image = self.cache.get(opened[0])
            opened.append(self._open_labels(pair))
            report.problems = tuple(dict.fromkeys(remark for volume in opened for remark in volume.remarks))
            report.shape, report.voxel_size = opened[0].shape, opened[0].voxel_size
            report.dtype, report.label_dtype = (volume.dtype.name for volume in opened)
            if opened[0].shape == opened[1].shape:
                self._measure(report, where, where_labels, image, self.cache.get(opened[1]))
            else:
                report.problems += (_mismatch(where_labels, *opened),)
        except DataError as error:
            if image is not None:
                where = where_labels
            if image is not None and error.problems[0].code == COLOR_IMAGE:
                report.problems = (rules.labels_are_intensities(where, "it is a colour (RGB) image"),)
                return
            report.problems = tuple(
                # a folder that cannot be read stays named
                replace(each, code="unreadable-file", where=each.where if Path(each.where).is_absolute() else where)
                for each in error.problems
            )
        finally:
            for volume in opened if not self.keep else ():
                self.cache.release(volume)

    def _measure(self, report: PairReport, where: str, where_labels: str, image: LazyArray, labels: LazyArray) -> None:
        scheme = self.scheme or LabelScheme("foreground", self.config.ignore_value)
        problems, report.intensity_range = rules.intensity_problems(where, image)
        image_is_sound = all(problem.severity == "warning" for problem in problems)
        planes = rules.sample_planes(labels)
        reason = rules.intensity_reason(planes, scheme.ignore_value)
        report.image_fingerprint, report.labels_fingerprint = fingerprint(image), fingerprint(labels)
        if reason is not None:
            report.problems += (*problems, rules.labels_are_intensities(where_labels, reason))
            return
        if num_odd := rules.count_not_finite(labels):
            report.problems += (*problems, not_finite(num_odd, where_labels))
            return
        summary = summarize(labels, scheme)
        problems += rules.label_problems(where_labels, labels, self.config, summary)
        if image_is_sound:
            problems += rules.alignment_problems(where_labels, image, labels, scheme)
        self.many_values |= self.config.label_kind == "foreground" and len(np.unique(planes)) > _MANY_VALUES
        report.problems += tuple(problems)
        report.num_objects, report.object_extent_median = summary.num_objects, summary.median_extent
        report.foreground_fraction, report.ignored_fraction = summary.foreground_fraction, summary.ignored_fraction

    def _odd_labels(self, pairs: Sequence[PairReport]) -> Iterator[Problem]:
        """What is odd about all labels together."""
        fractions = [pair.foreground_fraction for pair in pairs if pair.side != "validation"]
        if fractions and all(fraction == 0 for fraction in fractions):
            message = "No voxel is labelled in any volume, so there is nothing to learn."
            remedy = "Label some objects, or choose the folder of the labels."
            yield Problem("nothing-labelled", "labels", message, remedy)
        if self.many_values:
            message = "The labels hold many values, as if each object had a number of its own, but are read as"
            remedy = "Read the labels as objects, so that objects are counted and scored, too."
            yield rules.warning(
                "labels-look-like-objects", "label_kind", f"{message} foreground.", remedy, "data.label_kind"
            )
        # where only some voxels were annotated, the ignore value may have been forgotten
        lowest = self.scheme.class_values[0] if self.scheme and self.scheme.kind == "classes" else 0
        if lowest != 0:
            message = f"No voxel has the value 0, so the lowest class, {lowest}, counts as background."
            yield rules.warning(
                "no-background-class", "labels", message, "Number the background 0 if it is another class."
            )


def _mismatch(where: str, image: Volume, labels: Volume) -> Problem:
    message = f"The labels have {sizes(labels.shape)} voxels (z, y, x), their image {sizes(image.shape)}."
    if sorted(image.shape) == sorted(labels.shape):
        remedy = "Their axes seem to be in another order: save both with the same order, or give the axes."
        return Problem("shape-mismatch", where, message, remedy, settings=("data.axes",))
    remedy = "Check that both are of the same sample, and export them at the same size."
    return Problem("shape-mismatch", where, message, remedy)


# --- the data as a whole


def _duplicates(pairs: Sequence[PairReport]) -> Iterator[Problem]:
    same: defaultdict[str | None, list[PairReport]] = defaultdict(list)
    for pair in pairs:
        same[pair.image_fingerprint].append(pair)
    for first, *others in (group for mark, group in same.items() if mark is not None and len(group) > 1):
        where, names = first.pair.image.name, ", ".join(pair.pair.image.name for pair in others)
        message = f"The same image is there again as {names}"
        if any(pair.side != first.side for pair in others):
            message += ", in training and in validation: scores would be worthless."
            yield Problem("duplicate-volume", where, message, "Remove it from one of the folders.")
        else:
            yield rules.warning("duplicate-volume", where, f"{message}.", "Remove the copies: they count twice.")


def _mixed_voxel_sizes(pairs: Sequence[PairReport]) -> Iterator[Problem]:
    known = [(pair.pair.image.name, pair.voxel_size) for pair in pairs if pair.voxel_size is not None]
    voxel_sizes = np.array([size for _, size in known])
    if not known or bool(np.all(voxel_sizes.max(axis=0) <= _MAX_SPACING_RATIO * voxel_sizes.min(axis=0))):
        return
    typical = np.median(voxel_sizes, axis=0)
    name, size = known[int(np.argmax(np.abs(np.log(voxel_sizes / typical)).max(axis=1)))]
    message = f"Voxel sizes differ between images: this one has {sizes(size)} µm (z, y, x), typical is {sizes(typical)}"
    remedy = "Bring all images to one voxel size, or give the voxel size if the files are wrong."
    yield rules.warning("mixed-voxel-sizes", name, f"{message} µm.", remedy, "data.voxel_size")


def large_objects(pairs: Sequence[PairReport], patch_size: ZYX | None) -> list[Problem]:
    """A warning where a typical object does not fit a patch."""
    extents = [pair.object_extent_median for pair in pairs if pair.object_extent_median is not None]
    if patch_size is None or not extents:
        return []
    typical = np.median(np.array(extents), axis=0)
    if all(typical <= patch_size):
        return []
    spanned = sizes(zyx(np.rint(typical)))
    message = f"A typical object spans {spanned} voxels (z, y, x), more than a patch of {sizes(patch_size)}."
    remedy = "Choose larger patches, so that the network sees whole objects."
    return [rules.warning("objects-larger-than-patch", "patch_size", message, remedy, "augmentation.patch_size")]
