"""The Training tab, by its real controls; what the process beside the window would find is given."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication, QLabel

from napari_celltrain.values.config import AugmentationConfig, TrainingConfig
from napari_celltrain.widgets.costs import CostFinder, Devices, Gpu
from napari_celltrain.widgets.train.training_tab import TrainingTab
from reports import facts_of_report, report_of

GPU = Gpu("NVIDIA <b>H100</b>", 75 * 10**9, 80 * 10**9)
CONFIGS = [
    TrainingConfig(),
    TrainingConfig(
        model="segresnet",
        model_size="large",
        starting_weights=Path("/runs/<i>first</i>/model/model.safetensors"),
        loss="tversky",
        batch_size=1024,
        epochs=100_000,
        validation_interval=10_000,
        learning_rate=3.3e-7,
        weight_decay=0.0,
        schedule="plateau",
        warmup_steps=0,
        gradient_clipping=None,
        weight_averaging=False,
        precision="bfloat16",
        memory_layout="channels_last",
        device="cuda:7",
        threads=3,
        seed=2**32 - 1,
        deterministic=True,
        early_stopping=5,
        max_minutes=12.5,
    ),
    TrainingConfig(model="made_elsewhere", device="mps"),
]


class KnowingFinder(CostFinder):
    """Starts no process."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []
        self.num_stops = 0

    def look(self, *network: str) -> None:
        self.asked.append(network)

    def stop(self) -> None:
        self.num_stops += 1

    def learn(self, gpus: tuple[Gpu, ...] = ()) -> None:
        self.devices = Devices(gpus, mps=False, threads=2, free=8 * 10**9)
        for network in self.asked:
            self.facts(*network).update(num_parameters=4_807_968, seconds_per_voxel=1e-6)
        self.found.emit()


@pytest.fixture
def finder(qapp) -> KnowingFinder:
    return KnowingFinder()


@pytest.fixture
def tab(qtbot, finder: KnowingFinder) -> TrainingTab:
    widget = TrainingTab(finder=finder)
    qtbot.addWidget(widget)
    widget.resize(350, 700)
    widget.show()
    qtbot.waitExposed(widget)
    return widget


@pytest.mark.parametrize("first", CONFIGS)
@pytest.mark.parametrize("second", CONFIGS)
def test_what_is_set_is_the_value(tab: TrainingTab, first: TrainingConfig, second: TrainingConfig) -> None:
    tab.setValue(first)
    tab.setValue(second)
    assert tab.value() == second


def test_a_change_is_told_once(qtbot, tab: TrainingTab) -> None:
    told: list[TrainingConfig] = []
    tab.valueChanged.connect(lambda: told.append(tab.value()))
    tab.setValue(CONFIGS[1])
    assert told == [CONFIGS[1]]
    epochs = tab.learning_rows.editors["training.epochs"]
    epochs.box.selectAll()
    qtbot.keyClicks(epochs.box, "33")
    qtbot.keyClick(epochs.box, Qt.Key.Key_Return)
    assert [value.epochs for value in told[1:]] == [33]


def test_every_setting_has_a_place(tab: TrainingTab) -> None:
    shown = [path for rows in tab._sections for path in rows.editors]
    assert sorted(shown) == sorted(f"training.{name}" for name in TrainingConfig.model_fields)


def test_advanced_settings_are_folded_away_until_something_is_wrong(tab: TrainingTab) -> None:
    assert not tab.advanced_rows.isVisible()
    tab.show_problems({"training.precision": "float16 is slow on a processor."})
    assert tab.advanced_rows.isVisible()
    assert tab.advanced_rows.editors["training.precision"].problem
    tab.show_problems({"training.device": "There is no GPU."})
    assert tab.device.problem
    assert not tab.advanced_rows.editors["training.precision"].problem


