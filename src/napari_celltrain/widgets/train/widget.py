"""The dock widget: three tabs that edit the settings, and below them the run."""

from __future__ import annotations

import gc
from pathlib import Path

from napari import Viewer
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QMainWindow, QMenu, QSplitter, QTabWidget, QToolButton, QVBoxLayout, QWidget

from napari_celltrain.runs.config_file import setting_problems
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.runs.model import read_card
from napari_celltrain.values.config import RunConfig, TrainingConfig
from napari_celltrain.values.errors import CellTrainError, Problem
from napari_celltrain.values.events import EpochDone, Event
from napari_celltrain.widgets.background import Background
from napari_celltrain.widgets.preferences import ask_and_load, ask_and_save, last_run, preferences
from napari_celltrain.widgets.run.closing import CloseGuard
from napari_celltrain.widgets.run.controller import RunController, errors_shown, shared_controller
from napari_celltrain.widgets.run.panel import RunPanel
from napari_celltrain.widgets.run.shown import CurvesDock
from napari_celltrain.widgets.theme import FocusRing, fill
from napari_celltrain.widgets.train.advice import data_facts
from napari_celltrain.widgets.train.augmentation_tab import AugmentationTab
from napari_celltrain.widgets.train.data_tab import DataTab
from napari_celltrain.widgets.train.patch_preview import PatchPreview
from napari_celltrain.widgets.train.training_tab import TrainingTab

_TITLES = ("&Data", "&Augmentation", "&Training")
_MEASURED_EPOCHS = 3  # after these, the time of a step is known well enough


