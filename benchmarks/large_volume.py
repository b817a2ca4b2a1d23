"""A volume larger than what memory is given to it, through `celltrain predict`; and beside MONAI's sliding window.

    python benchmarks/large_volume.py [--size 1024] [--beside 192] [--repeats 3] [--format zarr] [--keep DIR]

Makes an OME-Zarr of SIZE³ voxels (uint16, cells on a noisy ground) and a small network that has learned for a minute to
find such cells, then prints the peak memory of `celltrain predict`, the time of each pass and the time per voxel. The
same network with the same window, overlap and batch then goes over a volume that fits the memory, by our sliding
window and by MONAI's in alternation, of which medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = (64, 64, 64)
BATCH = 2
TILE = 64
VOXEL_SIZE = (1.0, 1.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--beside", type=int, default=192, help="edge of the volume that fits the memory; 0: leave out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", choices=("zarr", "tiff"), default="zarr")
    parser.add_argument("--keep", type=Path, help="make everything here, and find it there the next time")
    arguments = parser.parse_args()
    with working_folder(arguments.keep) as folder:
        model = make_model(folder)
        image = make_volume(folder, arguments.size)
        per_voxel = predict(model, image, folder / f"results_{arguments.size}", arguments.size, arguments.format)
        if arguments.beside:
            compare(model, arguments.beside, arguments.repeats, per_voxel)


@contextmanager
def working_folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class Cells:
    """A volume (Z, Y, X) that is made as it is read: the same cells in each tile, under noise that differs."""

    dtype = np.dtype(np.uint16)

    def __init__(self, size: int) -> None:
        self.shape = (size, size, size)
        self.distance = distance_in_tile()

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        parts = [range(*part.indices(length)) for part, length in zip(key, self.shape, strict=True)]
        index = np.ix_(*(np.arange(part.start, part.stop) % TILE for part in parts))
        seed = [part.start for part in parts]
        noise = np.random.default_rng(seed).normal(200, 60, tuple(len(part) for part in parts)).astype(np.float32)
        return (noise + 800 * (self.distance[index] > 0)).clip(0, 65535).astype(np.uint16)


def distance_in_tile() -> np.ndarray:
    """0 on the ground, rising to 1 in the middle of each of some cells that partly touch, and that end in the tile."""
    rng = np.random.default_rng(0)
    grid = np.indices((TILE,) * 3)
    distance = np.zeros((TILE,) * 3, np.float32)
    for _ in range(60):
        radius = rng.uniform(4.0, 7.0)
        centre = rng.uniform(8, TILE - 8, 3)
        apart = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)))
        distance = np.maximum(distance, (1 - apart / radius).astype(np.float32))
    return distance


def make_model(folder: Path, steps: int = 60) -> Path:
    """A small network for objects that has learned a little, written as a run writes its model."""
    import torch

    from napari_celltrain.nets.models import NetworkSpec, build_network
    from napari_celltrain.runs.folder import RunFolder
    from napari_celltrain.runs.model import ModelCard, TrainingSummary, write_model
    from napari_celltrain.values.decoding import ObjectDecoding

    if (folder / "run" / "model" / "model.yaml").exists():
        return folder / "run"
    torch.manual_seed(0)
    card = ModelCard(
        network=NetworkSpec(key="unet", size="small", out_channels=3),
        voxel_size=VOXEL_SIZE,
        window=WINDOW,
        batch_size=BATCH,
        target="objects",
        objects=ObjectDecoding(
            method="learned", smoothing_um=1.0, seed_distance_um=4.0, seed_level=0.4, min_size_um3=30.0, context_um=14.0
        ),
        memory_layout="channels_last",
        training=TrainingSummary(
            run="run", epoch=1, validation_dice=0.0, num_training=1, num_validation=1, loss="bce", package_version="0"
        ),
    )
    network = build_network(card.network)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    distance = torch.from_numpy(distance_in_tile())
    target = torch.stack([(distance > 0).float(), distance, ((distance > 0) & (distance < 0.2)).float()])[None]
    cells = Cells(TILE * steps)
    for step in range(steps):
        tile = slice(step * TILE, (step + 1) * TILE)
        # about the scale of normalized intensities
        image = torch.from_numpy(cells[tile, tile, tile].astype(np.float32) / 1000)[None, None]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run = RunFolder.create(folder, "run", "unet")
    write_model(run, card, network.state_dict())
    return run.path


def make_volume(folder: Path, size: int) -> Path:
    from napari_celltrain.io.writer import replace_folder, write_ome_zarr

    target = folder / f"volume_{size}.ome.zarr"
    if not target.exists():
        start = time.perf_counter()
        for _ in write_ome_zarr(folder / "growing", Cells(size), VOXEL_SIZE, kind="image", name="volume"):
            pass
        replace_folder(folder / "growing", target)
        print(f"made {size}³ voxels (uint16, {2 * size**3 / 1e9:.2f} GB) in {time.perf_counter() - start:.0f} s")
    return target


def predict(model: Path, image: Path, output: Path, size: int, file_format: str) -> float:
    """Run the command in a process of its own; gives nanoseconds per voxel."""
    command = [sys.executable, "-m", "napari_celltrain", "predict", str(model), str(image), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--format", file_format, "--device", "cpu", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    stages: dict[str, float] = {}
    stage, since = "starting", start
    for line in process.stdout:
        event = json.loads(line)
        now = time.perf_counter()
        if event["event"] == "prepared" and event["stage"] != stage:
            stages[stage] = stages.get(stage, 0.0) + now - since
            stage, since = event["stage"], now
        elif event["event"] in ("logged", "warned", "failed"):
            print(event["message"])
    stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - since
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"celltrain predict failed ({process.returncode})")
    seconds = time.perf_counter() - start
    for stage, taken in stages.items():
        print(f"  {stage:44} {taken:8.1f} s")
    per_voxel = seconds / size**3 * 1e9
    print(f"predict: {seconds:.0f} s, {per_voxel:.0f} ns per voxel, peak memory {usage.ru_maxrss * 1024 / 1e9:.2f} GB")
    return per_voxel


def compare(model: Path, size: int, repeats: int, predicted: float) -> None:
    """Both sliding windows over the same volume in memory, in alternation in this process."""
    import torch
    from monai.inferers import sliding_window_inference

    from napari_celltrain.engine.device import set_threads
    from napari_celltrain.engine.objects import quantize
    from napari_celltrain.nets.normalize import measure, normalize
    from napari_celltrain.runs.model import load_model

    set_threads(None)
    predictor = load_model(model, torch.device("cpu")).predictor
    image = Cells(size)[:, :, :]
    intensities = measure(image, "percentile")

    def ours() -> Any:
        for _, logits in predictor.logits(image, intensities):
            quantize(predictor.to_probabilities(logits))

    @torch.inference_mode()
    def theirs() -> Any:
        inputs = torch.from_numpy(normalize(image, intensities))[None, None]
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        logits = sliding_window_inference(inputs, WINDOW, BATCH, predictor.network, overlap=0.25, mode="gaussian")
        quantize(torch.sigmoid(logits)[0].numpy())

    taken: dict[str, list[float]] = {"ours": [], "MONAI": []}
    for _ in range(repeats):
        for name, run in (("ours", ours), ("MONAI", theirs)):
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) / size**3 * 1e9)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"sliding window over {size}³ voxels in memory, medians of {repeats} in alternation:")
    for name, median in medians.items():
        print(f"  {name:5} {median:7.0f} ns per voxel")
    print(f"ours / MONAI: {medians['ours'] / medians['MONAI']:.2f}", end="; ")
    print(f"the whole of predict on the large volume / MONAI: {predicted / medians['MONAI']:.2f}")


if __name__ == "__main__":
    main()
