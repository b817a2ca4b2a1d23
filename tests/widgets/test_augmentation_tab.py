"""The Augmentation tab, by its real controls."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QAbstractButton, QWidget

from napari_celltrain.nets.augment import AUGMENTATIONS
from napari_celltrain.values.config import (
    DEFAULT_AUGMENTATIONS,
    Affine,
    AugmentationConfig,
    Blur,
    Elastic,
    Flip,
    Noise,
    TrainingConfig,
)
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.train import advice
from napari_celltrain.widgets.train.augmentation_tab import AugmentationTab
from reports import facts_of_report, report_of

CONFIGS = [
    AugmentationConfig(),
    AugmentationConfig(patches=False),
    AugmentationConfig(patch_size=(32, 64, 100), samples_per_volume=37, foreground_fraction=0.123456789),
    AugmentationConfig(augment=False),
    AugmentationConfig(augment=False, augmentations=(Noise(std=0.3), Flip(probability=1.0))),
    AugmentationConfig(augmentations=()),
    AugmentationConfig(augmentations=(Noise(), Elastic(magnitude=(1.0, 7.5)), Affine(scaling=(0.5, 0.75)), Flip())),
    AugmentationConfig(augmentations=DEFAULT_AUGMENTATIONS[::-1]),
    AugmentationConfig(augmentations=(Blur(probability=0.0),)),
]


@pytest.fixture
def tab(qtbot) -> AugmentationTab:
    widget = AugmentationTab()
    qtbot.addWidget(widget)
    widget.resize(350, 700)
    widget.show()
    qtbot.waitExposed(widget)
    return widget


def click(qtbot, button: QAbstractButton) -> None:
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, button.height() // 2))


@pytest.mark.parametrize("first", CONFIGS)
@pytest.mark.parametrize("second", CONFIGS)
def test_what_is_set_is_the_value(tab: AugmentationTab, first: AugmentationConfig, second: AugmentationConfig) -> None:
    tab.setValue(first)
    tab.setValue(second)
    assert tab.value() == second


def test_a_change_is_told_once(qtbot, tab: AugmentationTab) -> None:
    told: list[AugmentationConfig] = []
    tab.valueChanged.connect(lambda: told.append(tab.value()))
    click(qtbot, tab.whole_button)
    assert [value.patches for value in told] == [False]
    click(qtbot, tab.custom_button)
    assert len(told) == 2
    click(qtbot, tab.rows["noise"].box)
    assert len(told) == 3
    tab.setValue(AugmentationConfig(augmentations=(Noise(),)))
    assert len(told) == 4


def test_whole_images_need_no_patch_settings(qtbot, tab: AugmentationTab) -> None:
    assert tab.patch_rows.isVisible()
    click(qtbot, tab.whole_button)
    assert not tab.patch_rows.isVisible()
    assert "whole images" in tab.advice_text.text()


def test_the_suggestion_is_shown_and_taken(qtbot, tab: AugmentationTab) -> None:
    assert not tab.suggest_button.isEnabled()
    facts = facts_of_report(report_of([(51, 124, 127)] * 6, (1.75, 0.8, 0.8)))
    training = TrainingConfig()
    with qtbot.assertNotEmitted(tab.valueChanged):
        tab.set_context(facts, training)
    assert tab.value().patch_size is None, "a suggestion is not a value"
    size = advice.suggestion(facts, training).patch_size
    assert tab.patch_size.inner.value() == size
    assert sizes(size) in tab.suggestion_text.text()
    tab.setValue(AugmentationConfig(patch_size=(40, 40, 40)))
    assert "Not a multiple" in tab.suggestion_text.text()
    click(qtbot, tab.suggest_button)
    assert tab.value().patch_size == size
    assert not tab.suggest_button.isEnabled()


def test_the_suggestion_follows_the_network(tab: AugmentationTab) -> None:
    report = report_of([(100, 100, 100)] * 6)
    tab.set_context(facts_of_report(report), TrainingConfig(model="swinunetr"))
    assert all(size % 32 == 0 for size in tab.patch_size.inner.value())
    tab.setValue(AugmentationConfig(patch_size=(32, 32, 32)))
    tab.patch_size.inner.boxes[0].stepUp()
    assert tab.value().patch_size == (64, 32, 32)


def test_augmentations_of_ones_own(qtbot, tab: AugmentationTab) -> None:
    assert not tab.list.isVisible()
    click(qtbot, tab.custom_button)
    assert tab.list.isVisible()
    assert list(tab.rows) == AUGMENTATIONS.keys()
    for name, row in tab.rows.items():
        if name != "elastic":
            click(qtbot, row.box)
    row = tab.rows["elastic"]
    assert not row.rows.isVisible()
    tab.ensureWidgetVisible(row.fold.button)
    qtbot.mouseClick(row.fold.button, Qt.MouseButton.LeftButton)
    assert row.rows.isVisible()
    probability = row.rows.editors["augmentation.augmentations.elastic.probability"]
    probability.box.selectAll()
    qtbot.keyClicks(probability.box, "0.25")
    qtbot.keyClick(probability.box, Qt.Key.Key_Return)
    assert tab.value().augmentations == (Elastic(probability=0.25),)
    assert "25%" in row.fold.button.text()
    assert "off" in tab.rows["flip"].fold.button.text()


def test_the_default_set_does_not_forget_ones_own(qtbot, tab: AugmentationTab) -> None:
    own = AugmentationConfig(augmentations=(Noise(std=0.5),))
    tab.setValue(own)
    click(qtbot, tab.default_button)
    assert tab.value() == AugmentationConfig()
    click(qtbot, tab.custom_button)
    assert tab.value() == own


def test_advice_follows_data_and_settings(qtbot, tab: AugmentationTab) -> None:
    tab.set_context(facts_of_report(report_of([(51, 124, 127)] * 10)), TrainingConfig())
    samples = tab.patch_rows.editors["augmentation.samples_per_volume"]
    samples.setValue(4)
    assert "4 samples from each of 8 training volumes" in tab.advice_text.text()
    samples.setValue(20)
    assert "as it should be" in tab.advice_text.text()
    click(qtbot, tab.off_button)
    assert "switch it on" in tab.advice_text.text()


@pytest.mark.parametrize("width", [350, 440, 800])
def test_the_patch_size_can_be_read_at_any_width(qtbot, tab: AugmentationTab, width: int) -> None:
    tab.resize(width, 700)
    tab.setValue(AugmentationConfig(patch_size=(128, 256, 256)))
    for box in tab.patch_size.inner.boxes:
        qtbot.waitUntil(lambda box=box: box.lineEdit().width() >= box.fontMetrics().horizontalAdvance("256"))


def test_preview_is_asked_for(qtbot, tab: AugmentationTab) -> None:
    with qtbot.waitSignal(tab.previewRequested):
        tab.ensureWidgetVisible(tab.preview_button)
        qtbot.mouseClick(tab.preview_button, Qt.MouseButton.LeftButton)


def test_running_freezes_what_can_still_be_read(tab: AugmentationTab) -> None:
    tab.setValue(CONFIGS[6])
    tab.set_running(True)
    row = tab.rows["elastic"]
    row.fold.set_open(True)
    assert row.rows.isVisible()
    for widget in (row.box, row.rows, tab.patch_rows, tab.off_button, tab.preview_button):
        assert not widget.isEnabled()
    assert row.fold.button.isEnabled()
    tab.set_running(False)
    assert row.rows.isEnabled()
    assert not tab.rows["blur"].rows.isEnabled()


def test_problems_are_shown_at_their_fields(tab: AugmentationTab) -> None:
    tab.show_problems({"augmentation.patch_size": "too large"})
    assert tab.patch_size.problem
    tab.show_problems({})
    assert not tab.patch_size.problem


@pytest.mark.parametrize("width", [350, 800])
def test_nothing_is_cut_off_at_the_side(qtbot, tab: AugmentationTab, width: int) -> None:
    tab.setValue(CONFIGS[6])
    for row in tab.rows.values():
        row.fold.set_open(True)
    tab.set_context(facts_of_report(report_of([(51, 124, 127)] * 6)), TrainingConfig())
    tab.resize(width, 700)
    qtbot.waitUntil(lambda: tab.page.width() == tab.viewport().width())


def test_every_control_is_reached_by_tab_from_top_to_bottom(qtbot, tab: AugmentationTab) -> None:
    tab.setValue(AugmentationConfig(patch_size=(32, 32, 32), augmentations=(Noise(),)))
    tab.set_context(facts_of_report(report_of([(51, 124, 127)] * 6)), TrainingConfig())
    tab.activateWindow()
    tab.patches_button.setFocus()
    qtbot.waitUntil(tab.patches_button.hasFocus)
    seen: list[QWidget] = []
    while (widget := tab.focusWidget()) not in seen:
        assert widget is not None
        seen.append(widget)
        tab.focusNextChild()
    wanted = [tab.patch_size.box, *tab.patch_size.inner.boxes, tab.suggest_button, tab.preview_button]
    wanted += [row.box for row in tab.rows.values()] + [row.fold.button for row in tab.rows.values()]
    assert set(wanted) <= set(seen)
    heights = [widget.mapTo(tab.page, QPoint()).y() for widget in seen]
    assert all(later >= earlier - 8 for earlier, later in pairwise(heights))


def test_opening_the_tabs_imports_neither_torch_nor_monai() -> None:
    code = (
        "import sys\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari_celltrain.widgets.train.augmentation_tab import AugmentationTab\n"
        "from napari_celltrain.widgets.train.training_tab import TrainingTab\n"
        "a, t = AugmentationTab(), TrainingTab()\n"
        "a.value(), t.value()\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
