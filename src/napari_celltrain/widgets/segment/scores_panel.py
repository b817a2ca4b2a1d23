"""Scores and wrong objects as tables.

How good a prediction is: a labels layer against the labels of a person, with the objects that are wrong.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QFormLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_celltrain.data.differences import Difference, WrongObject, mark_wrong
from napari_celltrain.io.volume import ArrayVolume
from napari_celltrain.values.config import Spacing
from napari_celltrain.values.errors import CellTrainError, DataError
from napari_celltrain.widgets.background import Background, Job
from napari_celltrain.widgets.forms.inputs import ComboBox
from napari_celltrain.widgets.forms.rows import FieldRows
from napari_celltrain.widgets.layers import show_layer, undisturbed
from napari_celltrain.widgets.run.prediction_layers import error_looks
from napari_celltrain.widgets.segment.layers import LayerBox, Place, jump_to, place_of, volume_of
from napari_celltrain.widgets.segment.object_table import ObjectTable
from napari_celltrain.widgets.segment.run_row import RunRow
from napari_celltrain.widgets.theme import plain_label, tooltip

if TYPE_CHECKING:
    from napari import Viewer

    from napari_celltrain.evaluate.evaluation import Step, VolumeScores
    from napari_celltrain.values.config import LabelKind

KINDS = {
    Difference.MISSED_OBJECT: "missed",
    Difference.FALSE_OBJECT: "false",
    Difference.SPLIT_OBJECT: "split",
    Difference.MERGED_OBJECTS: "merged",
}
F1_AT = (0.5, 0.7, 0.9)
_UNSURE = "–"


def score_rows(scores: VolumeScores) -> list[tuple[str, str, str]]:
    """Name, value and a line of help of each score."""
    voxels, objects = scores.voxels, scores.objects
    rows: list[tuple[str, float | None, str]] = [
        ("Dice", voxels.dice, "Overlap of the voxels: twice what both have, over the sum of what each has."),
        ("IoU", voxels.iou, "Voxels in both, over voxels in either."),
        ("Precision", voxels.precision, "Share of the predicted voxels that are right."),
        ("Recall", voxels.recall, "Share of the labelled voxels that were found."),
    ]
    if objects is None:
        return [(name, _number(value), text) for name, value, text in rows]
    rows += [
        (f"F1 at IoU {at}", objects.at(at).f1, f"Objects that overlap by an IoU of at least {at} count as found.")
        for at in F1_AT
    ]
    rows += [
        ("Mean AP", objects.mean_average_precision, "TP / (TP + FP + FN), averaged over IoU 0.5, 0.55 … 0.95."),
        ("PQ", objects.panoptic_quality, "Panoptic quality: F1 at IoU 0.5 times the mean IoU of what was found."),
        ("SEG", objects.seg, "Mean IoU of the labelled objects, of the Cell Tracking Challenge."),
    ]
    texts = [(name, _number(value), text) for name, value, text in rows]
    counts = f"{objects.num_true:,} labelled, {objects.num_predicted:,} predicted"
    return [*texts, ("Objects", counts, f"{objects.count_error:+,} in the prediction.")]


def _number(value: float | None) -> str:
    return _UNSURE if value is None else f"{value:.4f}"


def wrong_columns(wrong: Sequence[WrongObject], voxel_size: Spacing | None) -> dict[str, NDArray[Any]]:
    """One row for each wrong object."""
    if not wrong:
        return {}
    volume = 1.0 if voxel_size is None else float(np.prod(voxel_size))
    return {
        "error": np.array([KINDS[found.kind] for found in wrong]),
        "in": np.array([found.side for found in wrong]),
        "label": np.array([found.label for found in wrong]),
        "voxels" if voxel_size is None else "µm³": np.array([found.num_voxels * volume for found in wrong]),
        "best IoU": np.array([found.best_iou for found in wrong]),
        "meets": np.array([", ".join(map(str, found.partners[:4])) or _UNSURE for found in wrong]),
    }


WRONG_HELP: Mapping[str, str] = {
    "error": "Missed: labelled, not predicted. False: predicted, not labelled. Split: one is several in the "
    "prediction. Merged: several are one in the prediction.",
    "in": "The layer that the object is in.",
    "label": "Its number there.",
    "best IoU": "Its largest overlap with an object of the other layer; from 0.5 on it would count as found.",
    "meets": "Objects of the other layer that share voxels with it, the largest share first.",
}


# --- scores panel ----------------------------------------------------------------------------------------

ERRORS = "wrong objects"


class ScoresPanel(QWidget):
    """Two layers in, scores and a table of wrong objects out."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.scores: VolumeScores | None = None
        self._kind: LabelKind = "objects"
        self._layers: dict[str, Any] = {}
        self._marks: NDArray[np.uint8] | None = None
        self._place: Place | None = None
        self.truth = LayerBox(viewer, "labels", "Layer of true labels", "Labels made by a person")
        self.prediction = LayerBox(viewer, "labels", "Layer of predicted labels", "Labels to be judged")
        self.rows = FieldRows()
        self.run = RunRow("Compare", "Compute all scores, and find the objects that are wrong")
        self.table = _ScoreTable()
        self.filter = ComboBox()
        self.filter.setAccessibleName("Which errors are shown")
        self.wrong = ObjectTable("Objects that are wrong")
        self.export_button = QPushButton("Save the scores…")
        self.export_button.setToolTip(tooltip("Write scores.csv, scores.json and a plot to a folder"))
        self._work = Background("Comparing", self)
        self._lay_out()
        self._connect()
        self._show(None)
        self.reset_choices()

    def reset_choices(self, *_: Any) -> None:
        """The layers of the viewer have changed."""
        both = (self.truth, self.prediction)
        for box in both:
            box.reset_choices()
        self._renew()

    def propose(self, prediction: Any) -> None:
        """A new result is likely to be judged next; the labels of a person are any other layer."""
        self.prediction.setValue(prediction)
        if self.truth.value() is prediction:
            others = [layer for layer in self._viewer.layers if layer is not prediction and self.truth.has(layer)]
            if others:
                self.truth.setValue(others[0])

    def compare(self) -> None:
        truth, predicted = self.truth.value(), self.prediction.value()
        try:
            if truth is predicted:
                raise DataError("The same layer is chosen twice. Choose the true labels and the predicted ones.")
            volumes = volume_of(truth), volume_of(predicted)
            self._place = place_of(predicted)
        except CellTrainError as error:
            self.run.say(str(error), wrong=True)
            return
        values = self.rows.values()
        self._kind = values["label_kind"]
        self._layers = {"labels": weakref.ref(truth), "prediction": weakref.ref(predicted)}
        self._show(None)
        self.run.begin("Comparing")
        kind, ignore_value = self._kind, values["ignore_value"]
        self._work.start(lambda job: evaluate(job, *volumes, kind, ignore_value))

    def export(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder for the scores", str(Path.home()))
        if chosen:
            self.save_to(Path(chosen))

    def save_to(self, folder: Path) -> None:
        """Write the scores shown to ``folder``."""
        from napari_celltrain.evaluate.evaluation import Evaluation
        from napari_celltrain.evaluate.score_files import write_evaluation

        if self.scores is None:
            return
        try:
            paths = write_evaluation(Evaluation(self._kind, (self.scores,), self.scores), folder)
        except CellTrainError as error:
            show_error(str(error))
            return
        show_info(f"The scores are in {', '.join(path.name for path in paths)} in {folder}.")

    def _take(self, found: tuple[VolumeScores, NDArray[np.uint8] | None]) -> None:
        scores, self._marks = found
        self._show(scores)

    def _fail(self, message: str) -> None:
        self.run.say(message, wrong=True)

    def _show(self, scores: VolumeScores | None) -> None:
        self.scores = scores
        self.table.set_rows(score_rows(scores) if scores is not None else [])
        wrong = scores.wrong if scores is not None else ()
        self.wrong.set_columns(wrong_columns(wrong, scores.voxel_size if scores is not None else None), WRONG_HELP)
        self.filter.blockSignals(True)
        self.filter.clear()
        self.filter.addItem(f"{len(wrong):,} objects are wrong" if wrong else "No object is wrong")
        for kind, name in KINDS.items():
            num = len(scores.wrong_of(kind)) if scores is not None else 0
            if num:
                self.filter.addItem(f"{num:,} {name}", kind)
        self.filter.blockSignals(False)
        has_objects = scores is not None and scores.objects is not None
        self.filter.setVisible(has_objects)
        self.export_button.setVisible(scores is not None)
        self._show_layer()

    def _filter(self) -> None:
        kind = self.filter.currentData()
        if self.scores is None:
            return
        rows = [n for n, found in enumerate(self.scores.wrong) if kind is None or found.kind == kind]
        self.wrong.show_rows(np.array(rows, np.int64))
        self._show_layer()

    def _show_layer(self) -> None:
        """What the table lists, coloured by what is wrong with it."""
        if self._marks is None or self._place is None or self.scores is None:
            return
        kind = self.filter.currentData()
        kinds = set(KINDS) if kind is None else {Difference(kind)}
        with undisturbed(self._viewer):
            layer = show_layer(
                self._viewer,
                "labels",
                ERRORS,
                self._place.shaped(self._marks),
                opacity=0.7,
                **self._place.options,
                **error_looks(),
            )
            layer.colormap = error_looks(kinds)["colormap"]

    def _jump(self, row: int) -> None:
        if self.scores is None:
            return
        found = self.scores.wrong[row]
        layer = self._layers[found.side]()
        if layer is not None:
            jump_to(self._viewer, layer, found.label, found.centre_zyx)

    def _renew(self) -> None:
        self.run.set_possible(self.truth.value() is not None and self.prediction.value() is not None)

    def _lay_out(self) -> None:
        form = self.rows.form
        for text, box in (("True labels", self.truth), ("Prediction", self.prediction)):
            label = QLabel(text)
            label.setBuddy(box)
            form.addRow(label, box)
        self.rows.add("data.label_kind")
        self.rows.add("data.ignore_value")
        buttons = QHBoxLayout()
        buttons.addWidget(self.export_button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.rows, self.run, self.table, self.filter, self.wrong):
            layout.addWidget(widget)
        layout.addLayout(buttons)

    def _connect(self) -> None:
        self.run.started.connect(self.compare)
        self.run.cancelled.connect(self._work.cancel)
        self._work.progressed.connect(self.run.show_progress)
        self._work.answered.connect(self._take)
        self._work.failed.connect(self._fail)
        self._work.ended.connect(self.run.end)
        self.filter.currentIndexChanged.connect(self._filter)
        self.wrong.picked.connect(self._jump)
        self.export_button.clicked.connect(self.export)
        for box in (self.truth, self.prediction):
            box.valueChanged.connect(self._renew)


class _ScoreTable(QWidget):
    """Names and values, in two columns of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 2, 0, 2)
        self._form.setVerticalSpacing(1)
        self._form.setHorizontalSpacing(12)
        self.values: dict[str, str] = {}

    def set_rows(self, rows: list[tuple[str, str, str]]) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        self.values = {name: value for name, value, _ in rows}
        for name, value, text in rows:
            heading, shown = QLabel(name), plain_label(value)
            for label in (heading, shown):
                label.setToolTip(tooltip(text))
            shown.setAlignment(Qt.AlignmentFlag.AlignLeft)
            self._form.addRow(heading, shown)
        self.setVisible(bool(rows))


def evaluate(
    job: Job, truth: ArrayVolume, predicted: ArrayVolume, kind: LabelKind, ignore_value: int | None
) -> Generator[Step, None, tuple[VolumeScores, NDArray[np.uint8] | None]]:
    """The scores, and for objects the wrong ones as :class:`Difference`; in a worker thread."""
    from napari_celltrain.evaluate.evaluation import evaluate_arrays

    scores = yield from evaluate_arrays(
        truth.lazy(),
        predicted.lazy(),
        truth.voxel_size or predicted.voxel_size,
        name=predicted.name,
        label_kind=kind,
        ignore_value=ignore_value,
    )
    if scores.objects is None or job.is_cancelled:
        return scores, None
    return scores, mark_wrong(truth.lazy(), predicted.lazy(), scores.wrong, ignore_value)
