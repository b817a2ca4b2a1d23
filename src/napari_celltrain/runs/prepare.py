"""From a configuration to data that can be trained on: files read and checked, sides divided, sizes chosen."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_celltrain.data.check import Check, DataReport, PairReport, check_data, divide
from napari_celltrain.data.labels import ClassTarget, LabelScheme, ObjectTarget
from napari_celltrain.data.pairs import Pair, open_pair, open_pair_labels
from napari_celltrain.data.split import Case, Split
from napari_celltrain.io.axes import zyx
from napari_celltrain.io.volume import LazyArray
from napari_celltrain.io.volumes import VolumeCache
from napari_celltrain.nets.geometry import affordable_voxels, bytes_per_voxel, suggest_patch_size
from napari_celltrain.nets.models import NetworkSpec, build_network
from napari_celltrain.nets.normalize import IntensityStatistics, measure
from napari_celltrain.values.config import ZYX, RunConfig, Spacing
from napari_celltrain.values.decoding import OBJECT_MAPS, ObjectDecoding, Target, choose_target, first_decoding
from napari_celltrain.values.events import Event, Logged, Prepared, Warned
from napari_celltrain.values.text import sizes

if TYPE_CHECKING:
    from napari_celltrain.engine.patches import PatchSource, TrainingVolume
    from napari_celltrain.engine.validation import Validator

MAX_WINDOW_VOXELS = 2**24
"""Whole images up to this size are predicted in one piece; larger ones in windows."""

MAX_CONTEXT = 64
"""Voxels along an axis that are read around a piece of labels at most."""


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A case with its arrays, cut to its region, ready to be sampled or predicted."""

    case: Case
    report: PairReport
    image: LazyArray
    labels: LazyArray
    statistics: IntensityStatistics
    """Of the whole volume, also where the case is a block of it: as it will be when the model is used."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Everything about a run that follows from its configuration and its data."""

    config: RunConfig
    """Complete: what was left to the program to choose is filled in."""
    scheme: LabelScheme
    target: Target
    network: NetworkSpec
    window: ZYX
    """Window of prediction."""
    training: tuple[PreparedCase, ...]
    validation: tuple[PreparedCase, ...]
    record: str
    """The text of ``data.json``."""

    @property
    def window_batch(self) -> int:
        """Windows predicted at once: two are much quicker than one on a processor; large ones go singly."""
        return 2 if self.config.augmentation.patches else 1

    def source(self) -> PatchSource:
        """Where training patches come from."""
        from napari_celltrain.engine.patches import PatchSource

        augmentation = self.config.augmentation
        return PatchSource(
            [self._training_volume(prepared) for prepared in self.training],
            patch_size=augmentation.patch_size if augmentation.patches else None,
            foreground_fraction=augmentation.foreground_fraction,
            augmentations=augmentation.augmentations if augmentation.augment else (),
            voxel_size=self.network.voxel_size,
            samples_per_volume=augmentation.samples_per_volume if augmentation.patches else 1,
        )

    def validator(self) -> Validator:
        from napari_celltrain.engine.validation import ValidationVolume, Validator

        volumes = [
            ValidationVolume(p.case.name, p.image, p.labels, p.statistics, p.report.voxel_size) for p in self.validation
        ]
        decoding: ObjectDecoding | None = None
        if self.scheme.kind == "objects":  # until it is tuned
            extent_um = np.array(_typical_extent(self.training) or (8.0, 8.0, 8.0)) * self.spacing
            decoding = first_decoding(self.target, float(min(extent_um)), context_um=2.0 * float(max(extent_um)))
        return Validator(volumes, self.scheme, decoding, self.spacing)

    @property
    def spacing(self) -> Spacing:
        """The voxel size that distances refer to; voxels where it is unknown."""
        return self.network.voxel_size or (1.0, 1.0, 1.0)

    def _training_volume(self, prepared: PreparedCase) -> TrainingVolume:
        from napari_celltrain.engine.patches import TrainingVolume, index_foreground

        labels = prepared.labels
        target: LazyArray = ClassTarget(labels, self.scheme)
        if self.target == "objects":
            # around a piece of labels that are not in memory, as much is read as a typical object is large
            extent = prepared.report.object_extent_median or (0, 0, 0)
            context = zyx(min(MAX_CONTEXT, math.ceil(length)) for length in extent)
            target = ObjectTarget(labels, self.scheme, prepared.report.voxel_size or self.spacing, context)
        foreground = index_foreground(labels, zyx(labels.shape), self.scheme, self.config.training.seed)
        return TrainingVolume(prepared.case.name, prepared.image, target, prepared.statistics, foreground)


def prepare(config: RunConfig) -> Generator[Event, None, Preparation]:
    """Check and open the data, divide it, and fill in what the configuration leaves open.

    Raises :class:`DataError` with all that is wrong; what is only suspicious becomes warnings.
    """
    cache = VolumeCache(VolumeCache.default_budget(config.data))
    report = yield from _as_events(check_data(config.data, cache=cache, division=False))
    report.raise_errors()
    for problem in report.problems:
        yield Warned(message=str(problem))
    reports = {pair.pair: pair for pair in report.pairs}
    scheme = report.scheme
    assert scheme is not None  # without errors there is one
    target = choose_target(config.training.target, scheme.kind)
    split = divide(
        config.data, config.training.seed, report, lambda pair: cache.get(open_pair_labels(pair, config.data))
    )
    yield Logged(message=split.explanation)
    voxel_size = _median(pair.voxel_size for pair in report.pairs)
    network = NetworkSpec(
        key=config.training.model,
        size=config.training.model_size,
        out_channels=len(OBJECT_MAPS) if target == "objects" else scheme.num_outputs,
        voxel_size=voxel_size,
    )
    prepared = {case: _open_case(case, reports[case.pair], config, cache) for case in split.cases}
    training = tuple(prepared[case] for case in split.train)
    validation = tuple(prepared[case] for case in split.validation)
    config = yield from _choose_patch_size(config, training, network)
    return Preparation(
        config,
        scheme,
        target,
        network,
        _window(config, training),
        training,
        validation,
        _record(split, reports, scheme, prepared),
    )


