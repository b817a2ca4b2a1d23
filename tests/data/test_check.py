import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_celltrain.data.check import check_data
from napari_celltrain.data.check_rules import alignment_problems
from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.io.volumes import VolumeCache, open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError, grouped
from napari_celltrain.values.events import finish

SHAPE = (32, 64, 64)


def cells(seed=0, shape=SHAPE, number=12):
    """Bright balls in noise, and their labels; nothing about them is symmetric."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    centres = rng.uniform(0.1, 0.9, (number, 3)) * (1, 1, 0.6) * shape
    for index, centre in enumerate(centres, start=1):
        distance = ((grid - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)
        labels[(distance < 16) & (labels == 0)] = index
    image = rng.normal(200, 30, shape) + 400 * (labels > 0)
    return image.clip(0).astype(np.uint16), labels


@pytest.fixture
def folder(tmp_path):
    def add(image, labels, name="a", side="", voxel_size=(1.0, 0.5, 0.5)):
        for kind, array in (("images", image), ("labels", labels)):
            (tmp_path / (side + kind)).mkdir(exist_ok=True)
            write_volume(tmp_path / (side + kind) / f"{name}.tif", array, voxel_size)

    add.path = tmp_path
    return add


def check(folder, seen=None, **options):
    """The report; the steps on the way are added to ``seen``."""
    seen = [] if seen is None else seen
    keywords = {name: options.pop(name) for name in ("patch_size", "cache") if name in options}
    root = folder.path
    if (root / "val-images").exists():
        options |= {"validation_images": root / "val-images", "validation_labels": root / "val-labels"}
    steps = check_data(DataConfig(images=root / "images", labels=root / "labels", **options), **keywords)
    return finish(steps, seen.append)


def codes(report):
    return [(problem.code, problem.severity) for problem in report.problems]


def test_good_data_have_no_problems(folder):
    for seed in range(2):
        folder(*cells(seed), f"v{seed}")
    seen = []
    report = check(folder, seen, patch_size=(32, 32, 32))
    assert codes(report) == []
    assert seen == [(0, 2, "v0"), (1, 2, "v1"), (2, 2, "")]
    first = report.pairs[0]
    assert (first.name, first.shape, first.dtype, first.label_dtype) == ("v0", SHAPE, "uint16", "uint16")
    assert first.voxel_size == pytest.approx((1.0, 0.5, 0.5))
    assert first.num_objects == 12
    assert 0 < first.foreground_fraction < 0.2
    assert all(5 <= extent <= 8 for extent in first.object_extent_median)
    assert first.image_fingerprint != report.pairs[1].image_fingerprint
    report.raise_errors()


def test_each_file_is_decoded_once(folder, monkeypatch):
    for seed in range(2):
        folder(*cells(seed), f"v{seed}")
    calls = []
    kind = type(open_volume(folder.path / "images" / "v0.tif"))
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda volume: calls.append(volume.path) or read(volume))
    cache = VolumeCache(10**8)
    check(folder, cache=cache)
    assert len(calls) == len(set(calls)) == 4
    assert cache.used_bytes > 0


@pytest.mark.parametrize("shift", [(0, 12, 0), (0, 0, -12), (8, 0, 0), (0, 10, 10)])
def test_shifted_labels(folder, shift):
    image, labels = cells()
    moved = np.zeros_like(labels)
    to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, SHAPE, strict=True))
    source = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in zip(shift, SHAPE, strict=True))
    moved[to] = labels[source]
    folder(image, moved)
    assert codes(check(folder)) == [("labels-shifted", "warning")]


@pytest.mark.parametrize(
    "turn", [lambda a: a[:, ::-1], lambda a: a[:, :, ::-1], lambda a: a[::-1], lambda a: a.transpose(0, 2, 1)]
)
def test_turned_labels(folder, turn):
    image, labels = cells()
    folder(image, np.ascontiguousarray(turn(labels)))
    assert codes(check(folder)) == [("labels-transposed", "warning")]


def test_shape_mismatch(folder):
    image, labels = cells()
    folder(image, labels[:-1])
    report = check(folder)
    assert codes(report) == [("shape-mismatch", "error")]
    assert not report.pairs[0].is_usable
    with pytest.raises(DataError, match="31 × 64 × 64"):
        report.raise_errors()


def test_images_as_labels(folder):
    image, labels = cells()
    folder(image, image, "noise")
    folder(image + 1, (image / image.max() * 255).astype(np.uint8), "eight-bit")
    folder(image + 2, (labels > 0).astype(np.float32) * 0.7, "probabilities")
    assert codes(check(folder)) == [("labels-are-intensities", "error")] * 3


@pytest.mark.parametrize("label_kind", ["objects", "foreground"])
def test_labels_with_nan_are_named_as_such(folder, label_kind):
    image, labels = cells()
    labels = labels.astype("float32")
    labels[0, 0, :3] = np.nan, np.inf, -np.inf
    folder(image, labels)
    found = [str(problem) for problem in check(folder, label_kind=label_kind).errors]
    assert found == [
        "labels/a.tif: The labels hold 3 voxels with no number (NaN or infinite). Replace NaN by 0, or by the ignore "
        "value where nobody annotated, and save the labels as whole numbers."
    ]


def test_folders_of_planes_are_said_to_be_volumes(folder):
    for index, name in enumerate("abc"):
        for kind, array in zip(("images", "labels"), cells(index), strict=True):
            planes = folder.path / kind / name
            planes.mkdir(parents=True)
            for number, plane in enumerate(array):
                tifffile.imwrite(planes / f"z{number:03}.tif", plane)
    report = check(folder)
    assert [(pair.name, pair.shape) for pair in report.pairs] == [(name, SHAPE) for name in "abc"]
    assert all(pair.num_objects for pair in report.pairs)
    assert codes(report) == [("stacked-planes", "warning")] * 3
    assert [problem.where for problem in grouped(report.problems)] == ["a and 2 more"]


def test_colour_labels(folder):
    image, labels = cells()
    folder(image, labels)
    tifffile.imwrite(folder.path / "labels" / "a.tif", np.zeros((*SHAPE, 3), np.uint8), photometric="rgb")
    report = check(folder)
    assert codes(report) == [("labels-are-intensities", "error")]
    assert report.problems[0].where == "labels/a.tif"


def test_colour_images_are_unreadable(folder):
    folder(*cells())
    tifffile.imwrite(folder.path / "images" / "a.tif", np.zeros((*SHAPE, 3), np.uint8), photometric="rgb")
    report = check(folder)
    assert codes(report) == [("unreadable-file", "error")]
    assert report.problems[0].where == "images/a.tif"
    assert str(report.problems[0]).count("a.tif") == 1


def test_damaged_files_do_not_hide_the_others(folder):
    folder(*cells(0), "v0")
    folder(*cells(1), "v1")
    path = folder.path / "images" / "v0.tif"
    path.write_bytes(path.read_bytes()[:5000])
    report = check(folder)
    assert codes(report) == [("unreadable-file", "error")]
    assert report.pairs[1].num_objects == 12


def test_odd_images(folder):
    image, labels = cells()
    folder(np.full(SHAPE, 7, np.uint8), labels, "constant")
    folder(image.clip(0, 400), labels, "saturated")
    broken = image.astype(np.float32)
    broken[3, 4, 5] = np.nan
    folder(broken, labels, "nan")
    assert sorted(codes(check(folder))) == [
        ("constant-image", "error"),
        ("nan-or-inf", "error"),
        ("saturated-image", "warning"),
    ]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (np.s_[3, 4, 5], 1e6, r"1 voxel lies far above the others, up to 1e\+06"),
        (np.s_[3, 4, 5:8], -1e6, r"3 voxels lie far below the others, up to -1e\+06"),
        (np.s_[:, 4, 5], 65535, "32 voxels lie far above the others, up to 6.55"),
        (np.s_[7], 1e6, "4,096 voxels lie far above"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_voxels_far_outside_of_the_others_are_counted(folder, where, value, said):
    image, labels = cells()
    image = image.astype(np.float32)
    image[where] = value
    folder(image, labels)
    (problem,) = check(folder).problems
    assert (problem.code, problem.severity, problem.where) == ("outlying-voxels", "warning", "images/a.tif")
    assert re.match(said, problem.message)
    assert "Remove Outliers" in problem.remedy


def test_odd_labels(folder):
    image, labels = cells()
    folder(image, np.zeros_like(labels), "empty")
    specks = labels.copy()
    specks[0, 0, :3] = 77
    folder(image + 1, specks, "specks")
    folder(image + 2, (labels > 0).astype(np.uint8), "binary")
    folder(image + 3, np.maximum(labels, 1), "full")
    found = codes(check(folder))
    assert set(found) == {
        ("empty-labels", "warning"),
        ("tiny-objects", "warning"),
        ("labels-look-binary", "warning"),
        ("no-background", "warning"),
    }


def test_nothing_labelled_anywhere_is_an_error(folder):
    image, labels = cells()
    folder(image, np.zeros_like(labels))
    assert ("nothing-labelled", "error") in codes(check(folder))


def test_duplicates(folder):
    image, labels = cells()
    folder(image, labels, "v0")
    folder(image, labels, "v1")
    report = check(folder)
    assert codes(report) == [("duplicate-volume", "warning"), ("cannot-be-divided", "error")]
    assert "same image" in report.problems[1].message
    folder(*cells(1), "v2")
    assert codes(check(folder)) == [("duplicate-volume", "warning")]
    folder(image, labels, "other", side="val-")
    report = check(folder)
    assert codes(report) == [("duplicate-volume", "error")]
    assert [pair.side for pair in report.pairs] == ["train", "train", "train", "validation"]


def test_mixed_voxel_sizes(folder):
    for seed, size in enumerate([(1.0, 0.5, 0.5), (1.0, 0.51, 0.51), (1.0, 0.3, 0.3)]):
        folder(*cells(seed), f"v{seed}", voxel_size=size)
    report = check(folder)
    assert codes(report) == [("mixed-voxel-sizes", "warning")]
    assert report.problems[0].where == "v2.tif"
    assert codes(check(folder, voxel_size=(1, 0.5, 0.5))) == []


def test_objects_larger_than_patch(folder):
    folder(*cells())
    assert codes(check(folder, patch_size=(32, 4, 32))) == [("objects-larger-than-patch", "warning")]


def test_kinds_that_do_not_fit_the_labels(folder):
    image, labels = cells()
    folder(image, labels)
    assert codes(check(folder, label_kind="foreground")) == [("labels-look-like-objects", "warning")]
    report = check(folder, label_kind="classes")
    assert codes(report) == []
    assert report.scheme.num_outputs == 13
    cubes = np.ravel_multi_index(np.indices(SHAPE) // 8, (4, 8, 8)).astype(np.uint16)
    folder(image, cubes)
    report = check(folder, label_kind="classes")
    assert ("not-classes", "error") in codes(report)
    assert report.scheme is None


def test_folders_that_hold_nothing(tmp_path):
    report = finish(check_data(DataConfig(images=tmp_path, labels=tmp_path)))
    assert codes(report) == [("no-volumes", "error")]
    assert codes(finish(check_data(DataConfig(images=tmp_path)))) == [("no-labels", "error")]


def test_a_single_volume_that_cannot_be_cut_is_an_error(folder):
    image, labels = cells(shape=(16, 30, 30), number=4)
    folder(image, labels)
    report = check(folder)
    assert codes(report) == [("too-small-to-divide", "error")]
    assert report.problems[0].where == "a.tif"
    assert "only volume" in report.problems[0].message
    assert "second volume" in report.problems[0].remedy
    root = folder.path
    config = DataConfig(images=root / "images", labels=root / "labels")
    assert codes(finish(check_data(config, division=False))) == []
    folder(*cells(1, (16, 30, 30), 4), "other", side="val-")
    assert codes(check(folder)) == []


def test_negative_labels_are_told(folder):
    image, labels = cells()
    unsure = labels.astype(np.int16)
    unsure[:4][labels[:4] == 0] = -1
    folder(image, unsure)
    report = check(folder)
    assert codes(report) == [("negative-labels", "warning")]
    assert "are taken as background" in report.problems[0].message
    assert f"{int((unsure < 0).sum()):,} voxels" in report.problems[0].message
    assert codes(check(folder, ignore_value=-1)) == []
    folder(image, np.where(labels > 0, 0, -1).astype(np.int16))
    assert {"negative-labels", "empty-labels"} <= {code for code, _ in codes(check(folder))}


def test_classes_that_cannot_be(folder):
    image, labels = cells()
    classes = (labels > 0).astype(np.int32)
    classes[0] = -1
    folder(image, classes)
    report = check(folder, label_kind="classes")
    assert codes(report) == [("not-classes", "error")]
    assert "ignore value" in report.problems[0].remedy
    assert codes(check(folder, label_kind="classes", ignore_value=-1)) == []


def test_classes_without_background_are_told(folder):
    image, labels = cells()
    folder(image, (labels > 0).astype(np.uint8) + 1)
    report = check(folder, label_kind="classes")
    assert codes(report) == [("no-background-class", "warning")]
    assert "lowest class, 1, counts as background" in report.problems[0].message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        ("float32", {0: 3e38, 1: -3e38}),
        ("float64", {0: 1e300}),
        ("float64", {0: 1.7e308, 1: -1.7e308}),
        ("float64", "tiny"),
    ],
)
def test_extreme_values(folder, dtype, change):
    image, labels = cells()
    image = image.astype(dtype)
    if change == "tiny":
        image *= 1e-60
    else:
        for place, value in change.items():
            image[0, 0, place] = value
    folder(image, labels)
    assert codes(check(folder)) == [("extreme-values", "error")]


@pytest.mark.filterwarnings("error")
def test_large_floats_are_fine(folder):
    image, labels = cells()
    folder(image.astype(np.float32) * 1e25, labels)
    assert codes(check(folder)) == []


@pytest.mark.parametrize("seed", range(5))
def test_an_image_equal_to_its_labels_fits_them(folder, seed):
    shape = tuple(int(length) for length in np.random.default_rng(seed).integers(24, 80, 3))
    _, labels = cells(seed, shape)
    folder(labels > 0, (labels > 0).astype(np.uint8))
    assert codes(check(folder, label_kind="foreground")) == []


def test_a_good_fit_is_not_replaced_by_a_slightly_better_one():
    _, labels = cells()
    spread = np.clip(np.roll(labels > 0, 1, axis=1) + 0.9 * (labels > 0), 0, 1)
    assert alignment_problems("a.tif", spread, labels, LabelScheme("objects")) == []


# --- real volumes ---------------------------------------------------------------------------------------

REAL = Path(__file__).parents[3] / "shared" / "data" / "bbbc050" / "val"


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (lambda a: a, []),
        (lambda a: np.roll(a, 10, axis=1), ["labels-shifted"]),
        (lambda a: np.roll(a, -10, axis=2), ["labels-shifted"]),
        (lambda a: a[:, ::-1], ["labels-transposed"]),
        (lambda a: a[:, :, ::-1], ["labels-transposed"]),
        (lambda a: a.transpose(0, 2, 1), ["labels-transposed"]),
    ],
)
def test_misfits_are_found_in_real_volumes(folder, turn, expected):
    image = open_volume(REAL / "images" / "Emb06_t351.tif")
    labels = open_volume(REAL / "labels" / "Emb06_t351.tif")
    folder(image.read()[:, :120, :120], np.ascontiguousarray(turn(labels.read()[:, :120, :120])))
    assert [code for code, _ in codes(check(folder))] == expected


def test_alignment_when_the_last_slab_is_thinner_than_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of 97 planes is read in slabs; the last one holds a single plane, which fills no cell."""
    monkeypatch.setattr("napari_celltrain.io.volume.SLAB_VOXELS", 48 * 20 * 20)
    labels = np.zeros((97, 20, 20), np.uint8)
    labels[20:40, 5:12, 5:12] = 1
    image = labels * np.uint8(100) + np.random.default_rng(0).integers(0, 20, labels.shape, np.uint8)
    assert alignment_problems("a.tif", image, labels, LabelScheme("objects")) == []
    [problem] = alignment_problems("a.tif", np.roll(image, 24, 0), labels, LabelScheme("objects"))
    assert problem.code == "labels-shifted"
