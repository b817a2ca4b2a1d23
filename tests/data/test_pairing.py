import numpy as np
import pytest
import tifffile

from balls import make_pair, write_ngff
from napari_celltrain.data.check import check_data
from napari_celltrain.data.pairs import open_pair, pair_files
from napari_celltrain.evaluate.evaluation import evaluate
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import DataError, grouped
from napari_celltrain.values.events import finish


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def pairs_of(tmp_path, images, labels):
    pairing = pair_files(make(tmp_path / "i", *images), make(tmp_path / "l", *labels))
    found = {
        pair.image.relative_to(tmp_path / "i").as_posix(): pair.labels.relative_to(tmp_path / "l").as_posix()
        for pair in pairing.pairs
    }
    return found, [(problem.code, problem.severity) for problem in pairing.problems]


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("a.tif", "a.tif"),
        ("a.ome.tif", "a.tiff"),
        ("A.tif", "a.tif"),
        ("a.tif", "a_mask.tif"),
        ("a.tif", "a-Labels.tif"),
        ("a.tif", "a GT.tif"),
        ("a.tif", "a.seg.tif"),
        ("a.tif", "a_cp_masks.tif"),
        ("a.tif", "mask_a.tif"),
        ("a.tif", "a_Simple Segmentation.tif"),
        ("a.tif", "a_Object Identities.tiff"),
        ("a.tif", "a-Object_Predictions.tif"),
        ("a.tif", "a.labels.tif"),
        ("a.tif", "a-watershed.tif"),
        ("a_raw.tif", "a_cp_masks.tif"),
        ("C1-a.tif", "a.tif"),
        ("C2-a.tif", "a_mask.tif"),
        ("C1-a.tif", "C2-a.tif"),
        ("a_ch00.tif", "a_label.tif"),
        ("case_0000.tif", "case.tif"),
        ("case_0012_0000.tif", "case_0012.tif"),
        ("a.tif", "label-a.tif"),
        ("a_img.tif", "a_segmentation.tif"),
        ("img_007.tif", "img_007_label.tif"),
        ("vol_7.tif", "seg_7.tif"),
        ("sub/a.tif", "sub/a_mask.tif"),
        ("sub/a.tif", "a.tif"),
    ],
)
def test_names_that_match(tmp_path, image, labels):
    other = ("other.tif",)  # two files each, so that nothing is paired for being alone
    found, problems = pairs_of(tmp_path, [image, *other], [labels, *other])
    assert found == {image: labels, "other.tif": "other.tif"}
    assert not problems


def test_probabilities_are_no_labels(tmp_path):
    found, problems = pairs_of(
        tmp_path, ["a.tif", "b.tif"], ["a_Probabilities.tif", "a_Simple Segmentation.tif", "b.tif"]
    )
    assert found == {"a.tif": "a_Simple Segmentation.tif", "b.tif": "b.tif"}
    assert problems == [("no-labels", "warning")]


def test_nothing_but_probabilities_is_an_error(tmp_path):
    found, problems = pairs_of(tmp_path, ["a.tif", "b.tif"], ["a_Probabilities.tif", "b_Probabilities.tif"])
    assert (found, problems) == ({}, [("no-labels", "error")] * 2)


def test_several_channels_are_named_as_such(tmp_path):
    make(tmp_path / "i", "a_0000.tif", "a_0001.tif", "b.tif")
    problem, *_ = pair_files(tmp_path / "i", make(tmp_path / "l", "a.tif", "b.tif")).problems
    assert str(problem) == (
        "a.tif: These labels could belong to several channels of an image: a_0000.tif, a_0001.tif. Put the files of "
        "the channel to use into a folder of their own, and choose that."
    )


def test_files_are_never_paired_by_position(tmp_path):
    found, problems = pairs_of(tmp_path, ["a.tif", "b.tif"], ["c.tif", "d.tif"])
    assert not found
    assert set(problems) == {("unmatched-image", "error"), ("unmatched-labels", "error")}


def test_unmatched_files_are_left_out_with_a_warning(tmp_path):
    found, problems = pairs_of(tmp_path, ["a.tif", "b.tif"], ["a.tif", "c.tif"])
    assert found == {"a.tif": "a.tif"}
    assert problems == [("unmatched-image", "warning"), ("unmatched-labels", "warning")]


