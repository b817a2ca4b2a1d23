"""Comparing arrays, files, folders and runs with labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from label_pairs import line, random_pair
from napari_celltrain.data.differences import Difference
from napari_celltrain.engine.scores import Counts, VoxelCounts
from napari_celltrain.evaluate import evaluation
from napari_celltrain.evaluate.evaluation import Evaluation, VolumeScores
from napari_celltrain.evaluate.tables import write_evaluation
from napari_celltrain.io import volume
from napari_celltrain.io.volume import fingerprint
from napari_celltrain.io.volumes import open_labels
from napari_celltrain.io.writer import write_volume
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import DataConfig, RunConfig
from napari_celltrain.values.errors import DataError, RunFolderError
from napari_celltrain.values.events import finish


def evaluate(*arguments: Any, **options: Any) -> Evaluation:
    return finish(evaluation.evaluate(*arguments, **options))


def evaluate_arrays(*arguments: Any, **options: Any) -> VolumeScores:
    return finish(evaluation.evaluate_arrays(*arguments, **options))


def evaluate_run(run: Path) -> Evaluation:
    return finish(evaluation.evaluate_run(run))


VOXELS = ("dice", "iou", "precision", "recall")


def of_sklearn(truth: np.ndarray, predicted: np.ndarray, **options: object) -> list[float]:
    scores = (f1_score, jaccard_score, precision_score, recall_score)
    return [score(truth.ravel(), predicted.ravel(), zero_division=0, **options) for score in scores]


def thick(*parts: tuple[int, int]) -> np.ndarray:
    """As ``line``, of several planes and rows: a file of one row would be no volume."""
    return np.broadcast_to(line(*parts), (2, 2, line(*parts).size)).astype(np.uint16)


def write_folders(folder: Path, **volumes: tuple[np.ndarray, np.ndarray]) -> tuple[Path, Path]:
    """Predictions and labels, from (labels, prediction) by name."""
    for side in ("predictions", "labels"):
        (folder / side).mkdir()
    for name, (truth, predicted) in volumes.items():
        write_volume(folder / "labels" / f"{name}.tif", truth, (2.0, 0.5, 0.5))
        write_volume(folder / "predictions" / f"{name}.tif", predicted)
    return folder / "predictions", folder / "labels"


class TestArrays:
    @pytest.mark.parametrize("planes", [1, 4, 100])
    def test_voxel_scores_are_those_of_scikit_learn(self, monkeypatch: pytest.MonkeyPatch, planes: int) -> None:
        truth, predicted = random_pair(3)
        monkeypatch.setattr(volume, "SLAB_VOXELS", planes * truth[0].size)
        found = evaluate_arrays(truth, predicted, label_kind="foreground")
        assert [getattr(found.voxels, name) for name in VOXELS] == pytest.approx(of_sklearn(truth > 0, predicted > 0))
        assert found.objects is None

    def test_classes_are_scored_one_by_one_and_averaged(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.choice([0, 3, 7], (4, 8, 8)).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice([0, 3, 7], truth.shape)).astype(np.uint8)
        found = evaluate_arrays(truth, predicted, label_kind="classes")
        assert found.class_values == (3, 7)
        for index, value in enumerate(found.class_values):
            own = [getattr(found.voxels.of_class(index), name) for name in VOXELS]
            assert own == pytest.approx(of_sklearn(truth == value, predicted == value))
        averages = of_sklearn(truth, predicted, labels=[3, 7], average="macro")
        assert [getattr(found.voxels, name) for name in VOXELS] == pytest.approx(averages)

    def test_a_class_that_no_label_has_is_false(self) -> None:
        found = evaluate_arrays(line((1, 4), (2, 4)), line((1, 4), (2, 2), (9, 2)), label_kind="classes")
        assert found.class_values == (2, 9)
        assert found.voxels == VoxelCounts((Counts(2, 0, 2), Counts(0, 2, 0)))

    @pytest.mark.parametrize("kind", ["objects", "foreground", "classes"])
    def test_ignored_voxels_do_not_count(self, kind: str) -> None:
        truth, predicted = line((9, 3), (1, 4), (0, 2)), line((1, 3), (1, 4), (0, 2))
        found = evaluate_arrays(truth, predicted, label_kind=kind, ignore_value=9)  # type: ignore[arg-type]
        assert found.voxels.dice == 1.0
        assert found.objects is None or found.objects.at(0.95).f1 == 1.0

    def test_tells_what_is_wrong_where(self) -> None:
        found = evaluate_arrays(line((1, 4), (0, 2), (2, 3)), line((0, 6), (2, 3)))
        [missed] = found.wrong
        assert (missed.label, missed.centre_zyx) == (1, (0.0, 0.0, 1.5))
        assert found.wrong_of(Difference.MISSED_OBJECT) == (missed,)
        assert found.wrong_of(Difference.FALSE_OBJECT) == ()

    def test_other_shapes_and_fractions_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"1 × 1 × 3 voxels, but v \(labels\) 1 × 1 × 4"):
            evaluate_arrays(line((1, 4)), line((1, 3)), name="v")
        with pytest.raises(DataError, match=r"v \(prediction\): holds fractions"):
            evaluate_arrays(line((1, 4)), line((1, 4)) * 0.3, name="v")

    @pytest.mark.parametrize("kind", ["objects", "classes"])
    def test_a_damaged_file_is_not_taken_for_fractions(self, kind: str) -> None:
        class Damaged:
            shape, dtype = (1, 1, 4), np.dtype(np.uint8)

            def __getitem__(self, key: object) -> np.ndarray:
                raise DataError("v.tif is damaged.")

        with pytest.raises(DataError, match=r"v\.tif is damaged"):
            evaluate_arrays(line((1, 4)), Damaged(), label_kind=kind)  # type: ignore[arg-type]

    def test_it_goes_step_by_step_and_can_be_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        truth, predicted = random_pair(3)
        monkeypatch.setattr(volume, "SLAB_VOXELS", truth[0].size)
        steps = evaluation.evaluate_arrays(truth, predicted)
        assert [next(steps)[:2] for _ in range(3)] == [(done, len(truth)) for done in (1, 2, 3)]
        steps.close()


class TestFiles:
    def test_pools_counts_not_scores(self, tmp_path: Path) -> None:
        large, small = (thick((1, 90), (0, 10)),) * 2, (thick((1, 2), (0, 1), (2, 2)), thick((0, 5)))
        found = evaluate(*write_folders(tmp_path, large=large, small=small))
        assert [volume.name for volume in found.volumes] == ["large", "small"]
        assert found.pooled.voxels.dice == pytest.approx(2 * 360 / (2 * 360 + 16))
        assert found.pooled.objects is not None
        assert (found.pooled.objects.at(0.5).tp, found.pooled.objects.at(0.5).fn) == (1, 2)
        assert found.volumes[0].voxel_size == (2.0, 0.5, 0.5)
        assert found.problems == ()

    def test_what_has_no_partner_is_told(self, tmp_path: Path) -> None:
        predictions, labels = write_folders(tmp_path, a=random_pair(0), b=random_pair(1))
        (predictions / "b.tif").unlink()
        found = evaluate(predictions, labels)
        assert [problem.where for problem in found.problems] == ["b.tif"]
        assert found.pooled.objects == found.volumes[0].objects

    def test_predictions_may_be_called_masks(self, tmp_path: Path) -> None:
        predictions, labels = write_folders(tmp_path, a=random_pair(0), b=random_pair(1))
        for name in ("a", "b"):
            (predictions / f"{name}.tif").rename(predictions / f"{name}_masks.tif")
        assert len(evaluate(predictions, labels).volumes) == 2

    def test_nothing_pairs_up(self, tmp_path: Path) -> None:
        predictions, labels = write_folders(tmp_path, a=random_pair(0))
        (predictions / "b.tif").write_bytes((predictions / "a.tif").read_bytes())
        (predictions / "a.tif").rename(predictions / "c.tif")
        with pytest.raises(DataError, match="do not pair up"):
            evaluate(predictions, labels)

    def test_a_mask_in_the_place_of_objects_is_told(self, tmp_path: Path) -> None:
        truth, _ = random_pair(0)
        found = evaluate(*write_folders(tmp_path, a=(truth, (truth > 0).astype(np.uint8))))
        assert [(problem.code, problem.where) for problem in found.problems] == [
            ("looks-like-mask", "predictions/a.tif")
        ]

    def test_errors_name_the_file(self, tmp_path: Path) -> None:
        predictions, labels = write_folders(tmp_path, a=random_pair(0))
        tifffile.imwrite(predictions / "a.tif", np.full((10, 28, 28), 0.5, np.float32))
        with pytest.raises(DataError, match=r"predictions/a\.tif: holds fractions"):
            evaluate(predictions, labels)


class TestWriting:
    def test_table_json_and_picture(self, tmp_path: Path) -> None:
        found = evaluate(*write_folders(tmp_path, a=random_pair(0), b=random_pair(1)))
        paths = write_evaluation(found, tmp_path / "out" / "scores")
        assert [path.name for path in paths] == ["scores.csv", "scores.json", "scores.png"]
        rows = list(csv.DictReader(paths[0].open(encoding="utf-8")))
        assert [row["volume"] for row in rows] == ["a", "b", "pooled"]
        assert float(rows[2]["f1_at_0.50"]) == found.pooled.objects.f1
        content = json.loads(paths[1].read_text(encoding="utf-8"))
        assert content["pooled"]["dice"] == found.pooled.voxels.dice
        assert len(content["volumes"][0]["wrong_objects"]) == len(found.volumes[0].wrong)
        assert paths[2].read_bytes().startswith(b"\x89PNG")

    def test_names_that_a_spreadsheet_would_compute_are_disarmed(self, tmp_path: Path) -> None:
        volumes = {"=1+1": random_pair(0), "@b": random_pair(1), "c$_^{": random_pair(2)}
        found = evaluate(*write_folders(tmp_path, **volumes))
        table, _, _ = write_evaluation(found, tmp_path)
        names = [row[0] for row in csv.reader(table.open(encoding="utf-8"))]
        assert sorted(names[1:-1]) == sorted(["'=1+1", "'@b", "c$_^{"])

    @pytest.mark.parametrize("kind", ["foreground", "classes"])
    def test_without_objects(self, tmp_path: Path, kind: str) -> None:
        volume = thick((1, 3), (2, 3), (0, 2))
        predictions, labels = write_folders(tmp_path, a=(volume, volume))
        found = evaluate(predictions, labels, label_kind=kind)  # type: ignore[arg-type]
        header = next(csv.reader(write_evaluation(found, tmp_path)[0].open(encoding="utf-8")))
        assert ("dice_class_2" in header) == (kind == "classes")
        assert not [name for name in header if "objects" in name]

    def test_a_file_in_the_way_is_told(self, tmp_path: Path) -> None:
        found = evaluate(*write_folders(tmp_path, a=random_pair(0)))
        (tmp_path / "taken").touch()
        with pytest.raises(DataError, match=r"taken.*: cannot be written: a file is in the way"):
            write_evaluation(found, tmp_path / "taken")


class TestRun:
    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFolder:
        """A finished run that was validated on the upper half of one volume."""
        truth, predicted = random_pair(4)
        _, labels = write_folders(tmp_path, a=(truth, predicted))
        folder = RunFolder.create(tmp_path, "run", "unet")
        folder.write_config(RunConfig(data=DataConfig(images=labels, labels=labels)))
        case = {
            "name": "a_block",
            "side": "validation",
            "image": "a.tif",
            "labels": str(labels / "a.tif"),
            "region_zyx": [[0, 5], [0, 28], [0, 28]],
            "labels_fingerprint": fingerprint(open_labels(labels / "a.tif")),
        }
        record = {"label_kind": "objects", "class_values": [], "pairs": [case | {"name": "t", "side": "train"}, case]}
        folder.write_text("data.json", json.dumps(record))
        folder.write_volume("validation/a_block.tif", predicted[:5], None)
        return folder

    def test_scores_what_was_held_out(self, run: RunFolder) -> None:
        truth, predicted = random_pair(4)
        [volume] = evaluate_run(run.path).volumes
        expected = evaluate_arrays(truth[:5], predicted[:5])
        assert (volume.name, volume.voxels, volume.objects) == ("a_block", expected.voxels, expected.objects)

    def test_labels_that_have_changed_are_told(self, run: RunFolder, tmp_path: Path) -> None:
        write_volume(tmp_path / "labels" / "a.tif", random_pair(5)[0])
        assert [problem.code for problem in evaluate_run(run.path).problems] == ["labels-changed"]

    def test_a_run_that_has_not_ended_is_refused(self, run: RunFolder) -> None:
        (run.validation / "a_block.tif").unlink()
        with pytest.raises(RunFolderError, match="no predictions of a_block"):
            evaluate_run(run.path)

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"pairs": [{"side": "validation"}]}', "[" * 10**5, '{"pairs": Infinity}', "\0"]
    )
    def test_a_damaged_record_is_refused(self, run: RunFolder, content: str) -> None:
        run.data_file.write_text(content)
        with pytest.raises(RunFolderError, match=r"data\.json: .*labels of this run are unknown"):
            evaluate_run(run.path)
