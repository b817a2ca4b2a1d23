"""What a run shows in the viewer: its predictions as layers, renewed at each validation, and its curves in a dock."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Container, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject, QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QMainWindow, QSlider, QWidget

from napari_celltrain.data.differences import Difference
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import EpochDone, Event, Failed, Finished, Started, Validated
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.layers import PAUSE_MS, beside_the_others, find_layer, show_layer, sized, undisturbed
from napari_celltrain.widgets.previews import Preview, PreviewVolume, open_preview_volume, read_preview
from napari_celltrain.widgets.responsive import SHARE, drawn_once, redraw_seconds, timer
from napari_celltrain.widgets.run.controller import RunController
from napari_celltrain.widgets.theme import button, fill, tooltip

if TYPE_CHECKING:
    from napari import Viewer

    from napari_celltrain.widgets.run.curves import CurvesPlot

IMAGE, LABELS, PREDICTION, ERRORS = "validation image", "validation labels", "prediction", "errors"
# Okabe and Ito (2008): missed is blue or cold, false is orange or warm, whatever kind of colour vision sees it.
COLORS = {
    Difference.MISSED_VOXEL: "#56B4E9",
    Difference.FALSE_VOXEL: "#E69F00",
    Difference.WRONG_CLASS: "#CC79A7",
    Difference.MISSED_OBJECT: "#0072B2",
    Difference.FALSE_OBJECT: "#D55E00",
    Difference.SPLIT_OBJECT: "#F0E442",
    Difference.MERGED_OBJECTS: "#009E73",
}
LONGEST_REST = 20.0
"""Seconds: a prediction is renewed that often even where it takes the window long to show it."""
_LATER_MS = 90  # after a start, which has enough to show by itself
_CORNER = Qt.Corner.BottomRightCorner
_DRAWN = (Started, EpochDone, Validated, Finished, Failed)
_warmed_up: set[np.dtype[Any]] = set()


class PredictionLayers(QWidget):
    """Predictions as layers: whether they are shown, a slider back through their epochs, and a button to find them.

    At the end of the slider, the latest prediction is shown.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._reading = Background("Reading the prediction", self)
        self._reading.answered.connect(self._show)
        self._reading.failed.connect(self._fail)
        self._reading.ended.connect(self._load)
        self._steps: Iterator[None] | None = None
        self._turn = timer(self, self._step, PAUSE_MS)
        self._rest = timer(self, self._load)
        self.box = QCheckBox("Show predictions")
        shown = "one validation volume, its labels, the prediction and its errors"
        self.box.setToolTip(tooltip(f"At each validation, show {shown} as layers"))
        self.box.setChecked(True)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setAccessibleName("Epoch of the prediction shown")
        self.label = QLabel()
        help_text = "Move the view so that all layers are seen, the predictions among them"
        self.find_button = button("Go there", help_text, self._find)
        row = fill(QHBoxLayout(self), self.box, self.slider, self.label, self.find_button)
        row.setStretchFactor(self.slider, 1)
        self.box.toggled.connect(self._choose)
        self.slider.valueChanged.connect(self._choose)
        self.forget()

    def forget(self) -> None:
        """Begin again with another run; its layers take the place of the old ones."""
        self._reading.cancel()
        self._rest.stop()
        self._steps = None
        self._folder: RunFolder | None = None
        self._volume: PreviewVolume | None = None
        self._paths: dict[int, str] = {}
        self._added: set[str] = set()
        self._where: dict[str, Any] = {}
        self._failed = False
        self._ended = False
        self.epoch: int | None = None
        """That of the layers."""
        self._renew()

    @property
    def epochs(self) -> list[int]:
        """Those that have a prediction, in order."""
        return sorted(self._paths)

    @property
    def is_busy(self) -> bool:
        """Whether a prediction is being read, or put into the viewer."""
        return self._reading.is_busy or self._steps is not None

    def add_events(self, events: tuple[Event, ...], folder: RunFolder | None) -> None:
        paths = {e.epoch: e.preview for e in events if isinstance(e, Validated) and e.preview is not None}
        self._ended = self._ended or any(isinstance(event, Finished | Failed) for event in events)
        self._folder = folder
        self._paths |= paths
        if paths or self._ended:
            self._renew()
            self._load(now=self._ended)

    def _renew(self) -> None:
        epochs, follows = self.epochs, self.slider.value() == self.slider.maximum()
        with QSignalBlocker(self.slider):
            self.slider.setMaximum(max(0, len(epochs) - 1))
            if follows:
                self.slider.setValue(self.slider.maximum())
        self.setVisible(bool(epochs))
        self.slider.setEnabled(len(epochs) > 1 and self.box.isChecked())
        if epochs:
            self.label.setText(f"epoch {epochs[self.slider.value()]}")

    def _choose(self, *_: object) -> None:
        self._renew()
        self._load(now=True)

    def _find(self) -> None:
        self._viewer.reset_view()

    def _load(self, *, now: bool = False) -> None:
        """Read what is to be seen, unless it is seen already: at once where ``now``, else after the rest."""
        if now:
            self._rest.stop()
        may_read = self.box.isChecked() and not (self._failed or self.is_busy or self._rest.isActive())
        if may_read and self._folder is not None and self._paths:
            wanted = self.epochs[self.slider.value()]
            if wanted != self.epoch:
                self._reading.start(partial(_read, self._folder, self._volume, self._paths[wanted], wanted))

    def _fail(self, message: str) -> None:
        self._failed = True  # once is enough: the next validation would say the same
        if self._folder is not None and self._folder.path.is_dir():  # where all is gone, the run itself says so
            show_warning(f"The live prediction cannot be shown. {message}")

    def _show(self, loaded: tuple[PreviewVolume, Preview]) -> None:
        self._steps = self._put(*loaded)
        self._step()

    def _step(self) -> None:
        if self._steps is None:
            return
        begun = time.perf_counter()
        try:
            with undisturbed(self._viewer):
                next(self._steps, None)
        except Exception:  # napari shows it; the layers that are left would hardly fare better
            self._steps = None
            self._failed = True
            raise
        self._seconds += time.perf_counter() - begun
        if self._steps is None:
            self._load()
        else:
            self._turn.start()

    def _put(self, volume: PreviewVolume, preview: Preview) -> Iterator[None]:
        """One layer at a time: each costs the window up to a tenth of a second, mostly inside napari."""
        self._seconds = 0.0
        is_renewed = {PREDICTION, ERRORS} <= self._added
        if self._volume is None:
            self._volume = volume
            self._where = sized(self._viewer, volume.voxel_size)
            shape, scale = volume.target.shape, self._where["scale"]
            self._where["translate"] = beside_the_others(self._viewer, shape, scale)
            image = self._set(IMAGE, "image", volume.image, contrast_limits=volume.contrast)
            if image is not None and tuple(image.contrast_limits) != volume.contrast:
                image.contrast_limits = volume.contrast
            yield
            self._set(LABELS, "labels", volume.labels, visible=False)
            yield
        self._set(PREDICTION, "labels", preview.labels, opacity=0.5)
        yield
        self._set(ERRORS, "labels", preview.errors, opacity=0.7, **error_looks())
        yield
        self.epoch = preview.epoch
        if is_renewed and not self._ended and self.slider.value() == self.slider.maximum():
            seconds = self._seconds + 2 * redraw_seconds()  # of the prediction and of its errors
            self._rest.start(int(1000 * min(seconds / SHARE, LONGEST_REST)))
        self._steps = None

    def _set(self, name: str, kind: str, data: Any, **looks: Any) -> Any:
        """Renew a layer, or add it; one that the user has removed since stays away until the next run."""
        if name in self._added and find_layer(self._viewer, name) is None:
            return None
        self._added.add(name)
        return show_layer(self._viewer, kind, name, data, **self._where, **looks)


