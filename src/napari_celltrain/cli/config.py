"""A batch script for SLURM, which trains on one or more GPUs of one or more nodes.

``celltrain config``: a commented configuration, or a cluster's job script.

``celltrain list``: the choices, as their registries tell them.
"""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_celltrain.cli.options import Overrides, with_settings
from napari_celltrain.cli.terminal import console, tell_warning, text, write_line
from napari_celltrain.registry import Registry
from napari_celltrain.runs.config_file import dump_config, override
from napari_celltrain.values import files
from napari_celltrain.values.config import RunConfig
from napari_celltrain.values.errors import ConfigError

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


# --- config ----------------------------------------------------------------------------------------------

_SLURM = "Job script for SLURM"


@with_settings()
def config(
    config: Annotated[Path, typer.Argument(help="With --slurm: the configuration that the job trains.")] = Path(
        "config.yaml"
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a job script for sbatch instead.", rich_help_panel=_SLURM)
    ] = False,
    gpus: Annotated[int, typer.Option(metavar="N", min=1, help="GPUs on each node.", rich_help_panel=_SLURM)] = 1,
    nodes: Annotated[int, typer.Option(metavar="M", min=1, help="Nodes.", rich_help_panel=_SLURM)] = 1,
    time: Annotated[
        str, typer.Option(metavar="HH:MM:SS", help="Longest time of the job.", rich_help_panel=_SLURM)
    ] = "04:00:00",
    partition: Annotated[
        str | None, typer.Option(metavar="NAME", help="Partition.", rich_help_panel=_SLURM, show_default=False)
    ] = None,
    *,
    overrides: Overrides,
) -> None:
    """Print a configuration with every setting explained, to be edited and trained by `celltrain train FILE`."""
    if slurm:
        if not config.exists():
            tell_warning(f"There is no {config} yet, which the job trains. Write it before you submit the job.")
        content = slurm_script(config, nodes, gpus, time, partition)
    else:
        content = dump_config(override(RunConfig(), overrides), commented=True)
    if output is None:
        write_line(content.removesuffix("\n"))
        return
    if output.exists() and not force:
        raise ConfigError(f"{output} exists already. Choose another name, or replace it with --force.")
    try:
        files.write_text(output, content)
    except OSError as error:
        raise files.refusal(output, error) from error
    console().print(text(f"Written to {output}"), soft_wrap=True)


# --- lists -----------------------------------------------------------------------------------------------


class Kind(StrEnum):
    MODELS = "models"
    LOSSES = "losses"
    AUGMENTATIONS = "augmentations"


_MODULES = {Kind.MODELS: "models", Kind.LOSSES: "losses", Kind.AUGMENTATIONS: "augment"}


def list_choices(
    kind: Annotated[
        Kind | None, typer.Argument(help="What to list; everything, where left out.", show_default=False)
    ] = None,
) -> None:
    """List the models, losses or augmentations that can be chosen, those of other packages included."""
    for each in [kind] if kind is not None else list(Kind):
        _print(each)


def _print(kind: Kind) -> None:
    from rich import box
    from rich.table import Table

    registry: Registry[Any] = getattr(import_module(f"napari_celltrain.nets.{_MODULES[kind]}"), kind.upper())
    table = Table(title=kind.capitalize(), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("Key", style="bold cyan", no_wrap=True)
    table.add_column("Name", no_wrap=True)
    table.add_column("What it is")
    for entry in registry:
        table.add_row(text(entry.key), text(entry.label), text(entry.help))
    console().print(table)
