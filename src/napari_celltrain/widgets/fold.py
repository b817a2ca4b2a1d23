"""A heading that shows and hides what is below it."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_celltrain.widgets.focus_frame import FocusFrame
from napari_celltrain.widgets.plain_text import menu_text

_OPEN, _CLOSED = "▾", "▸"


class Fold(QWidget):
    """Folded at first.

    superqt's QCollapsible fixes the height of its contents when it opens, which cuts lines that wrap later, and draws
    its arrow in the palette's colour, which napari's dark theme does not set.
    """

    toggled = Signal()

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self.content = content
        self.button = QPushButton()
        self.button.setStyleSheet("text-align: left")
        self.button.clicked.connect(self._toggle)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(FocusFrame.around(self.button))
        layout.addWidget(content)
        content.setVisible(False)
        self._renew()

    @property
    def is_open(self) -> bool:
        return not self.content.isHidden()

    def set_open(self, is_open: bool) -> None:
        if is_open != self.is_open:
            self.content.setVisible(is_open)
            self._renew()
            self.toggled.emit()

    def set_title(self, title: str) -> None:
        self._title = title
        self._renew()

    def _toggle(self) -> None:
        self.set_open(not self.is_open)

    def _renew(self) -> None:
        self.button.setText(menu_text(f"{_OPEN if self.is_open else _CLOSED}  {self._title}"))
        self.button.setAccessibleName(f"{self._title}, {'shown' if self.is_open else 'folded away'}")