def test_devices_are_named_once_they_are_known(tab: TrainingTab, finder: KnowingFinder) -> None:
    assert "Looking" in tab.device.help_line.text()
    finder.learn((GPU, GPU))
    assert "NVIDIA <b>H100</b>, 75 GB of 80 GB free" in tab.device.help_line.text()
    assert tab.device.help_line.textFormat() == Qt.TextFormat.PlainText
    assert [choice.key for choice in tab.device.choices] == ["auto", "cpu", "cuda", "cuda:0", "cuda:1"]
    tab.device.setValue("cuda:5")
    assert tab.device.help_line.text() == "Not found on this computer."
    tab.device.setValue("cpu")
    assert "2 cores" in tab.device.help_line.text()


def test_a_device_chosen_before_they_are_known_stays(tab: TrainingTab, finder: KnowingFinder) -> None:
    tab.setValue(TrainingConfig(device="cuda"))
    finder.learn()
    assert tab.value().device == "cuda"
    assert tab.device.help_line.text() == "Not found on this computer."


def test_what_to_expect(tab: TrainingTab, finder: KnowingFinder) -> None:
    assert "once images and labels are chosen" in tab.expectation.text()
    facts = facts_of_report(report_of([(64, 128, 128)] * 10))
    tab.set_context(facts, AugmentationConfig(samples_per_volume=5, patch_size=(64, 64, 64)))
    asked = ("unet", "medium", "3", "auto", "1", "1", "1")  # three outputs of a network that learns objects
    assert finder.asked[-1] == asked
    assert "20 steps per epoch (8 training volumes × 5 samples, 2 at a time)" in tab.expectation.text()
    finder.learn()
    assert tab.parameters_text.text() == "4,807,968 parameters."
    words = tab.expectation.text()
    assert "very roughly" in words
    assert "rough guess" in words
    tab.set_measured(0.5)
    assert "0.5 s per step, as measured" in tab.expectation.text()
    tab.set_context(facts, AugmentationConfig(samples_per_volume=5, patch_size=(64, 64, 64)))
    assert "as measured" in tab.expectation.text(), "nothing has changed"
    tab.learning_rows.editors["training.batch_size"].setValue(4)
    assert "10 steps per epoch" in tab.expectation.text()
    assert "as measured" not in tab.expectation.text()


def test_too_little_memory_is_told(tab: TrainingTab, finder: KnowingFinder) -> None:
    finder.learn((Gpu("Small", 10**8, 10**9),))
    tab.set_context(facts_of_report(report_of([(64, 128, 128)] * 10)), AugmentationConfig(patch_size=(64, 64, 64)))
    assert "on the GPU" in tab.expectation.text()
    assert "may not be enough" in tab.expectation.text()


def test_nothing_is_looked_for_before_anyone_sees_it(qtbot, finder: KnowingFinder) -> None:
    widget = TrainingTab(finder=finder)
    qtbot.addWidget(widget)
    assert not finder.asked
    widget.show()
    assert finder.asked == [("unet", "medium", "1", "auto")]
    widget.set_running(True)
    assert finder.num_stops == 1
    widget.set_context(None, AugmentationConfig())
    assert len(finder.asked) == 1, "training has the computer for itself"


def test_running_freezes_the_values(tab: TrainingTab) -> None:
    tab.set_running(True)
    assert not any(rows.isEnabled() for rows in tab._sections)
    assert tab.advanced.button.isEnabled()
    tab.set_running(False)
    assert all(rows.isEnabled() for rows in tab._sections)


@pytest.mark.parametrize("width", [350, 800])
def test_nothing_is_cut_off_at_the_side(qtbot, tab: TrainingTab, finder: KnowingFinder, width: int) -> None:
    finder.learn((GPU,))
    tab.setValue(CONFIGS[1])
    tab.advanced.set_open(True)
    tab.resize(width, 700)
    qtbot.waitUntil(lambda: tab.page.width() == tab.viewport().width())


def test_labels_show_names_of_files_as_they_are(tab: TrainingTab) -> None:
    tab.setValue(CONFIGS[1])
    assert all(
        label.textFormat() == Qt.TextFormat.PlainText for label in tab.findChildren(QLabel) if "<" in label.text()
    )


def test_a_closed_tab_is_let_go(qapp, finder: KnowingFinder) -> None:
    widget = TrainingTab(finder=finder)
    alive = weakref.ref(widget)
    widget.deleteLater()
    del widget
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert alive() is None
    finder.learn((GPU,))
