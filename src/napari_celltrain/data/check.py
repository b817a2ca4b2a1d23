"""The data check: every pair is read once, and all that is wrong is said at once, with the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from napari_celltrain.config import ZYX, DataConfig
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.comparisons import (
    duplicates,
    large_objects,
    look_like_objects,
    mixed_voxel_sizes,
    no_background_class,
    nothing_labelled,
)
from napari_celltrain.data.division import DIVISION_CODES, divide
from napari_celltrain.data.examination import Examiner, sentences
from napari_celltrain.data.findings import (
    intensity_reason,
    sample_planes,
)
from napari_celltrain.data.labels import LabelScheme, scheme_for
from napari_celltrain.data.pairing import Pair, Pairing, pair_files
from napari_celltrain.data.report import DataReport, PairReport
from napari_celltrain.data.split import Side
from napari_celltrain.data.store import VolumeStore
from napari_celltrain.data.volumes import open_labels
from napari_celltrain.errors import DataError, Problem

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
