"""Which pairs of a checked data set are for training and which for validation: asked by training and by the window."""

from __future__ import annotations

from collections.abc import Callable

from napari_celltrain.config import ZYX, DataConfig
from napari_celltrain.data.arrays import LazyArray
from napari_celltrain.data.pairing import Pair
from napari_celltrain.data.report import DataReport
from napari_celltrain.data.split import Split, split_cases

DIVISION_CODES = ("too-small-to-divide", "cannot-be-divided")
"""Errors of the data check: of a single volume, and of several."""

_UNKNOWN: ZYX = (0, 0, 0)


def can_be_divided(report: DataReport) -> bool:
    """Whether enough is known: some pair, and of a single one, which is cut in two, its shape and its labels."""
    if any(problem.code in DIVISION_CODES for problem in report.errors):
        return False  # the check has tried, and said why not
    if len(report.pairs) == 1:
        return report.pairs[0].shape is not None and report.scheme is not None and not report.errors
    return bool(report.pairs)


def divide(config: DataConfig, seed: int, report: DataReport, read_labels: Callable[[Pair], LazyArray]) -> Split:
    """Divide the pairs of ``report`` as ``config`` says. Raises :class:`DataError` where that cannot be done.

    ``read_labels`` is only called for a single volume, which is cut where both parts have labels.
    """
    own_folder = config.validation_images is not None
    train = [pair for pair in report.pairs if not own_folder or pair.side == "train"]
    validation = [pair.pair for pair in report.pairs if own_folder and pair.side == "validation"]
    labels = read_labels(train[0].pair) if len(train) == 1 and not own_folder else None
    return split_cases(
        [pair.pair for pair in train],
        [pair.shape or _UNKNOWN for pair in train],
        config.validation_fraction,
        seed,
        validation_pairs=validation,
        labels=labels,
        scheme=report.scheme,
        fingerprints=[pair.image_fingerprint for pair in train],
    )
