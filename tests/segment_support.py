"""What the tests of the segment widget share: the widget in a viewer, hands, and patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from balls import make_pair
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.segment.widget import SegmentWidget
from napari_celltrain.widgets.segment.work import PREDICTING
from tiny_models import VOXEL_SIZE

UNITS = ("um", "um", "um")


def open_widget(viewer: Any) -> SegmentWidget:
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment")
    QApplication.processEvents()
    return widget


def wait(qtbot: Any, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=120_000)


def click(qtbot: Any, button: Any) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def add_image(viewer: Any, seed: int = 0, **options: Any) -> Any:
    image, _ = make_pair(seed)
    given = {"name": "mine", "scale": VOXEL_SIZE, "units": UNITS, "contrast_limits": (0, 1500)}
    return viewer.add_image(image, **(given | options))


def add_truth(viewer: Any, seed: int = 0, **options: Any) -> tuple[Any, np.ndarray]:
    _, labels = make_pair(seed)
    layer = viewer.add_labels(labels, **({"name": "truth", "scale": VOXEL_SIZE, "units": UNITS} | options))
    return layer, labels


def choose_model(qtbot: Any, widget: SegmentWidget, path: Any) -> None:
    """Typed into the field, as a user would."""
    widget.model.path.edit.setText(str(path))
    widget.model.path.edit.editingFinished.emit()
    wait(qtbot, lambda: not widget.model._reader.is_busy)


def run(qtbot: Any, widget: SegmentWidget) -> None:
    """Press Segment and wait for the end."""
    click(qtbot, widget.run.button)
    wait(qtbot, lambda: not widget.run.is_running)


@contextmanager
def held_at_the_network() -> Iterator[list[Job]]:
    """Segmenting a layer waits before each batch of windows until it is cancelled; yields the jobs that wait."""
    jobs: list[Job] = []
    report = Job.report

    def wait_for_cancel(job: Job, item: Any) -> None:
        match item:
            case (_, total, text) if total and text == PREDICTING:  # not the progress of other work
                jobs.append(job)
                job.cancelled.wait(30)
        report(job, item)

    with patch.object(Job, "report", wait_for_cancel):
        yield jobs
