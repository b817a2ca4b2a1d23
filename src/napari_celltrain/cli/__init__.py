"""The command ``celltrain``: train, resume, stop, watch, predict, check and more, for shells, scripts and clusters."""

from napari_celltrain.cli.main import main

__all__ = ["main"]
