"""What ten times Start and Stop in one session of napari leave behind, for both ways of training.

    python benchmarks/start_stop.py [--times 10] [--only process|napari]

Without a screen: under `xvfb-run -s "-screen 0 1600x1200x24"`. Each way has a napari of its own. After each run it
prints the memory of napari (unique to it: pages shared with other programs do not count), its child processes, threads,
open files and layers. The first run loads what is loaded once (matplotlib; in napari also torch and its buffers), so
growth counts from after it. Target: less than 50 MB, and nothing left.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Left:
    memory_mb: float
    processes: int
    threads: int
    files: int
    layers: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", choices=("process", "napari"))
    arguments = parser.parse_args()
    if arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), arguments.times, arguments.only == "process")
        return
    for way in ("process", "napari"):
        subprocess.run([sys.executable, __file__, "--only", way, "--times", str(arguments.times)], check=True)


def measure(folder: Path, times: int, own_process: bool) -> None:
    import napari
    from qtpy.QtCore import QSettings

    from napari_celltrain.widgets.train.widget import TrainWidget

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder))
    config = write_data(folder)
    viewer = napari.Viewer()
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="CellTrain")
    widget.setValue(config)
    wait_for(lambda: widget.data_tab.report is not None)
    print(f"\ntraining in {'a process of its own' if own_process else 'napari'}")
    print(f"{'':>8} {'MB':>8} {'processes':>10} {'threads':>8} {'files':>6} {'layers':>7}")
    show("before", first := look(viewer))
    after: list[Left] = []
    for number in range(1, times + 1):
        widget.controller.start(config, own_process)
        wait_for(
            lambda: len(widget.controller.history().points("dice")) > 1 and widget.panel.predictions.epoch is not None
        )
        widget.controller.request_stop(now=True)
        wait_for(lambda: not widget.controller.is_busy)
        if widget.controller.state != "finished":
            raise SystemExit(widget.controller.message)
        settle()
        after.append(look(viewer))
        show(f"run {number}", after[-1])
    print(f"grown since the first run: {after[-1].memory_mb - after[0].memory_mb:+.0f} MB")
    print(f"threads: {', '.join(sorted(thread.name for thread in threading.enumerate()))}")
    del first
    viewer.close()


def look(viewer: Any) -> Left:
    gc.collect()
    me = psutil.Process()
    return Left(
        me.memory_full_info().uss / 1e6,
        len(me.children(recursive=True)),
        me.num_threads(),
        me.num_fds() if hasattr(me, "num_fds") else me.num_handles(),
        len(viewer.layers),
    )


def show(name: str, left: Left) -> None:
    memory, *counts = astuple(left)
    print(f"{name:>8} {memory:8.0f} {counts[0]:10} {counts[1]:8} {counts[2]:6} {counts[3]:7}", flush=True)


def settle() -> None:
    """Until the last picture is drawn and the last worker has ended, or for two seconds."""
    from qtpy.QtCore import QThreadPool

    end = time.monotonic() + 2
    wait_for(lambda: time.monotonic() > end and QThreadPool.globalInstance().activeThreadCount() == 0)


def wait_for(condition: Any, seconds: float = 300) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.monotonic() > end:
            raise SystemExit("This takes too long.")


def write_data(folder: Path) -> Any:
    import numpy as np
    import tifffile

    from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig

    rng = np.random.default_rng(0)
    for name in ("a_1", "b_1", "c_1"):
        labels = np.zeros((32, 64, 64), np.uint16)
        for number, (z, y, x) in enumerate(rng.integers(4, (28, 60, 60), (12, 3)), 1):
            labels[z - 3 : z + 3, y - 3 : y + 3, x - 3 : x + 3] = number
        image = ((labels > 0) * 800 + rng.normal(200, 30, labels.shape)).clip(0).astype(np.uint16)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"{name}.tif", array, metadata={"axes": "ZYX"})
    return RunConfig(
        data=DataConfig(images=folder / "images", labels=folder / "labels", results=folder / "results"),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=1),
        training=TrainingConfig(epochs=10_000, validation_interval=1, model_size="small"),
    )


if __name__ == "__main__":
    main()
