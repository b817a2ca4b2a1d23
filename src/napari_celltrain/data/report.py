"""What the data check found: values for the command line, the Data tab and ``data.json``.

Which pairs of a checked data set are for training and which for validation: asked by training and by the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.data.pairs import Pair
from napari_celltrain.data.split import Side, Split, split_cases
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.values.config import ZYX, DataConfig, Spacing
from napari_celltrain.values.errors import DataError, Problem, raise_problems


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

    def raise_errors(self) -> None:
        """Raise :class:`DataError` naming every error, if there is any."""
        raise_problems(list(self.problems), DataError, "The data cannot be used:")


# --- division --------------------------------------------------------------------------------------------

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
