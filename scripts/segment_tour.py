"""The pictures of "Using the model" in the user guide: the second widget, with a model that was really trained.

A part of ``make_screenshots.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio import Studio


class SegmentTour:
    """What someone does who has a model, in that order."""

    def __init__(self, studio: Studio, run: Path, image: Path, labels: Path) -> None:
        from napari_celltrain.widgets.segment.widget import SegmentWidget

        self.studio, self.viewer = studio, studio.viewer
        self._run, self._image, self._labels = run, image, labels
        self.viewer.layers.clear()
        studio.remove_widget()
        self.widget = SegmentWidget(self.viewer)
        studio.use(self.widget, "Segment with a trained model")

    def everything(self) -> None:
        studio, widget = self.studio, self.widget
        studio.wait(lambda: not widget.model._finder.is_busy, "the recent models")
        studio.shoot("segment-empty")
        layer = self._open_image()
        widget.model.path.setValue(self._run)
        studio.wait(lambda: widget.model.card is not None, "the model")
        studio.press(widget.options_fold.button)
        studio.wait(lambda: "Looking" not in widget.options.device.help_line.text(), "the devices")
        studio.shoot("segment-filled")
        studio.press(widget.options_fold.button)

        studio.press(widget.run.button)
        studio.wait(lambda: widget.run.bar.maximum() > 0, "the first windows")
        studio.shoot("segment-running", themes=("dark",))
        studio.wait(lambda: not widget.run.is_running, "the segmentation")
        studio.shoot("segment-window", whole=True, themes=("dark",))
        self._score()
        self._measure(layer)
        self._refuse()

    def _open_image(self) -> Any:
        from napari_celltrain.io.volumes import open_volume

        volume = open_volume(self._image)
        units = ("um",) * 3
        return self.viewer.add_image(volume.read(), name=volume.name, scale=volume.voxel_size, units=units)

    def _score(self) -> None:
        from napari_celltrain.io.volumes import open_labels

        studio, scores, viewer = self.studio, self.widget.scores, self.viewer
        volume = open_labels(self._labels)
        truth = viewer.add_labels(
            volume.read(), name="true labels", scale=volume.voxel_size, units=("um",) * 3, visible=False
        )
        studio.press(self.widget.scores_fold.button)
        scores.truth.setValue(truth)
        scores.prediction.setValue(viewer.layers[1])
        studio.press(scores.run.button)
        studio.wait(lambda: not scores.run.is_running, "the scores")
        studio.pick_row(scores.table)
        self._scroll_to(scores.save_button)
        studio.shoot("segment-scores-window", whole=True)
        studio.press(self.widget.scores_fold.button)

    def _measure(self, image: Any) -> None:
        studio, panel = self.studio, self.widget.measure
        studio.press(self.widget.measure_fold.button)
        panel.labels.setValue(self.viewer.layers[1])
        panel.image.setValue(image)
        studio.press(panel.run.button)
        studio.wait(lambda: not panel.run.is_running, "the measurements")
        studio.pick_row(panel.table)
        self._scroll_to(panel.save_button)
        studio.shoot("segment-measure")
        studio.press(self.widget.measure_fold.button)

    def _refuse(self) -> None:
        """A folder of images in the place of a model."""
        self.widget.model.path.setValue(self._image.parent)
        self.studio.wait(lambda: not self.widget.model._reader.is_busy, "the refusal")
        self.studio.shoot("segment-error", themes=("dark",))

    def _scroll_to(self, part: Any) -> None:
        self.studio.settle()
        self.widget.scroll_area.ensureWidgetVisible(part, 0, 10)
        self.studio.settle()
