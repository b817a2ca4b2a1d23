"""Looking at one pair: what it holds and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_celltrain.config import DataConfig
from napari_celltrain.data.arrays import LazyArray, Volume, fingerprint
from napari_celltrain.data.findings import (
    alignment_problems,
    image_problems,
    intensity_reason,
    label_problems,
    labels_are_intensities,
    measure_intensities,
    negative_labels,
    sample_planes,
)
from napari_celltrain.data.labels import LabelScheme, summarize
from napari_celltrain.data.pairing import Pair
from napari_celltrain.data.report import PairReport
from napari_celltrain.data.split import Side
from napari_celltrain.data.store import VolumeStore
from napari_celltrain.data.volumes import ColorImageError, open_labels, open_volume
from napari_celltrain.errors import DataError, Problem

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
