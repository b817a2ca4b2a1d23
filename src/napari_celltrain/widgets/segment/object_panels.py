"""Objects of a layer as a table to jump from: measured, or scored against true labels."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_celltrain.data.differences import Difference, WrongObject
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.values.text import count
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.rows import FieldRows, column, line
from napari_celltrain.widgets.layers import full_resolution, show_layer, undisturbed
from napari_celltrain.widgets.run.shown import error_looks
from napari_celltrain.widgets.segment.input_panel import LayerBox, Place, place_of, stack_of, volume_of
from napari_celltrain.widgets.segment.parts import Facts, RunRow
from napari_celltrain.widgets.segment.work import Columns, evaluate, measure
from napari_celltrain.widgets.table import Table
from napari_celltrain.widgets.theme import tooltip

if TYPE_CHECKING:
    from napari import Viewer

    from napari_celltrain.evaluate.evaluation import VolumeScores


class ObjectPanel(QWidget):
    """A choice of layers, a row that runs, a table of objects, and a button that saves it."""

    def __init__(self, viewer: Viewer, boxes: dict[str, LayerBox], run: RunRow, table: Table, save: str) -> None:
        super().__init__()
        self._viewer = viewer
        self._boxes = list(boxes.values())
        self._used: list[Any] = []  # weak references to what was chosen at the last run
        self.rows = FieldRows()
        self.run = run
        self.table = table
        self.save_button = QPushButton(save)
        for text, box in boxes.items():
            self.rows.add_control(text, box)
            box.valueChanged.connect(self._renew)
        self.column = column(self, self.rows, run, table, line(self.save_button), spacing=4)
        run.started.connect(self._run)
        table.picked.connect(self._jump)
        self.save_button.clicked.connect(self.save)
        self._renew()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed."""
        for box in self._boxes:
            box.reset_choices()

    def save(self) -> None:
        """Ask where to, and write what is shown."""
        chosen = self._ask_where()
        if chosen:
            self.save_to(Path(chosen))

    def save_to(self, path: Path) -> None:
        try:
            show_info(self._write(path))
        except CellTrainError as error:
            show_error(str(error))

    def _ask_where(self) -> str:
        raise NotImplementedError

    def _write(self, path: Path) -> str:
        """Returns what to say about it."""
        raise NotImplementedError

    def _start(self) -> None:
        """Raises :class:`CellTrainError` for layers that cannot be used."""
        raise NotImplementedError

    def _locate(self, row: int) -> tuple[int, int, Sequence[float]]:
        """Of the object in a row of the table: number of the box of its layer, label, and centre in voxels."""
        raise NotImplementedError

    def _run(self) -> None:
        self._used = [box.value() and weakref.ref(box.value()) for box in self._boxes]
        with self.run.errors_shown():
            self._start()

    def _jump(self, row: int) -> None:
        box, label, centre_zyx = self._locate(row)
        layer = self._used[box]()
        if layer is not None:
            jump_to(self._viewer, layer, label, centre_zyx)

    def _renew(self) -> None:
        self.run.set_possible(all(box.is_optional or box.value() is not None for box in self._boxes))


class MeasurePanel(ObjectPanel):
    """A labels layer in, and an image layer where intensities are wanted; a row for each object out."""

    def __init__(self, viewer: Viewer) -> None:
        self._centres: NDArray[np.float64] = np.zeros((0, 3))
        self.columns: Columns = {}
        self.labels = LayerBox(viewer, "labels", "Layer of labels to measure", "Labels whose objects are measured")
        self.image = LayerBox(
            viewer, "image", "Layer of intensities", "Image whose intensities are measured, or none", optional=True
        )
        help_text = "Measure every object, and keep the table in the layer's features"
        run, table = RunRow("Measure", help_text, "Measuring"), Table("Measurements of each object")
        super().__init__(viewer, {"Labels": self.labels, "Image": self.image}, run, table, "Save CSV…")
        self.save_button.setToolTip(tooltip("Write the table to a file that spreadsheets and pandas read"))
        self._show({})

    def propose(self, labels: Any, image: Any) -> None:
        """What was segmented last is likely to be measured next."""
        self.labels.setValue(labels)
        self.image.setValue(image)

    def _ask_where(self) -> str:
        layer = self._used[0]()
        name = "objects.csv" if layer is None else f"{layer.name}.csv"
        return QFileDialog.getSaveFileName(self, "Save the table", str(Path.home() / name), "CSV (*.csv)")[0]

    def _write(self, path: Path) -> str:
        from napari_celltrain.values.files import write_table

        write_table(path, list(self.columns), zip(*self.columns.values(), strict=True))
        return f"The table of {count(len(self._centres), 'object')} is in {path}."

    def _start(self) -> None:
        labels, image = volume_of(self.labels.value()), self.image.value()
        images = []
        if image is not None:
            stack = stack_of(image)
            images = [volume_of(image, index) for index in range(stack.num if stack else 1)]
        self._show({})
        self.run.start(lambda job: measure(labels, images), self._take, "Measuring")

    def _take(self, found: tuple[Columns, NDArray[np.float64]]) -> None:
        columns, self._centres = found
        layer = self._used[0]()
        if layer is not None:
            layer.features = {"index": columns["label"]} | columns
        self._show(columns)
        objects = count(len(self._centres), "object")
        self.run.message.say(f"{objects} measured; the table is also in the layer's features.")

    def _show(self, columns: Columns) -> None:
        self.columns = columns
        self.table.set_columns(columns)
        self.save_button.setVisible(bool(columns))

    def _locate(self, row: int) -> tuple[int, int, Sequence[float]]:
        return 0, int(self.columns["label"][row]), tuple(self._centres[row])


