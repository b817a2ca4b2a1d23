"""How late napari's event loop answers: idle, and while training in a process of its own and in napari itself.

    python benchmarks/event_loop.py [--seconds 60] [--trace FILE] [--large-preview]

Opens napari with the widget (without a screen: under `xvfb-run -s "-screen 0 1600x1200x24"`), writes three pairs to a
temporary folder, one of them 512³, and trains on them, with the plot and the preview layers renewed at each
validation. A timer of 4 ms measures how late each of its ticks is; ticks that a long delay has swallowed count as well,
so that the percentiles are shares of time. Every phase is compared with the idle window at the beginning. Where other
programs take the processor, ticks are late, too: "own work" is the processor time of the window's own thread,
altogether and the most between two ticks; "queued" is the longest that it stood in the queue for a core between two
ticks (Linux). What is late beyond both waited for something else, mostly for Python's lock.

napari takes up to a quarter of a second of processor time for the first layer of a kind, and a tenth for each further
one: so the time in which the layers of the predictions appear is told apart from the rest, in which they are renewed.

Targets: 99th percentile at most 16 ms worse than idle, worst at most 100 ms worse.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import napari
import numpy as np
import psutil
import tifffile
from qtpy.QtCore import QEventLoop, QObject, QSettings, Qt, QTimer
from scipy import ndimage

from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig
from napari_celltrain.widgets.train.widget import TrainWidget

TICK_MS = 4
NUM_LAYERS = 5
"""The one there is, and those of the predictions."""
LATE_SECONDS = 0.06  # what --trace looks into
LARGE, SMALL = (512, 512, 512), (64, 256, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of training, in each of the two ways")
    parser.add_argument("--only", choices=("process", "napari"), help="one of the two ways")
    parser.add_argument("--large-preview", action="store_true", help="validate on (and show) the 512³ volume itself")
    parser.add_argument("--trace", type=Path, help="write what all threads do whenever a tick is 60 ms late")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder)
        trace = arguments.trace.open("w") if arguments.trace else None
        ways = [arguments.only] if arguments.only else ["process", "napari"]
        run(Path(folder), arguments.seconds, ways, arguments.large_preview, trace)


def run(folder: Path, seconds: float, ways: list[str], large_preview: bool, trace: IO[str] | None) -> None:
    config = RunConfig(
        data=write_data(folder, large_preview),
        augmentation=AugmentationConfig(patch_size=(32, 64, 64)),
        training=TrainingConfig(epochs=100_000, validation_interval=1, model_size="small", batch_size=2),
    )
    viewer = napari.Viewer()
    viewer.window._qt_window.resize(1400, 1000)
    [large] = folder.glob("*images/a_large.tif")
    viewer.add_image(tifffile.memmap(large, mode="r"), name="large", contrast_limits=(0, 2000))
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="CellTrain")
    wait(3)
    table = Table()
    ticks = Ticks(trace)
    ticks.start()
    wait(12)
    idle = table.add("idle", ticks.stop())
    ticks.start()
    widget.setValue(config)
    wait_for(lambda: widget.data_tab.report is not None, 120)
    wait(1)
    table.add("data being checked", ticks.stop(), idle)
    for way in ways:
        layers = len(viewer.layers)
        begun = len(table.phases)
        ticks.start()
        widget.controller.start(config, way == "process")
        wait_for(lambda: widget.controller.state != "preparing", 300)
        table.add(f"{way}: preparing", ticks.stop(), idle)
        if layers == 1:  # the second way finds the layers of the first, and renews them
            ticks.start()
            wait_for(lambda: len(viewer.layers) == NUM_LAYERS or not widget.controller.is_busy, seconds)
            wait(1)
            table.add(f"{way}: first layers", ticks.stop(), idle)
        ticks.start()
        wait_for(lambda: not widget.controller.is_busy, seconds)
        table.add(f"{way}: training", ticks.stop(), idle)
        ticks.start()
        widget.controller.request_stop(now=True)
        wait_for(lambda: not widget.controller.is_busy, 300)
        table.add(f"{way}: stopping", ticks.stop(), idle)
        table.add(f"{way}: the whole run", joined(table.phases[begun:]), idle)
        history = widget.controller.history()
        print(
            f"{way}: {widget.controller.state}, {len(history.rows)} epochs, {len(history.points('dice'))} validations, "
            f"layers {layers} → {len(viewer.layers)} {widget.controller.message}"
        )
        wait(1)
        ticks.start()
        wait(12)
        table.add("idle again", ticks.stop(), idle)
    table.print()
    viewer.close()


class Ticks(QObject):
    """Lateness of a fast timer, in milliseconds."""

    def __init__(self, trace: IO[str] | None) -> None:
        super().__init__()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._late: list[float] = []
        self._due = float("inf")
        self._work: list[float] = []
        self._queued: list[float] = []
        if trace is not None:
            threading.Thread(target=self._watch, args=(trace,), daemon=True).start()

    def _watch(self, trace: IO[str]) -> None:
        """Write down what the window's thread does while a tick is late, and every other thread."""
        window = threading.main_thread().ident
        while True:
            time.sleep(LATE_SECONDS / 3)
            late = time.perf_counter() - self._due
            if late > LATE_SECONDS:
                print(f"=== {1000 * late:.0f} ms late", file=trace)
                for ident, frame in sys._current_frames().items():
                    if ident != threading.get_ident():
                        print("--- window" if ident == window else "--- other", file=trace)
                        print("".join(traceback.format_stack(frame)), file=trace, flush=True)

    def start(self) -> None:
        self._late, self._work, self._queued = [], [], []
        self._queue = queue_seconds()
        psutil.cpu_percent()
        self._began = time.perf_counter()
        self._worked = time.thread_time()
        self._due = time.perf_counter() + TICK_MS / 1000
        self._timer.start(TICK_MS)

    def stop(self) -> Phase:
        self._timer.stop()
        self._due = float("inf")
        share = 100 * sum(self._work) / (time.perf_counter() - self._began)
        most = 1000 * max(self._work), 1000 * max(self._queued)
        return Phase(np.array(self._late), psutil.cpu_percent(), share, *most)

    def _tick(self) -> None:
        now = time.perf_counter()
        late = max(0.0, 1000 * (now - self._due))
        while late >= 0:  # the ticks that were due meanwhile have waited, too
            self._late.append(late)
            late -= TICK_MS
        worked = time.thread_time()
        self._work.append(worked - self._worked)
        self._worked = worked
        queue = queue_seconds()
        self._queued.append(queue - self._queue)
        self._queue = queue
        self._due = now + TICK_MS / 1000


