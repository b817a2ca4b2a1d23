#!/usr/bin/env python
"""Makes the pictures of the user guide: the real program, driven by its own controls, and a real run.

    python scripts/make_screenshots.py                        # into docs/images, in about four minutes
    python scripts/make_screenshots.py --width 350 --images /tmp/narrow

Without a display: xvfb-run -a -s "-screen 0 1920x1200x24" python scripts/make_screenshots.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from segment_tour import SegmentTour
from studio import Studio

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = Path(tempfile.gettempdir()) / "you"
"""Stands for the home folder: what the pictures show of paths is below it."""
WINDOW = (1360, 900)
EPOCHS = 40
NUM_SEEN = 8  # validations before the first picture of the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REPOSITORY / "docs" / "images", help="folder for the pictures")
    parser.add_argument("--width", type=int, default=440, help="of the widget, in pixels")
    parser.add_argument("--only-forms", action="store_true", help="leave out the pictures of runs")
    parser.add_argument("--use", type=_whole_path, metavar="RUN", help="only the pictures of using this run's model")
    wishes = parser.parse_args()
    if HOME.exists():
        sys.exit(f"{HOME} is there already: move it away, as this script removes it at its end.")
    HOME.mkdir(mode=0o700)
    try:
        _leave_the_users_settings_alone()
        tour = Tour(Studio(wishes.images, wishes.width))
        if wishes.use is None:
            tour.forms()
        if wishes.use is None and not wishes.only_forms:
            tour.runs()
        if not wishes.only_forms:
            tour.use(wishes.use)
        tour.studio.close()
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def _leave_the_users_settings_alone() -> None:
    """Before napari is imported."""
    hidden = HOME / ".hidden"
    os.environ |= {"HOME": str(HOME), "USERPROFILE": str(HOME), "NAPARI_CONFIG": str(hidden / "napari.yaml")}
    os.environ |= {f"XDG_{kind}_HOME": str(hidden / kind) for kind in ("CONFIG", "CACHE", "DATA", "STATE")}
    os.chdir(HOME)
    from qtpy.QtCore import QSettings

    for file_format in (QSettings.Format.IniFormat, QSettings.Format.NativeFormat):
        QSettings.setPath(file_format, QSettings.Scope.UserScope, str(hidden))


class Tour:
    """What a first user does, in that order."""

    def __init__(self, studio: Studio) -> None:
        from napari_celltrain.samples import write_demo

        self.studio = studio
        self.widget = studio.widget
        self.images, self.labels = write_demo(HOME / "nuclei")
        self.finished_run = Path()

    def forms(self) -> None:
        studio, widget = self.studio, self.widget
        studio.shoot("data-empty")
        self._choose_folders(*_write_broken(HOME / "unfinished"))
        studio.click(widget.panel.button)
        studio.shoot("data-errors")
        self._choose_folders(self.images, self.labels)
        studio.shoot("data-filled")

        tab = widget.augmentation_tab
        studio.turn_to(1)
        studio.shoot("augmentation")
        studio.click(tab.custom_button)
        row = tab.rows["affine"]
        studio.click(row.fold.button)
        studio.scroll_to(tab.list)
        studio.shoot("augmentation-custom")
        studio.click(row.fold.button)
        studio.click(tab.default_button)

        training = widget.training_tab
        text = training.expectation.text
        studio.turn_to(2)
        studio.wait(
            lambda: training.parameters_text.text()[:1].isdigit() and "estimated" not in text(), "the estimates"
        )
        studio.shoot("training")
        studio.click(training.advanced.button)
        studio.scroll_to(training.advanced_rows)
        studio.shoot("training-advanced")
        studio.click(training.advanced.button)

    def runs(self) -> None:
        studio, widget, controller = self.studio, self.widget, self.widget.controller
        studio.viewer.window.resize(*WINDOW)
        self._set_up_a_short_run()
        self._open_a_pair()
        studio.turn_to(2)
        studio.click(widget.panel.button)
        studio.wait(
            lambda: len(controller.history().points("dice")) >= NUM_SEEN and widget.curves.plot is not None,
            "validations",
        )
        studio.wait(lambda: widget.panel.predictions.epoch is not None, "the prediction's layers")
        self._arrange_layers()
        studio.shoot("running-window", whole=True)
        studio.click(widget.panel.button)
        studio.shoot("stopping")
        studio.wait(lambda: controller.state == "finished", "the end of the run")
        studio.shoot("finished")

        row = widget.panel.segment_row
        studio.click(row.run.button)
        studio.wait(lambda: any("segmentation" in layer.name for layer in studio.viewer.layers), "the segmentation")
        studio.shoot("segmented-window", whole=True, themes=("dark",))

        before = controller.folder
        self.finished_run = before.path
        studio.click(widget.panel.button)
        studio.wait(lambda: controller.folder not in (None, before), "another run")
        studio.wait(lambda: controller.history().points("dice"), "its first validation")
        _kill_children()
        studio.wait(lambda: controller.state == "failed", "the end of the killed run")
        studio.shoot("failed")

    def use(self, run: Path | None) -> None:
        """The second widget, with the model of ``run`` or of the run that was trained last."""
        run = self.finished_run if run is None else Path(shutil.copytree(run, HOME / "celltrain-results" / run.name))
        self.studio.viewer.window.resize(*WINDOW)
        held_out = "nuclei02.tif"
        SegmentTour(self.studio, run, self.images / held_out, self.labels / held_out).everything()

    def _choose_folders(self, images: Path, labels: Path) -> None:
        rows, tab = self.widget.data_tab.form.rows.editors, self.widget.data_tab
        self.studio.turn_to(0)
        self.studio.type_into(rows["data.images"], str(images))
        self.studio.type_into(rows["data.labels"], str(labels))
        self.studio.wait(
            lambda: tab.report is not None and {report.pair.image.parent for report in tab.report.pairs} == {images},
            "the data check",
        )
        self.studio.scroll_to_top()

    def _set_up_a_short_run(self) -> None:
        studio, tab = self.studio, self.widget.training_tab
        studio.turn_to(2)
        studio.choose(tab.network_rows.editors["training.model_size"], "small")
        studio.type_into(tab.learning_rows.editors["training.epochs"], str(EPOCHS))
        studio.type_into(tab.learning_rows.editors["training.validation_interval"], "1")
        studio.turn_to(1)
        studio.type_into(self.widget.augmentation_tab.patch_rows.editors["augmentation.samples_per_volume"], "4")

    def _open_a_pair(self) -> None:
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        self.studio.turn_to(0)
        table = self.widget.data_tab.table
        table.selectRow(0)
        QTest.keyClick(table, Qt.Key.Key_Return)
        self.studio.wait(lambda: len(self.studio.viewer.layers) >= 2, "the layers of the pair")
        self.studio.viewer.reset_view()

    def _arrange_layers(self) -> None:
        viewer = self.studio.viewer
        viewer.reset_view()
        viewer.layers.selection.clear()


def _whole_path(text: str) -> Path:
    """The script works in a folder of its own."""
    return Path(text).absolute()


def _write_broken(folder: Path) -> tuple[Path, Path]:
    """A data set as it comes: one file cut off, one pair of two shapes, one image without labels."""
    import tifffile

    from napari_celltrain.samples import write_demo

    images, labels = write_demo(folder, 5)
    cut = (images / "nuclei01.tif").read_bytes()
    (images / "nuclei01.tif").write_bytes(cut[: len(cut) // 3])
    array = tifffile.imread(labels / "nuclei03.tif")
    tifffile.imwrite(labels / "nuclei03.tif", array[:-4])
    (labels / "nuclei05.tif").unlink()
    return images, labels


def _kill_children() -> None:
    """What a crash of the training process looks like from napari. Only processes that this script started."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()


if __name__ == "__main__":
    main()
