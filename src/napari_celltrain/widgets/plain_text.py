"""Text from files, shown as it is: Qt takes anything with angle brackets for HTML unless it is told otherwise."""

from __future__ import annotations

import html

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget


def tooltip(text: str) -> str:
    """``text`` for ``setToolTip``: shown letter by letter, and wrapped, which Qt does for rich text only."""
    return f"<qt>{html.escape(text).replace(chr(10), '<br>')}</qt>" if text else ""


def menu_text(text: str) -> str:
    """``text`` for a menu or button, where ``&`` would underline the next letter."""
    return text.replace("&", "&&")


def plain_label(text: str = "", parent: QWidget | None = None) -> QLabel:
    """A label that wraps, shows file names as they are, and lets itself be copied from."""
    label = QLabel(text, parent)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
    return label
