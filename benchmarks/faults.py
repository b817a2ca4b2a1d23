"""Small trainings killed by SIGKILL at random moments: is every file whole, and does every run end as without a kill?

    python benchmarks/faults.py [--kills 200] [--seed 0] [--plots]

Each run is trained by real processes, in a real folder, with checkpoints, previews and the final tuning of objects.
They are forked from one that has loaded PyTorch, and write a line for a plot unless --plots is given: to load and to
draw takes longer than to train. A third of the runs are killed
before their first validation; what resumes a killed run is killed in its turn half of the time. After each kill every
file is read. After its end a run is compared with one that was never killed: checkpoint, weights, optimizer and random
state, averages, scores, metrics and predictions, bit for bit. Linux and macOS.

One line for each phase of a run: kills, runs that went on, torn files, runs that ended otherwise. The exit code is 1
where anything was torn, lost or different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from napari_celltrain.io.tensors import read_tensors
from napari_celltrain.io.writer import write_volume
from napari_celltrain.runs import record, session
from napari_celltrain.runs.checkpoint import LAST
from napari_celltrain.runs.config_file import load_config
from napari_celltrain.runs.model import load_model
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig

BEFORE = "before the folder"
PHASES = (BEFORE, "before the first validation", "between validations", "after the last step", "after the end")
NAME = "killed"
PRELOADED = ("monai.losses", "monai.networks.nets", "monai.transforms", "torch._inductor", "matplotlib.image")
UNLIKE = ("seconds", "validation_seconds", "compute_seconds", "epoch_seconds")
"""What two equal runs do not share."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plots", action="store_true")
    arguments = parser.parse_args()
    for name in PRELOADED:
        import_module(name)
    if not arguments.plots:
        record.save_plot = lambda history, path: path.write_text(f"{len(history.rows)} epochs")
    with tempfile.TemporaryDirectory(prefix="celltrain-faults-") as folder:
        sys.exit(0 if measure(Path(folder), arguments.kills, random.Random(arguments.seed)) else 1)


def measure(folder: Path, num_kills: int, chance: random.Random) -> bool:
    """Kill, resume and compare until there have been so many kills; whether all was as it must be."""
    write_data(folder)
    for _ in range(2):  # the first one also fills the caches of the machine; the second is as long as those to come
        shutil.rmtree(folder / "whole", ignore_errors=True)
        began = time.monotonic()
        if not ends_well(Forked(lambda: train(folder, "whole"), folder)):
            raise SystemExit((folder / "output.txt").read_text(encoding="utf-8"))
        duration = time.monotonic() - began
    times = [event["time"] for event in events_of(folder / "whole") if event["event"] in ("started", "validated")]
    to_first = duration - ((folder / "whole" / "events.jsonl").stat().st_mtime - times[1])
    print(f"A run takes {duration:.1f} s, {to_first:.1f} s of them until its first validation.\n", flush=True)
    table = {column: Counter[str]() for column in ("kills", "went on", "torn", "different")}
    number = 0
    while table["kills"].total() - table["kills"]["after the end"] < num_kills:
        number += 1
        one_run(folder, to_first if number % 3 == 0 else duration, chance, table)
    print(f"{'killed':<28}" + "".join(f"{column:>11}" for column in table))
    for phase in (*PHASES, "all"):
        counts = (counter.total() if phase == "all" else counter[phase] for counter in table.values())
        print(f"{phase:<28}" + "".join(f"{count:>11}" for count in counts))
    lost = table["kills"].total() - table["went on"].total()
    return lost == table["torn"].total() == table["different"].total() == 0


def one_run(folder: Path, within: float, chance: random.Random, table: dict[str, Counter[str]]) -> None:
    """Train one run to its end in spite of kills, and compare it."""
    path, phases = folder / NAME, list[str]()
    process = Forked(lambda: train(folder, NAME), folder)
    while not phases or (phases[-1] != "after the end" and chance.random() < 0.5):
        phases.append(killed_after(process, chance.uniform(0, within), path))
        table["kills"][phases[-1]] += 1
        if path.exists() and not ends_well(Forked(lambda: read_everything(path), folder)):
            report(folder, table["torn"], phases[-1:])
        process = Forked(lambda: go_on(path, phases[-1]), folder)
    if ends_well(process):
        table["went on"].update(phases)
    else:
        report(folder, Counter[str](), phases)
    if not ends_well(Forked(lambda: compare(folder / "whole", path), folder)):
        report(folder, table["different"], phases)
    if left := [name.name for name in folder.rglob(".tmp-*")]:
        table["torn"].update(phases[-1:])
        print("left behind:", *left)
    shutil.rmtree(path, ignore_errors=True)


def report(folder: Path, counter: Counter[str], phases: list[str]) -> None:
    counter.update(phases)
    print(f"killed {', then '.join(phases)}:\n{(folder / 'output.txt').read_text(encoding='utf-8')}", flush=True)


