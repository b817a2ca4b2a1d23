"""What can be done with a run that has ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from rich.text import Text

from napari_celltrain.cli.terminal import console, text
from napari_celltrain.runs.folder import RunFolder


def print_steps(steps: Mapping[str, str]) -> None:
    """A line for each: its title, then what to open or to type."""
    output = console()
    for title, content in steps.items():
        output.print(Text(f"  {title + ':':<20}", style="bold") + text(content), soft_wrap=True)


def predict_line(folder: RunFolder, volumes: str, output: str) -> str:
    """The command that segments ``volumes`` by the model of ``folder``, quoted for a shell."""
    return shlex.join(["celltrain", "predict", str(folder.path), volumes, "--output", output])
