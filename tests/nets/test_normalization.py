import numpy as np
import pytest
import zarr
from pydantic import ValidationError

from napari_celltrain.io import volume as volumes
from napari_celltrain.nets.normalize import IntensityStatistics, measure, normalize
from napari_celltrain.values.errors import DataError


def volume(shape=(9, 30, 40), dtype=np.uint16):
    return (np.random.default_rng(0).gamma(2.0, 300.0, shape) + 100).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, ">u2"])
def test_percentiles_are_those_of_the_whole_volume(dtype):
    image = volume(dtype=np.uint16).astype(dtype)
    low, high = np.percentile(image, [1, 99.8])
    statistics = measure(image, "percentile")
    assert (statistics.offset, statistics.offset + statistics.scale) == pytest.approx((low, high))
    normalized = normalize(image, statistics)
    assert np.percentile(normalized, [1, 99.8]) == pytest.approx([0, 1], abs=1e-5)
    assert normalized.dtype == np.float32
    assert normalized.flags.c_contiguous


def test_zscore_brings_mean_to_zero_and_deviation_to_one():
    normalized = normalize(volume(), measure(volume(), "zscore"))
    assert normalized.mean() == pytest.approx(0, abs=1e-4)
    assert normalized.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
@pytest.mark.parametrize("value", [0, 7, 0.1])
def test_a_constant_volume_becomes_zero(kind, value):
    image = np.full((4, 5, 6), value, np.float32)
    statistics = measure(image, kind)
    assert statistics.scale == 1
    assert not normalize(image, statistics).any()


def test_a_nearly_empty_volume_is_scaled_by_what_there_is():
    image = np.zeros((10, 20, 20), np.uint8)
    image[5, 5, 5] = 200
    statistics = measure(image, "percentile")
    assert (statistics.offset, statistics.scale) == (0, 200)


def test_masks_of_booleans_are_numbers_too():
    image = np.zeros((4, 4, 4), bool)
    image[0] = True
    assert measure(image, "percentile").scale == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_values_that_are_no_numbers_are_refused_by_name(value, kind):
    image = volume(dtype=np.float32)
    image[3, 4, 5] = value
    with pytest.raises(DataError, match=r"^embryo\.tif holds values that are not numbers"):
        measure(image, kind, name="embryo.tif")


def test_an_empty_volume_is_refused():
    with pytest.raises(DataError, match="no voxels"):
        measure(np.zeros((0, 4, 4)), "zscore")


@pytest.mark.parametrize("shape", [(40, 50, 60), (3, 200, 200), (1, 1, 5000), (2000, 2, 3)])
def test_a_large_volume_is_measured_on_a_regular_grid(shape):
    image = volume(shape)
    whole = measure(image, "percentile")
    part = measure(image, "percentile", max_voxels=image.size // 3)
    assert part == measure(image, "percentile", max_voxels=image.size // 3)
    assert part != whole
    assert (part.offset, part.scale) == pytest.approx((whole.offset, whole.scale), rel=0.15)


def test_a_large_volume_is_read_in_slabs(monkeypatch):
    image = volume((50, 40, 60))
    whole = measure(image, "zscore", max_voxels=20_000)
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 4_000)
    read = []

    class Watched:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, key):
            part = image[key]
            read.append(part.size)
            return part

    assert measure(Watched(), "zscore", max_voxels=20_000) == whole
    assert max(read) <= 2_000
    assert 10_000 < sum(read) <= 20_000


def test_files_are_measured_like_arrays(tmp_path):
    image = volume((20, 30, 40))
    stored = zarr.create_array(tmp_path / "image.zarr", shape=image.shape, chunks=(8, 16, 16), dtype=image.dtype)
    stored[:] = image
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    for limit in (image.size, 3000):
        expected = measure(image, "percentile", max_voxels=limit)
        assert measure(stored, "percentile", max_voxels=limit) == expected
        assert measure(mapped, "percentile", max_voxels=limit) == expected


def test_a_patch_of_any_layout_is_normalized_and_left_alone():
    image = volume()
    statistics = IntensityStatistics(kind="zscore", offset=3.5, scale=2.0)
    view = image[::2, :, ::-1]
    before = view.copy()
    normalized = normalize(view, statistics)
    np.testing.assert_allclose(normalized, (before - 3.5) / 2, rtol=1e-6)
    assert normalized.flags.c_contiguous
    np.testing.assert_array_equal(view, before)


def test_statistics_survive_being_written_and_refuse_a_scale_of_zero():
    statistics = measure(volume(), "percentile")
    assert IntensityStatistics.model_validate_json(statistics.model_dump_json()) == statistics
    with pytest.raises(ValidationError):
        IntensityStatistics(kind="zscore", offset=0, scale=0)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64, np.float64, ">u4"])
