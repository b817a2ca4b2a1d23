import numpy as np
import pytest
import torch

from napari_celltrain.data.labels import IGNORE, LabelScheme, decode_target, encode_objects
from napari_celltrain.nets.losses import LOSSES, build_loss


def touching() -> torch.Tensor:
    labels = np.zeros((2, 8, 10, 16), np.uint8)
    labels[:, 1:7, 1:9, 1:8] = 1
    labels[:, 1:7, 1:9, 8:15] = 2
    return torch.from_numpy(
        np.stack([encode_objects(item, LabelScheme("objects"), (1.0, 1.0, 1.0)) for item in labels])
    )


def perfect_logits(target: torch.Tensor) -> torch.Tensor:
    plain, depth, boundary = (torch.from_numpy(np.asarray(part, np.float32)) for part in decode_target(target.numpy()))
    probabilities = torch.stack([(plain == 1).float(), depth, boundary], dim=1)
    return torch.logit(probabilities.clamp(1e-6, 1 - 1e-6))


@pytest.mark.parametrize("key", [entry.key for entry in LOSSES])
def test_what_is_right_costs_less_than_what_is_wrong_in_any_output(key):
    target = touching()
    loss = build_loss(key, 1, "objects")
    right = perfect_logits(target)
    best = float(loss(right, target))
    for output in range(3):
        wrong = right.clone()
        wrong[:, output] = -wrong[:, output]
        assert float(loss(wrong, target)) > best + 0.1


def test_ignored_voxels_count_nothing():
    target = touching()
    target[:, :, :, :4] = IGNORE
    logits = torch.randn(2, 3, 8, 10, 16, requires_grad=True)
    loss = build_loss("dice_ce", 1, "objects")
    loss(logits, target).backward()
    assert float(logits.grad[..., :4].abs().max()) == 0
    assert float(logits.grad[..., 4:].abs().max()) > 0


@pytest.mark.parametrize("content", [0, IGNORE])
def test_patches_without_objects_give_finite_losses(content):
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    value = build_loss("dice", 1, "objects")(logits, torch.full((2, 4, 4, 4), content, dtype=torch.uint8))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
