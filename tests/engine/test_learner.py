"""One training step, and a saved state with which a run goes on bit for bit."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from napari_celltrain.engine.device import Ranks
from napari_celltrain.engine.learner import Learner
from napari_celltrain.engine.patches import Batch
from napari_celltrain.engine.precision import NumericFormat
from napari_celltrain.values.config import TrainingConfig

CPU = torch.device("cpu")
CHANNELS_LAST = NumericFormat(layout="channels_last")


def make_network() -> nn.Module:
    """With all that has state: weights of 5 axes, batch normalization, dropout; and one tensor under two names."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv3d(6, 6, 3, padding=1),
        nn.Conv3d(6, 6, 3, padding=1),
        nn.Conv3d(6, 1, 1),
    )
    network[5].weight = network[4].weight
    return network


def loss_function(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())


def make_learner(numeric_format: NumericFormat = CHANNELS_LAST, **settings: Any) -> Learner:
    config = TrainingConfig(**settings)
    return Learner(make_network(), loss_function, config, CPU, numeric_format, Ranks())


def batch_of(seed: int, num_items: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((num_items, 1, 5, 6, 7), generator=generator)
    return Batch(image, (image[:, 0] > 0).to(torch.uint8))


def train(learner: Learner, seeds: range, rate: float = 1e-2) -> list[float]:
    return [learner.step(batch_of(seed), rate, 2) for seed in seeds]


def saved_and_read(state: dict[str, Any]) -> dict[str, Any]:
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, "cpu", weights_only=True)


def assert_equal(a: Any, b: Any) -> None:
    """Nested dictionaries of tensors, to the bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_steps_reduce_the_loss() -> None:
    losses = train(make_learner(), range(40))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("weight_averaging", [True, False])
def test_a_restored_learner_goes_on_bit_for_bit(layout: Any, weight_averaging: bool) -> None:
    settings = {"numeric_format": NumericFormat(layout=layout), "weight_averaging": weight_averaging}
    whole = make_learner(**settings)
    train(whole, range(3))
    state = saved_and_read(whole.state())
    expected = train(whole, range(3, 8))

    resumed = make_learner(**settings)
    train(resumed, range(50, 52))  # whatever it was before
    resumed.restore(state)
    assert train(resumed, range(3, 8)) == expected
    assert_equal(resumed.state(), whole.state())


def test_moments_lie_in_memory_as_their_weights() -> None:
    """The fused optimizer walks through both side by side: laid out otherwise, they would belong to other weights."""
    learner = make_learner()
    train(learner, range(2))
    resumed = make_learner()
    resumed.restore(saved_and_read(learner.state()))
    weights = list(resumed.network.parameters())
    assert any(weight.stride() != weight.contiguous().stride() for weight in weights)
    for index, moments in resumed.state()["moments"].items():
        assert moments["exp_avg"].stride() == weights[index].stride()
        assert moments["exp_avg_sq"].stride() == weights[index].stride()


def test_a_tensor_under_two_names_stays_one() -> None:
    state = saved_and_read(make_learner().state())
    assert state["network"]["4.weight"].data_ptr() == state["network"]["5.weight"].data_ptr()


def test_restoring_keeps_the_settings_of_the_configuration() -> None:
    learner = make_learner(weight_decay=0.5)
    learner.restore(saved_and_read(make_learner(weight_decay=0.1).state()))
    assert learner._optimizer.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize("damage", ["network", "moments", "average", "random"])
def test_a_state_that_does_not_fit_is_refused(damage: str) -> None:
    learner = make_learner()
    train(learner, range(1))
    state = saved_and_read(learner.state())
    del state[damage]
    with pytest.raises(KeyError):
        make_learner().restore(state)


@pytest.mark.parametrize("broken", ["image", "loss"])
def test_a_broken_step_changes_nothing(broken: str) -> None:
    learner = make_learner()
    train(learner, range(2))
    before = copy.deepcopy(learner.state())
    batch = batch_of(9)
    if broken == "image":
        batch.image[0, 0, 0, 0, 0] = float("nan")
    else:
        learner._loss_function = lambda logits, _target: logits.sum() * float("inf")
    assert not torch.isfinite(torch.tensor(learner.step(batch, 1e-2, 2)))
    assert_equal(before["moments"], learner.state()["moments"])
    parameters = dict(learner.network.named_parameters())
    assert all(torch.equal(parameter, before["network"][name]) for name, parameter in parameters.items())


def test_clipping_limits_the_gradient() -> None:
    norms = []
    for limit in (None, 1e-3):
        learner = make_learner(gradient_clipping=limit)
        learner.step(batch_of(0), 1e-2, 2)
        gradients = [parameter.grad.flatten() for parameter in learner.network.parameters()]
        norms.append(float(torch.cat(gradients).norm()))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_average_follows_the_weights() -> None:
    learner = make_learner(weight_averaging=True)
    assert learner.evaluated is not learner.network
    train(learner, range(30))
    name = "0.weight"
    start, average = make_network().state_dict()[name], learner.evaluated.state_dict()[name]
    end = learner.network.state_dict()[name]
    assert 0 < float((average - end).norm()) < float((start - end).norm())
    # the count of batch normalization is taken over, not averaged
    assert learner.evaluated.state_dict()["1.num_batches_tracked"] == 30


def test_without_averaging_the_weights_themselves_are_evaluated() -> None:
    learner = make_learner(weight_averaging=False)
    assert learner.evaluated is learner.network
    assert learner.state()["average"] == {}


def test_weights_can_be_saved_as_they_are() -> None:
    assert all(weight.is_contiguous() and not weight.requires_grad for weight in make_learner().weights().values())
