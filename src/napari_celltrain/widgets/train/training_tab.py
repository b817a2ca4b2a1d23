"""The Training tab: the network, the loss, how long it learns, and what that will cost."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
from qtpy.QtCore import Signal
from qtpy.QtGui import QShowEvent

from napari_celltrain.values.config import AugmentationConfig, TrainingConfig
from napari_celltrain.widgets import costs
from napari_celltrain.widgets.costs import CostFinder, DeviceEditor, shared_finder
from napari_celltrain.widgets.forms.rows import FieldRows, Fold, TabPage
from napari_celltrain.widgets.theme import plain_label
from napari_celltrain.widgets.train import advice

_NETWORK = ("model", "model_size", "starting_weights")
_LEARNING = ("target", "loss", "batch_size", "epochs", "validation_interval", "learning_rate")


class TrainingTab(TabPage):
    """Edits a :class:`TrainingConfig`; what it estimates depends on :meth:`set_context`."""

    valueChanged = Signal()

    def __init__(self, *, finder: CostFinder | None = None) -> None:
        super().__init__()
        self._finder = finder or shared_finder()
        self._facts: advice.DataFacts | None = None
        self._augmentation = AugmentationConfig()
        self._seconds_per_step: float | None = None
        self._is_setting = False
        self._is_running = False
        self.network_rows = FieldRows(f"training.{name}" for name in _NETWORK)
        self.parameters_text = plain_label()
        self.network_rows.form.addRow(self.parameters_text)
        self.learning_rows = FieldRows(f"training.{name}" for name in _LEARNING)
        self.computer_rows = FieldRows()
        self.device: DeviceEditor = self.computer_rows.add("training.device", DeviceEditor(self._finder))
        self.computer_rows.add("training.seed")
        shown = {*_NETWORK, *_LEARNING, "device", "seed"}
        others = [name for name in TrainingConfig.model_fields if name not in shown]
        self.advanced_rows = FieldRows(f"training.{name}" for name in others)
        self.advanced_rows.form.setContentsMargins(8, 2, 8, 2)
        self.advanced = Fold("Advanced settings", self.advanced_rows)
        self.expectation = plain_label()
        self.add_group("Network", self.network_rows)
        self.add_group("Learning", self.learning_rows)
        self.add_group("Computer", self.computer_rows)
        self.add_group("What to expect", self.expectation)
        self.column.addWidget(self.advanced)
        self.column.addStretch(1)
        self._sections = (self.network_rows, self.learning_rows, self.computer_rows, self.advanced_rows)
        for rows in self._sections:
            rows.valueChanged.connect(self._change)
        self._finder.found.connect(self._renew)
        self._renew()

    def value(self) -> TrainingConfig:
        fields = {name: value for rows in self._sections for name, value in rows.values().items()}
        return TrainingConfig.model_validate(fields)

    def setValue(self, value: TrainingConfig) -> None:
        if value == self.value():
            return
        self._is_setting = True
        for rows in self._sections:
            rows.set_values(value)
        self._is_setting = False
        self._change()

    def set_context(self, facts: advice.DataFacts | None, augmentation: AugmentationConfig) -> None:
        """Renew steps per epoch, memory and time."""
        if (facts, augmentation) != (self._facts, self._augmentation):
            self._seconds_per_step = None  # it was that of other patches
        self._facts, self._augmentation = facts, augmentation
        self._look()

    def set_measured(self, seconds_per_step: float) -> None:
        """What a step has really taken with the values shown."""
        self._seconds_per_step = seconds_per_step
        self._renew()

    def set_running(self, running: bool) -> None:
        """Freeze the values while training, and leave it the whole computer."""
        self._is_running = running
        for rows in self._sections:
            rows.setEnabled(not running)
        if running:
            self._finder.stop()
        self._look()

    def show_problems(self, problems: Mapping[str, str]) -> None:
        """Mark the fields in ``problems`` (text by path such as ``training.device``), and no others."""
        for rows in self._sections:
            rows.set_problems(problems)
        if set(problems) & set(self.advanced_rows.editors):
            self.advanced.set_open(True)

    def showEvent(self, event: QShowEvent | None) -> None:
        super().showEvent(event)
        self._look()

    def _look(self) -> None:
        """Have devices and networks looked at, once somebody wants to see that."""
        if self.isVisible() and not self._is_running:
            self._finder.look(*self._network(self.value()))
        self._renew()  # also to say that it is being looked at

    def _change(self) -> None:
        if self._is_setting:
            return
        self._seconds_per_step = None  # it was that of other settings
        self._look()
        self.valueChanged.emit()

    def _network(self, training: TrainingConfig) -> tuple[str, ...]:
        facts = self._facts
        return costs.network_arguments(training, facts.num_outputs if facts else 1, facts.voxel_size if facts else None)

    def _renew(self) -> None:
        devices, training = self._finder.devices, self.value()
        network = self._finder.facts(*self._network(training))
        text = "Counting its parameters …" if self._finder.is_looking else ""
        if "num_parameters" in network:
            text = f"{network['num_parameters']:,} parameters."
        self.parameters_text.setText(text)
        self.parameters_text.setVisible(bool(text))
        if self._facts is None:
            self.expectation.setText("Steps, memory and time are shown here once images and labels are chosen.")
            return
        plan = costs.plan(self._facts, self._augmentation, training)
        on_gpu = devices is not None and devices.kind(training.device) == "cuda"
        gpu = devices.gpu(training.device) if devices is not None else None
        free = gpu.free if gpu is not None else None if on_gpu else int(psutil.virtual_memory().available)
        needed = costs.network_bytes(plan, network.get("num_parameters", 0))
        memory = costs.memory_words(needed, self._facts.num_bytes, free, on_gpu=on_gpu)
        seconds, measured = self._seconds_per_step, self._seconds_per_step is not None
        if seconds is None and "seconds_per_voxel" in network:
            seconds = network["seconds_per_voxel"] * plan.batch_voxels
        time = "Time: being estimated …" if self._finder.is_looking else "Time: measured in the first steps."
        if seconds is not None:
            time = costs.time_words(plan, seconds, measured=measured)
        self.expectation.setText(f"{costs.steps_words(plan)}\n{memory}\n{time}")
