import time
from pathlib import Path

import numpy as np
import pytest

from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.data.pairs import Pair
from napari_celltrain.data.split import GAP, group_names, split_cases
from napari_celltrain.values.errors import DataError


def pairs(*names, folder="i"):
    return [Pair(Path(name).name, Path(folder, f"{name}.tif"), Path("l", f"{name}.tif"), "") for name in names]


def split(names, fraction=0.2, seed=0, **options):
    return split_cases(pairs(*names), [(64, 64, 64)] * len(names), fraction, seed, **options)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["Emb01_t201", "Emb01_t251", "Emb02_t201"], ["Emb01", "Emb01", "Emb02"]),
        (["a-1", "a-2", "b.1"], ["a", "a", "b"]),
        (["t01_embA", "t02_embA", "t01_embB"], ["embA", "embA", "embB"]),
        (["exp_e1_a", "exp_e1_b", "exp_e2_a"], ["e1", "e1", "e2"]),
        (["Emb01_a", "emb01_b", "EMB02_a"], ["Emb01", "Emb01", "EMB02"]),
        (["Emb01t201", "Emb01t251", "Emb02t201"], ["Emb01", "Emb01", "Emb02"]),
        (["Emb01_t_201", "Emb01-t-251", "Emb02 t 201"], ["Emb01", "Emb01", "Emb02"]),
        (["t_1_EmbA", "t_2_EmbA", "t_1_EmbB"], ["EmbA", "EmbA", "EmbB"]),
        (["plant1", "plant2", "plant3"], None),
        (["img_001", "img_002", "img_003"], None),
        (["t001", "t002"], None),
        (["a", "b", "c"], None),
        (["one"], None),
    ],
)
def test_groups(names, groups):
    assert group_names(names) == (groups or names)


def test_no_group_is_on_both_sides():
    names = [f"Emb{e:02}_t{t}" for e in range(1, 7) for t in range(201, 501, 50)]
    for seed in range(5):
        found = split(names, seed=seed)
        train = {case.name[:5] for case in found.train}
        validation = {case.name[:5] for case in found.validation}
        assert not train & validation
        assert len(validation) == 1
        assert next(iter(validation)) in found.explanation


def test_the_split_is_as_near_as_can_be_and_repeats():
    names = [f"img_{i:03}" for i in range(10)]
    for fraction, expected in [(0.05, 1), (0.2, 2), (0.5, 5), (0.8, 8)]:
        assert len(split(names, fraction).validation) == expected
    assert split(names, seed=3) == split(names, seed=3)
    assert len({tuple(case.name for case in split(names, seed=seed).validation) for seed in range(9)}) > 3
    uneven = ["a_1", "a_2", "a_3", "a_4", "b_1", "b_2", "c_1", "c_2", "c_3", "d_1"]
    assert len(split(uneven, 0.3).validation) == 3


def test_two_volumes_go_one_to_each_side():
    for fraction in (0.05, 0.8):
        found = split(["a", "b"], fraction)
        assert len(found.train) == len(found.validation) == 1


def test_subfolders_are_groups():
    nested = pairs("x1", "x2", folder="i/e1") + pairs("y1", "y2", folder="i/e2")
    found = split_cases(nested, [(64, 64, 64)] * 4, 0.2, 0)
    assert len({case.pair.image.parent for case in found.validation}) == 1
    assert len(found.validation) == 2


def test_validation_of_ones_own():
    found = split(["a", "b"], validation_pairs=pairs("c"))
    assert [case.name for case in found.train] == ["a", "b"]
    assert [case.name for case in found.validation] == ["c"]
    assert "folder of their own" in found.explanation


def test_one_volume_is_cut_in_disjoint_blocks():
    found = split_cases(pairs("a"), [(40, 100, 60)], 0.25, 0)
    (train,), (validation,) = found.train, found.validation
    assert train.spans == ((0, 40), (0, 67), (0, 60))
    assert validation.spans == ((0, 40), (75, 100), (0, 60))
    assert validation.spans[1][0] - train.spans[1][1] == GAP
    assert len({case.name for case in found.cases}) == 2
    assert "cut along y" in found.explanation


def test_the_cut_leaves_foreground_on_both_sides():
    labels = np.zeros((40, 100, 60), np.uint8)
    labels[:, 2:60, :] = 1
    found = split_cases(pairs("a"), [(40, 100, 60)], 0.25, 0, labels=labels, scheme=LabelScheme("objects"))
    assert found.validation[0].spans[1] == (0, 25)
    labels[:] = 0
    labels[10:30, 40:50, 2:58] = 1  # in the middle of y, but all along x
    found = split_cases(pairs("a"), [(40, 100, 60)], 0.25, 0, labels=labels, scheme=LabelScheme("objects"))
    assert found.validation[0].spans[2] == (44, 60)
    labels[:] = 0
    labels[20, 50, 30] = 1
    with pytest.raises(DataError, match="close together"):
        split_cases(pairs("a"), [(40, 100, 60)], 0.25, 0, labels=labels, scheme=LabelScheme("objects"))