@dataclass(frozen=True)
class Phase:
    late: np.ndarray
    load: float
    work_share: float
    most_work: float
    most_queued: float


def joined(phases: Sequence[Phase]) -> Phase:
    """One after the other, as a phase of its own."""
    seconds = [len(phase.late) for phase in phases]  # one figure to a tick
    load, share = (np.average([getattr(p, name) for p in phases], weights=seconds) for name in ("load", "work_share"))
    most = max(phase.most_work for phase in phases), max(phase.most_queued for phase in phases)
    return Phase(np.concatenate([phase.late for phase in phases]), float(load), float(share), *most)


class Table:
    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self._lines: list[str] = []

    def add(self, name: str, phase: Phase, idle: tuple[float, ...] | None = None) -> tuple[float, ...]:
        self.phases.append(phase)
        median, high, worst = figures(phase.late)
        line = f"{name:22} {median:7.1f} {high:7.1f} {worst:7.1f}"
        line += f" {phase.work_share:6.0f} % {phase.most_work:6.0f} {phase.most_queued:6.0f} {phase.load:7.0f} %"
        if idle is not None:
            line += f"   p99 {high - idle[1]:+6.1f}, worst {worst - idle[2]:+6.1f}"
        self._lines.append(line)
        print(line, flush=True)
        return median, high, worst

    def print(self) -> None:
        names = f"{'ms late':22} {'p50':>7} {'p99':>7} {'worst':>7}"
        print(f"\n{names} {'own work':>8} {'most':>6} {'queued':>6} {'machine':>9}   beside idle")
        print("\n".join(self._lines))


def queue_seconds() -> float:
    """How long this thread has stood in the queue for a processor core so far; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def figures(late: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in (*np.percentile(late, (50, 99)), late.max()))


def wait(seconds: float) -> None:
    wait_for(lambda: False, seconds)


def wait_for(condition: Any, seconds: float) -> None:
    """Let the event loop turn as it does in napari: by itself, not by being polled."""
    end = time.monotonic() + seconds
    loop, timer = QEventLoop(), QTimer()

    def look() -> None:
        if condition() or time.monotonic() > end:
            loop.quit()

    timer.timeout.connect(look)
    timer.start(50)
    loop.exec()
    timer.stop()


def write_data(folder: Path, large_preview: bool) -> DataConfig:
    """A volume of 512³ and a small one to train on; for validation another small one, or the large one again."""
    shapes = {"a_large": LARGE, "b_small": SMALL, "c_small": SMALL}
    for seed, (name, shape) in enumerate(shapes.items()):
        is_validation = name == ("a_large" if large_preview else "c_small")
        for kind, array in zip(("images", "labels"), make_pair(shape, seed), strict=True):
            place = folder / f"validation_{kind}" if is_validation else folder / kind
            place.mkdir(exist_ok=True)
            tifffile.imwrite(place / f"{name}.tif", array, metadata={"axes": "ZYX"})
    return DataConfig(
        images=folder / "images",
        labels=folder / "labels",
        validation_images=folder / "validation_images",
        validation_labels=folder / "validation_labels",
        results=folder / "results",
    )


def make_pair(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A tile of 64×128×128 with 40 balls, repeated."""
    rng = np.random.default_rng(seed)
    tile = (64, 128, 128)
    seeds = np.ones(tile, bool)
    for centre in rng.integers(8, np.array(tile) - 8, (40, 3)):
        seeds[tuple(centre)] = False
    objects, count = ndimage.label(ndimage.distance_transform_edt(seeds) < 7)
    image = ndimage.gaussian_filter((objects > 0) * 800.0, 1) + rng.normal(200, 30, tile)
    repeats = [length // part for length, part in zip(shape, tile, strict=True)]
    labels = np.tile(objects.astype(np.uint16), repeats)
    for number, index in enumerate(np.ndindex(*repeats)):
        part = labels[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, tile, strict=True))]
        part[part > 0] += number * count
    return np.tile(image.clip(0).astype(np.uint16), repeats), labels


if __name__ == "__main__":
    main()
