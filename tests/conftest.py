"""What every test needs: its own place for what the program remembers between runs."""

from __future__ import annotations

import os

# libgomp reads it when torch is loaded: its waiting threads would otherwise keep both cores of a small machine busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Timings remembered by the developer's own runs must not decide how tests compute, nor the other way round."""
    before = os.environ.get("CELLTRAIN_CACHE_DIR")
    os.environ["CELLTRAIN_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CELLTRAIN_CACHE_DIR"]
    else:
        os.environ["CELLTRAIN_CACHE_DIR"] = before