def test_too_small_or_nothing():
    with pytest.raises(DataError, match="too small"):
        split_cases(pairs("a"), [(20, 39, 30)], 0.2, 0)
    with pytest.raises(DataError, match="no image"):
        split_cases([], [], 0.2, 0)


def sides_of(found, key):
    """Which keys are on both sides."""
    return {key(case) for case in found.train} & {key(case) for case in found.validation}


@pytest.mark.parametrize(
    "names",
    [
        ["t1/Emb01", "t1/Emb02", "t2/Emb01", "t2/Emb02", "t2/Emb03"],
        ["t1/Emb01", "t2/Emb01", "t1/Emb02"],
        ["time_1/Emb01", "time_1/Emb02", "time_2/Emb01", "time_2/Emb02"],
        ["Timepoint 1/Emb01", "Timepoint 1/Emb02", "Timepoint 2/emb01", "Timepoint 2/emb02"],
        ["batchA/Emb01", "batchA/Emb02", "batchB/Emb01", "batchB/Emb02"],
        ["batchA/Emb01", "batchB/Emb01", "batchC/Emb02"],
        ["a/Emb01_t1", "a/Emb01_t2", "a/Emb02_t1", "b/Emb01_t3", "b/Emb02_t3", "b/Emb02_t4"],
    ],
)
def test_a_specimen_in_several_folders_is_on_one_side(names):
    of_folders = [
        Pair(name.replace("/", "_"), Path("i", f"{name}.tif"), Path("l", f"{name}.tif"), "") for name in names
    ]
    for seed in range(8):
        for fraction in (0.2, 0.5):
            found = split_cases(of_folders, [(64, 64, 64)] * len(names), fraction, seed)
            assert found.train
            assert found.validation
            assert not sides_of(found, lambda case: case.pair.image.name[:5].casefold())


@pytest.mark.parametrize(
    "names",
    [
        ["e1/img_001", "e1/img_002", "e2/img_001", "e2/img_002"],
        ["e1/cell1", "e1/cell2", "e2/cell1", "e2/cell2"],
        ["Emb01/t1", "Emb01/t2", "Emb02/t1", "Emb02/t2"],
        ["x/data/1", "x/data/2", "y/data/1", "y/data/2"],
    ],
)
def test_what_only_counts_within_folders_does_not_join_them(names):
    of_folders = [
        Pair(name.replace("/", "_"), Path("i", f"{name}.tif"), Path("l", f"{name}.tif"), "") for name in names
    ]
    for seed in range(8):
        found = split_cases(of_folders, [(64, 64, 64)] * 4, 0.5, seed)
        assert len(found.validation) == 2
        assert not sides_of(found, lambda case: case.pair.image.parent)


def test_one_specimen_over_time_is_divided_all_the_same():
    over_time = [Pair(f"t{t}_Emb01", Path(f"i/t{t}/Emb01.tif"), Path(f"l/t{t}/Emb01.tif"), "") for t in range(3)]
    assert split_cases(over_time, [(64, 64, 64)] * 3, 0.2, 0).validation


def test_equal_images_stay_on_one_side():
    names = ["a", "b", "c", "d"]
    for seed in range(8):
        found = split(names, 0.5, seed, fingerprints=["1", "2", "1", "3"])
        assert not sides_of(found, lambda case: case.name in "ac")
        assert "same image" in found.explanation
    assert split(names, fingerprints=["1", "2", "3", None]) == split(names)
    assert len(split(names, 0.5, fingerprints=[None] * 4).validation) == 2


def test_nothing_but_copies_cannot_be_divided():
    with pytest.raises(DataError, match="All 3 volumes hold the same image"):
        split(["a", "b", "c"], fingerprints=["1", "1", "1"])
    with pytest.raises(DataError, match="copies of one image"):
        split(["a_1", "a_2", "b_1", "b_2"], fingerprints=["1", "2", "1", "3"])


def test_specimens_of_folders_that_share_some_stay_groups_of_their_own():
    names = ["a/Emb01", "a/Emb02", "a/Emb03", "b/Emb01", "b/Emb04", "b/Emb05"]
    of_folders = [
        Pair(name.replace("/", "_"), Path("i", f"{name}.tif"), Path("l", f"{name}.tif"), "") for name in names
    ]
    found = split_cases(of_folders, [(64, 64, 64)] * 6, 0.2, 0)
    assert len(found.validation) == 1
    assert "5 groups" in found.explanation


def test_thousands_of_volumes_are_divided_quickly():
    many = [Pair(f"v{n}", Path(f"i/f{n % 2000}/v{n}.tif"), Path(f"l/{n}.tif"), "") for n in range(6000)]
    start = time.perf_counter()
    split_cases(many, [(64, 64, 64)] * 6000, 0.2, 0)
    assert time.perf_counter() - start < 5
