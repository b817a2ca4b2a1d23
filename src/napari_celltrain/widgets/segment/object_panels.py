"""Objects of a layer as a table to jump from: measured, or scored against true labels."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from napari_celltrain.data.differences import Difference, WrongObject
from napari_celltrain.data.measure import Columns
from napari_celltrain.values.config import LabelKind, Spacing
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.values.files import write_table
from napari_celltrain.values.text import count
from napari_celltrain.widgets.background import Job
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.layers import full_resolution, show_layer, undisturbed
from napari_celltrain.widgets.run.shown import error_looks
from napari_celltrain.widgets.segment.input_panel import LayerBox, Place, place_of, stack_of, volume_of
from napari_celltrain.widgets.segment.parts import Facts, RunRow
from napari_celltrain.widgets.segment.work import evaluate, measure_objects
from napari_celltrain.widgets.table import Table
from napari_celltrain.widgets.theme import button, fill

if TYPE_CHECKING:
    from napari_celltrain.evaluate.evaluation import VolumeScores


class ObjectPanel(QWidget):
    """A choice of layers, a row that runs, a table of objects, and a button that saves it.

    ``run`` and ``save`` are the words of the row (:class:`RunRow`) and of the button.
    """

    def __init__(
        self, viewer: Any, boxes: dict[str, LayerBox], run: tuple[str, str, str], table: str, save: tuple[str, str]
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._boxes = list(boxes.values())
        self._used: list[Any] = []  # weak references to what was chosen at the last run
        self.rows = FieldRows()
        self.run = RunRow(*run, self._start)
        self.table = Table(table)
        self.save_button = button(*save, self.save)
        for text, box in boxes.items():
            self.rows.add_control(text, box)
            box.valueChanged.connect(self._renew)
        save_row = fill(QHBoxLayout(), self.save_button, None)
        self.column = fill(QVBoxLayout(self), self.rows, self.run, self.table, save_row, spacing=4)
        self.table.picked.connect(self._jump)
        self._renew()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed."""
        for box in self._boxes:
            box.reset_choices()

    def save(self) -> None:
        try:
            if message := self._save():
                show_info(message)
        except CellTrainError as error:
            show_error(str(error))

    def _start(self) -> None:
        """Raises :class:`CellTrainError` for layers that cannot be used."""
        raise NotImplementedError

    def _save(self) -> str:
        """Ask where to, write what is shown, and return what to say about it; nothing where that was cancelled."""
        raise NotImplementedError

    def _locate(self, row: int) -> tuple[int, int, Sequence[float]]:
        """Of the object in a row of the table: number of the box of its layer, label, and centre in voxels."""
        raise NotImplementedError

    def _run(self, work: Callable[[Job], Any], then: Callable[[Any], None]) -> None:
        self._used = [box.value() and weakref.ref(box.value()) for box in self._boxes]
        self.run.start(work, then)

    def _jump(self, row: int) -> None:
        box, label, centre_zyx = self._locate(row)
        jump_to(self._viewer, self._used[box](), label, centre_zyx)

    def _renew(self) -> None:
        self.run.set_possible(all(box.is_optional or box.value() is not None for box in self._boxes))


