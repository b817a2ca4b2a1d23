"""Rules of thumb, suggestions and costs, against the engine's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from napari_celltrain.data.check import DataReport, PairReport
from napari_celltrain.data.split import Case, Split
from napari_celltrain.nets.geometry import bytes_per_voxel, network_divisor, suggest_patch_size
from napari_celltrain.nets.models import MODELS
from napari_celltrain.values.config import AugmentationConfig, DataConfig, Spacing, TrainingConfig
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets import costs
from napari_celltrain.widgets.train import advice
from napari_celltrain.widgets.train.advice import (
    DataFacts,
    augmentation_advice,
    data_facts,
    patch_warning,
)
from reports import facts_of_report, report_of

CUBIC: Spacing = (1.0, 1.0, 1.0)


def facts_of(num_training: int, extent: Spacing | None = (10.0, 12.0, 12.0)) -> DataFacts:
    return DataFacts(((64, 64, 64),) * num_training, ((64, 64, 64),), CUBIC, extent, 1, 1000)


@pytest.mark.parametrize("voxel_size", [None, (1.75, 0.8, 0.8), (5.0, 1.0, 1.0), (0.3, 0.3, 0.9)])
@pytest.mark.parametrize("key", MODELS.keys())
def test_divisors_are_those_of_the_networks(key: str, voxel_size: Spacing | None) -> None:
    from napari_celltrain.nets.models import NetworkSpec, build_network

    network = build_network(NetworkSpec(key=key, size="small", voxel_size=voxel_size))
    assert network_divisor(key, voxel_size) == network.divisor


def test_a_network_from_elsewhere_has_a_safe_divisor() -> None:
    assert network_divisor("made_elsewhere", None) == (16, 16, 16)


def test_facts_divide_the_volumes_as_training_does() -> None:
    report = report_of([(32, 64, 64)] * 10)
    assert len(facts_of_report(report).training) == 8
    facts = facts_of_report(report, DataConfig(validation_fraction=0.5))
    assert (len(facts.training), len(facts.validation)) == (5, 5)
    assert facts.num_bytes == 10 * 32 * 64 * 64 * 4


def test_facts_of_one_volume_are_its_blocks() -> None:
    facts = facts_of_report(report_of([(40, 40, 200)]))
    assert facts.training == ((40, 40, 152),)
    assert facts.validation == ((40, 40, 40),)
    tiny = facts_of_report(report_of([(16, 16, 16)]))
    assert (tiny.training, tiny.validation) == (((16, 16, 16),), ())


def test_facts_take_given_sides_and_leave_out_broken_pairs() -> None:
    pairs = list(report_of([(32, 64, 64)] * 4).pairs)
    own = [(pairs[0], "train"), (pairs[1], "validation"), (pairs[2], "train")]
    sided = [PairReport(p.pair, side, shape=p.shape, dtype="uint8", label_dtype="uint8") for p, side in own]  # type: ignore[arg-type]
    broken = PairReport(pairs[3].pair, "train", (Problem("unreadable-file", "x", "", ""),))
    facts = data_facts(DataReport((*sided, broken), ()))
    assert facts is not None
    assert (len(facts.training), len(facts.validation)) == (2, 1)
    assert data_facts(DataReport((broken,), ())) is None
    sides = ((pairs[0], "train"), (pairs[3], "train"), (pairs[1], "validation"))
    cases = tuple(Case(p.pair.name, p.pair, None, side) for p, side in sides)  # type: ignore[arg-type]
    facts = data_facts(DataReport((*sided, broken), ()), Split(cases, ""))
    assert facts is not None
    assert (len(facts.training), len(facts.validation)) == (1, 1), "one was divided, but cannot be used"
    assert data_facts(None) is None


def test_the_suggestion_is_that_of_the_engine() -> None:
    report = report_of([(51, 124, 127)] * 6, (1.75, 0.8, 0.8))
    facts = facts_of_report(report)
    found = advice.suggestion(facts, TrainingConfig())
    assert found == suggest_patch_size(facts.training, (1.75, 0.8, 0.8), (8, 16, 16))
    words = advice.suggestion_words(facts, TrainingConfig())
    assert sizes(found.patch_size) in words
    assert "10 × 12 × 12" in words


@pytest.mark.parametrize(
    ("patches", "images", "samples", "expected"),
    [
        (True, 5, 11, True),
        (True, 5, 10, False),
        (True, 4, 100, False),
        (False, 4, 100, False),
        (False, 50, 1, True),
    ],
)
def test_rules_of_thumb(patches: bool, images: int, samples: int, expected: bool) -> None:
    assert advice.should_augment(patches, images, samples) is expected
    config = AugmentationConfig(patches=patches, samples_per_volume=samples, augment=expected)
    assert "as it should be" in augmentation_advice(config, facts_of(images))
    other = config.model_copy(update={"augment": not expected})
    words = augmentation_advice(other, facts_of(images))
    assert "as it should be" not in words
    assert ("switch it on" in words) == expected


def test_the_rule_is_told_without_data() -> None:
    assert "more than 10 samples" in augmentation_advice(AugmentationConfig(), None)
    assert "large" in augmentation_advice(AugmentationConfig(patches=False), None)


def test_awkward_patches_are_told() -> None:
    divisor = (16, 16, 16)
    assert patch_warning(facts_of(3), (64, 64, 64), divisor) == ""
    assert patch_warning(facts_of(3), None, divisor) == ""
    assert "multiple of 16 × 16 × 16" in patch_warning(None, (60, 64, 64), divisor)
    assert "along x: padded by reflection" in patch_warning(facts_of(3), (64, 64, 128), divisor)
    assert "spans 80 × 12 × 12" in patch_warning(facts_of(3, (80.0, 12.0, 12.0)), (64, 64, 64), divisor)


@pytest.mark.parametrize(("volumes", "samples", "batch"), [(7, 4, 3), (1, 1, 8), (5, 2, 5), (3, 10_000, 1024)])
def test_steps_are_those_of_the_sampler(volumes: int, samples: int, batch: int) -> None:
    from napari_celltrain.engine.patches import plan_batches

    plan = costs.plan(
        facts_of(volumes),
        AugmentationConfig(samples_per_volume=samples, patch_size=(64, 64, 64)),
        TrainingConfig(batch_size=batch),
    )
    steps = plan_batches(volumes, samples, batch, 0, range(1, 2))
    assert plan.steps_per_epoch == sum(1 for _ in steps)


def test_whole_images_count_once_and_as_large_as_the_largest() -> None:
    facts = DataFacts(((32, 64, 64), (40, 50, 60)), (), None, None, 1, 0)
    plan = costs.plan(facts, AugmentationConfig(patches=False, samples_per_volume=9), TrainingConfig())
    assert (plan.samples, plan.batch_voxels, plan.steps_per_epoch) == (1, 2 * 48 * 64 * 64, 1)  # as it is padded
    assert "(2 training volumes, 2 at a time)" in costs.steps_words(plan)


def test_costs_in_words() -> None:
    plan = costs.Plan(10, 4, TrainingConfig(validation_interval=2), 2 * 64**3, 10)
    needed = costs.network_bytes(plan, 5_000_000)
    assert needed == pytest.approx(5e6 * 20 + bytes_per_voxel("unet", "medium") * 2 * 64**3)
    fine = costs.memory_words(needed, 69_000_000, 8 * 10**9, on_gpu=False)
    assert "69 MB" in fine
    assert "not be enough" not in fine
    short = costs.memory_words(needed, 0, 10**8, on_gpu=True)
    assert "not be enough" in short
    seconds = 0.4
    total = costs.total_seconds(plan, seconds)
    assert total == pytest.approx(1200 * seconds + 30 * 10 * seconds / 6)
    assert "rough guess" in costs.time_words(plan, seconds, measured=False)
    assert "as measured" in costs.time_words(plan, seconds, measured=True)
    assert "1 min" not in costs.time_words(plan, 100.0, measured=True)
    plan = replace(plan, training=TrainingConfig(max_minutes=5))
    assert "5 min, the time limit" in costs.time_words(plan, 100.0, measured=True)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (42, "40 s"), (600, "10 min"), (5 * 3600, "5 h"), (20 * 3600, "20 h"), (7 * 86400, "7 days")],
)
def test_durations_are_rough(seconds: float, words: str) -> None:
    assert costs.about(seconds) == words
