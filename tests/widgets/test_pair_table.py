"""The table of pairs and the list of problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QSignalSpy

from napari_celltrain.data.check import PairReport
from napari_celltrain.data.pairs import Pair
from napari_celltrain.data.split import Case, Split
from napari_celltrain.values.errors import Problem
from napari_celltrain.widgets.theme import theme_color
from napari_celltrain.widgets.train.pair_table import (
    MAX_SHOWN,
    NAME,
    OBJECTS,
    SHAPE,
    SIDE,
    SIZE,
    STATE,
    PairTable,
    ProblemList,
    rows_of,
)

ERROR = Problem("shape-mismatch", "b.tif", "The labels have another shape.", "Export them again.")
WARNING = Problem("few-objects", "c.tif", "There are few objects.", "Label more.", "warning")


def report(name: str, *problems: Problem, **facts: object) -> PairReport:
    pair = Pair(name, Path(f"/images/{name}.tif"), Path(f"/labels/{name}.tif"), "same name")
    return PairReport(pair, None, problems, **facts)


REPORTS = [
    report("a", shape=(51, 130, 131), voxel_size=(1.75, 0.8, 0.8), num_objects=1234, foreground_fraction=0.1),
    report("b", ERROR),
    report("<img src=x> a name that is by far too long for a narrow table_0007", WARNING, shape=(8, 8, 8)),
]
SPLIT = Split(
    (
        Case("a", REPORTS[0].pair, None, "train"),
        Case("b", REPORTS[1].pair, None, "validation"),
        Case("c-train", REPORTS[2].pair, ((0, 4), (0, 8), (0, 8)), "train"),
        Case("c-validation", REPORTS[2].pair, ((4, 8), (0, 8), (0, 8)), "validation"),
    ),
    "",
)


@pytest.fixture
def table(qtbot) -> PairTable:
    widget = PairTable()
    qtbot.addWidget(widget)
    widget.resize(330, 200)
    widget.show()
    widget.pairs.set_rows(rows_of(REPORTS, SPLIT))
    return widget


def column(table: PairTable, number: int, role: Qt.ItemDataRole = Qt.ItemDataRole.DisplayRole) -> list:
    return [table.pairs.index(row, number).data(role) for row in range(table.pairs.rowCount())]


def test_shows_what_was_found(table: PairTable) -> None:
    assert column(table, STATE) == ["✓", "✗", "!"]
    assert column(table, NAME) == [found.name for found in REPORTS]
    assert column(table, SIDE) == ["train", "valid.", "both"]
    assert column(table, OBJECTS) == ["1,234", "?", "?"]
    assert column(table, SHAPE) == ["51×130×131", "?", "8×8×8"]
    assert column(table, SIZE) == ["1.75×0.8×0.8", "unknown", "unknown"]


def test_sides_are_open_where_nothing_could_be_divided() -> None:
    assert [row.side for row in rows_of(REPORTS, None)] == [None] * 3


def test_tooltips_say_what_to_do_and_show_names_as_they_are(table: PairTable) -> None:
    tips = column(table, NAME, Qt.ItemDataRole.ToolTipRole)
    assert "The labels have another shape. Export them again." in tips[1]
    assert "&lt;img src=x&gt;" in tips[2]
    assert "<img" not in tips[2]
    headers = [
        table.pairs.headerData(n, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole) for n in range(SIZE + 1)
    ]
    assert all(headers)


def test_errors_are_in_the_theme_s_colour_of_errors(table: PairTable) -> None:
    colors = column(table, NAME, Qt.ItemDataRole.ForegroundRole)
    assert colors == [None, theme_color("error"), None]


def test_rows_of_settings_that_have_changed_are_paler(table: PairTable) -> None:
    table.pairs.set_stale()
    assert all(color.alphaF() < 0.6 for color in column(table, NAME, Qt.ItemDataRole.ForegroundRole))
    table.pairs.set_rows(rows_of(REPORTS[:1], SPLIT))
    assert column(table, NAME, Qt.ItemDataRole.ForegroundRole) == [None]


@pytest.mark.parametrize("width", [330, 800])
def test_the_name_gets_what_the_others_leave(table: PairTable, width: int) -> None:
    table.resize(width, 200)
    needed = {number: table.sizeHintForColumn(number) for number in (STATE, SIDE, OBJECTS, SHAPE, SIZE)}
    assert all(table.columnWidth(number) >= needed[number] for number in needed)
    assert table.columnWidth(NAME) >= 80
    if width == 800:
        assert sum(table.columnWidth(number) for number in range(SIZE + 1)) == table.viewport().width()


def test_opens_a_pair_by_mouse_and_by_keyboard(table: PairTable, qtbot) -> None:
    spy = QSignalSpy(table.picked)
    area = table.visualRect(table.pairs.index(0, NAME)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=area)
    qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=area)
    assert [table.pairs.rows[number].report for (number,) in spy] == REPORTS[:1]
    qtbot.keyClick(table, Qt.Key.Key_Down)
    qtbot.keyClick(table, Qt.Key.Key_Return)
    assert [table.pairs.rows[number].report for (number,) in spy] == REPORTS[:2]


def test_lists_errors_first_each_once_and_as_plain_text(qtbot) -> None:
    found = ProblemList()
    qtbot.addWidget(found)
    odd = Problem("x", "<b>bold</b>.tif", "Is odd.", "Mend it.", "warning")
    found.set_problems([odd, WARNING, ERROR, ERROR])
    assert found.toPlainText().splitlines() == [
        "✗ b.tif: The labels have another shape. Export them again.",
        "! <b>bold</b>.tif: Is odd. Mend it.",
        "! c.tif: There are few objects. Label more.",
    ]
    found.set_problems([])
    assert found.isHidden()


def test_a_flood_of_problems_is_cut_short(qtbot) -> None:
    found = ProblemList()
    qtbot.addWidget(found)
    found.set_problems([Problem(f"x{n}", f"{n}.tif", "Is odd.", "") for n in range(MAX_SHOWN + 5)])
    lines = found.toPlainText().splitlines()
    assert len(lines) == MAX_SHOWN + 1
    assert "and 5 more" in lines[-1]