class MeasurePanel(ObjectPanel):
    """A labels layer in, and an image layer where intensities are wanted; a row for each object out."""

    def __init__(self, viewer: Any) -> None:
        self.labels = LayerBox(viewer, "labels", "Layer of labels to measure", "Labels whose objects are measured")
        help_text = "Image whose intensities are measured, or none"
        self.image = LayerBox(viewer, "image", "Layer of intensities", help_text, optional=True)
        help_text = "Measure every object, and keep the table in the layer's features"
        run, boxes = ("Measure", help_text, "Measuring"), {"Labels": self.labels, "Image": self.image}
        save = ("Save CSV…", "Write the table to a file that spreadsheets and pandas read")
        super().__init__(viewer, boxes, run, "Measurements of each object", save)
        self._show({})

    def propose(self, labels: Any, image: Any) -> None:
        """What was segmented last is likely to be measured next."""
        self.labels.setValue(labels)
        self.image.setValue(image)

    def _save(self) -> str:
        layer = self._used[0]()
        name = "objects.csv" if layer is None else f"{layer.name}.csv"
        path = QFileDialog.getSaveFileName(self, "Save the table", str(Path.home() / name), "CSV (*.csv)")[0]
        if not path:
            return ""
        write_table(Path(path), list(self.columns), zip(*self.columns.values(), strict=True))
        return f"The table of {count(len(self.columns['label']), 'object')} is in {path}."

    def _start(self) -> None:
        labels, image = volume_of(self.labels.value()), self.image.value()
        images = []
        if image is not None:
            stack = stack_of(image)
            images = [volume_of(image, index) for index in range(stack.num if stack else 1)]
        self._show({})
        self._run(lambda job: measure_objects(labels, images), self._take)

    def _take(self, columns: Columns) -> None:
        layer = self._used[0]()
        if layer is not None:
            layer.features = {"index": columns["label"]} | columns
        self._show(columns)
        objects = count(len(columns["label"]), "object")
        self.run.message.say(f"{objects} measured; the table is also in the layer's features.")

    def _show(self, columns: Columns) -> None:
        self.columns = columns
        self.table.set_columns(columns)
        self.save_button.setVisible(bool(columns))

    def _locate(self, row: int) -> tuple[int, int, Sequence[float]]:
        columns = self.columns
        return 0, int(columns["label"][row]), [columns[f"centroid_{axis}_voxels"][row] for axis in "zyx"]


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

    def __init__(self, viewer: Any) -> None:
        self.scores: VolumeScores | None = None
        self._marks: NDArray[np.uint8] | None = None
        self._place: Place = ({}, ())
        self._kind: LabelKind = "objects"
        self.truth = LayerBox(viewer, "labels", "Layer of true labels", "Labels made by a person")
        self.prediction = LayerBox(viewer, "labels", "Layer of predicted labels", "Labels to be judged")
        boxes = {"True labels": self.truth, "Prediction": self.prediction}
        run = ("Compare", "Compute all scores, and find the objects that are wrong", "Comparing")
        save = ("Save the scores…", "Write scores.csv, scores.json and a plot to a folder")
        super().__init__(viewer, boxes, run, "Wrong objects", save)
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

    def _save(self) -> str:
        from napari_celltrain.evaluate.evaluation import Evaluation
        from napari_celltrain.evaluate.tables import write_evaluation

        folder = QFileDialog.getExistingDirectory(self, "Folder for the scores", str(Path.home()))
        if not folder or self.scores is None:
            return ""
        paths = write_evaluation(Evaluation(self._kind, (self.scores,), self.scores), Path(folder))
        return f"The scores are in {', '.join(path.name for path in paths)} in {folder}."

    def _start(self) -> None:
        truth, predicted = self.truth.value(), self.prediction.value()
        if truth is predicted:
            raise DataError("The same layer is chosen twice. Choose the true labels and the predicted ones.")
        given = self.rows.values()
        self._kind = given["label_kind"]
        work = partial(evaluate, truth=volume_of(truth), predicted=volume_of(predicted), **given)
        self._place = place_of(predicted)
        self._show(None)
        self._run(work, self._take)

    def _take(self, found: tuple[VolumeScores, NDArray[np.uint8] | None]) -> None:
        scores, self._marks = found
        self._show(scores)

    def _show(self, scores: VolumeScores | None) -> None:
        self.scores = scores
        wrong = () if scores is None else scores.wrong
        self.facts.set_rows([] if scores is None else score_rows(scores))
        self.table.set_columns({} if scores is None else wrong_columns(wrong, scores.voxel_size), WRONG_HELP)
        with QSignalBlocker(self.filter):
            self.filter.clear()
            self.filter.addItem(f"{len(wrong):,} objects are wrong" if wrong else "No object is wrong")
            for kind, name in KINDS.items():
                num = sum(found.kind == kind for found in wrong)
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
        if self._marks is not None and self.scores is not None:
            options, axes = self._place
            marks = np.expand_dims(self._marks, axes)
            with undisturbed(self._viewer):
                layer = show_layer(self._viewer, "labels", ERRORS, marks, opacity=0.7, **options, **error_looks())
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

    Zoom and angles stay. A layer that is hidden is shown, and one that is gone (or None) passed over.
    """
    if layer not in viewer.layers:
        return
    # z, y and x are the last axes, but for one of length one in their midst, as results of one channel have
    long = [axis for axis, size in enumerate(full_resolution(layer).shape) if size > 1]
    position = np.zeros(layer.ndim)
    position[long[-3:] if len(long) >= 3 else range(-3, 0)] = position_zyx
    world = [*viewer.dims.point[: -layer.ndim], *map(float, layer.data_to_world(position))]
    viewer.dims.set_point(range(len(world)), world)
    # the camera goes to the object itself, the sliders to the nearest step
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari 0.9, and before
    camera.center = (0.0, 0.0, *(world[axis] for axis in viewer.dims.displayed))[-3:]
    layer.visible = True
    layer.selected_label = label
    viewer.layers.selection.active = layer