def test_small_differences_on_a_large_offset_survive(dtype):
    image = (np.arange(2001).reshape(3, 23, 29) + 3_000_000_000).astype(dtype)
    normalized = normalize(image, IntensityStatistics(kind="percentile", offset=3e9, scale=2000))
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized.ravel(), np.arange(2001) / 2000, atol=1e-6)
    assert len(np.unique(normalized)) == 2001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_narrow_types_are_subtracted_in_float32(dtype):
    image = volume(dtype=np.uint8).astype(dtype)
    statistics = IntensityStatistics(kind="zscore", offset=31.7, scale=17.3)
    expected = (image.astype(np.float32) - np.float32(31.7)) / np.float32(17.3)
    np.testing.assert_array_equal(normalize(image, statistics), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_percentiles_of_signed_numbers_do_not_overflow(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    image = np.full((5, 10, 10), low, dtype)
    image[4:, 9:, 9:] = high
    statistics = measure(image, "percentile")
    assert statistics.offset == low
    expected = np.percentile(image.astype(np.float64), 99.8)
    assert statistics.offset + statistics.scale == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["percentile", "zscore"])
@pytest.mark.parametrize(("dtype", "values"), [("f4", (3e38, -3e38)), ("f8", (1e300, 0)), ("f8", (1e-40, 0))])
def test_extreme_values_are_refused_by_name(kind, dtype, values):
    image = np.zeros((4, 5, 6), dtype)
    image[0, 0, :2] = values
    with pytest.raises(DataError, match=r"^embryo\.tif holds values"):
        measure(image, kind, name="embryo.tif")


KINDS = ["percentile", "zscore"]
CELLS = np.float32(np.random.default_rng(3).normal(100, 5, (20, 40, 50)))
CELLS[4:9, 10:20, 10:20] += np.random.default_rng(4).gamma(2.0, 300.0, (5, 10, 10))


def with_voxels(value, where):
    image = CELLS.copy()
    image[where] = value
    return image


BROKEN = {
    "a hot voxel": with_voxels(1e6, (3, 4, 5)),
    "a hotter one": with_voxels(1e12, (3, 4, 5)),
    "a negative spike": with_voxels(-1e8, (3, 4, 5)),
    "a column": with_voxels(1e6, np.s_[:, 4, 5]),
    "many": with_voxels(1e6, np.s_[3, 3:8, 3:15]),
    "both sides": with_voxels([-1e6, 1e6], np.s_[3, 4, 5:7]),
    "a plane": with_voxels(1e6 + np.arange(2000).reshape(40, 50), 7),
    "a plane far below": with_voxels(-1e6, 7),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", BROKEN.values(), ids=BROKEN)
def test_broken_voxels_leave_the_others_as_they_are(kind, image):
    expected, statistics = measure(CELLS, kind), measure(image, kind)
    assert statistics.offset == pytest.approx(expected.offset, abs=0.05 * expected.scale)
    assert 0.9 < statistics.scale / expected.scale < 1.5  # 0.15 % of broken voxels move a percentile a little
    normalized = normalize(image, statistics)
    assert np.abs(normalized).max() < {"percentile": 40, "zscore": 130}[kind]
    same = image == CELLS
    np.testing.assert_allclose(normalized[same], normalize(CELLS, statistics)[same], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_ordinary_volumes_are_not_changed_by_a_bit(kind, dtype):
    image = volume(dtype=np.uint8).astype(dtype)
    limited, unlimited = (measure(image, kind, limit_outliers=limit) for limit in (True, False))
    assert limited.model_copy(update={"limit": None}) == unlimited
    np.testing.assert_array_equal(normalize(image, limited), normalize(image, unlimited))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_limit_everything_counts_as_in_version_0_1(kind):
    image = BROKEN["a hot voxel"]
    statistics = measure(image, kind, limit_outliers=False)
    assert statistics.limit is None
    largest = (1e6 - statistics.offset) / statistics.scale
    assert normalize(image, statistics).max() == pytest.approx(largest, rel=1e-6)
    assert largest > 150


def test_brighter_voxels_stay_brighter_beyond_the_limit():
    statistics = IntensityStatistics(kind="percentile", offset=0, scale=1, limit=12)
    values = np.array([0, 11.9, 12, 12.1, 20, 1e3, 1e6, 1e30]).reshape(2, 2, 2)
    normalized = normalize(values, statistics)
    assert (np.diff(normalized.ravel()) > 0).all()
    np.testing.assert_array_equal(normalize(-values, statistics), -normalized)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", [0, 500])
@pytest.mark.parametrize("spike", [-1e7, 1e7, None])
def test_in_a_nearly_constant_volume_what_differs_is_what_there_is_to_see(kind, background, spike):
    image = np.full((10, 40, 50), background, np.float32)
    image[5, 5:7, 5:9] = background + np.linspace(100, 300, 8).reshape(2, 4)
    if spike is not None:
        image[1, 1, 1] = spike
    statistics = measure(image, kind)
    normalized = normalize(image, statistics)
    cells = normalized[5, 5:7, 5:9] - normalized[0, 0, 0]
    assert 0.4 < cells.min() < cells.max() < 110
    assert np.ptp(cells) > 0.4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_of_two_planes_or_of_numbers_beyond_float_is_measured(kind):
    image = np.stack([CELLS[4], CELLS[4] + 1e6])
    assert np.isfinite(normalize(image, measure(image, kind))).all()
    large = np.full((3, 4, 5), 2**60, np.int64)
    large[1, 2, 3] += 2**12
    assert np.isfinite(normalize(large, measure(large, kind))).all()
    small = np.zeros((3, 40, 50))
    small[1, 2, :4] = 1e-40, 1e-35, 1e30, -1e30
    assert np.isfinite(normalize(small, measure(small, kind))).all()
