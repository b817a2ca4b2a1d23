"""Questions to the file system that a drive which went away must not leave the window waiting for.

A line edit that, while it is not being edited, shows both ends of a text that is too long for it.

A field for a folder or a file: typed, browsed for, dropped on it, or picked among the recent ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from qtpy.QtCore import QMimeData, QSettings, Qt, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QMenu, QPushButton, QStyle, QStyleOptionFrame, QWidget

from napari_celltrain.widgets.theme import menu_text, theme_color, tooltip

PATIENCE = 0.3  # seconds; a disk that has to start takes longer, and is asked again the next time


def are_there(paths: Sequence[Path], ask: Callable[[Path], bool] = Path.exists) -> list[bool]:
    """Of each path, whether it exists (or what else ``ask`` says); False where there is no answer in time.

    Each is asked for by a thread of its own: one that hangs holds up no other, and not the end of the program.
    """
    answers = [False] * len(paths)

    def find_out(index: int) -> None:
        try:
            answers[index] = ask(paths[index])
        except OSError:  # such as a name that is too long
            answers[index] = False

    threads = [threading.Thread(target=find_out, args=(index,), daemon=True) for index in range(len(paths))]
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(answers)


# --- elided edit -----------------------------------------------------------------------------------------

_TEXT_MARGIN = 2  # as QLineEdit itself keeps on both sides


class ElidedEdit(QLineEdit):
    """Elides in the middle, and can be outlined in the theme's colour of errors."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._is_marked = False

    def setMarked(self, marked: bool) -> None:
        self._is_marked = marked
        self.update()

    def isMarked(self) -> bool:
        return self._is_marked

    def elidedText(self) -> str:
        """What is shown while the field has no focus."""
        return self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self._text_width())

    def paintEvent(self, event: QPaintEvent | None) -> None:
        if self.hasFocus() or self.elidedText() == self.text():
            super().paintEvent(event)
        else:
            self._paint_elided()
        if self._is_marked:
            painter = QPainter(self)
            painter.setPen(QPen(theme_color("error"), 2))
            painter.drawRect(self.rect().adjusted(1, 1, -1, -1))

    def _paint_elided(self) -> None:
        option = self._option()
        painter = QPainter(self)
        self._style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelLineEdit, option, painter, self)
        area = self._contents(option)
        group = self.palette().ColorGroup.Active if self.isEnabled() else self.palette().ColorGroup.Disabled
        painter.setPen(self.palette().color(group, self.palette().ColorRole.Text))
        painter.drawText(area, int(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft), self.elidedText())

    def _text_width(self) -> int:
        return int(self._contents(self._option()).width())

    def _contents(self, option: QStyleOptionFrame):  # type: ignore[no-untyped-def]  # QRect; see below
        area = self._style().subElementRect(QStyle.SubElement.SE_LineEditContents, option, self)
        return area.adjusted(_TEXT_MARGIN, 0, -_TEXT_MARGIN, 0)

    def _option(self) -> QStyleOptionFrame:
        option = QStyleOptionFrame()
        self.initStyleOption(option)
        return option

    def _style(self) -> QStyle:
        style = self.style()
        assert style is not None
        return style


# --- path edit -------------------------------------------------------------------------------------------

Kind = Literal["folder", "file", "either"]

NUM_RECENT = 8
_MENU_WIDTH = 420
_BUTTON_WIDTH = 28