class TrainWidget(QWidget):
    """What the manifest names. Closing it leaves the run to the controller, which outlives it."""

    def __init__(self, napari_viewer: Viewer, controller: RunController | None = None) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.controller = controller or shared_controller()
        self._guard: CloseGuard | None = None
        self._shown = (False, False)
        self._has_room = False  # for the run
        self._writer = Background("Writing the layers to files", self)
        self._finder = Background("Looking for the last run", self)
        self.data_tab = DataTab(napari_viewer)
        self.augmentation_tab = AugmentationTab()
        self.training_tab = TrainingTab()
        self._tabs = (self.data_tab, self.augmentation_tab, self.training_tab)
        self.tabs = QTabWidget()
        self.panel = RunPanel(napari_viewer, self.controller)
        self.curves = CurvesDock(napari_viewer, self.controller, self)
        self.patch_preview = PatchPreview(napari_viewer, self)
        self._lay_out()
        self._connect()
        device = preferences().device
        try:
            self.training_tab.setValue(TrainingConfig(device=device))
        except ValueError:
            show_error(f"The device {device!r} of the preferences is none; automatic is taken instead.")
        self._renew_context()
        self._renew_state()
        self._find_last_run()

    def value(self) -> RunConfig:
        """All settings of the form; with layers as source, without images and labels."""
        return RunConfig(
            data=self.data_tab.value(),
            augmentation=self.augmentation_tab.value(),
            training=self.training_tab.value(),
        )

    def setValue(self, value: RunConfig) -> None:
        self.data_tab.setValue(value.data)
        self.augmentation_tab.setValue(value.augmentation)
        self.training_tab.setValue(value.training)

    def reset_choices(self, *_: object) -> None:
        """The layers of the viewer have changed (napari connects this by its name)."""
        self.data_tab.reset_choices()
        self.panel.segment_row.layer.reset_choices()

    def load_settings(self) -> None:
        config = ask_and_load(self, self.data_tab.value().results)
        if config is not None:
            self.setValue(config)

    def save_settings(self) -> None:
        ask_and_save(self, Path.home(), self.value())

    def start(self) -> None:
        """Check everything that can be checked at once; show what is wrong, or start."""
        config, blocking = self.value(), self.data_tab.blocking_problems()
        # the Data tab lists its own itself
        problems = [problem for problem in setting_problems(config) if not problem.where.startswith("data.")]
        if config.training.starting_weights is not None:
            try:
                read_card(config.training.starting_weights.expanduser())
            except CellTrainError as error:
                problems.append(Problem("starting-weights", "training.starting_weights", str(error)))
        self.data_tab.insist(problems)
        texts = {problem.where: f"{problem.message} {problem.remedy}".strip() for problem in reversed(problems)}
        self.augmentation_tab.show_problems(texts)
        self.training_tab.show_problems(texts)
        if blocking or problems:
            sections = {path.partition(".")[0] for path in texts}
            wrong = [bool(blocking), "augmentation" in sections, "training" in sections]
            self._mark_titles(wrong)
            self.tabs.setCurrentIndex(wrong.index(True))
            show_error("\n".join(dict.fromkeys(map(str, [*blocking, *problems]))))
            return
        self.patch_preview.release()
        with errors_shown():
            layers = self.data_tab.source()
            if layers is None:
                self._begin(config)
                return
            self.panel.set_checking(True)  # a large volume takes a while to write
            self._writer.start(
                lambda job: config.model_copy(update={"data": layers.materialize(config.data, config.data.results)})
            )

    def _begin(self, config: RunConfig) -> None:
        self.data_tab.cancel()  # training reads the files, too
        with errors_shown():
            self.controller.start(config, preferences().own_process)

    def _renew_state(self) -> None:
        busy, config = self.controller.is_busy, self.controller.config
        if busy and config is not None and not self.controller.events:
            self._show_config(config)
        for tab in self._tabs:
            tab.set_running(busy)
        self.settings_button.setEnabled(not busy)
        if not busy:
            self._prepare()
        shown = (self.panel.has_run, self.controller.state in ("finished", "failed"))
        if self._shown != shown:
            self._shown = shown
            QTimer.singleShot(0, self._make_room)

    def _make_room(self) -> None:
        """Half of the height for the run as soon as there is one, and more for all its buttons at the end."""
        if not self.isVisible():
            return  # there is no room yet; docking calls again
        height = self.splitter.height()
        if not self.panel.has_run:
            self.splitter.setSizes([height, 0])
            return
        # at least 120 pixels for the form: at the end of a run, its buttons matter more
        wanted = min(self.panel.wanted_height(), height - 120)
        panel = max(wanted, height // 2, self.panel.height() if self._has_room else 0)
        self._has_room = True
        self.splitter.setSizes([height - panel, panel])

    def _show_config(self, config: RunConfig) -> None:
        """The tabs show what is running; a run on layers keeps them chosen."""
        if self.controller.watching or self.data_tab.form.source() == "folders":
            self.data_tab.setValue(config.data)
        self.augmentation_tab.setValue(config.augmentation)
        self.training_tab.setValue(config.training)

    def _use_settings(self) -> None:
        if self.controller.config is not None:
            self.setValue(self.controller.config)
            self.tabs.setCurrentIndex(0)

    def _take_events(self, events: tuple[Event, ...]) -> None:
        started = self.controller.history().started
        for event in events:
            if isinstance(event, EpochDone) and event.epoch <= _MEASURED_EPOCHS and started is not None:
                self.training_tab.set_measured(event.seconds / max(1, started.steps_per_epoch))

    def _find_last_run(self) -> None:
        """A run of an earlier session of napari may still be running; its folder may be on a slow disk."""
        config = self.controller.config
        if config is not None:  # of this session: it goes on, or has ended
            self._show_config(config)
        path = last_run()
        if path is not None and self.controller.state == "idle":
            self._finder.start(lambda job: _running_folder(path))

    def _watch_last_run(self, folder: RunFolder | None) -> None:
        if folder is not None and self.controller.state == "idle":
            self.controller.watch(folder)

    def _renew_context(self) -> None:
        shown = self.data_tab.shown
        facts = data_facts(shown.report, shown.split) if shown is not None else None
        training, augmentation = self.training_tab.value(), self.augmentation_tab.value()
        self.data_tab.set_context(training.seed, augmentation.patch_size if augmentation.patches else None)
        self.augmentation_tab.set_context(facts, training)
        self.training_tab.set_context(facts, augmentation)
        # fields that are still empty do not count as wrong
        self._mark_titles([shown is not None and bool(shown.report.errors), False, False])

    def _mark_titles(self, wrong: list[bool]) -> None:
        for index, (title, is_wrong) in enumerate(zip(_TITLES, wrong, strict=True)):
            self.tabs.setTabText(index, f"{title} ⚠" if is_wrong else title)

    def _preview_patches(self) -> None:
        with errors_shown():
            self.patch_preview.show(self.value(), self.data_tab.source())

    def _prepare(self, *_: int) -> None:
        """Have a process ready once somebody looks at the last tab: Start then answers at once."""
        if self.tabs.currentWidget() is self.training_tab and self.isVisible() and preferences().own_process:
            self.controller.prepare()

    def _collect(self, event: object = None) -> None:
        """Free the memory of a removed layer, for which a run inside napari would let the user wait until its end."""
        if self.controller.is_training and not self.controller.outlives_napari:
            QTimer.singleShot(0, gc.collect)

    def _lay_out(self) -> None:
        for tab, title in zip(self._tabs, _TITLES, strict=True):
            self.tabs.addTab(tab, title)
        self.tabs.setUsesScrollButtons(True)
        self.settings_button = QToolButton()
        self.settings_button.setText("Settings   ")  # with room for the arrow
        self.settings_button.setToolTip("Load or save all settings of the three tabs")
        self.settings_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.settings_button)
        menu.addAction("Load settings…", self.load_settings)
        menu.addAction("Save settings…", self.save_settings)
        self.settings_button.setMenu(menu)
        self.tabs.setCornerWidget(self.settings_button)
        self._ring = FocusRing(self)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.setChildrenCollapsible(False)
        for index, (widget, share) in enumerate(((self.tabs, 3), (self.panel, 2))):
            self.splitter.addWidget(widget)
            self.splitter.setStretchFactor(index, share)
        fill(QVBoxLayout(self), self.splitter)

    def _connect(self) -> None:
        for tab in self._tabs:
            tab.valueChanged.connect(self._renew_context)
        self.data_tab.reportChanged.connect(self._renew_context)
        self.augmentation_tab.previewRequested.connect(self._preview_patches)
        self.viewer.layers.events.removed.connect(self._collect)
        self.tabs.currentChanged.connect(self._prepare)
        self.panel.startRequested.connect(self.start)
        self.panel.settingsRequested.connect(self._use_settings)
        self.controller.stateChanged.connect(self._renew_state)
        self.controller.eventsReceived.connect(self._take_events)
        self._writer.answered.connect(self._begin)
        self._writer.failed.connect(show_error)
        self._writer.ended.connect(self.panel.set_checking)
        self._finder.answered.connect(self._watch_last_run)
        shortcut = QShortcut(QKeySequence("Ctrl+Return"), self)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.panel.press)

    def event(self, event: QEvent | None) -> bool:
        handled = super().event(event)
        if event is not None and event.type() == QEvent.Type.ParentChange:
            # A dock's ✕ sends no close event; the widget is only taken out of it.
            if self.parent() is None:
                self._undock()
            else:
                QTimer.singleShot(0, self._dock)  # the dock itself is put into the window later
        return handled

    def _dock(self) -> None:
        ancestor = self.parent()
        while ancestor is not None and not isinstance(ancestor, QMainWindow):
            ancestor = ancestor.parent()
        if ancestor is not None and self._guard is None:
            self._guard = CloseGuard(ancestor, self.controller)
            self._make_room()

    def _undock(self) -> None:
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        self.curves.remove()
        if not self.controller.is_busy:
            self.controller.dismiss()
        guard.release(self)


def _running_folder(path: Path) -> RunFolder | None:
    """Raises :class:`CellTrainError` where there is none any more."""
    folder = RunFolder.open(path)
    return folder if folder.is_running() else None
