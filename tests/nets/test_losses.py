import pytest
import torch

from napari_celltrain.data.labels import IGNORE
from napari_celltrain.nets.losses import LOSSES, build_loss
from napari_celltrain.values.errors import ConfigError

KEYS = ["dice", "focal", "dice_focal", "generalized_dice", "dice_ce", "tversky"]
OUTPUTS = [1, 3]
SHAPE = (4, 5, 6)

every_loss = pytest.mark.parametrize("key", KEYS)
every_output = pytest.mark.parametrize("num_outputs", OUTPUTS)


def batch(num_outputs, items=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(items, num_outputs, *SHAPE, generator=generator) * 2
    target = torch.randint(0, max(2, num_outputs), (items, *SHAPE), generator=generator, dtype=torch.uint8)
    return logits.requires_grad_(), target


def test_the_losses_are_those_of_the_guide():
    assert LOSSES.keys() == KEYS
    with pytest.raises(ConfigError, match="no loss called"):
        build_loss("hinge", 1)


@every_loss
def test_the_parameters_are_those_of_the_guide(key):
    from monai import losses

    expected = {
        "dice": losses.DiceLoss(sigmoid=True),
        "focal": losses.FocalLoss(),
        "dice_focal": losses.DiceFocalLoss(sigmoid=True, lambda_dice=0.5),
        "generalized_dice": losses.GeneralizedDiceLoss(sigmoid=True),
        "dice_ce": losses.DiceCELoss(sigmoid=True),
        "tversky": losses.TverskyLoss(sigmoid=True),
    }[key]
    logits, target = batch(1)
    torch.testing.assert_close(build_loss(key, 1)(logits, target), expected(logits, target[:, None].float()))


@every_loss
@every_output
def test_a_perfect_prediction_costs_next_to_nothing_and_a_wrong_one_much(key, num_outputs):
    _, target = batch(num_outputs)
    one_hot = torch.nn.functional.one_hot(target.long(), max(2, num_outputs)).movedim(-1, 1).float()
    perfect = (one_hot if num_outputs > 1 else one_hot[:, 1:]) * 40 - 20
    loss = build_loss(key, num_outputs)
    assert loss(perfect, target) < 1e-3
    assert loss(-perfect, target) > 0.5


@every_loss
@every_output
def test_the_loss_is_the_mean_over_the_items(key, num_outputs):
    logits, target = batch(num_outputs, items=4)
    loss = build_loss(key, num_outputs)
    whole = loss(logits, target)
    halves = (loss(logits[:2], target[:2]) + loss(logits[2:], target[2:])) / 2
    torch.testing.assert_close(whole, halves)
    target[0, 0] = IGNORE  # a share of one item
    halves = (loss(logits[:2], target[:2]) + loss(logits[2:], target[2:])) / 2
    torch.testing.assert_close(loss(logits, target), halves)


@every_loss
@every_output
def test_ignored_voxels_count_exactly_nothing(key, num_outputs):
    logits, target = batch(num_outputs)
    loss = build_loss(key, num_outputs)
    cropped = loss(logits[:, :, :3], target[:, :3])
    target[:, 3:] = IGNORE
    masked = loss(logits, target)
    torch.testing.assert_close(masked, cropped)
    masked.backward()
    assert (logits.grad[:, :, 3:] == 0).all()
    assert (logits.grad[:, :, :3] != 0).any()


@every_loss
@every_output
def test_items_without_any_counted_voxel_do_not_count(key, num_outputs):
    logits, target = batch(num_outputs)
    loss = build_loss(key, num_outputs)
    target[0] = IGNORE
    torch.testing.assert_close(loss(logits, target), loss(logits[1:], target[1:]))
    target[1] = IGNORE
    nothing = loss(logits, target)
    nothing.backward()
    assert nothing == 0
    assert (logits.grad == 0).all()


@every_loss
@every_output
@pytest.mark.parametrize("content", [0, 1])
def test_uniform_patches_give_finite_losses_and_gradients(key, num_outputs, content):
    logits, target = batch(num_outputs)
    for scale in (1.0, 1e3, 0.0):
        logits.grad = None
        value = build_loss(key, num_outputs)(logits * scale, torch.full_like(target, content))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arithmetic_is_float32_also_under_autocast(key, dtype):
    logits, target = batch(1)
    half = logits.detach().to(dtype)
    loss = build_loss(key, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    assert value == loss(half.float(), target)


def test_whether_voxels_are_ignored_can_be_told(monkeypatch):
    logits, target = batch(1)
    loss = build_loss("dice_ce", 1)
    assert loss(logits, target, has_ignored=False) == loss(logits, target)
    torch.testing.assert_close(loss(logits, target, has_ignored=True), loss(logits, target))
    monkeypatch.setattr(torch.Tensor, "any", None)  # the look that a GPU would have to wait for
    loss(logits, target, has_ignored=False)
