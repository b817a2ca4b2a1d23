"""The network with its optimizer and its averaged weights; one call is one training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from napari_celltrain.engine.device import Ranks
from napari_celltrain.engine.patches import Batch
from napari_celltrain.engine.precision import LossFunction, NumericFormat
from napari_celltrain.values.config import TrainingConfig

Tensors = tuple[Tensor, ...] | list[Tensor]

FLOOR = 0.01  # the learning rate ends at this share of its largest value
PLATEAU_PATIENCE = 5  # validations without a better Dice after which ``plateau`` halves the learning rate
AVERAGE_DECAY = 0.995  # weight of the past in the running average of the weights: about the last 200 steps count


def learning_rate_at(config: TrainingConfig, step: int, planned_steps: int, halvings: int = 0) -> float:
    """The learning rate of optimizer step number ``step``, counted from 0, of ``planned_steps`` in all.

    Linear warm-up, then the curve that the config names. It depends only on numbers that are saved with a run, so a
    resumed run goes on exactly. Cosine decay after Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    warmup = min(config.warmup_steps, planned_steps // 4)
    rise = min(1.0, (step + 1) / (warmup + 1))
    if config.schedule == "cosine":
        progress = min(1.0, max(0.0, (step - warmup) / max(1, planned_steps - warmup)))
        fall = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "plateau":
        fall = max(FLOOR, 0.5**halvings)
    else:
        fall = 1.0
    return config.learning_rate * rise * fall


class Learner:
    """Owns everything that a training step changes.

    ``network`` is what is trained, ``evaluated`` what is validated and saved: the running average where
    ``config.weight_averaging`` (Polyak averaging with exponential decay, as in Tarvainen and Valpola 2017), else
    the network itself.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_function: LossFunction,
        config: TrainingConfig,
        device: torch.device,
        numeric_format: NumericFormat,
        ranks: Ranks,
    ) -> None:
        self.device = device
        self.numeric_format = numeric_format
        self._ranks = ranks
        self._loss_function = loss_function
        self._clipping = config.gradient_clipping
        if ranks.world > 1 and device.type == "cuda":
            # statistics over the whole batch, as with one process; PyTorch has this for CUDA alone
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network
        numeric_format.lay_out(network, device)
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=numeric_format.precision == "float16")
        self._average: AveragedModel | None = None
        if config.weight_averaging:
            self._average = AveragedModel(network, multi_avg_fn=_update_average, use_buffers=True)
        self._forward = network
        if ranks.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self._forward = DistributedDataParallel(network, device_ids=ids, find_unused_parameters=True)

    @property
    def evaluated(self) -> nn.Module:
        return self.network if self._average is None else self._average.module

    def step(self, batch: Batch, learning_rate: float, num_items: int) -> float:
        """Forward, backward and optimizer step; returns the mean loss over the ``num_items`` patches of all processes.

        ``batch`` is this process's part. Where ``num_items`` is smaller than the number of processes, some compute a
        patch with weight 0, since all must take part. Where loss or gradient are not finite, nothing is changed and
        the result is not finite either.
        """
        self.network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        count = len(range(self._ranks.rank, num_items, self._ranks.world))
        with self.numeric_format.autocast(self.device):
            logits = self._forward(self.numeric_format.place(batch.image, self.device))
        loss = self._loss_function(logits, batch.target.to(self.device, non_blocking=True))
        # DistributedDataParallel averages gradients over processes; this weight makes it an average over patches
        weighted = loss * (count * self._ranks.world / num_items)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(weighted).backward()
        losses = self._ranks.gather(float(weighted.detach()))
        mean_loss = sum(losses) / len(losses)
        self._scaler.unscale_(self._optimizer)
        limit = math.inf if self._clipping is None else self._clipping
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        # the scaler has its own way with overflows in half precision; else a broken step must not reach the weights
        if not self._scaler.is_enabled() and not (torch.isfinite(norm) and math.isfinite(mean_loss)):
            return math.nan
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)
        return mean_loss

    def weights(self) -> dict[str, Tensor]:
        """The weights that are validated and delivered, by name, on the processor."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.evaluated.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """All that a later learner needs to go on exactly, for ``torch.save``.

        Tensors keep their memory layout: the fused optimizer walks through a weight and its moments side by side.
        """
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "network": self.network.state_dict(),
            "average": {} if self._average is None else self._average.state_dict(),
            "moments": self._optimizer.state_dict()["state"],
            "scaler": self._scaler.state_dict(),
            "random": random,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state` gave, read onto the processor. Settings, such as the weight decay, stay.

        Raises one of Python's errors of lookup, type or value, or ``RuntimeError``, where it does not fit.
        """
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        weights = list(self.network.parameters())
        for index, moments in state["moments"].items():
            if any(moments[name].shape != weights[index].shape for name in ("exp_avg", "exp_avg_sq")):
                raise ValueError("the moments of the optimizer have other shapes than the weights.")
        settings = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["moments"], "param_groups": settings})
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)


@torch.no_grad()
def _update_average(averages: Tensors, weights: Tensors, num_averaged: Tensor | int) -> None:
    """Move the averages towards the weights; early on faster, so that the random start is forgotten."""
    count = int(num_averaged)
    decay = min(AVERAGE_DECAY, (1 + count) / (10 + count))
    if torch.is_floating_point(averages[0]):
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:  # counters of batch normalization
        for average, weight in zip(averages, weights, strict=True):
            average.copy_(weight)
