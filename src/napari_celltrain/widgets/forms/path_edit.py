"""A field for a folder or a file: typed, browsed for, dropped on it, or picked among the recent ones."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from qtpy.QtCore import QMimeData, Qt
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QPaintEvent, QPalette
from qtpy.QtWidgets import QFileDialog, QLineEdit, QMenu, QPushButton, QStyle, QStyleOptionFrame, QStylePainter

from napari_celltrain.widgets.forms.editors import Editor
from napari_celltrain.widgets.preferences import memory
from napari_celltrain.widgets.theme import button, menu_text, tooltip

Kind = Literal["folder", "either"]

PATIENCE = 0.3  # seconds; a disk that has to start takes longer, and is asked again the next time
NUM_RECENT = 8
_MENU_WIDTH = 420


class ElidedEdit(QLineEdit):
    """Shows both ends of a text that is too long for it while it is not being edited.

    superqt's QElidingLineEdit replaces the text itself, and loses what is set while it has the focus.
    """

    def paintEvent(self, event: QPaintEvent | None) -> None:
        text, area, option = self.elided()
        if self.hasFocus() or text == self.text():
            super().paintEvent(event)
            return
        painter = QStylePainter(self)
        painter.drawPrimitive(QStyle.PrimitiveElement.PE_PanelLineEdit, option)
        align = int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft)
        painter.drawItemText(area, align, self.palette(), self.isEnabled(), text, QPalette.ColorRole.Text)

    def elided(self) -> tuple[str, Any, QStyleOptionFrame]:
        """The text shown while the field has no focus, its place (a QRect) and Qt's options for painting."""
        style, option = self.style(), QStyleOptionFrame()
        assert style is not None
        self.initStyleOption(option)
        area = style.subElementRect(QStyle.SubElement.SE_LineEditContents, option, self)
        area.adjust(2, 0, -2, 0)  # as QLineEdit itself
        return self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, area.width()), area, option


