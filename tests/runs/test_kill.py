"""A real process, really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from checkpoints import tensors_of
from napari_celltrain.runs.config_file import dump_config
from napari_celltrain.runs.folder import RunFolder
from napari_celltrain.values.events import Finished, Validated

# Two runs of one process, and without their plots: to load torch takes longer than to train, and to draw as long.
TRAIN_EACH = """
import sys
from pathlib import Path
from napari_celltrain.runs import record, session
from napari_celltrain.runs.config_file import load_config
record.save_plot = lambda history, path: path.write_text("a plot")
for name in sys.argv[1:]:
    for event in session.run(load_config(Path(name))):
        pass
"""


def celltrain(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "napari_celltrain", *map(str, arguments)]


def wait_for(folder: Path, num_validations: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "events.jsonl").exists():
            events = list(RunFolder.open(folder).read_events())
            if sum(isinstance(event, Validated) for event in events) >= num_validations:
                return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    pytest.fail("the run did not get on")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_and_resumed_the_weights_are_those_of_an_undisturbed_run(make_config, tmp_path):
    results = make_config().data.results
    names = ("whole", "killed")
    files = [tmp_path / f"{name}.yaml" for name in names]
    for name, file in zip(names, files, strict=True):
        file.write_text(dump_config(make_config(run_name=name, epochs=5)))
    with subprocess.Popen([sys.executable, "-c", TRAIN_EACH, *map(str, files)], stdout=subprocess.DEVNULL) as process:
        wait_for(results / "killed", 2, process)
        process.send_signal(signal.SIGKILL)
    killed = RunFolder.open(results / "killed")
    assert not any(isinstance(event, Finished) for event in killed.read_events())
    resumed = subprocess.run(celltrain("resume", killed.path), capture_output=True, text=True, timeout=240, check=False)
    assert resumed.returncode == 0, resumed.stderr
    for part in ("checkpoints/last.pt", "model/model.safetensors"):
        tensors = [tensors_of(results / name / part) for name in names]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(np.array_equal(tensors[0][key].numpy(), tensors[1][key].numpy()) for key in tensors[0])
    written = [sorted((results / name / "validation").iterdir()) for name in ("whole", "killed")]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]
