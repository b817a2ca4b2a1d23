"""The row at the end of a run that segments a layer with its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_celltrain.widgets.run.panel import SegmentRow
from segment_support import add_image, click, held_at_the_network, wait
from tiny_models import VOXEL_SIZE, write_tiny_model


@pytest.fixture
def row(qtbot, tmp_path: Path) -> SegmentRow:
    row = SegmentRow(ViewerModel())
    qtbot.addWidget(row)
    assert not row.run.button.isEnabled()
    row.setModel(write_tiny_model(tmp_path))
    return row


def test_a_layer_is_segmented_or_not(qtbot, row: SegmentRow) -> None:
    viewer = row._viewer
    add_image(viewer)
    row.layer.reset_choices()
    with held_at_the_network() as jobs:
        click(qtbot, row.run.button)
        assert row.run.button.text() == "Cancel"
        wait(qtbot, lambda: jobs)
        click(qtbot, row.run.button)
        assert not row.run.button.isEnabled()
        wait(qtbot, lambda: row.run.button.text() != "Cancel")
    assert len(viewer.layers) == 1
    assert row.run.bar.isHidden()

    click(qtbot, row.run.button)
    wait(qtbot, lambda: "mine segmentation" in viewer.layers)
    assert tuple(viewer.layers["mine segmentation"].scale) == VOXEL_SIZE
    wait(qtbot, row.run.button.isEnabled)


def test_what_cannot_be_segmented_is_told(qtbot, row: SegmentRow) -> None:
    row._viewer.add_image(np.zeros((32, 32)), name="flat", contrast_limits=(0, 1))
    row.layer.reset_choices()
    click(qtbot, row.run.button)
    assert "flat: is a 2D layer" in row.run.message.text()
    assert row.run.button.isEnabled()
