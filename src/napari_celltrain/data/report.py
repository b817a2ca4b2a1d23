"""What the data check found: values for the command line, the Data tab and ``data.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_celltrain.config import ZYX, Spacing
from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.data.pairing import Pair
from napari_celltrain.data.split import Side
from napari_celltrain.errors import DataError, Problem, raise_problems


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