def test_the_same_name_in_subfolders(tmp_path):
    found, problems = pairs_of(tmp_path, ["x/a.tif", "y/a.tif"], ["y/a.tif", "x/a.tif"])
    assert found == {"x/a.tif": "x/a.tif", "y/a.tif": "y/a.tif"}
    assert not problems
    names = [pair.name for pair in pair_files(tmp_path / "i", tmp_path / "l").pairs]
    assert names == ["x_a", "y_a"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a.tif"], ["a_mask.tif", "a_seg.tif"]),
        (["x/a.tif", "y/a.tif"], ["a.tif", "z/b.tif"]),
        (["a.tif", "a.tiff"], ["a.tif"]),
    ],
)
def test_ambiguous_names_are_errors(tmp_path, images, labels):
    found, problems = pairs_of(tmp_path, images, labels)
    assert not found
    assert ("ambiguous-pair", "error") in problems


def test_the_name_itself_comes_before_names_with_words(tmp_path):
    found, _ = pairs_of(tmp_path, ["a.tif", "a_mask.tif"], ["a.tif", "a_mask.tif"])
    assert found == {"a.tif": "a.tif", "a_mask.tif": "a_mask.tif"}


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["stack1.tif", "stack2.tif"], ["truth02.tif", "truth01.tif"], {"stack1.tif": "truth01.tif"}),
        (["e1_t5.tif", "e2_t5.tif"], ["x2_5.tif", "x1_5.tif"], {"e1_t5.tif": "x1_5.tif", "e2_t5.tif": "x2_5.tif"}),
        (["exp2023_1.tif", "exp2023_2.tif"], ["t1.tif", "t2.tif"], {"exp2023_2.tif": "t2.tif"}),
    ],
)
def test_numbers_decide_where_no_names_match(tmp_path, images, labels, expected):
    found, problems = pairs_of(tmp_path, images, labels)
    assert expected.items() <= found.items()
    assert not problems


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a_1.tif", "b_1.tif"], ["c_1.tif", "d_1.tif"]),
        (["embryo1_t5.tif", "embryo1_t6.tif"], ["embryo2_t5.tif", "embryo2_t6.tif"]),
    ],
)
def test_numbers_that_could_mean_anything_pair_nothing(tmp_path, images, labels):
    assert pairs_of(tmp_path, images, labels)[0] == {}


def test_numbers_do_not_pair_leftovers_of_names(tmp_path):
    found, _ = pairs_of(tmp_path, ["a1.tif", "b2.tif"], ["a1.tif", "c2.tif"])
    assert found == {"a1.tif": "a1.tif"}


def test_two_files_chosen_by_hand_are_a_pair(tmp_path):
    make(tmp_path, "x.tif", "y.tif")
    pairing = pair_files(tmp_path / "x.tif", tmp_path / "y.tif")
    assert [(pair.name, pair.rule) for pair in pairing.pairs] == [("x", "chosen by hand")]
    assert [problem.code for problem in pair_files(tmp_path / "x.tif", tmp_path / "x.tif").problems] == [
        "ambiguous-pair"
    ]


def test_one_image_of_a_folder_of_labels(tmp_path):
    make(tmp_path, "i/a.tif", "l/a.tif", "l/b.tif")
    pairing = pair_files(tmp_path / "i" / "a.tif", tmp_path / "l")
    assert len(pairing.pairs) == 1
    assert not pairing.problems


def test_images_and_labels_in_one_folder(tmp_path):
    make(tmp_path, "a.tif", "a_mask.tif", "b.tif", "b_mask.tif")
    pairing = pair_files(tmp_path, tmp_path)
    assert [(p.image.name, p.labels.name) for p in pairing.pairs] == [("a.tif", "a_mask.tif"), ("b.tif", "b_mask.tif")]
    assert not pairing.problems


def test_one_folder_without_a_sign_of_labels(tmp_path):
    make(tmp_path, "a.tif", "b.tif")
    pairing = pair_files(tmp_path, tmp_path)
    assert not pairing.pairs
    assert [problem.code for problem in pairing.problems] == ["ambiguous-pair"]


def test_labels_in_a_subfolder_of_the_images(tmp_path):
    make(tmp_path, "a.tif", "labels/a.tif")
    pairing = pair_files(tmp_path, tmp_path / "labels")
    assert [(p.image, p.labels) for p in pairing.pairs] == [(tmp_path / "a.tif", tmp_path / "labels" / "a.tif")]
    assert not pairing.problems


def test_missing_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        pair_files(tmp_path / "i", tmp_path / "l")


