"""Two processes under torchrun do what one does: the same patches, the same losses, one folder."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest

from napari_celltrain.runs import session
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import Finished, StepDone


def losses(folder: RunFolder) -> list[float]:
    return [event.loss for event in folder.read_events() if isinstance(event, StepDone)]


def under_torchrun(config, num_processes: int) -> subprocess.CompletedProcess[str]:
    config_file = config.data.results.parent / "config.yaml"
    from napari_celltrain.runs.config_file import dump_config

    config_file.write_text(dump_config(config))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"),
        *("-m", "napari_celltrain", "train", str(config_file)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


@pytest.mark.slow
def test_two_processes_train_as_one(make_config):
    # 3 volumes × 3 samples in batches of 4: the last batch of an epoch has a single patch, for one process of two
    settings = {
        "batch_size": 4,
        "augmentation_samples_per_volume": 3,
        "precision": "float32",
        "memory_layout": "contiguous",
    }
    one = make_config(run_name="one", **settings)
    list(session.run(one))
    two = make_config(run_name="two", **settings)
    result = under_torchrun(two, 2)
    assert result.returncode == 0, result.stderr[-3000:]
    results = one.data.results
    assert sorted(path.name for path in results.iterdir()) == ["one", "two"]
    single, double = RunFolder.open(results / "one"), RunFolder.open(results / "two")
    assert len(losses(double)) == len(losses(single)) == 2 * 3
    assert losses(double) == pytest.approx(losses(single), rel=2e-4)
    ends = [event for event in double.read_events() if isinstance(event, Finished)]
    assert len(ends) == 1
    tables = [list(csv.DictReader((folder.path / "metrics.csv").open())) for folder in (single, double)]
    for alone, together in zip(*tables, strict=True):
        assert float(together["val_dice"]) == pytest.approx(float(alone["val_dice"]), abs=0.02)
