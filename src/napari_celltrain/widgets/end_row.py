"""What can be done with a run that has ended."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSpinBox, QWidget
from superqt import QFlowLayout

from napari_celltrain.config import RunConfig
from napari_celltrain.runs.history import History
from napari_celltrain.widgets.focus_frame import FocusFrame
from napari_celltrain.widgets.plain_text import tooltip


class EndRow(QWidget):
    """Open its folder, train on, or take its settings."""

    openRequested = Signal()
    resumeRequested = Signal(object)
    """The new last epoch, or None for the one that the run had."""
    settingsRequested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._planned: int | None = None
        self.open_button = QPushButton("Open results folder")
        self.settings_button = QPushButton("Use these settings again")
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip(tooltip("Train on from the last saved state, as if the run had never ended"))
        self.epochs = QSpinBox()
        self.epochs.setAccessibleName("Last epoch of the resumed run")
        training_on = QWidget()
        row = QHBoxLayout(training_on)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(FocusFrame.around(self.resume_button))
        row.addWidget(QLabel("until epoch"))
        row.addWidget(FocusFrame.around(self.epochs))
        layout = QFlowLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.open_button, self.settings_button):
            layout.addWidget(FocusFrame.around(widget))
        layout.addWidget(training_on)
        self.open_button.clicked.connect(self._open)
        self.settings_button.clicked.connect(self._take_settings)
        self.resume_button.clicked.connect(self._resume)

    def setRun(self, config: RunConfig | None, history: History) -> None:
        """A run that has done all its epochs is offered twice as many."""
        done = history.finished.epoch if history.finished is not None else history.rows[-1].epoch if history.rows else 0
        self._planned = history.started.epochs if history.started is not None else None
        if self._planned is None and config is not None:
            self._planned = config.training.epochs
        planned = self._planned or 1
        self.epochs.setRange(min(done + 1, 100_000), 100_000)
        self.epochs.setValue(planned if done < planned else 2 * planned)
        self.settings_button.setEnabled(config is not None)
        self.resume_button.setEnabled(bool(history.dices))  # the state is saved right after each validation

    def _open(self) -> None:
        self.openRequested.emit()

    def _take_settings(self) -> None:
        self.settingsRequested.emit()

    def _resume(self) -> None:
        epochs = self.epochs.value()
        self.resumeRequested.emit(None if epochs == self._planned else epochs)
