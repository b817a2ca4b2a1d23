"""Looking at one pair: what it holds and what is wrong with it.

The data check: every pair is read once, and all that is wrong is said at once, with the way out.

The data check of one pair that lies in memory, such as layers of a viewer, instead of in files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_celltrain.data.check_rules import (
    alignment_problems,
    duplicates,
    image_problems,
    intensity_reason,
    label_problems,
    labels_are_intensities,
    large_objects,
    look_like_objects,
    measure_intensities,
    mixed_voxel_sizes,
    negative_labels,
    no_background_class,
    nothing_labelled,
    sample_planes,
)
from napari_celltrain.data.labels import LabelScheme, scheme_for, summarize
from napari_celltrain.data.pairs import Pair, Pairing, pair_files
from napari_celltrain.data.report import DIVISION_CODES, DataReport, PairReport, divide
from napari_celltrain.data.split import Side
from napari_celltrain.io.volume import LazyArray, Volume, fingerprint
from napari_celltrain.io.volumes import ColorImageError, VolumeStore, open_labels, open_volume
from napari_celltrain.values.config import ZYX, DataConfig
from napari_celltrain.values.errors import DataError, Problem

_MANY_VALUES = 8


class Examiner:
    """Examines pair after pair with the same settings."""

    def __init__(self, config: DataConfig, scheme: LabelScheme, store: VolumeStore, keep: bool) -> None:
        self._config = config
        self._scheme = scheme
        self._store = store
        self._keep = keep
        self.foreground_has_many_values = False

    def examine(self, pair: Pair, side: Side | None) -> PairReport:
        config = self._config
        opened: list[Volume] = []
        where, where_labels = names_of(pair)
        try:
            image = open_volume(pair.image, axes=config.axes, channel=config.channel, voxel_size=config.voxel_size)
            opened.append(image)
            image_array = self._store.get(image)
            where = where_labels
            labels = open_labels(pair.labels, axes=config.axes, voxel_size=config.voxel_size)
            opened.append(labels)
            if image.shape != labels.shape:
                return mismatched(pair, side, image, labels)
            return self.measure(pair, side, (image, labels), (image_array, self._store.get(labels)))
        except DataError as error:
            of_labels = where == where_labels
            if of_labels and isinstance(error, ColorImageError):
                return PairReport(pair, side, (labels_are_intensities(where, "it is a colour (RGB) image"),))
            return PairReport(pair, side, (Problem("unreadable-file", *sentences(error, where)),))
        finally:
            if not self._keep:
                for volume in opened:
                    self._store.release(volume)

    def measure(
        self, pair: Pair, side: Side | None, volumes: tuple[Volume, Volume], arrays: tuple[LazyArray, LazyArray]
    ) -> PairReport:
        image, labels = arrays
        scheme = self._scheme
        where, where_labels = names_of(pair)
        intensities = measure_intensities(image)
        problems = image_problems(where, image.dtype, intensities)
        image_is_sound = all(problem.severity == "warning" for problem in problems)
        planes = sample_planes(labels)
        reason = intensity_reason(planes, scheme.ignore_value)
        summary = None
        if reason is not None:
            problems.append(labels_are_intensities(where_labels, reason))
        else:
            summary = summarize(labels, scheme)
            problems += label_problems(where_labels, labels, scheme, summary)
            if self._config.label_kind != "classes":  # among classes they are refused
                problems += negative_labels(where_labels, summary)
            if image_is_sound:
                problems += alignment_problems(where_labels, image, labels, scheme)
            if self._config.label_kind == "foreground" and len(np.unique(planes)) > _MANY_VALUES:
                self.foreground_has_many_values = True
        return PairReport(
            pair,
            side,
            tuple(problems),
            shape=volumes[0].shape,
            dtype=volumes[0].dtype.name,
            label_dtype=volumes[1].dtype.name,
            voxel_size=volumes[0].voxel_size,
            num_objects=summary.num_objects if summary else None,
            foreground_fraction=summary.foreground_fraction if summary else None,
            ignored_fraction=summary.ignored_fraction if summary else None,
            intensity_range=(intensities.low, intensities.high),
            object_extent_median=summary.median_extent if summary else None,
            image_fingerprint=fingerprint(volumes[0], image),
            labels_fingerprint=fingerprint(volumes[1], labels),
        )


def names_of(pair: Pair) -> tuple[str, str]:
    """What problems call the image and the labels: by the file's name, and its folder where both have one name."""
    if pair.image.name != pair.labels.name:
        return pair.image.name, pair.labels.name
    return f"{pair.image.parent.name}/{pair.image.name}", f"{pair.labels.parent.name}/{pair.labels.name}"


