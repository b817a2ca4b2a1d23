import pytest

from napari_celltrain.nets.geometry import Geometry, plan_strides, total_stride

EVEN = (2, 2, 2)
IN_PLANE = (1, 2, 2)


@pytest.mark.parametrize(
    ("voxel_size", "strides"),
    [
        (None, (EVEN, EVEN, EVEN)),
        ((0.3, 0.3, 0.3), (EVEN, EVEN, EVEN)),
        ((1.5, 1.0, 1.0), (EVEN, EVEN, EVEN)),
        ((1.2, 0.8, 0.8), (EVEN, EVEN, EVEN)),  # 1.2 / 0.8 is above 1.5 by rounding only
        ((1.6, 1.0, 1.0), (IN_PLANE, EVEN, EVEN)),
        ((1.75, 0.8, 0.8), (IN_PLANE, EVEN, EVEN)),
        ((3.0, 1.0, 1.0), (IN_PLANE, EVEN, EVEN)),
        ((5.0, 1.0, 1.0), (IN_PLANE, IN_PLANE, EVEN)),
        ((1.0, 1.0, 4.0), ((2, 2, 1), (2, 2, 1), EVEN)),
        ((5.0, 2.0, 1.0), ((1, 1, 2), IN_PLANE, EVEN)),
    ],
)
def test_coarse_axes_are_not_halved_until_spacing_is_even(voxel_size, strides):
    assert plan_strides(voxel_size, 3) == strides


def test_total_stride_is_the_product_of_the_levels():
    assert total_stride((IN_PLANE, IN_PLANE, EVEN)) == (2, 8, 8)
    assert total_stride(()) == (1, 1, 1)


@pytest.mark.parametrize(
    ("voxel_size", "plane"),
    [
        (None, None),
        ((0.5, 0.4, 0.4), None),
        ((2.0, 0.8, 0.8), (1, 2)),
        ((1.0, 1.0, 4.0), (0, 1)),
        ((1.0, 3.0, 1.0), (0, 2)),
        ((1.0, 2.0, 2.0), (1, 2)),
        ((4.0, 2.0, 1.0), (1, 2)),
    ],
)
def test_spatial_augmentation_is_confined_to_the_most_even_plane(voxel_size, plane):
    assert Geometry.of(voxel_size).plane == plane


def test_spacing_is_relative_to_the_finest_axis():
    assert Geometry.of((2.0, 0.5, 0.5)).spacing == (4.0, 1.0, 1.0)
