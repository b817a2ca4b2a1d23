"""Our sliding window beside MONAI's: time and memory for one volume, each in a process of its own, in turn.

    python benchmarks/sliding_window.py [--size 192] [--repeats 3]

Prints seconds and peak memory above the start of each, and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

WINDOW = (64, 64, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("ours", "monai"))
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.size)))
        return
    figures: dict[str, list[tuple[float, float]]] = {"ours": [], "monai": []}
    for _ in range(arguments.repeats):
        for which, list_ in figures.items():
            command = [sys.executable, __file__, "--only", which, "--size", str(arguments.size)]
            list_.append(tuple(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)))
    medians = {
        which: [statistics.median(column) for column in zip(*rows, strict=True)] for which, rows in figures.items()
    }
    for which, (seconds, memory) in medians.items():
        print(f"{which:6} {seconds:7.2f} s  {memory:6.2f} GB")
    print(f"ours / MONAI: time {medians['ours'][0] / medians['monai'][0]:.2f}", end=", ")
    print(f"memory {medians['ours'][1] / medians['monai'][1]:.2f}")


def measure(which: str, size: int) -> tuple[float, float]:
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    from napari_celltrain.engine.precision import NumericFormat
    from napari_celltrain.engine.predictor import Predictor
    from napari_celltrain.nets.models import NetworkSpec, build_network
    from napari_celltrain.nets.normalize import IntensityStatistics

    torch.manual_seed(0)
    network = build_network(NetworkSpec(key="unet", size="medium")).eval()
    numeric_format = NumericFormat("float32", "channels_last")
    numeric_format.lay_out(network, torch.device("cpu"))
    image = np.random.default_rng(0).normal(size=(size, size, size)).astype(np.float32)
    with torch.inference_mode():
        network(numeric_format.place(torch.zeros(2, 1, *WINDOW), torch.device("cpu")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if which == "ours":
        statistics_ = IntensityStatistics(kind="zscore", offset=0.0, scale=1.0)
        Predictor(network, 1, WINDOW, torch.device("cpu"), numeric_format, 2).maps(image, statistics_, threshold=0.5)
    else:
        with torch.inference_mode():
            inputs = torch.from_numpy(image)[None, None].contiguous(memory_format=torch.channels_last_3d)
            logits = sliding_window_inference(inputs, WINDOW, 2, network, overlap=0.25, mode="gaussian")
            (logits >= 0).to(torch.uint8).numpy()
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9


if __name__ == "__main__":
    main()