class Forked:
    """A process that does ``work`` and writes what it prints to ``output.txt``."""

    def __init__(self, work: Callable[[], None], folder: Path) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        with contextlib.suppress(BaseException), (folder / "output.txt").open("w", encoding="utf-8") as output:
            try:
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    work()
                code = 0
            except BaseException:
                traceback.print_exc(file=output)
        os._exit(code)


def ends_well(process: Forked) -> bool:
    return os.waitpid(process.pid, 0)[1] == 0


def killed_after(process: Forked, seconds: float, path: Path) -> str:
    """Kill the process, if it is still there; the phase that the run was in."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    if not path.exists():
        return BEFORE
    events = events_of(path)
    if any(event["event"] == "finished" for event in events):
        return "after the end"
    saved = [event["epoch"] for event in events if event["event"] == "saved" and event["what"] == "last"]
    return PHASES[1 if not saved else 2 if saved[-1] < config_of(path.parent, NAME).training.epochs else 3]


def events_of(path: Path) -> list[dict[str, Any]]:
    """All lines but one that is not finished, which the next process cuts off."""
    file = path / "events.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


# --- what the processes do --------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a_1", "b_1", "c_1"):
        labels = np.zeros((16, 32, 32), np.uint16)
        for number, (z, y, x) in enumerate(rng.integers(3, (13, 29, 29), (6, 3)), 1):
            labels[z - 2 : z + 2, y - 3 : y + 3, x - 3 : x + 3] = number
        image = ((labels > 0) * 800 + rng.normal(200, 30, labels.shape)).clip(0).astype(np.uint16)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(exist_ok=True)
            write_volume(folder / kind / f"{name}.tif", array, (1.0, 0.5, 0.5))


def config_of(folder: Path, name: str) -> RunConfig:
    return RunConfig(
        run_name=name,
        data=DataConfig(images=folder / "images", labels=folder / "labels", results=folder),
        augmentation=AugmentationConfig(patch_size=(16, 32, 32), samples_per_volume=2),
        training=TrainingConfig(
            epochs=3,
            validation_interval=1,
            model_size="small",
            device="cpu",
            precision="float32",  # timing the formats would take longer than training
            memory_layout="channels_last",
            threads=1,
        ),
    )


def train(folder: Path, name: str) -> None:
    for _ in session.run(config_of(folder, name)):
        pass


def go_on(path: Path, phase: str) -> None:
    if phase == BEFORE:
        train(path.parent, NAME)
    elif phase != "after the end":
        for _ in session.resume(path):
            pass


def read_everything(path: Path) -> None:
    """Raises where a file of a run folder is torn."""
    from matplotlib.image import imread

    load_config(path / "config.yaml")
    for file in (path / "data.json", path / "environment.json"):
        json.loads(file.read_text(encoding="utf-8"))
    events_of(path)
    for file in path.rglob("*"):
        if file.name.startswith(".tmp-"):
            continue
        if file.suffix == ".tif":
            tifffile.imread(file)
        elif file.suffix == ".png" and not file.read_bytes().endswith(b"epochs"):
            imread(file)
        elif file.suffix == ".safetensors":
            read_tensors(file)
        elif file.suffix == ".pt":
            torch.load(file, "cpu", weights_only=True)
        elif file.suffix == ".csv":
            rows = [line.split(",") for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
            assert {len(row) for row in rows} <= {7}, f"{file}: a row is torn"
    if (path / "model" / "model.yaml").exists():
        load_model(path / "model", torch.device("cpu"))


def compare(whole: Path, path: Path) -> None:
    """Raises where two finished runs differ."""
    names = sorted(file.relative_to(whole).as_posix() for file in whole.rglob("*") if file.is_file())
    assert names == sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    for name in names:
        if name.endswith((".tif", ".safetensors")) or name == "data.json":
            assert (whole / name).read_bytes() == (path / name).read_bytes(), f"{name} differs"
    for name in ("config.yaml", "model/model.yaml"):
        texts = [(each / name).read_text(encoding="utf-8") for each in (whole, path)]
        assert texts[0].replace("whole", NAME) == texts[1], f"{name} differs"
    tables = [(each / "metrics.csv").read_text(encoding="utf-8").splitlines() for each in (whole, path)]
    cells = [[line.split(",")[:6] for line in table] for table in tables]
    assert cells[0] == cells[1], f"metrics.csv differs: {cells}"
    same("last.pt", *(torch.load(each / LAST, "cpu", weights_only=True) for each in (whole, path)))
    ends = [
        {
            key: value
            for key, value in events_of(each)[-1].items()
            if key in ("event", "best_dice", "best_f1", "volumes")
        }
        for each in (whole, path)
    ]
    assert ends[0] == ends[1], f"the scores differ: {ends}"


def same(where: str, first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert (first.dtype, first.stride()) == (second.dtype, second.stride()), where
        assert first.numpy().tobytes() == second.numpy().tobytes(), f"{where} differs"
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first.keys() - set(UNLIKE):
            same(f"{where}, {key}", first[key], second[key])
    else:
        assert first == second, f"{where} differs: {first} and {second}"


if __name__ == "__main__":
    main()