def test_open_pair_reads_both_as_the_settings_say(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "l").mkdir()
    tifffile.imwrite(
        tmp_path / "i" / "a.tif", np.zeros((9, 2, 10, 11), "uint8"), imagej=True, metadata={"axes": "ZCYX"}
    )
    tifffile.imwrite(tmp_path / "l" / "a.tif", np.zeros((9, 10, 11), "uint8"))
    config = DataConfig(images=tmp_path / "i", labels=tmp_path / "l", channel=1, axes="zcyx", voxel_size=(2, 1, 1))
    image, labels = open_pair(pair_files(tmp_path / "i", tmp_path / "l").pairs[0], config)
    assert image.shape == labels.shape == (9, 10, 11)
    assert image.voxel_size == (2, 1, 1)


@pytest.fixture(params=["..", "link"])
def respelled(request, tmp_path):
    """A function that gives a folder by another name."""

    def other(folder):
        if request.param == "..":
            return folder / ".." / folder.name
        link = folder.with_name(f"{folder.name}-link")
        try:
            link.symlink_to(folder, target_is_directory=True)
        except OSError:
            pytest.skip("links are not allowed here")
        return link

    return other


def test_one_folder_spelled_in_two_ways(tmp_path, respelled):
    folder = make(tmp_path / "d", "a.tif", "a_mask.tif", "b.tif", "b_mask.tif")
    for images, labels in ((folder, respelled(folder)), (folder / ".." / "d", folder)):
        pairing = pair_files(images, labels)
        assert [(p.image.name, p.labels.name) for p in pairing.pairs] == [
            ("a.tif", "a_mask.tif"),
            ("b.tif", "b_mask.tif"),
        ]
        assert not pairing.problems


def test_one_folder_spelled_in_two_ways_without_a_sign_of_labels(tmp_path, respelled):
    folder = make(tmp_path / "d", "a.tif", "b.tif")
    pairing = pair_files(folder, respelled(folder))
    assert not pairing.pairs
    assert [problem.code for problem in pairing.problems] == ["ambiguous-pair"]


def test_no_image_is_its_own_labels(tmp_path):
    make(tmp_path, "i/a.tif", "i/b.tif", "l/b.tif", "l/c.tif")
    try:
        (tmp_path / "l" / "a.tif").symlink_to(tmp_path / "i" / "a.tif")
    except OSError:
        pytest.skip("links are not allowed here")
    pairing = pair_files(tmp_path / "i", tmp_path / "l")
    assert [pair.name for pair in pairing.pairs] == ["b"]
    assert [(problem.code, problem.where) for problem in pairing.problems if problem.severity == "error"] == [
        ("ambiguous-pair", "a.tif")
    ]


# --- labels inside OME-Zarr images


