"""Which image layer and which labels layer of the viewer to train on."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import create_widget
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_celltrain.config import DataConfig
from napari_celltrain.widgets.layer_source import LayerSource, full_resolution, is_own, take_layers

# What the array and the voxel size of a layer follow from, and each stroke of the brush.
_EVENTS = ("data", "scale", "units", "paint")


class LayerChooser(QObject):
    """Two of magicgui's combo boxes, ``image.native`` and ``labels.native``, to be put into a form."""

    valueChanged = Signal()

    def __init__(self, viewer: Any, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._watched: list[Any] = []
        self._taken: tuple[tuple[Any, ...], LayerSource] | None = None
        self._num_changes = 0
        self.image = self._make("napari.layers.Image", self._image_layers)
        self.labels = self._make("napari.layers.Labels", self._labels_layers)
        self._offered = self._on_offer()

    @property
    def widgets(self) -> tuple[QWidget, QWidget]:
        return self.image.native, self.labels.native

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed; what is chosen stays chosen while it is there."""
        before_that, self._offered = self._offered, self._on_offer()
        if before_that == self._offered:
            return  # only layers of the plugin's own have come or gone
        before = self._chosen()
        self.image.reset_choices()
        self.labels.reset_choices()
        if self._chosen() != before or self._chosen() != self._watched:
            self._choose()  # magicgui is silent where nothing is left to choose

    def take(self, config: DataConfig) -> LayerSource:
        """What is chosen, as volumes: the same object as before unless something has changed.

        Raises :class:`DataError`.
        """
        key = (config.voxel_size, config.axes, config.channel, *self._state())
        if self._taken is None or self._taken[0] != key:
            self._taken = None  # hold no array any more where the next line refuses
            self._taken = (key, take_layers(self.image.value, self.labels.value, config))
        return self._taken[1]

    def _make(self, annotation: str, choices: Any) -> Any:
        box: Any = create_widget(annotation=annotation, options={"nullable": False, "choices": choices})
        box.native.setMinimumWidth(60)
        box.changed.connect(self._choose)
        return box

    def _on_offer(self) -> list[tuple[int, str]]:
        return [(id(layer), layer.name) for layer in (*self._image_layers(), *self._labels_layers())]

    def _image_layers(self, *_: Any) -> list[Any]:
        return self._layers("image")

    def _labels_layers(self, *_: Any) -> list[Any]:
        return self._layers("labels")

    def _layers(self, kind: str) -> list[Any]:
        """Those of the viewer but for the plugin's own, the topmost first."""
        return [layer for layer in reversed(self._viewer.layers) if layer._type_string == kind and not is_own(layer)]

    def _choose(self, *_: Any) -> None:
        for layer in self._watched:
            for name in _EVENTS:
                if hasattr(layer.events, name):
                    getattr(layer.events, name).disconnect(self._touch)
        self._watched = self._chosen()
        for layer in self._watched:
            for name in _EVENTS:
                if hasattr(layer.events, name):
                    getattr(layer.events, name).connect(self._touch)
        self.valueChanged.emit()

    def _touch(self, *_: Any) -> None:
        self._num_changes += 1
        self.valueChanged.emit()

    def _chosen(self) -> list[Any]:
        return [layer for layer in (self.image.value, self.labels.value) if layer is not None]

    def _state(self) -> tuple[Any, ...]:
        layers = self._chosen()
        return (self._num_changes, *((id(layer), id(full_resolution(layer)), layer.name) for layer in layers))
