import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import get_track_meta

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.nets.augment import AUGMENTATIONS, BOTH, IMAGE, LABEL, Augmenter
from napari_celltrain.nets.geometry import Geometry
from napari_celltrain.values import config
from napari_celltrain.values.config import DEFAULT_AUGMENTATIONS

SHAPE = (10, 16, 16)
COARSE_Z = (2.0, 0.5, 0.5)
ALWAYS = [spec.model_copy(update={"probability": 1.0}) for spec in DEFAULT_AUGMENTATIONS]
SPATIAL = {"flip", "rotate90", "affine", "elastic"}


def patch(shape=SHAPE):
    rng = np.random.default_rng(5)
    target = rng.integers(0, 3, shape, dtype=np.uint8)
    target[:, :3] = IGNORE
    return rng.standard_normal(shape, dtype=np.float32), target


def always(name, **settings):
    (spec,) = (spec for spec in ALWAYS if spec.name == name)
    return spec.model_copy(update=settings)


def test_there_is_one_entry_for_each_augmentation_of_the_configuration():
    assert set(AUGMENTATIONS.keys()) == {spec.name for spec in DEFAULT_AUGMENTATIONS}
    by_name = {spec.name: spec for spec in DEFAULT_AUGMENTATIONS}
    for entry in AUGMENTATIONS:
        assert entry.label
        assert entry.help == " ".join(type(by_name[entry.key]).__doc__.split())


@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
def test_each_entry_builds_a_dictionary_transform_of_monai(voxel_size):
    from monai.transforms import Compose, MapTransform, Randomizable

    for spec in ALWAYS:
        built = AUGMENTATIONS[spec.name].build(spec, Geometry.of(voxel_size))
        for transform in built.transforms if isinstance(built, Compose) else [built]:
            assert isinstance(transform, MapTransform)
            assert isinstance(transform, Randomizable)
            assert transform.keys == (BOTH if spec.name in SPATIAL else (IMAGE,))


def test_they_act_in_a_fixed_order_and_deform_once():
    augmenter = Augmenter(list(reversed(ALWAYS)), COARSE_Z)
    assert [type(transform).__name__ for transform in augmenter._transform.transforms] == [
        "Compose",
        "RandKeepShapeRotate90d",
        "RandDeformd",
        "RandChanged",
        "RandChanged",
        "RandAdjustContrastd",
        "RandScaleIntensityd",
        "RandShiftIntensityd",
        "RandGaussianNoised",
    ]


def test_affine_and_elastic_are_one_resampling(monkeypatch):
    from napari_celltrain.nets import transforms

    deformations = []

    def resample(image, target, deformation):
        deformations.append(deformation)
        return image, target

    monkeypatch.setattr(transforms, "resample", resample)
    augmenter = Augmenter([always("affine"), always("elastic", magnitude=(1.0, 2.0))], None)
    augmenter(*patch(), 0)
    (deformation,) = deformations
    assert not np.array_equal(deformation.matrix, np.eye(3))
    assert deformation.elastic is not None


def test_affine_and_elastic_are_drawn_apart():
    from napari_celltrain.nets.transforms import RandDeformd

    specs = config.Affine(probability=0.5), config.Elastic(probability=0.25, magnitude=(1.0, 2.0))
    transform = RandDeformd((IMAGE, LABEL), Geometry.of(None), *specs)
    transform.set_random_state(0)
    drawn = []
    for _ in range(400):
        transform.randomize((8, 8, 8))
        deformation = transform._deformation
        drawn.append((not np.array_equal(deformation.matrix, np.eye(3)), deformation.elastic is not None))
    affine, elastic = np.mean(drawn, axis=0)
    assert affine == pytest.approx(0.5, abs=0.08)
    assert elastic == pytest.approx(0.25, abs=0.08)
    assert np.mean([both == (True, True) for both in drawn]) == pytest.approx(0.125, abs=0.06)


@pytest.mark.parametrize("spec", [*ALWAYS, None], ids=lambda spec: spec.name if spec else "all")
@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
def test_shape_type_and_labels_stay(spec, voxel_size):
    image, target = patch()
    originals = image.copy(), target.copy()
    augmenter = Augmenter([spec] if spec else ALWAYS, voxel_size)
    changed = 0
    for seed in range(8):
        new_image, new_target = augmenter(image, target, seed)
        assert new_image.shape == new_target.shape == SHAPE
        assert (new_image.dtype, new_target.dtype) == (np.float32, np.uint8)
        assert new_image.flags.c_contiguous
        assert new_target.flags.c_contiguous
        assert np.isfinite(new_image).all()
        assert set(np.unique(new_target)) <= {0, 1, 2, IGNORE}
        if spec and spec.name not in SPATIAL:
            np.testing.assert_array_equal(new_target, target)
        changed += not np.array_equal(new_image, image)
    assert changed >= 6
    np.testing.assert_array_equal(image, originals[0])
    np.testing.assert_array_equal(target, originals[1])


