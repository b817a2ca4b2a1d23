import numpy as np
import pytest

from napari_celltrain.data.labels import IGNORE, LabelScheme, object_labels, scheme_for, to_target
from napari_celltrain.data.objects import summarize
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError

OBJECTS = LabelScheme("objects")


def two_objects(dtype="uint16", first=1, second=2):
    labels = np.zeros((10, 20, 30), dtype)
    labels[1:4, 2:8, 3:5] = first
    labels[5:9, 10:19, 20:29] = second
    return labels


def test_objects_and_foreground_become_one():
    target = to_target(two_objects(), OBJECTS)
    assert target.dtype == np.uint8
    assert target.flags.c_contiguous
    np.testing.assert_array_equal(target, two_objects() > 0)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 255), ("int16", -1), ("float32", -1), ("uint16", 255)])
def test_ignored_voxels(dtype, value):
    labels = two_objects(dtype)
    labels[0] = value
    for kind in ("objects", "foreground"):
        target = to_target(labels, LabelScheme(kind, value))
        assert (target[0] == IGNORE).all()
        assert target[1:].max() == 1


def test_a_negative_ignore_value_is_not_in_unsigned_labels():
    assert to_target(two_objects("uint8"), LabelScheme("objects", -1)).max() == 1


def test_classes_are_numbered_by_rank():
    labels = two_objects(first=10, second=200)
    labels[0] = 99
    scheme = scheme_for(DataConfig(label_kind="classes", ignore_value=99), [labels])
    assert scheme.class_values == (0, 10, 200)
    assert scheme.num_outputs == 3
    target = to_target(labels, scheme)
    assert [int(target[p]) for p in [(9, 0, 0), (2, 3, 3), (6, 12, 22), (0, 0, 0)]] == [0, 1, 2, IGNORE]
    with pytest.raises(DataError, match="value 7"):
        to_target(np.full((2, 2, 2), 7), scheme)


def test_classes_are_gathered_over_all_volumes():
    scheme = scheme_for(DataConfig(label_kind="classes"), [two_objects(), two_objects(second=5)])
    assert scheme.class_values == (0, 1, 2, 5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.arange(1000).reshape(10, 10, 10), "objects, not classes"), (np.zeros((4, 4, 4), int), "only the value 0")],
)
def test_values_that_are_no_classes(labels, message):
    with pytest.raises(DataError, match=message):
        scheme_for(DataConfig(label_kind="classes"), [labels])


def test_whole_floats_are_labels_and_fractions_are_not():
    np.testing.assert_array_equal(to_target(two_objects("float32"), OBJECTS), two_objects() > 0)
    for bad, message in ((0.5, "intensities"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")):
        with pytest.raises(DataError, match=message):
            to_target(two_objects("float32") + np.float32(bad), OBJECTS)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint32", "uint64", "int64", "float64"])
def test_summary_of_objects(dtype):
    second = 1 if dtype == "bool" else 2
    found = summarize(two_objects(dtype, second=second), OBJECTS)
    sizes = {36, 324} if dtype != "bool" else {360}
    assert set(found.object_sizes.tolist()) == sizes
    assert found.num_objects == len(sizes)
    assert found.foreground_fraction == pytest.approx(360 / 6000)
    if dtype != "bool":
        assert found.object_extents.tolist() == [[3, 6, 2], [4, 9, 9]]
        assert found.median_extent == (3.5, 7.5, 5.5)


@pytest.mark.parametrize("ids", [(10**9, 2 * 10**9), (5, 3 * 10**9)])
def test_huge_ids_need_no_huge_tables(ids):
    found = summarize(two_objects("uint32", *ids), OBJECTS)
    assert sorted(found.object_sizes.tolist()) == [36, 324]


def test_objects_across_slabs_are_counted_once(monkeypatch):
    whole = summarize(two_objects(), OBJECTS)
    monkeypatch.setattr("napari_celltrain.io.volume.SLAB_VOXELS", 2 * 600)
    parts = summarize(two_objects(), OBJECTS)
    assert parts.object_sizes.tolist() == whole.object_sizes.tolist()
    assert parts.object_extents.tolist() == whole.object_extents.tolist()


def test_summary_leaves_out_what_is_ignored_or_negative():
    labels = two_objects("int16")
    labels[0] = -1
    labels[9] = -7
    found = summarize(labels, LabelScheme("objects", -1))
    assert found.num_objects == 2
    assert found.ignored_fraction == pytest.approx(0.1)
    assert found.foreground_fraction == pytest.approx(360 / 5400)


def test_summary_of_foreground_counts_pieces(monkeypatch):
    scheme = LabelScheme("foreground")
    labels = two_objects(second=1)
    assert sorted(summarize(labels, scheme).object_sizes.tolist()) == [36, 324]
    monkeypatch.setattr("napari_celltrain.data.objects._MAX_COMPONENT_VOXELS", 2000)
    coarse = summarize(labels, scheme)
    assert coarse.num_objects == 2
    assert coarse.foreground_fraction == pytest.approx(360 / 6000)


def test_summary_of_nothing():
    found = summarize(np.zeros((3, 4, 5), np.uint8), OBJECTS)
    assert (found.num_objects, found.foreground_fraction, found.median_extent) == (0, 0.0, None)


def test_labels_to_score_by_are_those_of_the_target():
    labels = two_objects("int16")
    labels[0] = -3
    labels[9] = 7
    before = labels.copy()
    found = object_labels(labels, LabelScheme("objects", 7))
    assert found.dtype == np.int16
    assert np.unique(found).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(labels, before)
    assert np.unique(object_labels(labels, OBJECTS)).tolist() == [0, 1, 2, 7]
    whole = object_labels(two_objects("float32"), OBJECTS)
    assert whole.dtype.kind == "i"
    np.testing.assert_array_equal(whole, two_objects())
    plain = two_objects("uint64")
    assert object_labels(plain, LabelScheme("objects", -1)) is plain
    assert object_labels(two_objects() > 0, OBJECTS).dtype.kind == "u"
    with pytest.raises(DataError, match="fractions"):
        object_labels(two_objects() * 0.5, OBJECTS)


@pytest.mark.parametrize(("dtype", "value"), [("int16", -2), ("float32", -1), ("int64", 2**32), ("uint64", 2**63)])
def test_values_that_no_class_may_have(dtype, value):
    labels = two_objects(dtype)
    labels[0] = value
    with pytest.raises(DataError, match=f"the value {value}, and classes"):
        scheme_for(DataConfig(label_kind="classes"), [labels])


def test_negative_labels_are_counted():
    labels = two_objects("int32")
    labels[0] = -1
    for kind in ("objects", "foreground"):
        assert summarize(labels, LabelScheme(kind)).num_negative == 600
        assert summarize(labels, LabelScheme(kind, -1)).num_negative == 0
    assert summarize(two_objects(), OBJECTS).num_negative == 0
