"""Volumes seen at another voxel size, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.transform import resize

from napari_celltrain.data import resample
from napari_celltrain.data.resample import Resampled, labels_back, resampled

RNG = np.random.default_rng(0)


class Counted:
    """An array that remembers how many planes were read of it at most."""

    def __init__(self, array):
        self.array, self.most = array, 0

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def __getitem__(self, key):
        part = self.array[key]
        self.most = max(self.most, part.shape[0])
        return part


@pytest.mark.parametrize(
    ("spacing", "shape"), [((1, 1, 1), (16, 12, 20)), ((0.5, 1, 2), (8, 12, 40)), ((4, 3, 1), (64, 36, 20))]
)
def test_the_size_in_space_stays(spacing, shape):
    assert resampled(np.zeros((16, 12, 20)), spacing, (1, 1, 1)).shape == shape


def test_no_axis_vanishes():
    assert resampled(np.zeros((1, 3, 3)), (1, 1, 1), (10, 10, 10)).shape == (1, 1, 1)


def test_the_same_spacing_changes_nothing():
    image = RNG.integers(0, 2**16, (5, 6, 7)).astype(np.uint16)
    np.testing.assert_array_equal(resampled(image, (2, 1, 1), (2, 1, 1))[:], image)


@pytest.mark.parametrize("to", [(1.0, 0.5, 1.0), (2.0, 2.0, 2.0), (0.7, 1.3, 3.1)])
def test_is_what_scikit_image_gives(to):
    image = RNG.normal(size=(12, 15, 17)).astype(np.float32)
    view = resampled(image, (1, 1, 1), to)
    factors = np.array(image.shape) / view.shape
    # its Gaussian reaches as far as ours where we ask it to; it counts four sigmas, ours three
    expected = resize(
        image,
        view.shape,
        order=1,
        mode="edge",
        anti_aliasing=True,
        anti_aliasing_sigma=np.maximum(0, (factors - 1) / 2),
    )
    np.testing.assert_allclose(view[:], expected, atol=0.02)


def test_any_part_is_the_part_of_the_whole():
    view = resampled(RNG.normal(size=(20, 15, 17)), (1, 1, 1), (0.6, 1.7, 1))
    whole = view[:]
    part = (slice(3, 29, 4), slice(2, 7), slice(1, None, 3))
    np.testing.assert_array_equal(view[part], whole[part])
    assert view[5:5].shape == (0, *view.shape[1:])


def test_only_the_planes_that_are_needed_are_read(monkeypatch):
    monkeypatch.setattr(resample, "SLAB_VOXELS", 4 * 64)
    source = Counted(RNG.normal(size=(100, 8, 8)))
    resampled(source, (1, 1, 1), (0.5, 1, 1))[:]
    assert source.most <= 4
    source.most = 0
    labels_back(source, (200, 8, 8), slice(10, 20))
    assert source.most <= 6


def test_shrinking_does_not_alias():
    """Stripes finer than the new voxels become grey, not broad stripes."""
    stripes = np.broadcast_to(np.arange(60) % 2, (4, 4, 60)).astype(np.float32)
    shrunk = resampled(stripes, (1, 1, 1), (1, 1, 3))[:]
    assert np.ptp(shrunk[:, :, 2:-2]) < 0.2


def test_large_whole_numbers_keep_their_differences():
    image = np.full((4, 4, 4), 2**31 - 7, np.int32)
    assert resampled(image, (1, 1, 1), (2, 1, 1))[:].max() == 2**31 - 7


def boxes(shape, edges):
    """One labelled box; ``edges`` are first and last along each axis."""
    labels = np.zeros(shape, np.int32)
    labels[tuple(slice(*edge) for edge in edges)] = 7
    return labels


def test_labels_of_half_the_size_land_where_they_were():
    labels = boxes((8, 10, 12), [(2, 5), (3, 7), (0, 4)])
    twice = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(labels_back(labels, twice.shape), twice)


def test_labels_of_twice_the_size_land_where_they_were():
    labels = boxes((8, 10, 12), [(2, 5), (3, 7), (0, 4)])
    twice = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(labels_back(twice, labels.shape), labels)


def test_what_is_found_in_the_view_is_where_it_is_in_the_image():
    """There and back: a threshold on the view, brought back, covers the object to the voxel."""
    image = boxes((16, 20, 24), [(4, 10), (6, 14), (2, 8)]).astype(np.float32)
    found = (resampled(image, (1, 1, 1), (2, 2, 2))[:] > 3.5).astype(np.int32)
    np.testing.assert_array_equal(labels_back(found, image.shape), image > 0)


def test_planes_come_one_by_one_as_together():
    labels = RNG.integers(0, 9, (7, 8, 9))
    together = labels_back(labels, (11, 5, 20))
    np.testing.assert_array_equal(
        np.concatenate([labels_back(labels, (11, 5, 20), slice(z, z + 1)) for z in range(11)]), together
    )
    assert labels_back(labels, (11, 5, 20), slice(3, 3)).shape == (0, 5, 20)


def test_a_map_comes_back_in_its_place():
    """The middle of a bright ball is the same before and after."""
    z, y, x = np.indices((16, 16, 16))
    ball = np.exp(-((z - 5) ** 2 + (y - 9) ** 2 + (x - 7) ** 2) / 20).astype(np.float32)
    back = Resampled(resampled(ball, (1, 1, 1), (2, 2, 2))[:], (16, 16, 16))[:]
    middle = [float((grid * back).sum() / back.sum()) for grid in (z, y, x)]
    np.testing.assert_allclose(middle, [float((grid * ball).sum() / ball.sum()) for grid in (z, y, x)], atol=0.05)
    assert back.shape == ball.shape


def test_other_indices_are_refused():
    with pytest.raises(TypeError, match="slices"):
        resampled(np.zeros((2, 2, 2)), (1, 1, 1), (2, 1, 1))[0]