def _as_events(steps: Check) -> Generator[Event, None, DataReport]:
    while True:
        try:
            done, total, name = next(steps)
        except StopIteration as end:
            report: DataReport = end.value
            return report
        yield Prepared(stage=f"reading {name or 'the volumes'}", done=done, total=total)


def _typical_extent(training: Sequence[PreparedCase]) -> Spacing | None:
    """The median size of an object in voxels, where it is known."""
    return _median(prepared.report.object_extent_median for prepared in training)


def _median(values: Iterable[Spacing | None]) -> Spacing | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    z, y, x = (float(size) for size in np.median(np.array(known), axis=0))
    return (z, y, x)


def _open_case(case: Case, report: PairReport, config: RunConfig, cache: VolumeCache) -> PreparedCase:
    image_volume, labels_volume = open_pair(case.pair, config.data)
    image, labels = cache.get(image_volume), cache.get(labels_volume)
    statistics = measure(image, config.data.normalization, name=image_volume.where)
    if case.spans is not None:
        block = tuple(slice(start, stop) for start, stop in case.spans)
        image, labels = np.asarray(image[block]), np.asarray(labels[block])
    return PreparedCase(case, report, image, labels, statistics)


def _choose_patch_size(
    config: RunConfig, training: tuple[PreparedCase, ...], network: NetworkSpec
) -> Generator[Event, None, RunConfig]:
    """The configuration with a patch size."""
    shapes = [zyx(prepared.image.shape) for prepared in training]
    augmentation = config.augmentation
    if not augmentation.patches:
        if len(set(shapes)) > 1 and config.training.batch_size == 1:
            yield Logged(message="The whole images differ in size; with a batch size of 1 each is used in its own.")
        elif len(set(shapes)) > 1:
            yield Logged(
                message="The whole images differ in size: within a batch, smaller ones are padded by reflection."
            )
        return config
    if augmentation.patch_size is not None:
        padded = sum(any(n < p for n, p in zip(shape, augmentation.patch_size, strict=True)) for shape in shapes)
        if padded:
            message = f"{padded} of {len(shapes)} volumes are smaller than a patch and are padded by reflection."
            yield Logged(message=message)
        return config
    import torch

    from napari_celltrain.engine.device import free_memory, resolve_device

    with torch.random.fork_rng(devices=[]):
        divisor = build_network(network).divisor
    affordable = None
    if "LOCAL_RANK" not in os.environ:  # several processes must not come to different answers
        free = free_memory(resolve_device(config.training.device))
        affordable = affordable_voxels(
            free, config.training.batch_size, bytes_per_voxel(config.training.model, config.training.model_size)
        )
    suggestion = suggest_patch_size(shapes, network.voxel_size, divisor, _typical_extent(training), affordable)
    chosen = augmentation.model_copy(update={"patch_size": suggestion.patch_size})
    yield Logged(message=f"Patch size {sizes(suggestion.patch_size)} voxels (z, y, x): {suggestion.reason}.")
    return config.model_copy(update={"augmentation": chosen})


def _window(config: RunConfig, training: tuple[PreparedCase, ...]) -> ZYX:
    if config.augmentation.patches:
        assert config.augmentation.patch_size is not None
        return config.augmentation.patch_size
    largest = np.max([prepared.image.shape for prepared in training], axis=0)
    while np.prod(largest) > MAX_WINDOW_VOXELS:
        largest[np.argmax(largest)] = -(-largest[np.argmax(largest)] // 2)
    return zyx(largest)


def _record(
    split: Split, reports: dict[Pair, PairReport], scheme: LabelScheme, prepared: dict[Case, PreparedCase]
) -> str:
    """``data.json``: what was used, on which side, and how it was normalized."""
    cases = []
    for case in split.cases:
        report, statistics = reports[case.pair], prepared[case].statistics
        assert report.shape is not None  # known of every pair without errors
        cases.append(
            {
                "name": case.name,
                "side": case.side,
                "image": str(case.pair.image),
                "labels": str(case.pair.labels),
                "paired_by": case.pair.rule,
                "region_zyx": None if case.spans is None else [list(span) for span in case.spans],
                "shape_zyx": list(report.shape),
                "dtype": str(report.dtype),
                "voxel_size_um": None if report.voxel_size is None else list(report.voxel_size),
                "num_objects": report.num_objects,
                "foreground_fraction": report.foreground_fraction,
                "image_fingerprint": report.image_fingerprint,
                "labels_fingerprint": report.labels_fingerprint,
                "intensity_offset": statistics.offset,
                "intensity_scale": statistics.scale,
            }
        )
    content = {
        "schema_version": 1,
        "division": split.explanation,
        "label_kind": scheme.kind,
        "class_values": list(scheme.class_values),
        "pairs": cases,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