def ngff(path, *names, version=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    image, labels = make_pair(0)
    return write_ngff(path, image, dict.fromkeys(names, labels), version)


def found(pairing):
    assert not pairing.problems
    return [(pair.name, pair.image.name, pair.labels.relative_to(pair.image).as_posix()) for pair in pairing.pairs]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chosen", ["", "labels", "labels/cells", "folder"])
def test_labels_inside_an_image(tmp_path, version, chosen):
    image = ngff(tmp_path / "a.ome.zarr", "cells", version=version)
    pairing = pair_files(image, tmp_path if chosen == "folder" else image / chosen)
    assert found(pairing) == [("a", "a.ome.zarr", "labels/cells")]
    opened = open_pair(pairing.pairs[0], DataConfig())
    assert [volume.where for volume in opened] == ["a.ome.zarr", "a.ome.zarr/labels/cells"]
    np.testing.assert_array_equal([volume.read() for volume in opened], make_pair(0))
    assert opened[1].voxel_size == (1.0, 0.5, 0.5)


def test_labels_inside_the_first_image_of_a_bioformats2raw_folder(tmp_path):
    image = tmp_path / "a.zarr"
    ngff(image / "0", "cells")
    (image / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    for labels in (image, tmp_path):
        assert found(pair_files(image, labels)) == [("a", "a.zarr", "0/labels/cells")]
    assert found(pair_files(tmp_path, image / "0" / "labels" / "cells")) == [("a", "a.zarr", "0/labels/cells")]


def test_a_folder_of_images_with_labels_inside(tmp_path, respelled):
    folder = tmp_path / "d"
    ngff(folder / "x" / "a.zarr", "cells")
    ngff(folder / "y" / "a.zarr", "nuclei", version=3)  # under other names
    make(folder, "b.tif", "b_mask.tif")
    pairs = {
        (pair.name, pair.labels.relative_to(folder.resolve()).as_posix()) for pair in pair_files(folder, folder).pairs
    }
    assert pairs == {("b", "b_mask.tif"), ("x_a", "x/a.zarr/labels/cells"), ("y_a", "y/a.zarr/labels/nuclei")}
    pairing = pair_files(folder, respelled(folder))
    assert not pairing.problems
    assert {(pair.name, pair.labels.name) for pair in pairing.pairs} == {
        ("b", "b_mask.tif"),
        ("x_a", "cells"),
        ("y_a", "nuclei"),
    }


def test_which_of_several_labels_is_asked(tmp_path):
    image = ngff(tmp_path / "a.zarr", "cells", "nuclei")
    for labels in (image, image / "labels", tmp_path):
        pairing = pair_files(image, labels)
        assert not pairing.pairs
        assert [str(problem) for problem in pairing.problems] == [
            "a.zarr: The image holds several labels: cells, nuclei. Give the folder of those to use as labels, such as "
            f"{image / 'labels' / 'cells'} (with a folder of images, this name is used in all of them)."
        ]
    assert found(pair_files(image, image / "labels" / "nuclei")) == [("a", "a.zarr", "labels/nuclei")]


def test_which_of_several_labels_is_asked_once_for_a_folder_and_chosen_by_their_name(tmp_path):
    for name in ("a", "b"):
        ngff(tmp_path / f"{name}.zarr", "cells", "nuclei")
    (problem,) = grouped(pair_files(tmp_path, tmp_path).problems)
    assert problem.where == "a.zarr and b.zarr"
    ngff(tmp_path / "c.zarr", "cells")
    pairing = pair_files(tmp_path, tmp_path / "b.zarr" / "labels" / "nuclei")
    assert [(p.image.name, p.labels.parent.parent.name, p.labels.name) for p in pairing.pairs] == [
        ("a.zarr", "a.zarr", "nuclei"),
        ("b.zarr", "b.zarr", "nuclei"),
    ]
    assert [(problem.code, problem.where) for problem in pairing.problems] == [("unmatched-image", "c.zarr")]


def test_labels_inside_other_images_and_labels_beside(tmp_path):
    image = ngff(tmp_path / "i" / "a.zarr", "draft")
    ngff(tmp_path / "l" / "a.zarr", "cells")
    ngff(tmp_path / "m" / "a_mask.zarr")
    assert [p.labels for p in pair_files(image.parent, tmp_path / "l").pairs] == [
        tmp_path / "l" / "a.zarr" / "labels" / "cells"
    ]
    assert [p.labels for p in pair_files(image.parent, tmp_path / "m").pairs] == [tmp_path / "m" / "a_mask.zarr"]


@pytest.mark.parametrize("name", ["a.tif", "a_masks.tif"])
def test_predictions_are_compared_with_the_labels_inside(tmp_path, name):
    image = ngff(tmp_path / "i" / "a.zarr", "cells")
    (tmp_path / "p").mkdir()
    tifffile.imwrite(tmp_path / "p" / name, make_pair(0)[1])
    (scores,) = finish(evaluate(tmp_path / "p", image.parent)).volumes
    assert scores.objects.at(0.9).f1 == 1


def test_an_image_without_labels_is_not_its_own(tmp_path):
    image = ngff(tmp_path / "a.zarr")
    (problem,) = pair_files(image, image).problems
    assert problem.message == "The same file is given as image and as labels, and holds none."


@pytest.mark.parametrize(
    ("file", "text", "where"),
    [
        (".zattrs", "[", "a.zarr/.zattrs"),
        ("labels/.zattrs", "[", "a.zarr/labels/.zattrs"),
        ("labels/.zattrs", '{"labels": ["../../b"]}', "a.zarr/labels"),
        ("labels/.zattrs", r'{"labels": ["a\u0000b"]}', "a.zarr/labels"),
        ("labels/.zattrs", '{"labels": ["lost"]}', "a.zarr/labels/lost"),
    ],
)
def test_what_is_damaged_inside_is_an_error_of_its_pair(tmp_path, file, text, where):
    (ngff(tmp_path / "a.zarr", "cells") / file).write_text(text)
    ngff(tmp_path / "b.zarr", "cells")
    report = finish(check_data(DataConfig(images=tmp_path, labels=tmp_path), division=False))
    assert [pair.name for pair in report.pairs] == ["a", "b"]
    (problem,) = report.errors
    assert problem.code == "unreadable-file"
    assert problem.where.endswith(where)
