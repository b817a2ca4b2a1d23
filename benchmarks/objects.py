"""How well touching cells are told apart: the learned way beside connected pieces and the watershed.

    python benchmarks/objects.py TRAIN VAL --minutes 6 [-- further options of `celltrain train`]
    python benchmarks/objects.py ONE_PAIR --halves --minutes 6

TRAIN and VAL each hold ``images`` and ``labels``; with ``--halves`` the volumes of the first folder are cut in two
along x, the one half to train on, the other to score. Trains twice with equal settings by the command line, once with
the target foreground and once with objects, and prints one table. Every way of decoding gets parameters that the
software chose by itself on the validation volumes, and is scored on these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch

from napari_celltrain.data.labels import LabelScheme, object_labels
from napari_celltrain.data.objects import find_overlaps, summarize
from napari_celltrain.engine.objects import decode
from napari_celltrain.engine.scores import count_matches
from napari_celltrain.engine.validation import Setting, Tuner, TuningVolume
from napari_celltrain.io.volumes import open_labels, open_volume
from napari_celltrain.io.writer import write_volume
from napari_celltrain.nets.normalize import measure
from napari_celltrain.runs.model import Model, load_model
from napari_celltrain.values.decoding import Method, first_decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path, nargs="?")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--minutes", type=float, default=6)
    arguments, further = parser.parse_known_args()
    arguments.options = [option for option in further if option != "--"]
    if arguments.halves == (arguments.val is not None):
        parser.error("give either VAL or --halves")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        train, val = cut_in_two(arguments.train, work) if arguments.halves else (arguments.train, arguments.val)
        print(f"{'target':12}{'decoded by':14}{'Dice':>7}{'F1 0.5':>8}{'F1 0.7':>8}")
        for target, methods in (("foreground", ("components", "watershed")), ("objects", ("watershed", "learned"))):
            run = train_network(train, val, work, target, arguments)
            model = load_model(run, torch.device("cpu"))
            volumes = list(predicted(model, val))
            for method in methods:
                print(f"{target:12}{method:14}{row(model, volumes, method)}", flush=True)


def cut_in_two(folder: Path, work: Path) -> tuple[Path, Path]:
    """Halves along x of every volume of ``folder``, in two folders."""
    for kind, opened in (("images", open_volume), ("labels", open_labels)):
        for path in sorted((folder / kind).glob("*.tif")):
            volume = opened(path)
            array, middle = volume.read(), volume.shape[2] // 2
            for side, part in (("train", array[:, :, :middle]), ("val", array[:, :, middle:])):
                (work / side / kind).mkdir(parents=True, exist_ok=True)
                write_volume(work / side / kind / path.name, part, volume.voxel_size)
    return work / "train", work / "val"


def train_network(train: Path, val: Path, results: Path, target: str, arguments: argparse.Namespace) -> Path:
    command = [
        *(sys.executable, "-m", "napari_celltrain", "train", "--run-name", target, "--results", str(results)),
        *("--images", str(train / "images"), "--labels", str(train / "labels"), "--target", target),
        *("--validation-images", str(val / "images"), "--validation-labels", str(val / "labels")),
        *("--max-minutes", str(arguments.minutes), *arguments.options),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return results / target


def predicted(model: Model, folder: Path) -> Iterator[TuningVolume]:
    scheme = LabelScheme("objects")
    for path in sorted((folder / "images").glob("*.tif")):
        volume = open_volume(path)
        image = volume.read()
        maps = model.predictor.maps(image, measure(image, model.card.normalization, name=path.name))
        labels = tifffile.imread(folder / "labels" / path.name)
        spacing = volume.voxel_size or model.card.spacing
        yield TuningVolume(maps, object_labels(labels, scheme), spacing)


def row(model: Model, volumes: list[TuningVolume], method: Method) -> str:
    setting = tuned(model, volumes, method)
    shared = voxels = objects = 0
    matched = np.zeros(2)
    for volume in volumes:
        found = decode(volume.maps, setting.threshold, setting.decoding, volume.spacing)
        overlaps = find_overlaps(volume.objects, found)
        matched += [2 * count_matches(overlaps, iou).tp for iou in (0.5, 0.7)]
        objects += len(overlaps.true) + len(overlaps.predicted)
        shared += 2 * np.count_nonzero((volume.objects > 0) & (found > 0))
        voxels += np.count_nonzero(volume.objects) + np.count_nonzero(found)
    return f"{shared / voxels:7.3f}{matched[0] / objects:8.3f}{matched[1] / objects:8.3f}"


def tuned(model: Model, volumes: list[TuningVolume], method: Method) -> Setting:
    """The best parameters of one method, found as at the end of a training and from the same start."""
    extents = [summarize(volume.objects, LabelScheme("objects")).median_extent for volume in volumes]
    extent_um = np.median(np.array([e for e in extents if e is not None]), axis=0) * model.card.spacing
    first = first_decoding(model.card.target, float(min(extent_um)), 2 * float(max(extent_um)))
    tuner = Tuner(volumes, model.card.target, Setting(0.5, first), (method,))
    for _ in tuner.run():
        pass
    assert tuner.best is not None
    return tuner.best


if __name__ == "__main__":
    main()
