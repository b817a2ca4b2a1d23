"""Reports of the data check, without any data."""

from __future__ import annotations

from pathlib import Path

from napari_celltrain.data.check import DataReport, PairReport
from napari_celltrain.data.labels import LabelScheme
from napari_celltrain.data.pairs import Pair
from napari_celltrain.data.split import split_cases
from napari_celltrain.values.config import ZYX, DataConfig, Spacing
from napari_celltrain.values.errors import DataError
from napari_celltrain.widgets.train.advice import DataFacts, data_facts


def report_of(
    shapes: list[ZYX],
    voxel_size: Spacing | None = (1.0, 1.0, 1.0),
    extent: Spacing | None = (10.0, 12.0, 12.0),
    **changes: object,
) -> DataReport:
    pairs = tuple(
        PairReport(
            Pair(f"im{n}", Path(f"images/im{n}.tif"), Path(f"labels/im{n}.tif"), "name"),
            None,
            shape=shape,
            dtype="uint16",
            label_dtype="uint16",
            voxel_size=voxel_size,
            object_extent_median=extent,
            **changes,  # type: ignore[arg-type]
        )
        for n, shape in enumerate(shapes)
    )
    return DataReport(pairs, (), LabelScheme("objects"))


def facts_of_report(report: DataReport, config: DataConfig | None = None) -> DataFacts:
    """Divided as training would divide it."""
    shapes = {pair.pair: pair.shape for pair in report.pairs if pair.shape is not None}
    fraction = (config or DataConfig()).validation_fraction
    try:
        split = split_cases(list(shapes), list(shapes.values()), fraction, 0)
    except DataError:  # a single volume that is too small
        split = None
    facts = data_facts(report, split)
    assert facts is not None
    return facts
