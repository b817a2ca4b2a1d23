"""What the tabs have in common: a column of groups that scrolls when the window is low."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QGroupBox, QScrollArea, QVBoxLayout, QWidget

MAX_WIDTH = 780
"""Wider, lines of text and fields are tiring to read."""


class TabPage(QScrollArea):
    """Never scrolls sideways; its groups stay readable in a wide window."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # its contents can be reached by Tab
        self.page = QWidget()
        self.column = QVBoxLayout(self.page)
        self.column.setContentsMargins(6, 6, 6, 6)
        self.column.setSpacing(8)
        self.setWidget(self.page)

    def add_group(self, title: str, *widgets: QWidget) -> QGroupBox:
        group = QGroupBox(title)
        group.setMaximumWidth(MAX_WIDTH)
        layout = QVBoxLayout(group)
        layout.setContentsMargins(8, 10, 8, 8)
        layout.setSpacing(4)
        for widget in widgets:
            layout.addWidget(widget)
        self.column.addWidget(group)
        return group

    def end(self) -> None:
        """No more groups come: what is left of the height stays empty below them."""
        self.column.addStretch(1)
