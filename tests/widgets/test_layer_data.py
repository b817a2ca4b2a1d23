"""Layers of the viewer as training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from napari.layers import Image, Labels

from balls import make_pair
from napari_celltrain.data.check import check_data
from napari_celltrain.io.volumes import open_volume
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError
from napari_celltrain.values.events import finish
from napari_celltrain.widgets.layers import file_name, take_layers, voxel_size_of

SCALE = (2.0, 0.5, 0.25)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    return make_pair(0)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, None),
        ({"scale": SCALE}, SCALE),  # as most layers are: a scale in µm without a unit
        ({"scale": SCALE, "units": ("um", "um", "um")}, SCALE),
        ({"units": ("um", "um", "um")}, (1.0, 1.0, 1.0)),
        ({"scale": (2000, 500, 250), "units": ("nm", "nm", "nm")}, SCALE),
        ({"scale": (0.002, 0.0005, 0.00025), "units": ("mm", "mm", "mm")}, SCALE),
    ],
    ids=["plain", "scale", "µm", "µm of 1", "nm", "mm"],
)
def test_scale_and_units_are_the_voxel_size(options: dict, size: tuple | None, pair) -> None:
    found = voxel_size_of(Image(pair[0], **options))
    assert found == (size if size is None else pytest.approx(size))


def test_a_scale_without_a_unit_is_mentioned(pair) -> None:
    image, labels = Image(pair[0], scale=SCALE), Labels(pair[1], scale=SCALE)
    assert [note.code for note in take_layers(image, labels, DataConfig()).notes] == ["scale-without-unit"]
    assert take_layers(image, labels, DataConfig(voxel_size=(1, 1, 1))).notes == ()


def test_the_given_voxel_size_overrides_the_layer(pair) -> None:
    source = take_layers(Image(pair[0], scale=SCALE), Labels(pair[1]), DataConfig(voxel_size=(3, 1, 1)))
    assert source.image.voxel_size == (3, 1, 1)


def test_labels_on_another_scale_are_mentioned(pair) -> None:
    image = Image(pair[0], scale=SCALE, units=("um",) * 3)
    labels = Labels(pair[1], scale=(1, 0.5, 0.25), units=("um",) * 3)
    assert [note.code for note in take_layers(image, labels, DataConfig()).notes] == ["scales-differ"]


def as_dask(array: np.ndarray) -> object:
    dask_array = pytest.importorskip("dask.array")
    return dask_array.from_array(array, chunks=(8, 16, 16))


@pytest.mark.parametrize("wrap", [np.asarray, as_dask, zarr.array], ids=["numpy", "dask", "zarr"])
def test_any_array_is_read(wrap, pair) -> None:
    source = take_layers(Image(wrap(pair[0])), Labels(wrap(pair[1])), DataConfig())
    np.testing.assert_array_equal(source.image.read(), pair[0])
    np.testing.assert_array_equal(source.labels.read(), pair[1])


def test_of_a_multiscale_layer_the_finest_level_is_taken(pair) -> None:
    image = Image([pair[0], pair[0][::2, ::2, ::2]], multiscale=True)
    labels = Labels([pair[1], pair[1][::2, ::2, ::2]], multiscale=True)
    source = take_layers(image, labels, DataConfig())
    np.testing.assert_array_equal(source.image.read(), pair[0])
    np.testing.assert_array_equal(source.labels.read(), pair[1])


def test_axes_of_length_one_do_not_matter(pair) -> None:
    source = take_layers(Image(pair[0][None]), Labels(pair[1]), DataConfig())
    assert source.image.shape == pair[0].shape


def test_a_channel_can_be_chosen_where_the_axes_are_given(pair) -> None:
    both = np.stack([pair[0], 2 * pair[0]])
    source = take_layers(Image(both), Labels(pair[1]), DataConfig(axes="CZYX", channel=1))
    np.testing.assert_array_equal(source.image.read(), 2 * pair[0])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image(np.zeros((20, 20)), name="flat"), "flat: This is a 2D layer"),
        (Image(np.zeros((3, 8, 20, 20)), name="film"), "film: The layer has 4 axes"),
        (Image(np.zeros((8, 20, 20, 3), np.uint8), rgb=True, name="photo"), "photo: This is a colour"),
        (None, "image layer: No layer is chosen"),
    ],
    ids=["2D", "time", "colour", "none"],
)
def test_refuses_what_is_no_volume(image: Image | None, words: str, pair) -> None:
    with pytest.raises(DataError, match=words):
        take_layers(image, Labels(pair[1]), DataConfig())


def test_written_layers_can_be_trained_on(pair, tmp_path: Path) -> None:
    image = Image(pair[0], name="my: cells/1", scale=SCALE)
    source = take_layers(image, Labels(pair[1].astype(np.int64)), DataConfig(validation_fraction=0.3))
    config = source.materialize(DataConfig(validation_fraction=0.3, axes="CZYX"), tmp_path)

    assert (config.validation_fraction, config.axes, config.channel) == (0.3, None, None)
    np.testing.assert_array_equal(open_volume(config.images).read(), pair[0])
    assert open_volume(config.images).voxel_size == pytest.approx(SCALE)
    report = finish(check_data(config, division=False))
    assert report.errors == ()
    assert [found.num_objects for found in report.pairs] == [pair[1].max()]
    assert tmp_path / "layer-data" in config.images.parents


def test_equal_layers_are_written_once_and_others_beside_them(pair, tmp_path: Path) -> None:
    first = take_layers(Image(pair[0]), Labels(pair[1]), DataConfig()).materialize(DataConfig(), tmp_path)
    written = first.images.stat().st_mtime_ns
    again = take_layers(Image(pair[0].copy()), Labels(pair[1]), DataConfig()).materialize(DataConfig(), tmp_path)
    assert again == first
    assert first.images.stat().st_mtime_ns == written

    painted = np.where(pair[1] == 1, 0, pair[1])
    other = take_layers(Image(pair[0]), Labels(painted), DataConfig()).materialize(DataConfig(), tmp_path)
    assert other.labels != first.labels
    np.testing.assert_array_equal(open_volume(first.labels).read(), pair[1])


def test_says_where_it_cannot_write(pair, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/layer-data.*a file is in the way.*Choose another folder"):
        take_layers(Image(pair[0]), Labels(pair[1]), DataConfig()).materialize(DataConfig(), tmp_path / "file")


@pytest.mark.parametrize(("name", "expected"), [("a/b:c", "a_b_c"), (" ..", "layer"), ("x" * 200, "x" * 80)])
def test_a_layer_may_have_any_name(name: str, expected: str) -> None:
    assert file_name(name) == expected
