"""What the data check found: a table of the pairs, and all problems as text that can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtGui import QColor, QTextCharFormat, QTextCursor
from qtpy.QtWidgets import QFrame, QPlainTextEdit, QSizePolicy, QWidget

from napari_celltrain.values.config import DataConfig, Spacing
from napari_celltrain.values.errors import Problem
from napari_celltrain.values.fields import label_of
from napari_celltrain.widgets.table import LEFT, RIGHT, Table, TableModel
from napari_celltrain.widgets.theme import theme_color

if TYPE_CHECKING:
    from napari_celltrain.data.check import PairReport
    from napari_celltrain.data.split import Split

MAX_SHOWN = 200
_PROBLEM_MARKS = {"error": "✗", "warning": "!"}
_MIN_LINES, _MAX_LINES = 2, 10


class ProblemList(QPlainTextEdit):
    """Errors first, in red, then warnings; each with its remedy. As high as it needs to be, within bounds."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._problems: tuple[Problem, ...] = ()
        self.setReadOnly(True)
        self.setTabChangesFocus(True)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setAccessibleName("What the check found")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.hide()

    def problems(self) -> tuple[Problem, ...]:
        return self._problems

    def set_problems(self, problems: Sequence[Problem]) -> None:
        unique = dict.fromkeys(problems)
        self._problems = tuple(sorted(unique, key=lambda problem: problem.severity != "error"))
        self._write()
        self.setVisible(bool(self._problems))

    def resizeEvent(self, event) -> None:  # type: ignore[no-untyped-def]  # QResizeEvent
        super().resizeEvent(event)
        self._fit_height()

    def changeEvent(self, event: QEvent | None) -> None:
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange and hasattr(self, "_problems"):
            self._write()

    def _write(self) -> None:
        self.clear()
        cursor = self.textCursor()
        for index, problem in enumerate(self._problems[:MAX_SHOWN]):
            is_field = problem.where in DataConfig.model_fields
            shown = replace(problem, where=label_of(f"data.{problem.where}")) if is_field else problem
            self._write_line(cursor, index, _PROBLEM_MARKS[problem.severity], str(shown), problem.severity)
        left = len(self._problems) - MAX_SHOWN
        if left > 0:
            self._write_line(cursor, MAX_SHOWN, "…", f"and {left} more; `celltrain check` lists them all.", "warning")
        cursor.movePosition(QTextCursor.MoveOperation.Start)
        self.setTextCursor(cursor)
        self._fit_height()

    def _write_line(self, cursor: QTextCursor, index: int, mark: str, text: str, severity: str) -> None:
        if index:
            cursor.insertBlock()
        colored = QTextCharFormat()
        colored.setForeground(theme_color("error" if severity == "error" else "warning"))
        plain = QTextCharFormat()
        plain.setForeground(theme_color("error" if severity == "error" else "text"))
        cursor.insertText(f"{mark} ", colored)
        cursor.insertText(" ".join(text.split()), plain)

    def _fit_height(self) -> None:
        document = self.document()
        assert document is not None
        lines = min(max(int(document.size().height()), _MIN_LINES), _MAX_LINES)
        margins = 2 * int(document.documentMargin()) + self.contentsMargins().top() + self.contentsMargins().bottom()
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + margins + 2)


# --- pair table ------------------------------------------------------------------------------------------

STATE, NAME, SIDE, OBJECTS, SHAPE, SIZE = range(6)
_TITLES = ("", "Name", "Side", "Objects", "Voxels", "Size (µm)")
_HELP = (
    "State: ✓ fine, ! warning, ✗ error. What is wrong stands in the tooltip and below the table.",
    "Name of the image. Double-click or press Enter to open image and labels as layers.",
    "What the pair is used for: training (train), or held out for validation (valid.).",
    "Number of labelled objects; where labels are not objects, of connected components of the foreground.",
    "Number of voxels along z, y and x.",
    "Size of a voxel along z, y and x in micrometres.",
)
_MARKS = {"error": "✗", "warning": "!", "fine": "✓"}
_SIDES = {"train": "train", "validation": "valid.", "both": "both", None: "–"}
_LONG_SIDES = {
    "train": "Used for training",
    "validation": "Held out for validation, never trained on",
    "both": "The only volume: a part of it is for training, another for validation",
}
_LINES = (5, 10_000)  # shown at least, where there are so many, and at most
_UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Row:
    """One pair as it is shown; ``side`` is None where the pairs could not be divided."""

    report: PairReport
    side: str | None

    @property
    def state(self) -> str:
        if not self.report.is_usable:
            return "error"
        return "warning" if self.report.problems else "fine"