@pytest.mark.parametrize("spec", [spec for spec in ALWAYS if spec.name in SPATIAL], ids=lambda spec: spec.name)
@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
def test_image_and_labels_are_moved_alike(spec, voxel_size):
    # Two values far apart: wherever the image is clearly one of them, the labels must say the same.
    target = np.zeros(SHAPE, np.uint8)
    target[2:7, 4:12, 3:9] = 1
    for seed in range(5):
        new_image, new_target = Augmenter([spec], voxel_size)(target.astype(np.float32), target, seed)
        assert (new_target[new_image > 0.9] == 1).all()
        assert (new_target[new_image < 0.1] == 0).all()


def test_equal_seeds_give_equal_patches_whatever_came_before():
    image, target = patch()
    augmenter = Augmenter(ALWAYS, None)
    expected = augmenter(image, target, 3)
    augmenter(image, target, 4)
    again = Augmenter(list(reversed(ALWAYS)), None)(image, target, 3)
    for actual, wanted in zip(again, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert not np.array_equal(augmenter(image, target, 4)[0], expected[0])


def test_threads_with_augmenters_of_their_own_do_not_disturb_each_other():
    image, target = patch()
    augmenters = [Augmenter(ALWAYS, None) for _ in range(3)]
    expected = [augmenters[0](image, target, seed)[0] for seed in range(12)]
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda augmenter: [augmenter(image, target, seed)[0] for seed in range(12)], augmenters))
    for actual in parts:
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_seeds_of_any_size_are_told_apart():
    image, target = patch()
    augmenter = Augmenter([always("noise")], None)
    results = {augmenter(image, target, seed)[0].tobytes() for seed in (0, 1, 2**32 - 1, 2**32, 2**70)}
    assert len(results) == 5


