"""Objects that are found block by block: as if they had been found in the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_celltrain.engine.objects import decode, decode_block, halo
from napari_celltrain.engine.windows import BlockGrid
from napari_celltrain.predict.passes import number_block, number_objects
from napari_celltrain.values.decoding import ObjectDecoding

SPACING = (1.0, 0.5, 0.5)
COMPONENTS = ObjectDecoding(method="components")
LEARNED = ObjectDecoding(
    method="learned", smoothing_um=0.5, seed_distance_um=2.0, seed_level=0.3, min_size_um3=1.0, context_um=8.0
)
WATERSHED = LEARNED.model_copy(update={"method": "watershed", "seed_level": 0.5})


def by_blocks(maps: np.ndarray, size, decoding: ObjectDecoding, min_size_um3: float) -> tuple[int, np.ndarray]:
    shape = maps.shape[1:]
    grid = BlockGrid(shape, size)
    around = halo(decoding, SPACING)
    found = []
    for number in range(len(grid)):
        region = grid.region(number)
        outer = tuple(
            slice(max(0, p.start - h), min(s, p.stop + h)) for p, h, s in zip(region, around, shape, strict=True)
        )
        core = tuple(slice(p.start - o.start, p.stop - o.start) for p, o in zip(region, outer, strict=True))
        objects = decode_block(
            maps[(slice(None), *outer)],
            0.5,
            decoding,
            SPACING,
            origin=tuple(o.start for o in outer),
            volume_shape=shape,
            core=core,
        )
        found.append(number_block(objects, with_faces=decoding.method == "components"))
    count, tables = number_objects(grid, [kept for _, kept in found], min_size_um3, float(np.prod(SPACING)))
    result = np.zeros(shape, np.int64)
    for number, (voxels, _) in enumerate(found):
        result[grid.region(number)] = tables[number][voxels]
    return count, result


def bumps(seed: int = 0, shape=(40, 70, 60), num_objects: int = 60) -> np.ndarray:
    """Maps of cells that touch: (foreground, distance, boundary)."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    distance = np.zeros(shape)
    for _ in range(num_objects):
        centre, radius = [rng.integers(0, size) for size in shape], rng.uniform(2.0, 4.0)
        apart = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, SPACING, strict=True)) ** 0.5
        distance = np.maximum(distance, 1 - apart / radius)
    foreground = distance > 0
    return (np.stack([foreground, distance, foreground & (distance < 0.2)]) * 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(7, 9, 5), (32, 32, 32), (1, 6, 31), (4, 4, 4)])
def test_connected_pieces_are_joined_across_blocks(size):
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 31, 29)), 1.2)
    maps = (noise > 0.03).astype(np.uint8)[None] * 255  # winding pieces that cross many blocks
    _, result = by_blocks(maps, size, COMPONENTS, 0.0)
    np.testing.assert_array_equal(result, decode(maps, 0.5, COMPONENTS, SPACING))
    assert result.max() > 5


def test_small_pieces_are_left_out_by_their_whole_size():
    maps = np.zeros((1, 8, 8, 8), np.uint8)
    maps[0, 2, 2, 1:7] = 255  # 6 voxels, 3 in each of two blocks
    maps[0, 5, 5, 1:5] = 255  # 4 voxels
    count, result = by_blocks(maps, (8, 8, 4), COMPONENTS, min_size_um3=5 * 0.25)
    assert count == 1
    assert (result > 0).sum() == 6


@pytest.mark.parametrize("decoding", [LEARNED, WATERSHED], ids=["learned", "watershed"])
@pytest.mark.parametrize("size", [(16, 24, 24), (9, 31, 60), (40, 20, 20)])
def test_watersheds_agree_with_those_of_the_whole_volume(decoding, size):
    maps = bumps()
    whole = decode(maps, 0.5, decoding, SPACING)
    count, result = by_blocks(maps, size, decoding, decoding.min_size_um3)
    assert count == whole.max() > 30
    assert (result != whole).sum() <= 1e-3 * (whole > 0).sum()


def test_nothing_found_is_no_object():
    count, result = by_blocks(np.zeros((1, 5, 5, 5), np.uint8), (3, 3, 3), COMPONENTS, 1.0)
    assert count == 0
    assert not result.any()


def test_many_objects_are_numbered_in_32_bits():
    grid = BlockGrid((1, 1, 1), (1, 1, 1))
    names = np.arange(1, 2**16 + 1, dtype=np.int64)
    _, tables = number_objects(grid, [{"names": names, "sizes": np.ones_like(names)}], 0.0, 1.0)
    assert tables[0].dtype == np.uint32
    assert tables[0][-1] == 2**16
