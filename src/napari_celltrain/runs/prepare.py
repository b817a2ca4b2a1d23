"""From a configuration to data that can be trained on: files read and checked, sides divided, sizes chosen."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celltrain.data.check import DataReport, PairReport, check_data, divide
from napari_celltrain.data.labels import LabelScheme, LazyTarget, encode_objects
from napari_celltrain.data.pairs import open_pair, open_pair_labels
from napari_celltrain.data.split import Case, Split
from napari_celltrain.engine.device import free_memory, resolve_device
from napari_celltrain.engine.patches import PatchSource, TrainingVolume, index_foreground
from napari_celltrain.engine.validation import ValidationVolume, Validator
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.io.volumes import VolumeCache
from napari_celltrain.nets.geometry import affordable_voxels, bytes_per_voxel, suggest_patch_size
from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.nets.normalize import IntensityStatistics, measure
from napari_celltrain.values.config import ZYX, RunConfig, Spacing
from napari_celltrain.values.decoding import OBJECT_MAPS, ObjectDecoding, Target, choose_target, first_decoding
from napari_celltrain.values.errors import DataError, Problem, grouped
from napari_celltrain.values.events import Event, Logged, Prepared, Warned
from napari_celltrain.values.text import sizes

MAX_WINDOW_VOXELS = 2**24
"""Whole images up to this size are predicted in one piece; larger ones in windows."""

MAX_CONTEXT = 64
"""Voxels along an axis that are read around a piece of labels at most."""

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything about a run that follows from its configuration and its data."""

    config: RunConfig
    """Complete: what was left to the program to choose is filled in."""
    scheme: LabelScheme
    target: Target
    network: NetworkSpec
    source: PatchSource
    validator: Validator
    record: str
    """The text of ``data.json``."""
    num_bytes: int
    """Of the volumes that are decoded in memory."""

    @property
    def window(self) -> ZYX:
        """Window of prediction."""
        if self.config.augmentation.patches:
            assert self.config.augmentation.patch_size is not None
            return self.config.augmentation.patch_size
        largest = np.max([volume.image.shape for volume in self.source.volumes], axis=0)
        while np.prod(largest) > MAX_WINDOW_VOXELS:
            largest[np.argmax(largest)] = -(-largest[np.argmax(largest)] // 2)
        return zyx(largest)

    @property
    def window_batch(self) -> int:
        """Windows predicted at once: two are much quicker than one on a processor; large ones go singly."""
        return 2 if self.config.augmentation.patches else 1


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A volume that is read piece by piece while the run goes on. Raises :class:`DataError` for values that it did not
    hold when the run began, numbers or not."""

    where: str
    array: LazyArray
    low: float
    high: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part = np.asarray(self.array[key])
        low, high = (part.min(), part.max()) if part.size else (self.low, self.high)
        if not (self.low <= low and high <= self.high):  # NaN is neither
            message = f"This holds values from {low:g} to {high:g} that it did not hold when the run began: the file "
            remedy = "Put it back as it was; then resume the run."
            raise DataError(Problem("changed-file", self.where, f"{message}has changed, or its disk fails.", remedy))
        return part


def relayed(steps: Generator[T, None, R], each: Callable[[T], Event]) -> Generator[Event, None, R]:
    """What ``each`` makes of the steps; returns what ``steps`` returns."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: R = end.value
            return result
        yield each(step)


def prepare(config: RunConfig) -> Generator[Event, None, Preparation]:
    """Check and open the data, divide it, and fill in what the configuration leaves open.

    Raises :class:`DataError` with all that is wrong; what is only suspicious becomes warnings.
    """
    cache = VolumeCache(VolumeCache.default_budget(config.data))
    report = yield from relayed(
        check_data(config.data, cache=cache, division=False),
        lambda step: Prepared(stage=f"reading {step[2] or 'the volumes'}", done=step[0], total=step[1]),
    )
    report.raise_errors()
    for problem in grouped(report.problems):
        yield Warned(message=str(problem))
    scheme = report.scheme
    assert scheme is not None  # without errors there is one
    target = choose_target(config.training.target, scheme.kind)
    split = divide(
        config.data, config.training.seed, report, lambda pair: cache.get(open_pair_labels(pair, config.data))
    )
    yield Logged(message=split.explanation)
    network = NetworkSpec(
        key=config.training.model,
        size=config.training.model_size,
        out_channels=len(OBJECT_MAPS) if target == "objects" else scheme.num_outputs,
        voxel_size=_median(pair.voxel_size for pair in report.pairs),
    )
    return (yield from _open(config, cache, report, split, scheme, target, network))


def _open(
    config: RunConfig,
    cache: VolumeCache,
    report: DataReport,
    split: Split,
    scheme: LabelScheme,
    target: Target,
    network: NetworkSpec,
) -> Generator[Event, None, Preparation]:
    """Open the volumes, choose the patch size for them, and bring everything together."""
    spacing, data = network.voxel_size or (1.0, 1.0, 1.0), config.data
    reports = {pair.pair: pair for pair in report.pairs}
    training: list[TrainingVolume] = []
    validation: list[ValidationVolume] = []
    records = []
    for case in split.cases:
        pair = reports[case.pair]
        image_volume, labels_volume = open_pair(case.pair, data)
        image, labels = cache.get(image_volume), cache.get(labels_volume)
        # of the whole volume, also where the case is a block of it: as it will be when the model is used
        statistics = measure(image, data.normalization, limit_outliers=data.limit_outliers, name=image_volume.where)
        records.append(_record(case, pair, statistics))
        if not isinstance(image, np.ndarray):
            image = Unchanged(image_volume.where, image, *(pair.intensity_range or (-math.inf, math.inf)))
        if not isinstance(labels, np.ndarray):
            labels = Unchanged(labels_volume.where, labels, -math.inf, math.inf)
        if case.spans is not None:
            block = tuple(slice(start, stop) for start, stop in case.spans)
            image, labels = np.asarray(image[block]), np.asarray(labels[block])
        if case.side == "validation":
            validation.append(ValidationVolume(case.name, image, labels, statistics, pair.voxel_size))
            continue
        encoded = _encode(labels, scheme, target, pair, pair.voxel_size or spacing)
        foreground = index_foreground(labels, scheme, config.training.seed)
        training.append(TrainingVolume(image, encoded, statistics, foreground))
    extent = _median(reports[case.pair].object_extent_median for case in split.train)
    config = yield from _choose_patch_size(config, [zyx(volume.image.shape) for volume in training], extent, network)
    augmentation = config.augmentation
    source = PatchSource(
        training,
        patch_size=augmentation.patch_size if augmentation.patches else None,
        foreground_fraction=augmentation.foreground_fraction,
        augmentations=augmentation.augmentations if augmentation.augment else (),
        voxel_size=network.voxel_size,
        samples_per_volume=augmentation.samples_per_volume if augmentation.patches else 1,
    )
    decoding: ObjectDecoding | None = None
    if scheme.kind == "objects":  # until it is tuned
        extent_um = np.array(extent or (8.0, 8.0, 8.0)) * spacing
        decoding = first_decoding(target, float(min(extent_um)), context_um=2.0 * float(max(extent_um)))
    validator = Validator(validation, scheme, decoding, spacing)
    content = {
        "schema_version": 1,
        "division": split.explanation,
        "label_kind": scheme.kind,
        "class_values": scheme.class_values,
        "pairs": records,
    }
    record = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return Preparation(config, scheme, target, network, source, validator, record, cache.used_bytes)


def _encode(labels: LazyArray, scheme: LabelScheme, target: Target, pair: PairReport, spacing: Spacing) -> LazyArray:
    """What the network shall learn of ``labels``: encoded at once where they are in memory, else as they are read."""
    if target != "objects":
        return LazyTarget(labels, scheme)
    if isinstance(labels, np.ndarray):
        return encode_objects(labels, scheme, spacing)
    # around a piece of labels that are not in memory, as much is read as a typical object is large
    context = zyx(min(MAX_CONTEXT, math.ceil(length)) for length in pair.object_extent_median or (0, 0, 0))
    return LazyTarget(labels, scheme, spacing, context)


def _median(values: Iterable[Spacing | None]) -> Spacing | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    z, y, x = (float(size) for size in np.median(np.array(known), axis=0))
    return (z, y, x)


def _choose_patch_size(
    config: RunConfig, shapes: list[ZYX], extent: Spacing | None, network: NetworkSpec
) -> Generator[Event, None, RunConfig]:
    """The configuration with a patch size, for volumes of ``shapes`` with objects of ``extent`` voxels."""
    augmentation = config.augmentation
    message = ""
    if not augmentation.patches:
        if len(set(shapes)) > 1:
            message = "The whole images differ in size: within a batch, smaller ones are padded by reflection."
            if config.training.batch_size == 1:
                message = "The whole images differ in size; with a batch size of 1 each is used in its own."
    elif augmentation.patch_size is not None:
        padded = sum(any(n < p for n, p in zip(shape, augmentation.patch_size, strict=True)) for shape in shapes)
        if padded:
            message = f"{padded} of {len(shapes)} volumes are smaller than a patch and are padded by reflection."
    else:
        import torch

        with torch.random.fork_rng(devices=[]):
            divisor = build_network(network).divisor
        affordable = None
        if "LOCAL_RANK" not in os.environ:  # several processes must not come to different answers
            free = free_memory(resolve_device(config.training.device))
            bytes_each = bytes_per_voxel(config.training.model, config.training.model_size)
            affordable = affordable_voxels(free, config.training.batch_size, bytes_each)
        suggestion = suggest_patch_size(shapes, network.voxel_size, divisor, extent, affordable)
        augmentation = augmentation.model_copy(update={"patch_size": suggestion.patch_size})
        message = f"Patch size {sizes(suggestion.patch_size)} voxels (z, y, x): {suggestion.reason}."
    if message:
        yield Logged(message=message)
    return config.model_copy(update={"augmentation": augmentation})


def _record(case: Case, report: PairReport, statistics: IntensityStatistics) -> dict[str, object]:
    """Of ``data.json``: what was used, on which side, and how it was normalized."""
    return {
        "name": case.name,
        "side": case.side,
        "image": str(case.pair.image),
        "labels": str(case.pair.labels),
        "paired_by": case.pair.rule,
        "region_zyx": case.spans,
        "shape_zyx": report.shape,
        "dtype": report.dtype,
        "voxel_size_um": report.voxel_size,
        "num_objects": report.num_objects,
        "foreground_fraction": report.foreground_fraction,
        "image_fingerprint": report.image_fingerprint,
        "labels_fingerprint": report.labels_fingerprint,
        "intensity_offset": statistics.offset,
        "intensity_scale": statistics.scale,
    }
