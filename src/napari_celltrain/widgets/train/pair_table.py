"""What the data check found: a table of the pairs, and all problems as text that can be copied."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from qtpy.QtCore import QEvent, QModelIndex, Qt
from qtpy.QtGui import QTextCursor
from qtpy.QtWidgets import QFrame, QPlainTextEdit, QSizePolicy

from napari_celltrain.data.check import PairReport
from napari_celltrain.data.split import Split
from napari_celltrain.values.config import DataConfig
from napari_celltrain.values.errors import Problem, grouped
from napari_celltrain.values.fields import all_fields
from napari_celltrain.values.text import sizes
from napari_celltrain.widgets.table import LEFT, RIGHT, Table, TableModel
from napari_celltrain.widgets.theme import theme_color, tooltip

MAX_SHOWN = 200
_MARKS = {"error": "✗", "warning": "!", "fine": "✓"}
_MIN_LINES, _MAX_LINES = 2, 10


class ProblemList(QPlainTextEdit):
    """Errors first, in red, then warnings; each with its remedy. As high as it needs to be, within bounds."""

    def __init__(self) -> None:
        super().__init__()
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

    def set_problems(self, problems: Sequence[Problem]) -> None:
        self._problems = tuple(sorted(grouped(problems), key=lambda problem: problem.severity != "error"))
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
        lines = []
        for problem in self._problems[:MAX_SHOWN]:
            is_field = problem.where in DataConfig.model_fields
            named = replace(problem, where=all_fields()[f"data.{problem.where}"].label) if is_field else problem
            lines.append((_MARKS[problem.severity], str(named), problem.severity))
        left = len(self._problems) - MAX_SHOWN
        if left > 0:
            lines.append(("…", f"and {left} more; `celltrain check` lists them all.", "warning"))
        for mark, text, severity in lines:
            colors = [theme_color(severity), theme_color("error" if severity == "error" else "text")]
            parts = zip(colors, (mark, html.escape(" ".join(text.split()))), strict=True)
            self.appendHtml(" ".join(f'<span style="color: {color.name()}">{part}</span>' for color, part in parts))
        self.moveCursor(QTextCursor.MoveOperation.Start)
        self._fit_height()

    def _fit_height(self) -> None:
        document = self.document()
        assert document is not None
        lines = min(max(int(document.size().height()), _MIN_LINES), _MAX_LINES)
        margins = 2 * int(document.documentMargin()) + self.contentsMargins().top() + self.contentsMargins().bottom()
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + margins + 2)


STATE, NAME, SIDE, OBJECTS, SHAPE, SIZE = range(6)
_HELP = {
    "": "State: ✓ fine, ! warning, ✗ error. What is wrong stands in the tooltip and below the table.",
    "Name": "Name of the image. Double-click or press Enter to open image and labels as layers.",
    "Side": "What the pair is used for: training (train), or held out for validation (valid.).",
    "Objects": "Number of labelled objects; where labels are not objects, of connected components of the foreground.",
    "Voxels": "Number of voxels along z, y and x.",
    "Size (µm)": "Size of a voxel along z, y and x in micrometres.",
}
_SIDES = {
    "train": ("train", "Used for training"),
    "validation": ("valid.", "Held out for validation, never trained on"),
    "both": ("both", "The only volume: a part of it is for training, another for validation"),
    None: ("–", ""),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One pair as it is shown; ``side`` is None where the pairs could not be divided."""

    report: PairReport
    side: str | None

    @property
    def state(self) -> Literal["error", "warning", "fine"]:
        if not self.report.is_usable:
            return "error"
        return "warning" if self.report.problems else "fine"

    @property
    def cells(self) -> tuple[str, ...]:
        report = self.report
        return (
            _MARKS[self.state],
            report.name,
            _SIDES[self.side][0],
            "?" if report.num_objects is None else f"{report.num_objects:,}",
            "?" if report.shape is None else sizes(report.shape).replace(" ", ""),
            "unknown" if report.voxel_size is None else sizes(report.voxel_size).replace(" ", ""),
        )


def rows_of(reports: Sequence[PairReport], split: Split | None) -> list[Row]:
    """The reports with the side that training would use them for."""
    sides: dict[str, str] = {}
    for case in split.cases if split else ():
        name = case.pair.name
        sides[name] = case.side if sides.get(name, case.side) == case.side else "both"
    return [Row(report, sides.get(report.name, report.side)) for report in reports]


class PairModel(TableModel):
    """Rows of :class:`Row`."""

    def __init__(self) -> None:
        super().__init__()
        self.set_rows([])

    def set_rows(self, rows: Sequence[Row]) -> None:
        self.rows: list[Row] = list(rows)
        self._stale = False
        columns = np.array([row.cells for row in rows], np.str_).reshape(-1, len(_HELP)).T
        self.set_columns(dict(zip(_HELP, columns, strict=True)), _HELP)

    def set_stale(self) -> None:
        """Show the rows paler: they are of settings that have changed."""
        if not self._stale:
            self._stale = True
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, len(_HELP) - 1))

    def alignment(self, column: int) -> Qt.AlignmentFlag:
        return Qt.AlignmentFlag.AlignHCenter if column == STATE else LEFT if column in (NAME, SIDE) else RIGHT

    def describe(self, row: int) -> str:
        """For the tooltip: problems first, each with its remedy."""
        report, side = self.rows[row].report, self.rows[row].side
        lines = [f"{_MARKS[problem.severity]} {problem}" for problem in report.problems]
        lines += [
            f"Image: {report.pair.image}",
            f"Labels: {report.pair.labels} (paired by: {report.pair.rule})",
            f"Voxels (z, y, x): {sizes(report.shape) if report.shape else 'unknown'}",
            f"Voxel size (z, y, x): {f'{sizes(report.voxel_size)} µm' if report.voxel_size else 'unknown'}",
        ]
        if report.dtype:
            lines.append(f"Types: {report.dtype}, labels {report.label_dtype}")
        if report.intensity_range is not None:
            low, high = report.intensity_range
            lines.append(f"Intensities: {low:.5g} to {high:.5g}")
        if report.num_objects is not None and report.foreground_fraction is not None:
            share = f"{report.foreground_fraction:.1%}"
            lines.append(f"Objects: {report.num_objects:,}, on {share} of the annotated voxels")
        if report.ignored_fraction:
            lines.append(f"Not annotated: {report.ignored_fraction:.1%} of the voxels")
        return "\n".join(filter(None, [*lines, _SIDES[side][1]]))

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        if not index.isValid():
            return None
        number, is_state = self.row_of(index), index.column() == STATE
        state = self.rows[number].state
        match role:
            case Qt.ItemDataRole.ForegroundRole:
                color = theme_color(state) if state == "error" or (state == "warning" and is_state) else None
                if self._stale:
                    color = color or theme_color("text")
                    color.setAlphaF(0.5)
                return color
            case Qt.ItemDataRole.ToolTipRole:
                return tooltip(self.describe(number))
            case Qt.ItemDataRole.AccessibleTextRole if is_state:
                return f"State: {state}"
        return super().data(index, role)


class PairTable(Table):
    """Rows of pairs, picked by a double-click; the name gives way where it is narrow, and elides in the middle."""

    def __init__(self) -> None:
        pairs = PairModel()
        # at least five lines, where there are so many
        super().__init__("Pairs of images and labels", pairs, lines=(5, 10_000), elided=NAME, double_click=True)
        self.pairs = pairs
