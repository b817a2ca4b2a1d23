"""Predictions and labels on disk that belong together, ready to be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_celltrain.data.pairs import pair_files
from napari_celltrain.io.volume import LazyArray, Volume, fingerprint
from napari_celltrain.io.volumes import open_labels
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.errors import DataError, Problem, RunFolderError, raise_problems

Region = tuple[slice, slice, slice]
WHOLE: Region = (slice(None), slice(None), slice(None))


@dataclass(frozen=True, slots=True)
class FilePair:
    """A prediction and its labels, of which only the headers are read; of the labels, ``region`` was predicted."""

    name: str
    labels: Volume
    prediction: Volume
    region: Region = WHOLE

    @property
    def sides(self) -> tuple[str, str]:
        """What messages call labels and prediction: apart also where both files have one name."""
        return _short(self.labels), _short(self.prediction)

    @property
    def voxel_size(self) -> Spacing | None:
        return self.labels.voxel_size or self.prediction.voxel_size

    def open(self) -> tuple[LazyArray, LazyArray]:
        """Labels and prediction, read piece by piece where their files allow it."""
        return _cut(_array(self.labels), self.region), _array(self.prediction)


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The validation of a run."""

    pairs: tuple[FilePair, ...]
    label_kind: LabelKind
    ignore_value: int | None
    class_values: tuple[int, ...]
    problems: tuple[Problem, ...]


def pair_predictions(predictions: Path, labels: Path) -> tuple[tuple[FilePair, ...], tuple[Problem, ...]]:
    """Pairs by name, and warnings of what has no partner. Raises :class:`DataError` where nothing pairs up."""
    found = pair_files(predictions, labels)
    pairs = [(pair.name, pair.labels, pair.image) for pair in found.pairs]
    problems = found.problems
    if not pairs:
        # Words such as _masks are taken off the names of labels alone, and predictions are called so as well.
        swapped = pair_files(labels, predictions)
        if swapped.pairs:
            pairs = [(pair.name, pair.image, pair.labels) for pair in swapped.pairs]
            problems = swapped.problems
    raise_problems(list(problems), DataError, "Predictions and labels do not pair up:")
    return tuple(FilePair(name, open_labels(true), open_labels(guess)) for name, true, guess in pairs), problems


def read_run(path: Path) -> RunFiles:
    """What a run has predicted at its end, and the labels. Raises :class:`RunFolderError`, :class:`DataError`."""
    folder = RunFolder.open(path)
    record = _read_record(folder)
    config = folder.read_config().data
    try:
        cases = [case for case in record["pairs"] if case["side"] == "validation"]
        missing = [case["name"] for case in cases if not (folder.validation / f"{case['name']}.tif").is_file()]
        if missing or not cases:
            raise RunFolderError(_unfinished(folder, missing))
        pairs, problems = [], []
        for case in cases:
            labels = open_labels(Path(case["labels"]), axes=config.axes, voxel_size=config.voxel_size)
            prediction = open_labels(folder.validation / f"{case['name']}.tif")
            pairs.append(FilePair(str(case["name"]), labels, prediction, _region(case["region_zyx"])))
            problems += _changed(labels, case["labels_fingerprint"])
        return RunFiles(
            tuple(pairs), record["label_kind"], config.ignore_value, tuple(record["class_values"]), tuple(problems)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder) from error


def _read_record(folder: RunFolder) -> dict[str, Any]:
    try:
        record = json.loads(folder.data_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder) from error
    if not isinstance(record, dict):
        raise _unreadable(folder)
    return record


def _unreadable(folder: RunFolder) -> RunFolderError:
    return RunFolderError(
        f"{folder.data_file} is missing or damaged, so the labels of this run are unknown. Give its predictions and "
        f"the labels: celltrain evaluate {folder.validation} LABELS."
    )


def _unfinished(folder: RunFolder, missing: Sequence[str]) -> str:
    lacking = f"of {', '.join(missing[:4])}" if missing else "volumes"
    return (
        f"{folder.path} has no predictions {lacking} in its folder validation: they are written when a run ends. Let "
        "it end, or continue it with `celltrain resume`."
    )


def _region(spans: Sequence[Sequence[int]] | None) -> Region:
    if spans is None:
        return WHOLE
    z, y, x = (slice(int(start), int(stop)) for start, stop in spans)
    return z, y, x


def _changed(labels: Volume, recorded: str | None) -> list[Problem]:
    if recorded is None or fingerprint(labels) == recorded:
        return []
    message = "The labels have changed since the run was made."
    return [
        Problem("labels-changed", labels.where, message, "Its scores are of the labels as they are now.", "warning")
    ]


def _array(volume: Volume) -> LazyArray:
    lazy = volume.lazy()
    return volume.read() if lazy is None else lazy


def _cut(array: LazyArray, region: Region) -> LazyArray:
    """A block is read whole: it is a part of a volume that was small enough to be the only one."""
    return array if region == WHOLE else array[region]


def _short(volume: Volume) -> str:
    return volume.where if volume.path is None else "/".join(volume.path.parts[-2:])