# --- scores --------------------------------------------------------------------------------------------------

ERRORS = "wrong objects"
KINDS = {
    Difference.MISSED_OBJECT: "missed",
    Difference.FALSE_OBJECT: "false",
    Difference.SPLIT_OBJECT: "split",
    Difference.MERGED_OBJECTS: "merged",
}
F1_AT = (0.5, 0.7, 0.9)
_UNKNOWN = "–"
_VOXEL_SCORES = (
    ("Dice", "dice", "Overlap of the voxels: twice what both have, over the sum of what each has."),
    ("IoU", "iou", "Voxels in both, over voxels in either."),
    ("Precision", "precision", "Share of the predicted voxels that are right."),
    ("Recall", "recall", "Share of the labelled voxels that were found."),
)
_OBJECT_SCORES = (
    ("Mean AP", "mean_average_precision", "TP / (TP + FP + FN), averaged over IoU 0.5, 0.55 … 0.95."),
    ("PQ", "panoptic_quality", "Panoptic quality: F1 at IoU 0.5 times the mean IoU of the objects found."),
    ("SEG", "seg", "Mean IoU of the labelled objects, of the Cell Tracking Challenge."),
)
WRONG_HELP: Mapping[str, str] = {
    "error": "Missed: labelled, not predicted. False: predicted, not labelled. Split: one object is several in the "
    "prediction. Merged: several objects are one in the prediction.",
    "in": "The layer that the object is in.",
    "label": "Its number there.",
    "best IoU": "Its largest overlap with an object of the other layer; from 0.5 on it would count as found.",
    "meets": "Objects of the other layer that share voxels with it, the largest share first.",
}


class ScoresPanel(ObjectPanel):
    """Two layers in, scores and a table of wrong objects out."""

    def __init__(self, viewer: Viewer) -> None:
        self.scores: VolumeScores | None = None
        self._marks: NDArray[np.uint8] | None = None
        self._place: Place | None = None
        self._kind: LabelKind = "objects"
        self.truth = LayerBox(viewer, "labels", "Layer of true labels", "Labels made by a person")
        self.prediction = LayerBox(viewer, "labels", "Layer of predicted labels", "Labels to be judged")
        run = RunRow("Compare", "Compute all scores, and find the objects that are wrong", "Comparing")
        boxes, table = {"True labels": self.truth, "Prediction": self.prediction}, Table("Wrong objects")
        super().__init__(viewer, boxes, run, table, "Save the scores…")
        self.save_button.setToolTip(tooltip("Write scores.csv, scores.json and a plot to a folder"))
        self.rows.add("data.label_kind")
        self.rows.add("data.ignore_value", label="Not annotated")
        self.facts = Facts()
        self.filter = ComboBox()
        self.filter.setAccessibleName("Errors shown")
        self.filter.currentIndexChanged.connect(self._filter)
        self.column.insertWidget(2, self.facts)
        self.column.insertWidget(3, self.filter)
        self._show(None)

    def propose(self, prediction: Any) -> None:
        """A new result is likely to be judged next; the labels of a person are any other layer."""
        self.prediction.setValue(prediction)
        if self.truth.value() is prediction:
            others = [layer for layer in self.truth.choices()[::-1] if layer is not prediction]
            self.truth.setValue(next(iter(others), None))

    def _ask_where(self) -> str:
        return QFileDialog.getExistingDirectory(self, "Folder for the scores", str(Path.home()))

    def _write(self, path: Path) -> str:
        from napari_celltrain.evaluate.evaluation import Evaluation
        from napari_celltrain.evaluate.tables import write_evaluation

        assert self.scores is not None
        paths = write_evaluation(Evaluation(self._kind, (self.scores,), self.scores), path)
        return f"The scores are in {', '.join(written.name for written in paths)} in {path}."

    def _start(self) -> None:
        truth, predicted = self.truth.value(), self.prediction.value()
        if truth is predicted:
            raise DataError("The same layer is chosen twice. Choose the true labels and the predicted ones.")
        volumes = volume_of(truth), volume_of(predicted)
        self._place = place_of(predicted)
        self._kind, ignore_value = self.rows.values()["label_kind"], self.rows.values()["ignore_value"]
        self._show(None)
        work = partial(evaluate, truth=volumes[0], predicted=volumes[1], kind=self._kind, ignore_value=ignore_value)
        self.run.start(work, self._take, "Comparing")

    def _take(self, found: tuple[VolumeScores, NDArray[np.uint8] | None]) -> None:
        scores, self._marks = found
        self._show(scores)

    def _show(self, scores: VolumeScores | None) -> None:
        self.scores = scores
        wrong = () if scores is None else scores.wrong
        self.facts.set_rows([] if scores is None else score_rows(scores))
        self.table.set_columns(wrong_columns(wrong, None if scores is None else scores.voxel_size), WRONG_HELP)
        with QSignalBlocker(self.filter):
            self.filter.clear()
            self.filter.addItem(f"{len(wrong):,} objects are wrong" if wrong else "No object is wrong")
            for kind, name in KINDS.items():
                num = 0 if scores is None else len(scores.wrong_of(kind))
                if num:
                    self.filter.addItem(f"{num:,} {name}", kind)
        self.filter.setVisible(scores is not None and scores.objects is not None)
        self.save_button.setVisible(scores is not None)
        self._filter()

    def _filter(self) -> None:
        """Show the errors of the chosen kind, in the table and as a layer coloured by kind."""
        kind = self.filter.currentData()
        wrong = () if self.scores is None else self.scores.wrong
        self.table.show_rows(np.array([n for n, found in enumerate(wrong) if kind in (None, found.kind)], np.int64))
        if self._marks is None or self._place is None or self.scores is None:
            return
        shaped = self._place.shaped(self._marks)
        with undisturbed(self._viewer):
            options = self._place.options | error_looks()
            layer = show_layer(self._viewer, "labels", ERRORS, shaped, opacity=0.7, **options)
            layer.colormap = error_looks(set(KINDS) if kind is None else {Difference(kind)})["colormap"]

    def _locate(self, row: int) -> tuple[int, int, Sequence[float]]:
        assert self.scores is not None
        found = self.scores.wrong[row]
        return 0 if found.side == "labels" else 1, found.label, found.centre_zyx


