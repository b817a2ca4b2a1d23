"""What the form says about the values in it: the rules of thumb, and a patch size with its reason.

Pure functions, without Qt and without torch, so that the window can ask at every change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from napari_celltrain.data.check import DataReport
from napari_celltrain.data.split import Split
from napari_celltrain.io.axes import zyx
from napari_celltrain.nets.geometry import (
    PatchSuggestion,
    affordable_voxels,
    bytes_per_voxel,
    network_divisor,
    suggest_patch_size,
)
from napari_celltrain.values.config import ZYX, AugmentationConfig, Spacing, TrainingConfig
from napari_celltrain.values.decoding import OBJECT_MAPS, choose_target
from napari_celltrain.values.text import count, sizes

MANY_SAMPLES, ENOUGH_IMAGES = 10, 5
"""Rule of thumb for patches: augment with more samples than this per image, and at least this many images."""
LARGE_SET = 20
"""Whole images: so many make a set large, which the rule of thumb leaves open."""


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What advice needs to know of the data."""

    training: tuple[ZYX, ...]
    """Shapes of the training volumes, or blocks of one."""
    validation: tuple[ZYX, ...]
    voxel_size: Spacing | None
    """The median, as the network will be made for it."""
    object_extent: Spacing | None
    """Typical size of an object in voxels."""
    num_outputs: int
    num_bytes: int
    """Of all images and labels, decoded."""


def data_facts(report: DataReport | None, split: Split | None = None) -> DataFacts | None:
    """The facts of a report, divided by ``split``; None while there is nothing to train on."""
    pairs = [pair for pair in report.pairs if pair.is_usable and pair.shape is not None] if report is not None else []
    shapes = {pair.pair: pair.shape for pair in pairs if pair.shape is not None}
    if report is None or not shapes:
        return None
    if split is None:  # what stands against it is said elsewhere
        placed = [(pair.side or "train", shapes[pair.pair]) for pair in pairs]
    else:
        usable = [case for case in split.cases if case.pair in shapes]  # others were divided, but cannot be used
        lengths = [[stop - start for start, stop in case.spans or ()] or shapes[case.pair] for case in usable]
        placed = [(case.side, zyx(shape)) for case, shape in zip(usable, lengths, strict=True)]
    num_bytes = 0
    for pair in pairs:
        itemsize = sum(np.dtype(name).itemsize for name in (pair.dtype, pair.label_dtype) if name)
        num_bytes += math.prod(shapes[pair.pair]) * itemsize
    num_outputs = 1
    if report.scheme is not None:  # of the target auto; one more or less hardly changes the costs
        is_objects = choose_target("auto", report.scheme.kind) == "objects"
        num_outputs = len(OBJECT_MAPS) if is_objects else report.scheme.num_outputs
    return DataFacts(
        training=tuple(shape for side, shape in placed if side == "train"),
        validation=tuple(shape for side, shape in placed if side == "validation"),
        voxel_size=_median([pair.voxel_size for pair in pairs]),
        object_extent=_median([pair.object_extent_median for pair in pairs]),
        num_outputs=num_outputs,
        num_bytes=num_bytes,
    )


def _median(values: Sequence[Spacing | None]) -> Spacing | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    z, y, x = (float(number) for number in np.median(np.array(known), axis=0))
    return (z, y, x)


def suggestion(facts: DataFacts, training: TrainingConfig) -> PatchSuggestion:
    """The patch size that training would take by itself, and why."""
    divisor = network_divisor(training.model, facts.voxel_size)
    affordable = None
    if training.device == "cpu":  # of what else there may be, the window does not know the memory
        free, needed = int(psutil.virtual_memory().available), bytes_per_voxel(training.model, training.model_size)
        affordable = affordable_voxels(free, training.batch_size, needed)
    return suggest_patch_size(facts.training, facts.voxel_size, divisor, facts.object_extent, affordable)


def suggestion_words(facts: DataFacts, training: TrainingConfig) -> str:
    found = suggestion(facts, training)
    objects = f" {_object_words(found.patch_size, facts.object_extent)}" if facts.object_extent is not None else ""
    return f"Suggested: {sizes(found.patch_size)} voxels (z, y, x): {found.reason}.{objects}"


def patch_warning(facts: DataFacts | None, patch_size: ZYX | None, divisor: ZYX) -> str:
    """What is awkward about a patch size that was chosen by hand; empty where nothing is."""
    if patch_size is None:
        return ""
    warnings = []
    extent = facts.object_extent if facts is not None else None
    if extent is not None and any(size > patch for size, patch in zip(extent, patch_size, strict=True)):
        warnings.append(_object_words(patch_size, extent))
    if any(patch % step for patch, step in zip(patch_size, divisor, strict=True)):
        warnings.append(f"Not a multiple of {sizes(divisor)}: the network pads it, which costs some time.")
    if facts is not None:
        longest = [max(lengths) for lengths in zip(*facts.training, strict=True)]
        wide = [axis for axis, size, patch in zip("zyx", longest, patch_size, strict=True) if size < patch]
        if wide:
            warnings.append(f"Larger than the volumes along {' and '.join(wide)}: padded by reflection.")
    return " ".join(warnings)


def _object_words(patch_size: ZYX, extent: Spacing) -> str:
    typical = sizes(round(size) for size in extent)
    ratio = min(patch / size for patch, size in zip(patch_size, extent, strict=True))
    if ratio < 1:
        return f"A typical object spans {typical} voxels, more than such a patch: larger ones would show it whole."
    if ratio < 2:
        return f"A typical object spans {typical} voxels, so a patch holds about one."
    return f"A typical object spans {typical} voxels, so a patch shows whole ones with their surroundings."


def should_augment(patches: bool, num_images: int, samples: int) -> bool:
    """The rules of thumb."""
    return samples > MANY_SAMPLES and num_images >= ENOUGH_IMAGES if patches else num_images >= LARGE_SET


def augmentation_advice(config: AugmentationConfig, facts: DataFacts | None) -> str:
    """The rule of thumb, what it says about this data, and what to do if that is not what is chosen."""
    rule = "Rule of thumb for whole images: on when the set is large."
    if config.patches:
        samples = f"more than {MANY_SAMPLES} samples per volume"
        rule = f"Rule of thumb for patches: on with {samples} and at least {ENOUGH_IMAGES} volumes."
    if facts is None:
        return rule
    num_images, is_on = len(facts.training), config.augment
    volumes = count(num_images, "training volume")
    have = f"You have {volumes}, a {'large' if num_images >= LARGE_SET else 'small'} set"
    if config.patches:
        have = f"You take {count(config.samples_per_volume, 'sample')} from each of {volumes}"
    if should_augment(config.patches, num_images, config.samples_per_volume) == is_on:
        advice = f"it is {'on' if is_on else 'off'}, as it should be."
    elif not is_on:
        advice = "switch it on."
    elif config.patches and num_images >= ENOUGH_IMAGES:
        advice = f"take more than {MANY_SAMPLES} samples, or switch it off."
    else:
        advice = "more volumes would help; until then try it on and off, and compare."
    return f"{rule} {have}: {advice}"