def _read(
    folder: RunFolder, volume: PreviewVolume | None, path: str, epoch: int, job: Job
) -> tuple[PreviewVolume, Preview]:
    if volume is None:
        volume = open_preview_volume(folder)
    preview = read_preview(folder, volume, path, epoch)
    warm_up(volume.labels.dtype, preview.labels.dtype)
    return volume, preview


def warm_up(*dtypes: np.dtype[Any]) -> None:
    """What napari does once for the first labels of a kind: seconds of work, which need not be the window's.

    It loads pandas and parts of scikit-image and of scipy (a camera's angles), compiles by numba, where installed, how
    numbers become colours, and has vispy work out the dashes of the lines that tools draw with.
    """
    for dtype in {*dtypes, np.dtype(np.uint8)} - _warmed_up:
        Labels(np.ones((1, 2, 2), dtype), features={"index": [1]}).colormap.map(np.ones((2, 2), dtype))
        _warmed_up.add(dtype)
    Labels(np.ones((1, 2, 2), np.uint8), **error_looks())
    importlib.import_module("scipy.spatial.transform")
    with contextlib.suppress(ImportError):  # napari draws with vispy today
        importlib.import_module("vispy.visuals.line.dash_atlas").DashAtlas()


def error_looks(kinds: Container[Difference] = frozenset(Difference)) -> dict[str, Any]:
    """How a layer of :class:`Difference` is shown; errors of other ``kinds`` are not."""
    colors: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    colors |= {int(difference): color for difference, color in COLORS.items() if difference in kinds}
    return {
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": {"index": list(map(int, Difference)), "difference": [d.description for d in Difference]},
    }


