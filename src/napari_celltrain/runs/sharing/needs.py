"""Packages that only sharing needs: the extra ``share``."""

from __future__ import annotations

import importlib.util

from napari_celltrain.errors import ConfigError


def require(*modules: str) -> None:
    """Raise ``ConfigError`` that says what to install, where one of ``modules`` is missing."""
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise ConfigError(
            f"This export needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            'Install the extra "share" of napari-celltrain (`pip install "napari-celltrain[share]"`), or export as '
            "torchscript, which needs nothing more."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False