def sentences(error: DataError, where: str) -> tuple[str, str, str]:
    """Where, what is wrong, and what to do, of an error's text, which is written in this order."""
    text = str(error)
    named, colon, rest = text.partition(": ")
    if colon and ("/" in named or "\\" in named):
        where, text = named, rest
    elif colon and where.rpartition("/")[2] == named:
        text = rest
    message, stop, remedy = text.partition(". ")
    return where, message[:1].upper() + message[1:] + ("." if stop else ""), remedy


def mismatched(pair: Pair, side: Side | None, image: Volume, labels: Volume) -> PairReport:
    message = f"The labels have {_sizes(labels.shape)} voxels (z, y, x), their image {_sizes(image.shape)}."
    remedy = "Check that both are of the same sample, and export them at the same size."
    if sorted(image.shape) == sorted(labels.shape):
        remedy = "Their axes seem to be in another order: save both with the same order, or give the axes."
    return PairReport(
        pair,
        side,
        (Problem("shape-mismatch", names_of(pair)[1], message, remedy),),
        shape=image.shape,
        dtype=image.dtype.name,
        label_dtype=labels.dtype.name,
        voxel_size=image.voxel_size,
    )


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


# --- check -----------------------------------------------------------------------------------------------

__all__ = ["DataReport", "PairReport", "Progress", "check_data"]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, name) before each pair, and once at the end."""


def check_data(
    config: DataConfig,
    *,
    patch_size: ZYX | None = None,
    store: VolumeStore | None = None,
    progress: Progress | None = None,
    division: bool = True,
) -> DataReport:
    """Read all pairs of ``config`` and report what they hold and what is wrong; raises nothing for bad data.

    ``store`` keeps what it decodes for whoever comes next; without one, each volume is let go again.
    ``patch_size`` is compared with the size of the objects. Whether the volumes can be divided is tried out, too,
    unless ``division`` is False, for whoever divides them next and tells of it.
    """
    sides, problems = _find_pairs(config)
    keep = store is not None
    store = store or VolumeStore(VolumeStore.default_budget(config))
    scheme, scheme_problems = _find_scheme(config, [pair for pair, _ in sides], store)
    problems += scheme_problems
    examiner = Examiner(config, scheme or LabelScheme("foreground", config.ignore_value), store, keep)
    reports = []
    for index, (pair, side) in enumerate(sides):
        if progress is not None:
            progress(index, len(sides), pair.name)
        reports.append(examiner.examine(pair, side))
    if progress is not None:
        progress(len(sides), len(sides), "")
    for report in reports:
        problems += report.problems
    problems += duplicates(reports)
    problems += mixed_voxel_sizes(reports)
    problems += large_objects(reports, patch_size)
    problems += nothing_labelled(reports)
    if examiner.foreground_has_many_values:
        problems.append(look_like_objects())
    problems += no_background_class(scheme)
    found = DataReport(tuple(reports), tuple(problems), scheme)
    if not division or found.errors or not reports:
        return found
    return replace(found, problems=(*problems, *_division_problems(config, found, store, keep)))


def _division_problems(config: DataConfig, report: DataReport, store: VolumeStore, keep: bool) -> list[Problem]:
    """Why the pairs cannot be divided; the seed, which decides how they are, plays no part in whether."""

    def read_labels(pair: Pair) -> LazyArray:
        return store.get(open_labels(pair.labels, axes=config.axes, voxel_size=config.voxel_size))

    try:
        divide(config, 0, report, read_labels)
    except DataError as error:
        single = len(report.pairs) == 1
        where = report.pairs[0].image.name if single else "images"
        return [Problem(DIVISION_CODES[0 if single else 1], *sentences(error, where))]
    finally:
        if not keep:
            store.release()
    return []


def _find_pairs(config: DataConfig) -> tuple[list[tuple[Pair, Side | None]], list[Problem]]:
    """All pairs with their side, and the problems of finding and pairing files."""
    if config.images is None or config.labels is None:
        missing = "images" if config.images is None else "labels"
        return [], [Problem(f"no-{missing}", missing, f"No folder of {missing} is given.", "Choose one.")]
    first, problems = _pair_folders(config.images, config.labels)
    if config.validation_images is None or config.validation_labels is None:
        return [(pair, None) for pair in first.pairs], problems
    second, more = _pair_folders(config.validation_images, config.validation_labels)
    sides: list[tuple[Pair, Side | None]] = [(pair, "train") for pair in first.pairs]
    sides += [(pair, "validation") for pair in second.pairs]
    return sides, problems + more


def _pair_folders(images: Path, labels: Path) -> tuple[Pairing, list[Problem]]:
    try:
        pairing = pair_files(images, labels)
    except DataError as error:
        return Pairing((), ()), [Problem("no-volumes", *sentences(error, images.name))]
    return pairing, list(pairing.problems)


def _find_scheme(
    config: DataConfig, pairs: Sequence[Pair], store: VolumeStore
) -> tuple[LabelScheme | None, list[Problem]]:
    """The scheme; for classes all labels are read first, since a class may occur in one volume only."""
    arrays = []
    if config.label_kind == "classes":
        for pair in pairs:
            try:
                labels = open_labels(pair.labels, axes=config.axes)
                array = store.get(labels)
            except DataError:
                continue  # the examination of the pair reports it
            if intensity_reason(sample_planes(array), config.ignore_value) is None:
                arrays.append(array)
        if not arrays:
            return None, []
    try:
        return scheme_for(config, arrays), []
    except DataError as error:
        return None, [Problem("not-classes", *sentences(error, "labels"))]


# --- check arrays ----------------------------------------------------------------------------------------


def check_arrays(
    config: DataConfig,
    image: Volume,
    labels: Volume,
    *,
    patch_size: ZYX | None = None,
    progress: Progress | None = None,
) -> DataReport:
    """As :func:`check_data`, for one image and its labels; of ``config`` only what does not concern files counts."""
    pair = pair_of(image, labels)
    store = VolumeStore(VolumeStore.default_budget(config))
    if progress is not None:
        progress(0, 1, pair.name)
    scheme, problems = _scheme_of(config, labels, store)
    examiner = Examiner(config, scheme or LabelScheme("foreground", config.ignore_value), store, True)
    report = _examine(examiner, pair, image, labels, store)
    if progress is not None:
        progress(1, 1, "")
    problems += report.problems
    problems += large_objects([report], patch_size)
    problems += nothing_labelled([report])
    if examiner.foreground_has_many_values:
        problems.append(look_like_objects())
    problems += no_background_class(scheme)
    return DataReport((report,), tuple(problems), scheme)


def pair_of(image: Volume, labels: Volume) -> Pair:
    """Two volumes that were chosen by hand, as a pair; its paths are only names."""
    return Pair(image.name, Path("image") / image.name, Path("labels") / labels.name, "chosen in the viewer")


def _examine(examiner: Examiner, pair: Pair, image: Volume, labels: Volume, store: VolumeStore) -> PairReport:
    if image.shape != labels.shape:
        return mismatched(pair, None, image, labels)
    try:
        return examiner.measure(pair, None, (image, labels), (store.get(image), store.get(labels)))
    except DataError as error:
        return PairReport(pair, None, (Problem("unreadable-file", *sentences(error, image.name)),))


def _scheme_of(config: DataConfig, labels: Volume, store: VolumeStore) -> tuple[LabelScheme | None, list[Problem]]:
    try:
        array = store.get(labels)
        if config.label_kind == "classes" and intensity_reason(sample_planes(array), config.ignore_value) is not None:
            return None, []  # the examination of the pair reports it
        return scheme_for(config, [array]), []
    except DataError as error:
        return None, [Problem("not-classes", *sentences(error, "labels"))]