class CurvesDock(QObject):
    """Docks the plot when the first run begins, for which matplotlib is imported in a thread, and takes it out again.

    A plot that the user closes does not come back before the next run.
    """

    def __init__(self, viewer: Viewer, controller: RunController, parent: QWidget) -> None:
        super().__init__(parent)
        self._widget = parent
        self._viewer = viewer
        self._controller = controller
        self.plot: CurvesPlot | None = None
        self._is_removed = False
        self._loader = Background("Loading the plot", self)
        self._loader.answered.connect(self._dock)
        self._loader.failed.connect(show_warning)
        controller.stateChanged.connect(self._renew)
        controller.eventsReceived.connect(self._draw)
        if controller.is_busy or controller.history().rows:
            self._begin()

    def remove(self) -> None:
        """Out of the viewer, for good."""
        self._is_removed = True
        self._loader.cancel()
        if self.plot is None:
            return
        if isinstance(window := self.plot.window(), QMainWindow):
            window.setCorner(_CORNER, Qt.DockWidgetArea.BottomDockWidgetArea)  # as Qt has it
        with contextlib.suppress(LookupError, RuntimeError, AttributeError):  # the user, or napari, was quicker
            self._viewer.window.remove_dock_widget(self.plot)
        self._drop()

    def _renew(self) -> None:
        if self._controller.state == "preparing" and not self._controller.events:
            QTimer.singleShot(_LATER_MS, self._begin)

    def _begin(self) -> None:
        if not (self._is_removed or self._loader.is_busy or self._is_docked()):
            # in a thread: it takes half a second, and minutes where matplotlib looks for fonts for the first time
            self._loader.start(lambda job: importlib.import_module("napari_celltrain.widgets.run.curves"))

    def _dock(self, curves: Any) -> None:
        self._drop()  # one that was closed by its ✕
        self.plot = curves.CurvesPlot(self._viewer)
        with drawn_once(self._widget.window() or self._widget):
            dock = self._viewer.window.add_dock_widget(self.plot, name="CellTrain curves", area="bottom")
            if isinstance(window := self.plot.window(), QMainWindow):
                # Below the canvas only: the widget at the right keeps its whole height.
                window.setCorner(_CORNER, Qt.DockWidgetArea.RightDockWidgetArea)
                window.resizeDocks([dock], [250], Qt.Orientation.Vertical)
        self.plot.show_history(self._controller.history())

    def _drop(self) -> None:
        plot, self.plot = self.plot, None
        if plot is not None:
            plot.forget_viewer()
            plot.deleteLater()

    def _is_docked(self) -> bool:
        return self.plot is not None and self.plot.parent() is not None

    def _draw(self, events: tuple[Event, ...]) -> None:
        if self.plot is not None and self._is_docked() and any(isinstance(event, _DRAWN) for event in events):
            self.plot.show_history(self._controller.history())
