import numpy as np
import pytest
from scipy import ndimage

from napari_celltrain.engine.objects import decode, decode_block, foreground_of, halo, quantize
from napari_celltrain.values.decoding import ObjectDecoding
from touching import SPACING, touching_balls

PLAIN = ObjectDecoding(method="components", context_um=10)
WATERSHED = ObjectDecoding(method="watershed", smoothing_um=0.7, seed_distance_um=3, context_um=14)
LEARNED = ObjectDecoding(method="learned", smoothing_um=0.5, seed_distance_um=2, seed_level=0.4, context_um=14)
METHODS = [WATERSHED, LEARNED]


def same_objects(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the foreground voxels of either whose objects correspond, names aside."""
    both = (one > 0) | (other > 0)
    pairs, counts = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
    best: dict[int, int] = {}
    for (first, second), count in zip(pairs.T, counts, strict=True):
        if first and second:
            best[int(first)] = max(best.get(int(first), 0), int(count))
    return sum(best.values()) / int(both.sum())


def test_half_a_probability_is_decided_exactly():
    probabilities = np.array([np.nextafter(np.float32(0.5), np.float32(0)), 0.5], np.float32)
    maps = quantize(np.array([0.497, 0.5], np.float32)).reshape(1, 1, 1, 2)
    assert foreground_of(maps, 0.5).ravel().tolist() == [False, True]
    assert quantize(np.array([0, 1], np.float32)).tolist() == [0, 255]
    assert quantize(probabilities)[1] == 128


def test_connected_pieces_leave_touching_objects_together():
    maps, labels = touching_balls()
    found = decode(maps, 0.5, PLAIN, SPACING)
    assert found.max() == ndimage.label(labels > 0)[1] < labels.max()


@pytest.mark.parametrize("decoding", METHODS, ids=lambda value: value.method)
def test_touching_objects_are_told_apart(decoding):
    maps, labels = touching_balls()
    found = decode(maps, 0.5, decoding, SPACING)
    assert abs(int(found.max()) - int(labels.max())) <= 0.1 * labels.max()
    assert same_objects(found, labels) > 0.9


@pytest.mark.parametrize("decoding", [PLAIN, *METHODS], ids=lambda value: value.method)
def test_numbers_are_consecutive_and_empty_volumes_are_empty(decoding):
    maps, _ = touching_balls()
    found = decode(maps, 0.5, decoding, SPACING)
    assert np.unique(found).tolist() == list(range(found.max() + 1))
    assert decode(np.zeros_like(maps), 0.5, decoding, SPACING).max() == 0


@pytest.mark.parametrize("decoding", [PLAIN, *METHODS], ids=lambda value: value.method)
def test_small_objects_are_left_out_by_their_volume(decoding):
    maps, _ = touching_balls()
    everything = decode(maps, 0.5, decoding, SPACING)
    sizes = np.bincount(everything.ravel())[1:] * 2.0
    limit = float(np.median(sizes))
    found = decode(maps, 0.5, decoding.model_copy(update={"min_size_um3": limit}), SPACING)
    left = np.bincount(found.ravel())[1:] * 2.0
    assert len(left) == np.count_nonzero(sizes >= limit)
    assert left.min() >= limit


def test_seeds_keep_their_distance_in_micrometres():
    maps = np.zeros((3, 21, 21, 21), np.uint8)
    maps[0] = 255
    maps[1] = 60
    maps[1, 6, 10, 10] = maps[1, 14, 10, 10] = 250  # 8 voxels apart along z
    decoding = ObjectDecoding(method="learned", smoothing_um=0, seed_distance_um=10, seed_level=0.5)
    assert decode(maps, 0.5, decoding, (1.0, 1.0, 1.0)).max() == 1
    assert decode(maps, 0.5, decoding, (2.0, 1.0, 1.0)).max() == 2


def test_foreground_without_a_clear_middle_is_no_object():
    maps, _ = touching_balls()
    maps[1] //= 4
    assert decode(maps, 0.5, LEARNED, SPACING).max() == 0


@pytest.mark.parametrize("decoding", METHODS, ids=lambda value: value.method)
@pytest.mark.parametrize("size", [(20, 60, 64), (10, 32, 32), (7, 20, 23)])
def test_blocks_give_the_objects_of_the_whole_volume(decoding, size):
    maps, _ = touching_balls()
    shape = maps.shape[1:]
    whole = decode(maps, 0.5, decoding, SPACING)
    margin = halo(decoding, SPACING)
    result = np.zeros(shape, np.int64)
    for start in np.ndindex(*(-(-n // s) for n, s in zip(shape, size, strict=True))):
        first = [i * s for i, s in zip(start, size, strict=True)]
        last = [min(n, f + s) for n, f, s in zip(shape, first, size, strict=True)]
        outer = [(max(0, f - m), min(n, e + m)) for f, e, m, n in zip(first, last, margin, shape, strict=True)]
        block = maps[(slice(None), *(slice(*span) for span in outer))]
        z, y, x = (slice(f - o[0], e - o[0]) for f, e, o in zip(first, last, outer, strict=True))
        result[tuple(slice(f, e) for f, e in zip(first, last, strict=True))] = decode_block(
            block,
            0.5,
            decoding,
            SPACING,
            origin=tuple(o[0] for o in outer),
            volume_shape=shape,
            core=(z, y, x),
        )
    assert len(np.unique(result)) == len(np.unique(whole))
    assert same_objects(result, whole) > 0.999


def test_an_object_is_named_after_a_voxel_of_its_own():
    maps, _ = touching_balls()
    shape = maps.shape[1:]
    core = tuple(slice(0, n) for n in shape)
    for decoding in (PLAIN, *METHODS):
        named = decode_block(maps, 0.5, decoding, SPACING, origin=(0, 0, 0), volume_shape=shape, core=core)
        for name in np.unique(named)[1:]:
            assert named.ravel()[name - 1] == name


@pytest.mark.parametrize("decoding", METHODS, ids=lambda value: value.method)
def test_empty_space_around_the_objects_changes_nothing(decoding):
    decoding = decoding.model_copy(update={"depth_weight": 0.3 if decoding.method == "learned" else 0.0})
    random = np.random.default_rng(0)
    for _ in range(5):
        blurred = ndimage.gaussian_filter(random.random((3, 20, 30, 30)), (0, 2, 2, 2))
        maps = quantize((blurred - blurred.min()) / np.ptp(blurred))
        around = maps[0].copy()
        around[4:-4, 4:-4, 4:-4] = 0
        maps[0] -= around  # foreground only inside; the other maps go on around it
        core = tuple(slice(0, n) for n in around.shape)
        block = decode_block(maps, 0.5, decoding, SPACING, origin=(0, 0, 0), volume_shape=around.shape, core=core)
        _, numbers = np.unique(block, return_inverse=True)
        assert np.array_equal(decode(maps, 0.5, decoding, SPACING), numbers.reshape(around.shape))


@pytest.mark.parametrize("method", ["watershed", "learned"])
def test_level_maps_that_fill_the_volume_are_one_object(method):
    maps = np.full((3, 24, 96, 96), 255, np.uint8)
    decoding = ObjectDecoding(method=method, smoothing_um=0, seed_distance_um=12, context_um=10)
    assert np.unique(decode(maps, 0.5, decoding, SPACING)).tolist() == [1]


def test_an_object_larger_than_its_context_is_not_lost():
    maps = np.zeros((3, 40, 40, 40), np.uint8)
    maps[:2, 2:-2, 2:-2, 2:-2] = 255
    decoding = ObjectDecoding(method="learned", smoothing_um=0, seed_distance_um=2, context_um=8)
    margin = halo(decoding, (1.0, 1.0, 1.0))[0]
    names = [
        decode_block(
            maps[:, max(0, first - margin) : first + 10 + margin],
            0.5,
            decoding,
            (1.0, 1.0, 1.0),
            origin=(max(0, first - margin), 0, 0),
            volume_shape=(40, 40, 40),
            core=(slice(min(first, margin), min(first, margin) + 10), slice(0, 40), slice(0, 40)),
        )
        for first in range(0, 40, 10)
    ]
    np.testing.assert_array_equal(np.concatenate(names) > 0, maps[0] > 0)
