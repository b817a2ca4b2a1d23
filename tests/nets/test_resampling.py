import numpy as np
import pytest
from scipy import ndimage

from napari_celltrain.nets.geometry import Geometry
from napari_celltrain.nets.transforms import Deformation, draw_affine, draw_elastic, resample

SHAPE = (12, 17, 20)
CUBIC = Geometry.of(None)
COARSE_Z = Geometry.of((2.0, 0.5, 0.5))


@pytest.fixture
def rng():
    """The kind that MONAI's transforms hold."""
    return np.random.RandomState(0)


def patch(shape=SHAPE):
    rng = np.random.default_rng(1)
    return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 4, shape, dtype=np.uint8)


def by_scipy(image, target, places):
    return (
        ndimage.map_coordinates(image, places, order=1, mode="mirror"),
        ndimage.map_coordinates(target, places, order=0, mode="mirror"),
    )


def places_of(deformation, shape):
    centre = (np.array(shape) - 1) / 2
    voxels = np.indices(shape) - centre[:, None, None, None]
    places = np.einsum("ij,jzyx->izyx", deformation.matrix, voxels) + centre[:, None, None, None]
    if deformation.elastic:
        shifts = deformation.elastic.block(0, shape[0])
        for index, axis in enumerate(deformation.elastic.axes):
            places[axis] += shifts[:, index]
    return places


@pytest.mark.parametrize("geometry", [CUBIC, COARSE_Z])
@pytest.mark.parametrize("zoom", [(0.8, 1.3), (0.1, 0.15)])  # the latter reaches several patches beyond the border
def test_resampling_is_linear_for_the_image_and_nearest_for_labels(rng, geometry, zoom):
    deformation = Deformation(
        draw_affine(rng, geometry, rotation=30, zoom=zoom, shear=0.1),
        draw_elastic(rng, SHAPE, geometry, spacing=6, magnitude=1.5),
    )
    image, target = patch()
    actual_image, actual_target = resample(image, target, deformation)
    expected_image, expected_target = by_scipy(image, target, places_of(deformation, SHAPE))
    np.testing.assert_allclose(actual_image, expected_image, atol=2e-3)
    assert (actual_target != expected_target).mean() < 1e-3  # places half-way between voxels may round either way
    assert actual_image.dtype == np.float32
    assert actual_target.dtype == np.uint8


def test_the_identity_changes_nothing():
    image, target = patch()
    assert Deformation().is_identity
    actual_image, actual_target = resample(image, target, Deformation())
    np.testing.assert_array_equal(actual_image, image)
    np.testing.assert_array_equal(actual_target, target)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (5, 1, 7), (2, 2, 2)])
def test_thin_patches_can_be_deformed(rng, shape):
    deformation = Deformation(
        draw_affine(rng, CUBIC, 90, (0.5, 2), 0.2), draw_elastic(rng, shape, CUBIC, spacing=4, magnitude=2)
    )
    image, target = resample(*patch(shape), deformation)
    assert image.shape == target.shape == shape
    assert np.isfinite(image).all()


def test_rotation_keeps_shapes_in_micrometres(rng):
    geometry = Geometry.of((1.4, 1.0, 1.0))
    matrix = draw_affine(rng, geometry, rotation=45, zoom=(1.0, 1.0), shear=0.0)
    spacing = np.diag(geometry.spacing)
    physical = spacing @ matrix @ np.linalg.inv(spacing)
    np.testing.assert_allclose(physical @ physical.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(physical) == pytest.approx(1)
    assert not np.allclose(matrix @ matrix.T, np.eye(3))


def test_zoom_above_one_enlarges(rng):
    matrix = draw_affine(rng, CUBIC, rotation=0, zoom=(2.0, 2.0), shear=0.0)
    np.testing.assert_allclose(matrix, np.eye(3) / 2)


def test_coarse_axes_are_neither_moved_nor_mixed(rng):
    matrix = draw_affine(rng, COARSE_Z, rotation=180, zoom=(0.5, 2), shear=0.5)
    np.testing.assert_array_equal(matrix[0], [1, 0, 0])
    np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
    deformation = Deformation(matrix, draw_elastic(rng, SHAPE, COARSE_Z, spacing=6, magnitude=2))
    assert [deformation.moves(axis) for axis in range(3)] == [False, True, True]


@pytest.mark.parametrize("magnitude", [2.0, 1000.0])
def test_elastic_deformation_never_folds(rng, magnitude):
    shape = (40, 40, 40)
    shifts = draw_elastic(rng, shape, CUBIC, spacing=8, magnitude=magnitude).block(0, 40)
    places = np.moveaxis(shifts, 1, 0) + np.indices(shape)
    gradients = np.stack([np.stack(np.gradient(axis)) for axis in places])
    assert np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1))).min() > 0


def test_elastic_magnitude_is_the_typical_displacement(rng):
    field = draw_elastic(rng, (80, 80, 80), CUBIC, spacing=8, magnitude=0.5)
    at_points = field.block(0, 80)[::8, :, ::8, ::8]
    assert at_points.std() == pytest.approx(0.5, rel=0.1)