class PathEdit(QWidget):
    """Edits a path, or None while empty. ``value()`` is what is typed now; ``valueChanged`` comes once typing ends.

    ``history`` names the list of recent paths, which fields of the same purpose share.
    """

    valueChanged = Signal()

    def __init__(
        self,
        kind: Kind = "folder",
        *,
        caption: str = "",
        file_filter: str = "",
        history: str = "",
        placeholder: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._kind = kind
        self._caption = caption or ("Choose a file" if kind == "file" else "Choose a folder")
        self._filter = file_filter
        self._history = history or kind
        self._value: Path | None = None
        self._help = ""
        self._problem: str | None = None

        self.edit = ElidedEdit()
        self.edit.setPlaceholderText(placeholder or f"{self._caption}, or drop it here")
        self.edit.setAcceptDrops(False)  # it would write the address as text; drops are for this widget
        self.edit.editingFinished.connect(self._commit)
        self.edit.textChanged.connect(self._renew_tooltip)
        self.browse_button = QPushButton("…")
        self.browse_button.setToolTip(tooltip(f"{self._caption}…"))
        self.browse_button.clicked.connect(self.browse)
        self.recent_button = QPushButton()
        self.recent_button.setToolTip(tooltip("Recent ones (arrow down)"))
        self.recent_button.setMenu(self._make_menu())

        self.setFocusProxy(self.edit)  # before it is inside: else Qt closes the order of Tab to a ring of the three
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.edit, 1)
        for button in (self.browse_button, self.recent_button):
            button.setMaximumWidth(_BUTTON_WIDTH)
            layout.addWidget(button)
        self.setAcceptDrops(True)

    def value(self) -> Path | None:
        text = self.edit.text()
        if self._value is not None and text == str(self._value):
            return self._value
        return _parse(text)

    def setValue(self, value: Path | None) -> None:
        if value == self.value() and value == self._value:
            return
        self._value = value
        self.edit.setText("" if value is None else str(value))
        self.edit.setCursorPosition(0)
        self.valueChanged.emit()

    def set_problem(self, text: str | None) -> None:
        """Outline the field and say why, or take that back."""
        self._problem = text
        self.edit.setMarked(text is not None)
        self._renew_tooltip()

    def setToolTip(self, text: str | None) -> None:
        """The help, above the whole path, which a narrow field shows in part."""
        self._help = text or ""
        self._renew_tooltip()

    def set_accessible_name(self, name: str) -> None:
        self.edit.setAccessibleName(name)
        self.browse_button.setAccessibleName(f"Browse for {name}")
        self.recent_button.setAccessibleName(f"Recent {name}")

    def recent(self) -> list[Path]:
        """The paths used last in fields of the same purpose that still exist, the newest first."""
        return recent_paths(self._history)

    def browse(self) -> None:
        """Ask for a folder, or for a file where only that is wanted."""
        if self._kind == "file":
            self._browse_file()
        else:
            self._browse_folder()

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
        if event is None:
            return
        path = self._dropped(event.mimeData())
        if path is not None:
            event.acceptProposedAction()
            self._choose(path)

    def _make_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        menu.aboutToShow.connect(self._fill_menu)
        menu.triggered.connect(self._take_recent)
        return menu

    def _fill_menu(self) -> None:
        menu = self.recent_button.menu()
        assert menu is not None
        menu.clear()
        for path in self.recent():
            shown = self.fontMetrics().elidedText(str(path), Qt.TextElideMode.ElideMiddle, _MENU_WIDTH)
            action = menu.addAction(menu_text(shown))
            assert action is not None
            action.setData(str(path))
            action.setToolTip(tooltip(str(path)))
        if menu.isEmpty():
            nothing = menu.addAction("No recent ones yet")
            assert nothing is not None
            nothing.setEnabled(False)
        menu.addSeparator()
        if self._kind != "file":
            menu.addAction("Choose a folder…", self._browse_folder)
        if self._kind != "folder":
            menu.addAction("Choose a file…", self._browse_file)

    def _take_recent(self, action: object) -> None:
        chosen = action.data()  # type: ignore[attr-defined]  # a QAction, which Qt 5 and 6 keep in different modules
        if chosen:
            self._choose(Path(chosen))

    def _browse_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self._caption, self._start_folder())
        if chosen:
            self._choose(Path(chosen))

    def _browse_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, self._caption, self._start_folder(), self._filter)
        if chosen:
            self._choose(Path(chosen))

    def _start_folder(self) -> str:
        known = self.value() or next(iter(self.recent()), None)
        while known is not None and not all(are_there([known], Path.is_dir)):
            if known == known.parent:
                return ""
            known = known.parent
        return "" if known is None else str(known.absolute())

    def _choose(self, path: Path) -> None:
        self.setValue(path)
        self._remember()

    def _commit(self) -> None:
        """Typing has ended, by Enter or by leaving the field."""
        value = self.value()
        if value == self._value:
            return
        self._value = value
        self.edit.setText("" if value is None else str(value))
        self._remember()
        self.valueChanged.emit()

    def _remember(self) -> None:
        if self._value is None or not all(are_there([self._value])):
            return
        remember_path(self._history, self._value)

    def _dropped(self, data: QMimeData | None) -> Path | None:
        """What a drop means: the path itself, or the folder of several files or where a folder is wanted."""
        if data is None:
            return None
        paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
        if not paths:
            return None
        return _meant(paths, self._kind)

    def _renew_tooltip(self) -> None:
        parts = [self._problem or "", self._help, self.edit.text()]
        super().setToolTip(tooltip("\n\n".join(part for part in parts if part)))


def recent_paths(history: str) -> list[Path]:
    """What :func:`remember_path` was given for ``history``, the newest first, as far as it still exists."""
    stored = _settings().value(f"recent/{history}", [])
    texts = [stored] if isinstance(stored, str) else list(stored or [])
    paths = [Path(text) for text in texts]
    return [path for path, there in zip(paths, are_there(paths), strict=True) if there]


def remember_path(history: str, path: Path) -> None:
    """Put ``path`` first among the recent ones of all fields of ``history`` (such as ``images``)."""
    newest = path.absolute()
    others = [other for other in recent_paths(history) if other != newest]
    _settings().setValue(f"recent/{history}", [str(kept) for kept in (newest, *others)][:NUM_RECENT])


def _meant(paths: Sequence[Path], kind: Kind) -> Path | None:
    first = paths[0]
    if len(paths) > 1:
        same_folder = all(path.parent == first.parent for path in paths)
        return first.parent if same_folder and kind != "file" else None
    if kind == "folder" and first.is_file():
        return first.parent
    if kind == "file" and not first.is_file():
        return None
    return first


def _parse(text: str) -> Path | None:
    """Typed or pasted text as a path; file managers copy paths in quotes."""
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
        stripped = stripped[1:-1]
    return Path(stripped).expanduser() if stripped else None


def _settings() -> QSettings:
    """In a file of its own on every system, so that tests can put it elsewhere."""
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-celltrain", "napari-celltrain")
