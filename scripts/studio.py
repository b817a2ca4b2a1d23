"""napari with a widget in it, driven by its own controls and photographed; a part of ``make_screenshots.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THEMES = ("dark", "light")
FORM_WINDOW = (1360, 840)
PATIENCE = 180.0  # seconds for anything
COLORS = 256  # of a picture: a third of the size, and no visible difference


class Studio:
    """napari with the widget in it, hands for its controls, and a camera."""

    def __init__(self, images: Path, width: int) -> None:
        import napari

        from napari_celltrain.widgets.train.widget import TrainWidget

        self.images = images
        images.mkdir(parents=True, exist_ok=True)
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*FORM_WINDOW)
        self.viewer.window._qt_window.activateWindow()  # without it, nothing is told of losing the focus
        self._width = width
        self.widget: Any = TrainWidget(self.viewer)
        self.use(self.widget, "Train a segmentation model")

    def use(self, widget: Any, name: str) -> None:
        """Put ``widget`` into the window: it is the one to be driven and pictured."""
        self.widget = widget
        self._dock = self.viewer.window.add_dock_widget(widget, name=name)
        self.settle()

    def remove_widget(self) -> None:
        if hasattr(self.widget, "controller"):
            self.widget.controller.dismiss()
        self.viewer.window.remove_dock_widget(self.widget)
        self.settle()

    def close(self) -> None:
        self.remove_widget()
        self.viewer.close()
        self.settle()

    # --- hands --------------------------------------------------------------------------------------------------

    def turn_to(self, index: int) -> None:
        from qtpy.QtTest import QTest

        bar = self.widget.tabs.tabBar()
        QTest.mouseClick(bar, _left(), pos=bar.tabRect(index).center())
        self.settle()

    def click(self, button: Any) -> None:
        from qtpy.QtCore import QPoint
        from qtpy.QtTest import QTest

        page = self.widget.tabs.currentWidget()
        if page is not None and page.isAncestorOf(button):
            self.scroll_to(button)
        # A check box or radio button is hit on its mark; beside its text nothing happens.
        QTest.mouseClick(button, _left(), pos=QPoint(12, button.height() // 2))
        self.settle()

    def press(self, button: Any) -> None:
        """Of a widget without tabs."""
        self.widget.scroll_area.ensureWidgetVisible(button)
        self.settle()
        from qtpy.QtTest import QTest

        QTest.mouseClick(button, _left())
        self.settle()

    def pick_row(self, table: Any) -> None:
        """Click on the first row."""
        from qtpy.QtTest import QTest

        if table.rows.rowCount():
            index = table.rows.index(0, 0)
            QTest.mouseClick(table.viewport(), _left(), pos=table.visualRect(index).center())
        self.settle()

    def type_into(self, editor: Any, text: str) -> None:
        """As with the keyboard: all that was there is replaced, and Tab leaves the field."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QAbstractSpinBox, QLineEdit

        field = editor.findChild(QAbstractSpinBox) or editor.findChild(QLineEdit)
        field.setFocus()
        field.selectAll()
        QTest.keyClicks(field, text)
        QTest.keyClick(field, Qt.Key.Key_Tab)
        self.settle()

    def choose(self, editor: Any, key: str) -> None:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        QTest.keyClick(editor.box, Qt.Key.Key_Home)
        while editor.value() != key:
            QTest.keyClick(editor.box, Qt.Key.Key_Down)
        self.settle()

    def scroll_to(self, part: Any) -> None:
        from qtpy.QtWidgets import QScrollArea

        page = self.widget.tabs.currentWidget()
        area = page if isinstance(page, QScrollArea) else page.findChild(QScrollArea)
        area.ensureWidgetVisible(part, 0, 20)
        self.settle()

    def scroll_to_top(self) -> None:
        from qtpy.QtWidgets import QScrollArea

        page = self.widget.tabs.currentWidget()
        area = page if isinstance(page, QScrollArea) else page.findChild(QScrollArea)
        area.verticalScrollBar().setValue(0)

    # --- patience -----------------------------------------------------------------------------------------------

    def settle(self, seconds: float = 0.15) -> None:
        from qtpy.QtTest import QTest

        QTest.qWait(round(1000 * seconds))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                _save(self.viewer.screenshot(canvas_only=False, flash=False), self.images / "in-vain.png")
                message = self.widget.controller.message if hasattr(self.widget, "controller") else ""
                raise TimeoutError(f"waited in vain for {what}; {message}")
            self.settle(0.03)

    # --- camera -------------------------------------------------------------------------------------------------

    def shoot(self, name: str, *, whole: bool = False, themes: tuple[str, ...] = THEMES) -> None:
        """The widget, or the ``whole`` window, in each theme."""
        focus = self.viewer.window._qt_window.focusWidget()
        if focus is not None:
            focus.clearFocus()
        for theme in themes:
            self.viewer.theme = theme
            self._size()
            self._close_notifications()
            self._wait_for_the_plot()
            self.settle(0.4)
            picture = self.viewer.screenshot(canvas_only=False, flash=False) if whole else self.widget.grab()
            _save(picture, self.images / f"{name}-{theme}.png")
        self.viewer.theme = THEMES[0]

    def _size(self) -> None:
        from qtpy.QtCore import Qt

        self.viewer.window._qt_window.resizeDocks([self._dock], [self._width], Qt.Orientation.Horizontal)

    def _wait_for_the_plot(self) -> None:
        """It is drawn in a thread of its own, after napari."""
        from napari.utils.theme import get_theme

        plot = self.widget.curves.plot if hasattr(self.widget, "curves") else None
        if plot is None:
            return
        wanted = get_theme(self.viewer.theme).background.as_rgb_tuple()[:3]

        def is_drawn() -> bool:
            image = plot.canvas._image
            return image is not None and image.pixelColor(2, 2).getRgb()[:3] == tuple(map(int, wanted))

        self.wait(is_drawn, f"the plot in the theme {self.viewer.theme}")

    def _close_notifications(self) -> None:
        from napari._qt.dialogs.qt_notification import NapariQtNotification

        for shown in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            shown.close()


def _save(picture: Any, path: Path) -> None:
    import numpy as np
    from PIL import Image
    from qtpy.QtGui import QImage, QPixmap

    if isinstance(picture, QPixmap):
        image = picture.toImage().convertToFormat(QImage.Format.Format_RGB888)
        bits = image.constBits()
        bits.setsize(image.sizeInBytes())
        rows = np.frombuffer(bits, np.uint8).reshape(image.height(), image.bytesPerLine())
        picture = rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)
    colors = Image.fromarray(np.ascontiguousarray(picture[..., :3]))
    colors.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def _left() -> Any:
    from qtpy.QtCore import Qt

    return Qt.MouseButton.LeftButton
