"""The suggested patch size follows from volumes, voxels, objects and memory."""

from __future__ import annotations

import math

import pytest

from napari_celltrain.nets.geometry import MAX_VOXELS, TARGET_VOXELS, affordable_voxels, suggest_patch_size

ISOTROPIC = [(256, 256, 256)]
DIVISOR = (16, 16, 16)
PLENTY = affordable_voxels(10**10, 2, 500.0)


@pytest.mark.parametrize("extent", [None, (7.0, 15.0, 15.0)])
def test_typical_embryos_get_what_they_always_got(extent: tuple | None) -> None:
    found = suggest_patch_size([(50, 130, 130)] * 6, (1.75, 0.8, 0.8), (8, 16, 16), extent, PLENTY)
    assert found.patch_size == (56, 80, 80)
    assert "memory" not in found.reason
    assert "objects" not in found.reason


def test_large_objects_get_larger_patches_and_hear_why() -> None:
    usual = suggest_patch_size(ISOTROPIC, None, DIVISOR, (20.0, 20.0, 20.0))
    assert usual.patch_size == (64, 64, 64)
    larger = suggest_patch_size(ISOTROPIC, None, DIVISOR, (45.0, 45.0, 45.0))
    assert larger.patch_size == (96, 96, 96)
    assert "objects are large" in larger.reason


def test_huge_objects_do_not_get_any_size() -> None:
    found = suggest_patch_size(ISOTROPIC, None, DIVISOR, (200.0, 200.0, 200.0))
    assert TARGET_VOXELS < math.prod(found.patch_size) <= 1.3 * MAX_VOXELS  # rounded to the divisor


def test_no_patch_is_longer_than_the_volume_for_the_sake_of_objects() -> None:
    found = suggest_patch_size([(64, 64, 64)], None, DIVISOR, (60.0, 60.0, 60.0))
    assert found.patch_size == (64, 64, 64)
    assert "objects" not in found.reason


def test_little_memory_makes_patches_smaller_and_says_so() -> None:
    found = suggest_patch_size(ISOTROPIC, None, DIVISOR, None, affordable_voxels(2 * 10**9, 4, 6000.0))
    assert found.patch_size == (32, 32, 32)
    assert "memory" in found.reason


def test_a_larger_batch_leaves_less_for_each_patch() -> None:
    assert affordable_voxels(10**10, 4, 1000.0) == pytest.approx(affordable_voxels(10**10, 1, 1000.0) / 4, rel=0.01)
