"""``celltrain config``: a commented configuration, or a cluster's job script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_celltrain.cli.settings import Overrides, with_settings
from napari_celltrain.cli.slurm import slurm_script
from napari_celltrain.cli.terminal import console, tell_warning, text, write_line
from napari_celltrain.config import RunConfig
from napari_celltrain.errors import ConfigError
from napari_celltrain.runs import atomic
from napari_celltrain.runs.config_file import dump_config, override

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
        atomic.write_text(output, content)
    except OSError as error:
        raise atomic.refusal(output, error) from error
    console().print(text(f"Written to {output}"), soft_wrap=True)
