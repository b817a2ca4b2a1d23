"""What tests of errors in the training widget share: a form that is filled in, hands, and what was told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import Qt

from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.widgets.train.widget import TrainWidget


def config_of(balls: tuple[Path, Path], results: Path, **data: object) -> RunConfig:
    """A run of quick epochs that takes as long as it is let."""
    return RunConfig(
        data=DataConfig(images=balls[0], labels=balls[1], results=results, **data),  # type: ignore[arg-type]
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1, augment=False),
        training=TrainingConfig(
            epochs=10_000, max_minutes=10, validation_interval=1, model_size="small", deterministic=True
        ),  # the minutes end a child whose tests were killed
    )


def wait(qtbot: Any, condition: Callable[[], object]) -> None:
    qtbot.waitUntil(lambda: bool(condition()), timeout=120_000)


def press(qtbot: Any, widget: TrainWidget) -> None:
    wait(qtbot, widget.panel.button.isEnabled)
    qtbot.mouseClick(widget.panel.button, Qt.MouseButton.LeftButton)


def is_of_the_package(process: psutil.Process) -> bool:
    """Whether it runs, and runs ours."""
    with contextlib.suppress(psutil.Error):  # ended meanwhile
        return "napari_celltrain" in process.cmdline()
    return False


def the_error() -> str:
    """What was told; it must have been told once, and be a sentence."""
    messages = [
        str(record.message)
        for record in notification_manager.records
        if record.severity >= NotificationSeverity.WARNING
    ]
    notification_manager.records.clear()
    assert len(messages) == 1, messages
    message = messages[0]
    assert message.rstrip().endswith((".", ")"))
    for word in ("Traceback", "Error", "unexpected", "mistake", "exit code", "signal"):
        assert word not in message
    return message


def fails(qtbot: Any, widget: TrainWidget, *, by: Callable[[], object] | None = None) -> str:
    """Start, do ``by`` when something has been saved, and wait for the error."""
    controller = widget.controller
    assert widget.panel.button.text() == "Start"
    press(qtbot, widget)
    if by is not None:
        trains(qtbot, widget)
        by()
    wait(qtbot, lambda: not controller.is_busy)
    assert controller.state == "failed"
    message = the_error()
    assert widget.panel.message.text() == controller.message == message
    return message


def trains(qtbot: Any, widget: TrainWidget) -> None:
    """Wait for the second validation of the run that was started: the state after the first is saved by then."""
    controller = widget.controller
    wait(qtbot, lambda: len(controller.history().points("dice")) > 1 or not controller.is_busy)
    assert controller.is_busy, controller.message
    assert widget.panel.message.text() == ""


def stops(qtbot: Any, widget: TrainWidget) -> None:
    """Press Stop, twice, and wait for a complete end."""
    press(qtbot, widget)
    if widget.controller.is_busy:
        press(qtbot, widget)
    wait(qtbot, lambda: not widget.controller.is_busy)
    assert widget.controller.state == "finished", widget.controller.message
