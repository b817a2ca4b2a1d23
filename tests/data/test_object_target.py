import numpy as np
import pytest

from napari_celltrain.data.labels import (
    IGNORE,
    LabelScheme,
    LazyTarget,
    decode_target,
    encode_objects,
    readable_target,
    to_target,
)

SCHEME = LabelScheme("objects")
SPACING = (1.0, 1.0, 1.0)


def two_boxes(gap: int) -> np.ndarray:
    labels = np.zeros((9, 9, 24), np.uint16)
    labels[1:8, 1:8, 2:9] = 5
    labels[1:8, 1:8, 9 + gap : 16 + gap] = 3
    return labels


def test_the_plain_target_is_packed_with_the_rest():
    labels = two_boxes(0)
    plain, _, _ = decode_target(encode_objects(labels, SCHEME, SPACING))
    np.testing.assert_array_equal(plain, to_target(labels, SCHEME))


def test_depth_is_one_in_the_middle_of_every_object_whatever_its_size():
    labels = np.zeros((15, 15, 30), np.uint16)
    labels[1:14, 1:14, 1:14] = 1
    labels[5:10, 5:10, 20:25] = 2
    _, depth, _ = decode_target(encode_objects(labels, SCHEME, SPACING))
    assert depth[7, 7, 7] == depth[7, 7, 22] == 1
    assert depth[1, 7, 7] < 0.1
    assert depth[4, 7, 7] < depth[5, 7, 7] < depth[6, 7, 7]
    assert depth[0, 0, 0] == 0


def test_depth_is_measured_in_micrometres():
    labels = np.zeros((11, 21, 21), np.uint16)
    labels[2:9, 2:19, 2:19] = 1
    _, flat, _ = decode_target(encode_objects(labels, SCHEME, (1.0, 1.0, 1.0)))
    _, tall, _ = decode_target(encode_objects(labels, SCHEME, (5.0, 1.0, 1.0)))
    assert flat[5, 4, 10] == pytest.approx(flat[4, 10, 10], abs=0.02)  # three voxels from a side, or from the top
    assert tall[5, 4, 10] < tall[4, 10, 10]


def test_each_of_two_touching_objects_has_its_own_depth():
    _, depth, _ = decode_target(encode_objects(two_boxes(0), SCHEME, SPACING))
    assert depth[4, 4, 8] < 0.2
    assert depth[4, 4, 9] < 0.2
    assert depth[4, 4, 5] == depth[4, 4, 12] == 1


@pytest.mark.parametrize("gap", [0, 1])
def test_the_boundary_is_where_another_object_is_near(gap):
    labels = two_boxes(gap)
    _, _, boundary = decode_target(encode_objects(labels, SCHEME, SPACING))
    assert boundary[4, 4, 8]
    assert boundary[4, 4, 9 + gap]
    assert boundary[4, 4, 7] == (gap == 0)
    assert not boundary[labels == 0].any()
    assert not boundary[1:8, 1:8, 2:6].any()  # what borders on the background alone


def test_objects_without_a_neighbour_have_no_boundary():
    assert not decode_target(encode_objects(two_boxes(5), SCHEME, SPACING))[2].any()


def test_ignored_voxels_are_kept_and_are_no_object():
    labels = two_boxes(0)
    labels[:, :, 9:] = 77
    code = encode_objects(labels, LabelScheme("objects", 77), SPACING)
    assert (code[:, :, 9:] == IGNORE).all()
    plain, depth, boundary = decode_target(code)
    assert (plain[:, :, 9:] == IGNORE).all()
    assert depth[:, :, 9:].max() == 0
    assert not boundary.any()


def test_an_object_that_fills_the_volume_is_deep_everywhere():
    _, depth, boundary = decode_target(encode_objects(np.ones((4, 5, 6), np.uint8), SCHEME, SPACING))
    assert (depth == 1).all()
    assert not boundary.any()


def test_one_voxel_is_an_object_too():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    plain, depth, _ = decode_target(encode_objects(labels, SCHEME, SPACING))
    assert plain.sum() == 1
    assert depth[2, 2, 2] == 1


class Lazy:
    """Labels that are not in memory."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, 3
        self.read = 0

    def __getitem__(self, region):
        self.read += 1
        return self.array[region]


def test_a_piece_of_labels_on_disk_is_as_in_the_whole_volume():
    labels = np.zeros((20, 24, 28), np.uint16)
    rng = np.random.default_rng(0)
    for number in range(1, 40):
        z, y, x = (rng.integers(0, size - 4) for size in labels.shape)
        labels[z : z + 4, y : y + 4, x : x + 4] = number
    whole = encode_objects(labels, SCHEME, SPACING)
    lazy = Lazy(labels)
    pieces = LazyTarget(lazy, SCHEME, SPACING, (6, 6, 6))
    assert lazy.read == 0
    for region in [np.s_[0:8, 3:11, 5:13], np.s_[12:20, 16:24, 20:28], np.s_[7:9, 0:24, 10:20]]:
        np.testing.assert_array_equal(pieces[region], whole[region])


def test_people_see_objects_and_where_they_meet():
    shown = readable_target(encode_objects(two_boxes(0), SCHEME, SPACING))
    assert set(np.unique(shown)) == {0, 1, 2}
    assert shown[4, 4, 8] == 2
    assert shown[4, 4, 3] == 1
