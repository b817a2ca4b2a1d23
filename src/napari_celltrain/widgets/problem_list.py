"""All that the check found, as text that can be read, copied, and told from each other by colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QTextCharFormat, QTextCursor
from qtpy.QtWidgets import QFrame, QPlainTextEdit, QSizePolicy, QWidget

from napari_celltrain.config import DataConfig
from napari_celltrain.errors import Problem
from napari_celltrain.widgets.colors import theme_color
from napari_celltrain.widgets.wording import label_of

MAX_SHOWN = 200
_MARKS = {"error": "✗", "warning": "!"}
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
            self._write_line(cursor, index, _MARKS[problem.severity], str(shown), problem.severity)
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
