"""The data check of one pair that lies in memory, such as layers of a viewer, instead of in files."""

from __future__ import annotations

from pathlib import Path

from napari_celltrain.config import ZYX, DataConfig
from napari_celltrain.data.arrays import Volume
from napari_celltrain.data.check import Progress
from napari_celltrain.data.comparisons import large_objects, look_like_objects, no_background_class, nothing_labelled
from napari_celltrain.data.examination import Examiner, mismatched, sentences
from napari_celltrain.data.findings import intensity_reason, sample_planes
from napari_celltrain.data.labels import LabelScheme, scheme_for
from napari_celltrain.data.pairing import Pair
from napari_celltrain.data.report import DataReport, PairReport
from napari_celltrain.data.store import VolumeStore
from napari_celltrain.errors import DataError, Problem


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