def rows_of(reports: Sequence[PairReport], split: Split | None) -> list[Row]:
    """The reports with the side that training would use them for."""
    sides: dict[str, set[str]] = {}
    for case in split.cases if split else ():
        sides.setdefault(case.pair.name, set()).add(case.side)
    rows = []
    for report in reports:
        of_pair = sides.get(report.name, {report.side} if report.side else set())
        rows.append(Row(report, "both" if len(of_pair) > 1 else next(iter(of_pair), None)))
    return rows


class PairModel(TableModel):
    """Rows of :class:`Row`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self._stale = False
        self.set_rows([])

    def set_rows(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._stale = False
        titles = enumerate(_TITLES)
        columns = {title: np.array([cell(row, column) for row in rows], np.str_) for column, title in titles}
        self.set_columns(columns, dict(zip(_TITLES, _HELP, strict=True)))

    def set_stale(self, stale: bool) -> None:
        """Show the rows paler: they are of settings that have changed."""
        if stale != self._stale:
            self._stale = stale
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, len(_TITLES) - 1))

    def alignment(self, column: int) -> Qt.AlignmentFlag:
        return Qt.AlignmentFlag.AlignHCenter if column == STATE else LEFT if column in (NAME, SIDE) else RIGHT

    def color(self, row: int, column: int) -> QColor | None:
        color, state = None, self.rows[row].state
        if state == "error" or (state == "warning" and column == STATE):
            color = theme_color("error" if state == "error" else "warning")
        if self._stale:
            color = color or theme_color("text")
            color.setAlphaF(0.5)
        return color

    def describe(self, row: int) -> str:
        return describe(self.rows[row])

    def spoken(self, row: int, column: int) -> str:
        return f"State: {self.rows[row].state}" if column == STATE else super().spoken(row, column)


class PairTable(Table):
    """Rows of pairs; the name gives way where it is narrow, and elides in the middle."""

    opened = Signal(object)
    """A :class:`PairReport` that was double-clicked, or on which Enter was pressed."""

    def __init__(self) -> None:
        pairs = PairModel()
        super().__init__("Pairs of images and labels", pairs, lines=_LINES, elided=NAME, double_click=True)
        self.pairs = pairs
        self.picked.connect(self._open)

    def _open(self, row: int) -> None:
        self.opened.emit(self.pairs.rows[row].report)


def cell(row: Row, column: int) -> str:
    """What stands in the table."""
    report = row.report
    match column:
        case 0:
            return _MARKS[row.state]
        case 1:
            return report.name
        case 2:
            return _SIDES[row.side]
        case 3:
            return _UNKNOWN if report.num_objects is None else f"{report.num_objects:,}"
        case 4:
            return _UNKNOWN if report.shape is None else "×".join(map(str, report.shape))
        case _:
            return _size(report.voxel_size, "×")


def describe(row: Row) -> str:
    """All about a pair, for its tooltip: problems first, each with its remedy."""
    report = row.report
    lines = [f"{_MARKS[problem.severity]} {problem}" for problem in report.problems]
    lines += [
        f"Image: {report.pair.image}",
        f"Labels: {report.pair.labels} (paired by: {report.pair.rule})",
        f"Voxels (z, y, x): {' × '.join(map(str, report.shape)) if report.shape else 'unknown'}",
        f"Voxel size (z, y, x): {_size(report.voxel_size, ' × ')}{' µm' if report.voxel_size else ''}",
    ]
    if report.dtype:
        lines.append(f"Types: {report.dtype}, labels {report.label_dtype}")
    if report.intensity_range is not None:
        low, high = report.intensity_range
        lines.append(f"Intensities: {low:.5g} to {high:.5g}")
    if report.num_objects is not None and report.foreground_fraction is not None:
        lines.append(f"Objects: {report.num_objects:,}, on {report.foreground_fraction:.1%} of the annotated voxels")
    if report.ignored_fraction:
        lines.append(f"Not annotated: {report.ignored_fraction:.1%} of the voxels")
    if row.side is not None:
        lines.append(_LONG_SIDES[row.side])
    return "\n".join(lines)


def _size(size: Spacing | None, times: str) -> str:
    return "unknown" if size is None else times.join(f"{value:.4g}" for value in size)
