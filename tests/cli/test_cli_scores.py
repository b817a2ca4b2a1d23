"""``celltrain evaluate`` and ``celltrain measure``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from balls import VOXEL_SIZE, write_pairs
from napari_celltrain.cli.main import app
from napari_celltrain.io.writer import write_volume
from napari_celltrain.values.errors import CellTrainError, ConfigError, DataError, RunFolderError


def invoke(*arguments: object) -> Result:
    """Our own errors are raised, as ``main`` gets to see them."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CellTrainError):
        raise result.exception
    return result


@pytest.fixture
def balls(tmp_path: Path) -> tuple[Path, Path]:
    return write_pairs(tmp_path, ["a", "b"])


class TestEvaluate:
    def test_shows_a_table_and_writes_files(self, balls: tuple[Path, Path], tmp_path: Path) -> None:
        result = invoke(
            "evaluate", balls[1] / "a.tif", balls[1].parent / "labels" / "b.tif", "--output", tmp_path / "o"
        )
        assert result.exit_code == 0
        assert "F1 at 0.5" in result.stdout
        assert "pooled" in result.stdout
        assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["scores.csv", "scores.json", "scores.png"]

    def test_json_is_all_that_is_printed(self, balls: tuple[Path, Path], tmp_path: Path) -> None:
        labels = balls[1].rename(tmp_path / "truth")
        (tmp_path / "guess").mkdir()
        for path in labels.iterdir():
            (tmp_path / "guess" / path.name).write_bytes(path.read_bytes())
        found = json.loads(invoke("evaluate", tmp_path / "guess", labels, "--json").stdout)
        assert found["pooled"]["f1_at_0.50"] == 1.0
        assert len(found["volumes"]) == 2

    def test_a_folder_without_labels_must_be_a_run(self, balls: tuple[Path, Path]) -> None:
        with pytest.raises(RunFolderError, match="not a run folder"):
            invoke("evaluate", balls[1])

    def test_a_run_takes_no_settings_of_data(self, balls: tuple[Path, Path]) -> None:
        with pytest.raises(ConfigError, match="give LABELS"):
            invoke("evaluate", balls[1], "--ignore-value", 3)


class TestMeasure:
    def test_one_row_an_object_of_every_volume(self, balls: tuple[Path, Path], tmp_path: Path) -> None:
        result = invoke("measure", balls[1], "--image", balls[0], "--output", tmp_path / "table.csv")
        rows = list(csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8")))
        labels = {name: tifffile.imread(balls[1] / f"{name}.tif") for name in ("a", "b")}
        objects = [(name, str(n)) for name, array in labels.items() for n in np.unique(array) if n]
        assert [(row["volume"], row["label"]) for row in rows] == objects
        size = np.count_nonzero(labels["a"] == int(rows[0]["label"]))
        assert float(rows[0]["volume_um3"]) == pytest.approx(size * np.prod(VOXEL_SIZE))
        assert float(rows[0]["intensity_mean"]) > 200
        assert f"Measured {len(objects)} objects of 2 volumes." in result.stdout

    def test_every_channel_is_measured(self, tmp_path: Path) -> None:
        image = np.stack([np.full((3, 4, 5), value, np.uint16) for value in (10, 20)], axis=1)
        tifffile.imwrite(tmp_path / "i.tif", image, imagej=True, metadata={"axes": "ZCYX"})
        write_volume(tmp_path / "l.tif", np.ones((3, 4, 5), np.uint8))
        result = invoke("measure", tmp_path / "l.tif", "--image", tmp_path / "i.tif", "-o", tmp_path / "t.csv")
        [row] = csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8"))
        assert (row["intensity_mean_0"], row["intensity_mean_1"]) == ("10.0", "20.0")
        assert row["elongation"] != ""
        assert "does not tell the size of a voxel" in result.stderr

    def test_what_is_not_defined_is_an_empty_cell(self, tmp_path: Path) -> None:
        one = np.zeros((3, 4, 5), np.uint8)
        one[1, 1, 1] = 1
        write_volume(tmp_path / "-one.tif", one, VOXEL_SIZE)
        invoke("measure", tmp_path / "-one.tif", "-o", tmp_path / "t.csv")
        [row] = csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8"))
        assert (row["volume"], row["flatness"], row["touches_border"]) == ("'-one", "", "0")

    def test_another_ending_than_csv_is_refused(self, balls: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"ends in \.csv"):
            invoke("measure", balls[1], "-o", tmp_path / "t.xlsx")

    def test_images_of_another_shape_are_refused(self, tmp_path: Path) -> None:
        write_volume(tmp_path / "i.tif", np.ones((3, 4, 6), np.uint8))
        write_volume(tmp_path / "l.tif", np.ones((3, 4, 5), np.uint8))
        with pytest.raises(DataError, match=r"i\.tif: has 3 × 4 × 6 voxels, but its labels l\.tif 3 × 4 × 5"):
            invoke("measure", tmp_path / "l.tif", "--image", tmp_path / "i.tif", "-o", tmp_path / "t.csv")
