"""The row at the end of a run that segments a layer with its model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_celltrain.widgets.run import panel
from napari_celltrain.widgets.run.panel import SegmentRow
from segment_support import add_image, click, held_at_the_network, wait
from tiny_models import VOXEL_SIZE, write_tiny_model


@pytest.fixture
def row(qtbot, tmp_path: Path) -> SegmentRow:
    row = SegmentRow(ViewerModel())
    qtbot.addWidget(row)
    assert not row.button.isEnabled()
    row.setModel(write_tiny_model(tmp_path))
    return row


def test_a_layer_is_segmented_or_not(qtbot, row: SegmentRow) -> None:
    viewer = row._viewer
    add_image(viewer)
    row.reset_choices()
    with held_at_the_network() as jobs:
        click(qtbot, row.button)
        assert row.button.text() == "Cancel"
        wait(qtbot, lambda: jobs)
        click(qtbot, row.button)
        assert not row.button.isEnabled()
        wait(qtbot, lambda: row.button.text() != "Cancel")
    assert len(viewer.layers) == 1
    assert row.progress.isHidden()

    click(qtbot, row.button)
    wait(qtbot, lambda: "mine segmentation" in viewer.layers)
    assert tuple(viewer.layers["mine segmentation"].scale) == VOXEL_SIZE
    wait(qtbot, row.button.isEnabled)


def test_what_cannot_be_segmented_is_told(qtbot, row: SegmentRow, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(panel, "show_error", told.append)
    row._viewer.add_image(np.zeros((32, 32)), name="flat", contrast_limits=(0, 1))
    row.reset_choices()
    click(qtbot, row.button)
    assert len(told) == 1
    assert "flat: is a 2D layer" in told[0]
    assert row.button.isEnabled()
