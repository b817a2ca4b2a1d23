"""Runs over small volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from balls import write_pairs
from napari_celltrain.values.config import AugmentationConfig, DataConfig, RunConfig, TrainingConfig


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the images and labels of four volumes."""
    return write_pairs(tmp_path_factory.mktemp("balls"), ["a_1", "b_1", "c_1", "d_1"])


@pytest.fixture
def make_config(balls: tuple[Path, Path], tmp_path: Path) -> Callable[..., RunConfig]:
    """A configuration that trains in a second; keywords replace fields of ``training``, or of the section named by
    their prefix (``data_``, ``augmentation_``). The numeric format is given, since timing the formats takes longer
    than training."""

    def make(**fields: object) -> RunConfig:
        sections: dict[str, dict[str, object]] = {
            "data": {"images": balls[0], "labels": balls[1], "results": tmp_path / "results"},
            "augmentation": {"patch_size": (16, 32, 32), "samples_per_volume": 2},
            "training": {
                "epochs": 2,
                "validation_interval": 1,
                "model_size": "small",
                "warmup_steps": 0,
                "precision": "float32",
                "memory_layout": "channels_last",
                "threads": 1,
            },
        }
        top: dict[str, object] = {}
        for name, value in fields.items():
            section, _, rest = name.partition("_")
            if section in ("data", "augmentation") and rest:
                sections[section][rest] = value
            elif name == "run_name":
                top[name] = value
            else:
                sections["training"][name] = value
        return RunConfig(
            data=DataConfig(**sections["data"]),  # type: ignore[arg-type]
            augmentation=AugmentationConfig(**sections["augmentation"]),  # type: ignore[arg-type]
            training=TrainingConfig(**sections["training"]),  # type: ignore[arg-type]
            **top,  # type: ignore[arg-type]
        )

    return make
