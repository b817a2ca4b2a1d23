"""Trains by the command line, as a user would, and checks the figures that it reports against its own files.

    python benchmarks/embryos.py TRAIN VAL --minutes 12 [-- further options of `celltrain train`]

TRAIN and VAL each hold ``images`` and ``labels``. Prints the validation Dice over time, the final Dice and F1 as
reported and as recomputed here from ``validation/*.tif`` by other means, the shares of time, the peak memory, and
whether ``celltrain predict`` gives the very files of the run.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from skimage.metrics import contingency_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    arguments, further = parser.parse_known_args()
    arguments.options = [option for option in further if option != "--"]
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary)
        run = train(arguments, results)
        report(run, arguments.val / "labels")
        print("peak memory of the training process:", f"{peak_gb():.2f} GB")
        print(
            "predict gives the files of the run:", predict_agrees(run, arguments.val / "images", results / "predicted")
        )


def train(arguments: argparse.Namespace, results: Path) -> Path:
    command = [
        *(sys.executable, "-m", "napari_celltrain", "train", "--run-name", "run", "--results", str(results)),
        *("--images", str(arguments.train / "images"), "--labels", str(arguments.train / "labels")),
        *("--validation-images", str(arguments.val / "images"), "--validation-labels", str(arguments.val / "labels")),
        *("--max-minutes", str(arguments.minutes), *arguments.options),
    ]
    subprocess.run(command, check=True)
    return results / "run"


def report(run: Path, labels: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    start = events[0]["time"]
    for event in events:
        if event["event"] == "validated":
            print(f"{(event['time'] - start) / 60:6.2f} min  Dice {event['dice']:.4f}  F1 {event['f1']:.4f}")
    finished = next(event for event in events if event["event"] == "finished")
    dice, f1, strict = recompute(run / "validation", labels)
    print(f"reported    Dice {finished['best_dice']:.6f}  F1 {finished['best_f1']:.6f}")
    print(f"recomputed  Dice {dice:.6f}  F1 {f1:.6f}  F1 at IoU 0.7 {strict:.4f}")
    print(f"in the network: {finished['compute_share']:.1%} of the time outside validation")
    print(f"in validation: {finished['validation_share']:.1%} of all")


def recompute(predictions: Path, labels: Path) -> tuple[float, float, float]:
    """Pooled voxel Dice, and object F1 at IoU above 0.5, where a match is unique, and above 0.7."""
    overlap = total = matched = strict = objects = 0
    for path in sorted(predictions.glob("*.tif")):
        predicted, truth = tifffile.imread(path).astype(int), tifffile.imread(labels / path.name).astype(int)
        overlap += 2 * np.logical_and(predicted > 0, truth > 0).sum()
        total += (predicted > 0).sum() + (truth > 0).sum()
        table = contingency_table(truth, predicted).toarray()
        union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
        iou = np.divide(table, union, out=np.zeros_like(union, float), where=union > 0)[1:, 1:]
        matched += 2 * (iou > 0.5).sum()
        strict += 2 * (iou > 0.7).sum()
        objects += len(np.unique(predicted[predicted > 0])) + len(np.unique(truth[truth > 0]))
    return float(overlap / total), float(matched / objects), float(strict / objects)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def predict_agrees(run: Path, images: Path, output: Path) -> bool:
    command = [sys.executable, "-m", "napari_celltrain", "predict", str(run), str(images), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    names = sorted(path.name for path in (run / "validation").iterdir())
    equal, different, missing = filecmp.cmpfiles(run / "validation", output, names, shallow=False)
    return not different and not missing and len(equal) == len(names)


if __name__ == "__main__":
    main()
