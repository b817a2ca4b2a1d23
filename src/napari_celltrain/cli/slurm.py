"""A batch script for SLURM, which trains on one or more GPUs of one or more nodes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from napari_celltrain.errors import ConfigError

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d):[0-5]\d")

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=celltrain
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --output=celltrain-%j.log
{partition}
# Submit it with: sbatch THIS_FILE
# Follow it from anywhere that sees the results folder: celltrain watch RUN
# Some clusters want more to be asked for, such as (without the second #):
##SBATCH --mem=32G
##SBATCH --account=NAME
# The job starts in the folder where sbatch was called; if it shall run elsewhere, go there here, such as:
# cd /path/to/project
# If the software is in an environment of its own, enter it here, such as:
# source ~/celltrain/bin/activate

set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE

# One torchrun on each node; they meet on the first one, at a port that differs from job to job.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${{hosts%%$'\\n'*}}
port=$((20000 + SLURM_JOB_ID % 20000))

# Training ends by itself, with a validation, before SLURM would kill the job.
srun torchrun \\
    --nnodes="$SLURM_JOB_NUM_NODES" \\
    --nproc-per-node={gpus} \\
    --rdzv-id="$SLURM_JOB_ID" \\
    --rdzv-backend=c10d \\
    --rdzv-endpoint="$head_node:$port" \\
    -m napari_celltrain train {config} --max-minutes {max_minutes}
"""


def slurm_script(config: Path, nodes: int, gpus: int, time: str, partition: str | None = None) -> str:
    """``time`` as SLURM writes it: ``HH:MM:SS`` or ``D-HH:MM:SS``. Raises ``ConfigError`` for any other."""
    minutes = _minutes(time)
    if partition is not None and not re.fullmatch(r"[\w.,-]+", partition):
        raise ConfigError(f"--partition: {partition!r} is no name of a partition.")
    # For loading, the last validation and writing its predictions.
    reserve = min(15, max(2, minutes // 10))
    if minutes <= reserve:
        raise ConfigError(f"--time: {time} is too short; give at least 5 minutes, such as 00:05:00.")
    return _SCRIPT.format(
        nodes=nodes,
        gpus=gpus,
        cpus=4 * gpus,
        time=time,
        partition=f"#SBATCH --partition={partition}\n" if partition else "",
        config=shlex.quote(str(config)),
        max_minutes=minutes - reserve,
    )


def _minutes(time: str) -> int:
    match = _TIME.fullmatch(time)
    if match is None:
        raise ConfigError(f"--time: {time!r} must be HH:MM:SS or D-HH:MM:SS, such as 04:00:00.")
    return int(match["days"] or 0) * 1440 + int(match["hours"]) * 60 + int(match["minutes"])