def score_rows(scores: VolumeScores) -> list[tuple[str, str, str]]:
    """Name, value and a line of help of each score."""
    voxels, objects = scores.voxels, scores.objects
    rows = [(name, getattr(voxels, key), text) for name, key, text in _VOXEL_SCORES]
    if objects is not None:
        help_text = "Objects that overlap by an IoU of at least {} count as found."
        rows += [(f"F1 at IoU {at}", objects.at(at).f1, help_text.format(at)) for at in F1_AT]
        rows += [(name, getattr(objects, key), text) for name, key, text in _OBJECT_SCORES]
    texts = [(name, _UNKNOWN if value is None else f"{value:.4f}", text) for name, value, text in rows]
    if objects is not None:
        counts = f"{objects.num_true:,} labelled, {objects.num_predicted:,} predicted"
        texts.append(("Objects", counts, f"{objects.count_error:+,} in the prediction."))
    return texts


def wrong_columns(wrong: Sequence[WrongObject], voxel_size: Spacing | None) -> dict[str, list[Any]]:
    """One row for each wrong object."""
    if not wrong:
        return {}
    volume = 1.0 if voxel_size is None else float(np.prod(voxel_size))
    return {
        "error": [KINDS[found.kind] for found in wrong],
        "in": [found.side for found in wrong],
        "label": [found.label for found in wrong],
        "voxels" if voxel_size is None else "µm³": [found.num_voxels * volume for found in wrong],
        "best IoU": [found.best_iou for found in wrong],
        "meets": [", ".join(map(str, found.partners[:4])) or _UNKNOWN for found in wrong],
    }


def jump_to(viewer: Any, layer: Any, label: int, position_zyx: Sequence[float]) -> None:
    """Move the sliders and the camera to a position in voxels of ``layer``, and select the object there.

    Zoom and angles stay. A layer that is hidden is shown.
    """
    if layer not in viewer.layers:
        return
    # z, y and x are the last axes, but for one of length one in their midst, as results of one channel have
    long = [axis for axis, size in enumerate(full_resolution(layer).shape) if size > 1]
    position = np.zeros(layer.ndim)
    position[long[-3:] if len(long) >= 3 else range(-3, 0)] = position_zyx
    world = layer.data_to_world(position)
    first = viewer.dims.ndim - layer.ndim
    viewer.dims.set_point(range(first, viewer.dims.ndim), [float(value) for value in world])
    # the camera goes to the object itself, the sliders to the nearest step
    displayed = [float(world[n - first] if n >= first else viewer.dims.point[n]) for n in viewer.dims.displayed]
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    camera.center = tuple([0.0] * (3 - len(displayed)) + displayed)
    layer.visible = True
    layer.selected_label = label
    viewer.layers.selection.active = layer
