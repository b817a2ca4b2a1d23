"""The form made from the configuration: every field has an editor that keeps its value exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import ValidationError
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QVBoxLayout, QWidget

from napari_celltrain.nets.losses import LOSSES
from napari_celltrain.runs.config_file import override
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.fields import AUGMENTATION_CLASSES, all_fields
from napari_celltrain.widgets.forms.editors import ChoiceEditor, NumberEditor, OptionalEditor, RangeEditor
from napari_celltrain.widgets.forms.inputs import LARGEST, by_magnitude, nice, one_two_five, shortest, steps_of
from napari_celltrain.widgets.forms.rows import FieldRows, Fold, editor_for

PATHS = [
    path
    for path, facts in all_fields().items()
    if not facts.section and path != "schema_version" and not path.endswith(".name")
]
VALUES: dict[str, list[Any]] = {
    "run_name": ["first try", None],
    "data.images": [Path("/data/<b>embryos</b>"), None],
    "data.ignore_value": [-1, 2**32 - 1, None],
    "data.channel": [3, 0, None],
    "data.axes": ["CZYX", None],
    "data.voxel_size": [(1.75, 0.8, 0.1 + 0.2), (1e-3, 1.0, 2.0), None],
    "data.memory_budget_gb": [0.5, 1e-9, None],
    "augmentation.patch_size": [(8, 1024, 65), None],
    "augmentation.augmentations.affine.scaling": [(0.9, 0.9), (0.85, 1.2000000001)],
    "training.model": ["vnet", "made_elsewhere"],
    "training.starting_weights": [Path("model.safetensors"), None],
    "training.learning_rate": [1e-5, 3e-4, 0.0123456789012345, 1.0],
    "training.seed": [2**32 - 1, 0],
    "training.gradient_clipping": [1e-6, 1e9, None],
    "training.device": ["cuda:3", "mps", "cpu"],
    "training.threads": [7, None],
    "training.early_stopping": [10**6, None],
    "training.max_minutes": [0.1, None],
}


@pytest.mark.parametrize("path", PATHS)
def test_every_field_shows_its_default_and_its_help(qtbot, path: str) -> None:
    editor = editor_for(path)
    qtbot.addWidget(editor)
    assert editor.value() == all_fields()[path].default
    assert all_fields()[path].help.split(",")[0].split("'")[0] in editor.toolTip()


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in VALUES.items() for value in values])
def test_what_is_set_is_the_value(qtbot, path: str, value: Any) -> None:
    editor = editor_for(path)
    qtbot.addWidget(editor)
    before = editor.value()
    told: list[Any] = []
    editor.valueChanged.connect(lambda: told.append(editor.value()))
    editor.setValue(value)
    assert editor.value() == value
    assert type(editor.value()) is type(value)
    assert bool(told) == (before != value)
    del told[:]
    editor.setValue(value)
    assert not told, "setting the same value is no change"


@pytest.mark.parametrize("path", [path for path in PATHS if get_origin(all_fields()[path].type) is tuple])
def test_limits_of_tuples_are_those_of_the_configuration(qtbot, path: str) -> None:
    facts = all_fields()[path]
    size = len(get_args(facts.type))
    editor = editor_for(path)
    qtbot.addWidget(editor)
    box = getattr(editor, "inner", editor).boxes[0]

    def accepts(number: float) -> bool:
        text = ", ".join([str(int(number)) if float(number).is_integer() and number < 1e9 else repr(number)] * size)
        try:
            override(RunConfig(), [f"{path}=[{text}]"])
        except Exception:
            return False
        return True

    low, high = box.minimum(), box.maximum()
    assert accepts(low)
    assert not accepts(low - 1 if path.endswith("patch_size") else math.nextafter(low, -math.inf) - 0.02)
    assert high == LARGEST or accepts(high)
    assert high == LARGEST or not accepts(high + 1.01)


def test_spin_boxes_have_the_limits_of_the_fields(qtbot) -> None:
    editor = editor_for("data.validation_fraction")
    qtbot.addWidget(editor)
    assert isinstance(editor, NumberEditor)
    assert (editor.box.minimum(), editor.box.maximum()) == (0.05, 0.8)
    above = editor_for("training.learning_rate")
    qtbot.addWidget(above)
    assert isinstance(above, NumberEditor)
    assert 0 < above.box.minimum() < 1e-20


@pytest.mark.parametrize(
    ("typed", "value"), [("1e-4", 1e-4), ("0.0005", 5e-4), ("0,002", 2e-3), ("2E-3", 2e-3), (" 0.1 ", 0.1)]
)
def test_learning_rates_are_typed_in_any_way(qtbot, typed: str, value: float) -> None:
    editor = editor_for("training.learning_rate")
    qtbot.addWidget(editor)
    editor.show()
    editor.box.selectAll()
    qtbot.keyClicks(editor.box, typed)
    assert editor.value() == value, "also before Enter"
    with qtbot.assertNotEmitted(editor.valueChanged):
        qtbot.keyClick(editor.box, Qt.Key.Key_Return)


def test_a_change_is_told_once_when_typing_ends(qtbot) -> None:
    editor = editor_for("training.epochs")
    qtbot.addWidget(editor)
    editor.show()
    told: list[int] = []
    editor.valueChanged.connect(lambda: told.append(editor.value()))
    editor.box.selectAll()
    qtbot.keyClicks(editor.box, "120")
    qtbot.keyClick(editor.box, Qt.Key.Key_Return)
    assert told == [120]


def test_what_is_no_value_yet_is_left_to_be_typed(qtbot) -> None:
    editor = editor_for("augmentation.patch_size")
    qtbot.addWidget(editor)
    editor.setValue((64, 64, 64))
    editor.show()
    box = editor.inner.boxes[0]
    box.selectAll()
    qtbot.keyClicks(box, "1")
    assert editor.value() == (64, 64, 64), "1 is too small for a patch"
    qtbot.keyClicks(box, "28")
    assert editor.value() == (128, 64, 64)
    box.selectAll()
    qtbot.keyClicks(box, "ab")
    assert box.text() == "128"


@pytest.mark.parametrize(("path", "turned"), [("training.epochs", 59), ("training.loss", "tversky")])
def test_the_wheel_changes_only_what_has_the_focus(qtbot, path: str, turned: Any) -> None:
    window = QWidget()
    layout = QVBoxLayout(window)
    editor, other = editor_for(path), editor_for("training.seed")
    layout.addWidget(other)
    layout.addWidget(editor)
    qtbot.addWidget(window)
    window.show()
    window.activateWindow()
    qtbot.waitExposed(window)
    other.box.setFocus()
    qtbot.waitUntil(other.box.hasFocus)
    assert not editor.box.focusPolicy() & Qt.FocusPolicy.WheelFocus & ~Qt.FocusPolicy.StrongFocus
    assert not turn_wheel(editor.box), "left to the form, which scrolls"
    assert editor.value() == all_fields()[path].default
    editor.box.setFocus()
    qtbot.waitUntil(editor.box.hasFocus)
    assert turn_wheel(editor.box)
    assert editor.value() == turned


def turn_wheel(widget: QWidget) -> bool:
    """Whether the widget took it."""
    event = QWheelEvent(
        QPointF(widget.rect().center()),
        QPointF(widget.mapToGlobal(widget.rect().center())),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)
    return event.isAccepted()


def test_arrows_step_sensibly(qtbot) -> None:
    rate = editor_for("training.learning_rate")
    qtbot.addWidget(rate)
    rate.setValue(0.001)
    rate.box.stepUp()
    assert rate.value() == 0.002
    for _ in range(3):
        rate.box.stepDown()
    assert rate.value() == 0.0002
    epochs = editor_for("training.epochs")
    qtbot.addWidget(epochs)
    epochs.setValue(99)
    epochs.box.stepBy(2)
    assert epochs.value() == 110
    share = editor_for("augmentation.foreground_fraction")
    qtbot.addWidget(share)
    share.setValue(0.98)
    share.box.stepUp()
    assert share.value() == 1.0
    share.box.stepUp()
    assert share.value() == 1.0


def test_steppers() -> None:
    assert [one_two_five(1e-3, n) for n in (1, 2, 3, -1, -2, -3)] == [2e-3, 5e-3, 1e-2, 5e-4, 2e-4, 1e-4]
    assert one_two_five(0.003, 1) == 0.005
    assert one_two_five(0.003, -1) == 0.002
    assert one_two_five(0.0, 1) == 1e-6
    assert [by_magnitude(v, 1) for v in (0, 9, 60, 100, 1000)] == [1, 10, 61, 110, 1100]
    assert [by_magnitude(v, -1) for v in (1, 60, 100, 110, 1000)] == [0, 59, 99, 100, 990]
    assert steps_of(16)(40, 1) == 48
    assert steps_of(16)(40, -1) == 32
    assert steps_of(0.05)(0.3, 1) == 0.35
    assert [nice(v) for v in (0.1, 0.12, 0.3, 7.0)] == [0.1, 0.1, 0.2, 5.0]
    assert [shortest(v) for v in (0.001, 1e-5, 12.0, 1.5e20)] == ["0.001", "1e-5", "12", "1.5e20"]


def test_empty_values_have_a_box_of_their_own(qtbot) -> None:
    editor = editor_for("training.max_minutes")
    qtbot.addWidget(editor)
    assert isinstance(editor, OptionalEditor)
    assert not editor.inner.isEnabled()
    editor.show()
    qtbot.mouseClick(editor.box, Qt.MouseButton.LeftButton, pos=QPoint(8, editor.box.height() // 2))
    assert editor.value() == 60
    assert editor.inner.isEnabled()
    editor.propose(5.0)
    assert editor.value() == 60, "a proposal is for empty values"
    editor.setValue(None)
    editor.propose(5.0)
    assert editor.value() is None
    assert editor.inner.value() == 5


def test_a_range_stays_in_order(qtbot) -> None:
    editor = editor_for("augmentation.augmentations.blur.sigma")
    qtbot.addWidget(editor)
    assert isinstance(editor, RangeEditor)
    low, high = editor.boxes
    low.setValue(2.5)
    assert editor.value() == (2.5, 2.5)
    high.setValue(1.0)
    assert editor.value() == (1.0, 1.0)
    editor.setValue((3.0, 4.0))
    assert editor.value() == (3.0, 4.0)
    AUGMENTATION_CLASSES["blur"].model_validate({"sigma": editor.value()})


def test_choices_explain_themselves(qtbot) -> None:
    editor = editor_for("training.loss")
    qtbot.addWidget(editor)
    assert isinstance(editor, ChoiceEditor)
    assert [choice.key for choice in editor.choices] == LOSSES.keys()
    for entry in LOSSES:
        editor.setValue(entry.key)
        assert editor.box.currentText() == entry.label
        assert editor.help_line.text() == entry.help
    assert len(editor.choices) == 6


def test_problems_are_marked_and_taken_back(qtbot) -> None:
    rows = FieldRows(["training.epochs", "training.starting_weights", "training.device"])
    qtbot.addWidget(rows)
    rows.set_problems({"training.epochs": "too <many>", "training.starting_weights": "not there"})
    epochs, weights, device = rows.editors.values()
    assert epochs.problem
    assert "too &lt;many&gt;" in epochs.toolTip()
    assert "not there" in weights.toolTip()
    assert not device.problem
    rows.set_problems({})
    assert not epochs.problem
    assert "too" not in epochs.toolTip()


def test_rows_give_and_take_a_section(qtbot) -> None:
    names = [f"training.{name}" for name in type(RunConfig().training).model_fields]
    rows = FieldRows(names)
    qtbot.addWidget(rows)
    config = override(RunConfig(), ["training.epochs=7", "training.loss=dice", "training.max_minutes=3.5"]).training
    with qtbot.waitSignal(rows.valueChanged):
        rows.set_values(config)
    assert type(config).model_validate(rows.values()) == config


def test_long_rows_wrap_in_a_narrow_window(qtbot) -> None:
    rows = FieldRows(["augmentation.augmentations.elastic.magnitude", "augmentation.patch_size"])
    qtbot.addWidget(rows)
    rows.resize(230, 400)
    rows.show()
    qtbot.waitExposed(rows)
    for editor in rows.editors.values():
        label = rows.form.labelForField(editor)
        assert editor.geometry().right() <= 300
        assert editor.geometry().top() >= label.geometry().bottom()
    rows.resize(800, 400)
    qtbot.waitUntil(lambda: all(e.x() >= rows.form.labelForField(e).geometry().right() for e in rows.editors.values()))


def test_a_fold_shows_and_hides(qtbot) -> None:
    content = QWidget()
    fold = Fold("Fish & chips", content)
    qtbot.addWidget(fold)
    fold.show()
    assert not content.isVisible()
    with qtbot.waitSignal(fold.toggled):
        qtbot.mouseClick(fold.button, Qt.MouseButton.LeftButton)
    assert content.isVisible()
    qtbot.keyClick(fold.button, Qt.Key.Key_Space)
    assert not content.isVisible()
    assert "Fish & chips" in fold.button.accessibleName()


def test_configuration_refuses_what_editors_never_give() -> None:
    with pytest.raises(ValidationError):
        AUGMENTATION_CLASSES["blur"].model_validate({"sigma": (2.0, 1.0)})