def test_arrays_that_cannot_be_written_to_or_are_views_will_do():
    image, target = patch()
    augmenter = Augmenter([config.Flip(probability=0.5)], None)
    expected = augmenter(np.ascontiguousarray(image[::-1]), np.ascontiguousarray(target[::-1]), 1)
    image.flags.writeable = target.flags.writeable = False
    for actual, wanted in zip(augmenter(image[::-1], target[::-1], 1), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
        assert type(actual) is np.ndarray


def test_what_is_given_is_never_written_to():
    image, target = patch()
    originals = image.copy(), target.copy()
    augmenter = Augmenter(DEFAULT_AUGMENTATIONS, COARSE_Z)
    for seed in range(60):
        augmenter(image, target, seed)
    np.testing.assert_array_equal(image, originals[0])
    np.testing.assert_array_equal(target, originals[1])


def test_global_random_states_are_left_alone():
    image, target = patch()
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    Augmenter(ALWAYS, None)(image, target, 0)
    assert get_track_meta()
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_probability_zero_is_never_and_one_is_always():
    image, target = patch()
    never = [spec.model_copy(update={"probability": 0.0}) for spec in DEFAULT_AUGMENTATIONS]
    for seed in range(5):
        new_image, new_target = Augmenter(never, None)(image, target, seed)
        np.testing.assert_array_equal(new_image, image)
        np.testing.assert_array_equal(new_target, target)
    spec = config.IntensityShift(probability=0.5, offset=1.0)
    shifted = [not np.array_equal(Augmenter([spec], None)(image, target, seed)[0], image) for seed in range(400)]
    assert 0.4 < np.mean(shifted) < 0.6


def test_every_mirror_image_occurs():
    corner = np.zeros(SHAPE, np.float32)
    corner[0, 0, 0] = 1
    augmenter = Augmenter([config.Flip(probability=0.5)], None)
    seen = {tuple(np.argwhere(augmenter(corner, corner.astype(np.uint8), seed)[0])[0]) for seed in range(80)}
    assert len(seen) == 8


@pytest.mark.parametrize(
    ("shape", "voxel_size", "num_turns"),
    [
        ((8, 8, 8), None, 9),
        ((4, 8, 8), None, 5),  # three in the square plane, a half turn in each of the others
        ((8, 8, 8), COARSE_Z, 3),
        ((4, 8, 6), COARSE_Z, 1),
    ],
)
def test_turns_keep_the_shape_and_stay_in_the_plane_where_they_must(shape, voxel_size, num_turns):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    augmenter = Augmenter([always("rotate90")], voxel_size)
    results = {augmenter(image, image.astype(np.uint8), seed)[0].tobytes() for seed in range(90)}
    assert len(results) == num_turns
    if voxel_size:
        for result in results:
            planes = np.frombuffer(result, np.float32).reshape(shape)
            np.testing.assert_array_equal(planes.mean((1, 2)), image.mean((1, 2)))


def test_brightness_changes_stay_within_their_bounds():
    image, target = patch()
    for seed in range(20):
        shifted, _ = Augmenter([always("intensity_shift", offset=0.2)], None)(image, target, seed)
        assert abs(shifted - image).max() <= 0.2 + 1e-5
        scaled, _ = Augmenter([always("intensity_scale", factor=0.3)], None)(image, target, seed)
        assert 0.7 - 1e-4 <= (scaled.sum() / image.sum()) <= 1.3 + 1e-4


def test_contrast_keeps_range_and_order_also_of_negative_values():
    image, target = patch()
    for seed in range(10):
        bent, _ = Augmenter([always("contrast")], None)(image, target, seed)
        assert bent.min() == pytest.approx(image.min(), abs=1e-5)
        assert bent.max() == pytest.approx(image.max(), abs=1e-5)
        assert (np.diff(bent.ravel()[np.argsort(image.ravel())]) >= 0).all()
    constant = np.full(SHAPE, 0.5, np.float32)
    np.testing.assert_array_equal(Augmenter([always("contrast")], None)(constant, target, 0)[0], constant)


def test_noise_comes_last_and_is_of_the_given_strength():
    flat = np.zeros((16, 32, 32), np.float32)
    augmenter = Augmenter([always("noise", std=0.2), always("blur")], None)
    stds = [augmenter(flat, flat.astype(np.uint8), seed)[0].std() for seed in range(30)]
    assert max(stds) < 0.21
    assert np.mean(stds) == pytest.approx(0.1, abs=0.04)


def test_blur_is_as_wide_in_micrometres_along_a_coarse_axis():
    point = np.zeros((17, 33, 33), np.float32)
    point[8, 16, 16] = 1
    blurred, _ = Augmenter([always("blur", sigma=(3.2, 3.2))], COARSE_Z)(point, point.astype(np.uint8), 0)

    def sigma(axis):
        profile = blurred.sum(tuple({0, 1, 2} - {axis}))
        return (profile * (np.arange(len(profile)) - len(profile) // 2) ** 2).sum() ** 0.5

    # A voxel's own width adds 1/12 to the variance.
    assert sigma(1) == pytest.approx((3.2**2 + 1 / 12) ** 0.5, rel=0.03)
    assert sigma(2) == pytest.approx(sigma(1), rel=1e-4)
    assert sigma(0) == pytest.approx((0.8**2 + 1 / 12) ** 0.5, rel=0.03)
    assert blurred.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
@pytest.mark.parametrize("name", ["blur", "low_resolution"])
@pytest.mark.parametrize("shape", [SHAPE, (1, 5, 9)])
def test_what_takes_sharpness_leaves_an_even_patch_even_to_its_border(name, shape, voxel_size):
    even = np.full(shape, 0.7, np.float32)
    for seed in range(5):
        new_image, _ = Augmenter([always(name)], voxel_size)(even, even.astype(np.uint8), seed)
        np.testing.assert_allclose(new_image, even, atol=2e-4)  # the kernel ends at 4 sigma


def test_a_blur_of_zero_changes_nothing():
    image, target = patch()
    np.testing.assert_array_equal(Augmenter([always("blur", sigma=(0.0, 0.0))], None)(image, target, 0)[0], image)


@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
@pytest.mark.parametrize("zoom", [0.06, 0.5, 0.77, 1.0])
def test_low_resolution_keeps_shape_and_loses_detail(zoom, voxel_size):
    image, target = patch()
    coarse, _ = Augmenter([always("low_resolution", zoom=(zoom, zoom))], voxel_size)(image, target, 0)
    assert coarse.shape == image.shape
    if zoom == 1.0:
        np.testing.assert_allclose(coarse, image, atol=1e-6)
    else:
        assert coarse.std() < 0.9 * image.std()


@pytest.mark.parametrize("voxel_size", [None, COARSE_Z])
def test_low_resolution_does_not_shift_the_image_against_its_labels(voxel_size):
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (16, 32, 64)).copy()
    augmenter = Augmenter([always("low_resolution")], voxel_size)
    shifts = [(augmenter(ramp, ramp.astype(np.uint8), seed)[0] - ramp)[:, :, 8:-8].mean() for seed in range(40)]
    assert abs(np.mean(shifts)) < 0.1


@pytest.mark.parametrize("voxel_size", [(2.0, 0.5, 0.5), (0.5, 2.0, 0.5), (0.5, 0.5, 2.0)])
@pytest.mark.parametrize("name", ["rotate90", "affine", "elastic", "low_resolution"])
def test_nothing_is_mixed_along_a_coarse_axis(name, voxel_size):
    across = voxel_size.index(2.0)
    image = np.random.default_rng(0).standard_normal((12, 12, 12), dtype=np.float32)
    one_plane = np.zeros_like(image)
    plane = tuple(5 if axis == across else slice(None) for axis in range(3))
    one_plane[plane] = image[plane]
    for seed in range(6):
        changed, _ = Augmenter([always(name)], voxel_size)(one_plane, one_plane.astype(np.uint8), seed)
        assert changed[plane].any()
        changed[plane] = 0
        assert not changed.any()
