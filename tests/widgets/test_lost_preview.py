"""The validation image on a disk that goes away while napari shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from balls import VOXEL_SIZE, make_pair
from napari_celltrain.io.writer import write_ome_zarr, write_volume
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.config import RunConfig
from napari_celltrain.widgets.previews import open_preview_volume

RECORD = """{{"label_kind": "objects", "class_values": [], "pairs": [{{"name": "a", "side": "validation",
"image": "{image}", "labels": "{labels}", "region_zyx": null, "voxel_size_um": [1, 1, 1]}}]}}"""


def test_its_planes_are_black_instead_of_an_error_while_painting(tmp_path: Path, caplog) -> None:
    image, labels = make_pair(0)
    disk = tmp_path / "disk"
    disk.mkdir()
    list(write_ome_zarr(disk / "a.ome.zarr", image, VOXEL_SIZE, kind="image", name="a"))
    write_volume(tmp_path / "labels.tif", labels, VOXEL_SIZE)
    folder = RunFolder.create(tmp_path, "run", "unet")
    folder.write_config(RunConfig())
    folder.write_text("data.json", RECORD.format(image=disk / "a.ome.zarr", labels=tmp_path / "labels.tif"))
    shown = open_preview_volume(folder).image
    np.testing.assert_array_equal(shown[3], image[3])
    disk.rename(tmp_path / "pulled out")
    assert not shown[3].any()
    assert shown[2:9:3, 1].shape == image[2:9:3, 1].shape
    [record] = caplog.records
    assert "is gone" in record.getMessage()
