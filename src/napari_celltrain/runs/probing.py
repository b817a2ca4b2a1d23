"""Choosing the numeric format of a run, once for all its processes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from napari_celltrain.events import Event, Logged, Prepared
from napari_celltrain.runs.preparation import Preparation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from napari_celltrain.engine.dataset import PatchSource
    from napari_celltrain.engine.distributed import Ranks
    from napari_celltrain.engine.formats import NumericFormat, Probe


def choose_format(
    preparation: Preparation,
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    source: PatchSource,
    device: torch.device,
    ranks: Ranks,
) -> Generator[Event, None, tuple[NumericFormat, float | None]]:
    """Time the formats, or remember what an equal run found here; gives the format and its seconds per step, if
    known."""
    from napari_celltrain.engine.formats import usual_format

    training = preparation.config.training
    if training.deterministic:
        return usual_format(training, device), None
    yield Prepared(stage="timing numeric formats")
    found: tuple[Probe, bool] | None = None
    if ranks.is_first:
        found = _probe(preparation, network, loss_function, source, device, ranks.world)
    answer = ranks.broadcast(found)
    assert answer is not None  # the first process has looked
    probe, is_remembered = answer
    if probe.trials:
        origin = " (found at an earlier run on this computer)" if is_remembered else ""
        yield Logged(message=f"Numeric format: {probe.chosen}{origin}\n{probe.table()}")
    return probe.chosen, probe.seconds_per_step


def _probe(
    preparation: Preparation,
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    source: PatchSource,
    device: torch.device,
    num_processes: int,
) -> tuple[Probe, bool]:
    import torch

    from napari_celltrain.engine.device import describe
    from napari_celltrain.engine.formats import probe_formats
    from napari_celltrain.engine.probe_cache import load_probe, probe_key, save_probe
    from napari_celltrain.engine.sampler import plan_epoch

    training, augmentation = preparation.config.training, preparation.config.augmentation
    count = max(1, training.batch_size // num_processes)
    samples = augmentation.samples_per_volume if augmentation.patches else 1
    batch = source.batch(plan_epoch(len(source.volumes), samples, training.seed, 1)[:count])
    key = probe_key(
        describe(device),
        threads=torch.get_num_threads(),
        network=preparation.network.model_dump_json(),
        loss=training.loss,
        batch=tuple(batch.image.shape),
        precision=training.precision,
        layout=training.memory_layout,
    )
    remembered = load_probe(key)
    if remembered is not None:
        return remembered, True
    probe = probe_formats(network, loss_function, batch.image, batch.target, training, device)
    save_probe(key, probe)
    return probe, False
