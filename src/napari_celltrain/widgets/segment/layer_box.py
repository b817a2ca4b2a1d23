"""The choice of one layer of the viewer."""

from __future__ import annotations

from typing import Any, Literal

from magicgui.widgets import create_widget
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_celltrain.widgets.focus_frame import FocusFrame
from napari_celltrain.widgets.layer_source import is_own
from napari_celltrain.widgets.plain_text import tooltip

Kind = Literal["image", "labels"]


class LayerBox(QWidget):
    """Edits a layer of the viewer, or None; those that the plugin shows while training are not offered."""

    valueChanged = Signal()

    def __init__(self, viewer: Any, kind: Kind, name: str, help_text: str, *, optional: bool = False) -> None:
        super().__init__()
        self._viewer = viewer
        self._kind = kind
        self._told: Any = None
        box: Any = create_widget(
            annotation=f"napari.layers.{kind.capitalize()}",
            options={"nullable": optional, "choices": self._choices},
        )
        self.box = box
        self.box.native.setMinimumWidth(60)
        self.box.native.setAccessibleName(name)
        self.box.native.setToolTip(tooltip(help_text))
        self.setFocusProxy(self.box.native)  # before it is inside: else Qt closes the order of Tab to a ring
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(FocusFrame.around(self.box.native))
        self.box.changed.connect(self._tell)
        self._told = self.value()

    def value(self) -> Any:
        return self.box.value

    def setValue(self, layer: Any) -> None:
        self.box.value = layer

    def has(self, layer: Any) -> bool:
        return layer in self._choices()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        self.box.reset_choices()
        self._tell()  # magicgui is silent where nothing is left to choose

    def _choices(self, *_: Any) -> list[Any]:
        """The topmost first."""
        return [
            layer for layer in reversed(self._viewer.layers) if layer._type_string == self._kind and not is_own(layer)
        ]

    def _tell(self, *_: Any) -> None:
        if self.value() is not self._told:
            self._told = self.value()
            self.valueChanged.emit()