class PathEdit(Editor):
    """Edits a path, or None while empty. ``value()`` is what is typed now; ``valueChanged`` comes once typing ends.

    ``history`` names the list of recent paths, which fields of the same purpose share.
    """

    def __init__(
        self,
        kind: Kind = "folder",
        *,
        caption: str = "",
        file_filter: str = "",
        history: str = "",
        placeholder: str = "",
    ) -> None:
        super().__init__()
        self._kind = kind
        self._caption = caption or "Choose a folder"
        self._filter = file_filter
        self._history = history or kind
        self._value: Path | None = None
        self.edit = ElidedEdit()
        self.edit.setPlaceholderText(placeholder or f"{self._caption}, or drop it here")
        self.edit.setAcceptDrops(False)  # it would write the address as text; drops are for this widget
        self.edit.editingFinished.connect(self._commit)
        self.edit.textChanged.connect(self._renew_tooltip)
        self.browse_button = button("…", f"{self._caption}…", self._browse_folder)
        self.menu = QMenu(self)
        self.menu.setToolTipsVisible(True)
        self.menu.aboutToShow.connect(self._fill_menu)
        self.menu.triggered.connect(self._take_recent)
        self.recent_button = QPushButton()
        self.recent_button.setToolTip(tooltip("Recent ones (arrow down)"))
        self.recent_button.setMenu(self.menu)
        self.browse_button.setMaximumWidth(28)
        self.recent_button.setMaximumWidth(28)
        self._hold(self.edit, self.browse_button, self.recent_button).setSpacing(2)
        self.setAcceptDrops(True)

    def value(self) -> Path | None:
        text = self.edit.text()
        if self._value is not None and text == str(self._value):
            return self._value
        text = text.strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":  # as file managers copy paths
            text = text[1:-1]
        return Path(text).expanduser() if text else None

    def setValue(self, value: Path | None) -> None:
        if value == self.value() and value == self._value:
            return
        self._value = value
        self.edit.setText("" if value is None else str(value))
        self.edit.setCursorPosition(0)
        self.valueChanged.emit()

    def set_accessible_name(self, name: str) -> None:
        self.edit.setAccessibleName(name)
        self.browse_button.setAccessibleName(f"Browse for {name}")
        self.recent_button.setAccessibleName(f"Recent {name}")

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Arrow down opens the recent ones, as in a combo box."""
        if event is not None and event.key() == Qt.Key.Key_Down:
            self.recent_button.showMenu()
        else:
            super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        if event is not None and self._dropped(event.mimeData()) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        path = self._dropped(event.mimeData()) if event is not None else None
        if event is not None and path is not None:
            event.acceptProposedAction()
            self._choose(str(path))

    def _hints(self) -> list[str]:
        return [*super()._hints(), self.edit.text()]  # the whole path, which a narrow field shows in part

    def _fill_menu(self) -> None:
        self.menu.clear()
        for path in recent_paths(self._history):
            shown = self.fontMetrics().elidedText(str(path), Qt.TextElideMode.ElideMiddle, _MENU_WIDTH)
            action = self.menu.addAction(menu_text(shown))
            assert action is not None
            action.setData(str(path))
            action.setToolTip(tooltip(str(path)))
        if self.menu.isEmpty():
            nothing = self.menu.addAction("No recent ones yet")
            assert nothing is not None
            nothing.setEnabled(False)
        self.menu.addSeparator()
        self.menu.addAction("Choose a folder…", self._browse_folder)
        if self._kind == "either":
            self.menu.addAction("Choose a file…", self._browse_file)

    def _take_recent(self, action: Any) -> None:  # a QAction, which Qt 5 and 6 keep in different modules
        self._choose(action.data())

    def _browse_folder(self) -> None:
        self._choose(QFileDialog.getExistingDirectory(self, self._caption, self._start_folder()))

    def _browse_file(self) -> None:
        self._choose(QFileDialog.getOpenFileName(self, self._caption, self._start_folder(), self._filter)[0])

    def _start_folder(self) -> str:
        """The nearest folder of the value, or of the newest recent path, that exists."""
        known = self.value() or next(iter(recent_paths(self._history)), None)
        folders = [known.absolute(), *known.absolute().parents] if known is not None else []
        there = are_there(folders, Path.is_dir)
        return next((str(path) for path, is_there in zip(folders, there, strict=True) if is_there), "")

    def _choose(self, path: str | None) -> None:
        if path:
            self.setValue(Path(path))
            self._remember()

    def _commit(self) -> None:
        """Typing has ended, by Enter or by leaving the field."""
        if (value := self.value()) != self._value:
            self.setValue(value)
            self._remember()

    def _remember(self) -> None:
        if self._value is not None and all(are_there([self._value])):
            remember_path(self._history, self._value)

    def _dropped(self, data: QMimeData | None) -> Path | None:
        """The path that is meant: itself, or the folder of several files or where a folder is wanted."""
        paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()] if data is not None else []
        folders = {path.parent for path in paths}
        if len(paths) == 1 and (self._kind == "either" or not paths[0].is_file()):
            return paths[0]
        return folders.pop() if len(folders) == 1 else None


def are_there(paths: Sequence[Path], ask: Callable[[Path], bool] = Path.exists) -> list[bool]:
    """Of each path, whether it exists (or the answer of ``ask``); False if a lost drive gives no answer in time.

    Each is asked for by a thread of its own: one that hangs holds up no other, and not the end of the program.
    """
    answers = [False] * len(paths)

    def find_out(index: int) -> None:
        with contextlib.suppress(OSError):  # such as a name that is too long
            answers[index] = ask(paths[index])

    threads = [threading.Thread(target=find_out, args=(index,), daemon=True) for index in range(len(paths))]
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return answers.copy()


def recent_paths(history: str) -> list[Path]:
    """The paths that :func:`remember_path` got for ``history`` and that still exist, the newest first."""
    stored = memory().value(f"recent/{history}", [])
    paths = [Path(text) for text in ([stored] if isinstance(stored, str) else stored or [])]
    return [path for path, there in zip(paths, are_there(paths), strict=True) if there]


def remember_path(history: str, path: Path) -> None:
    """Put ``path`` first among the recent ones of all fields of ``history`` (such as ``images``)."""
    newest = path.absolute()
    others = [other for other in recent_paths(history) if other != newest]
    memory().setValue(f"recent/{history}", [str(kept) for kept in (newest, *others)][:NUM_RECENT])
