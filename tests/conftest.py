"""What every test needs: its own place for what the program remembers between runs, and no waste of time."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# libgomp reads it when torch is loaded: its waiting threads would otherwise keep both cores of a small machine busy
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import settings

# the same examples in every run: a test that finds something new must not fail by chance
settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=200)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """All the modules that were imported stay anyway; left out, they no longer slow each search for garbage down."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots of runs are small files: drawing them takes longer than training on small volumes."""
    from napari_celltrain.runs import record

    def save(history: object, path: Path) -> None:
        path.write_text("a plot", encoding="utf-8")

    monkeypatch.setattr(record, "save_plot", save)


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
