import math
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from napari_celltrain import registry
from napari_celltrain.nets import models
from napari_celltrain.nets.architectures import padded_size
from napari_celltrain.nets.models import (
    MODELS,
    Architecture,
    NetworkSpec,
    build_network,
    load_weights,
    num_parameters,
)
from napari_celltrain.values.errors import ConfigError, ModelFileError

KEYS = ["unet", "segresnet", "dynunet", "attention_unet", "vnet", "swinunetr", "trailmap"]
PLANNED = ["unet", "segresnet", "dynunet", "attention_unet", "trailmap"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(key, **settings):
    return NetworkSpec(key=key, size="small", **settings)


def test_the_networks_are_those_of_the_design():
    assert MODELS.keys() == KEYS
    assert all(entry.label and entry.help.endswith(".") and "\n" not in entry.help for entry in MODELS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("voxel_size", [None, (5.0, 1.0, 1.0)])
def test_any_size_goes_in_and_comes_out(key, voxel_size):
    torch.manual_seed(0)
    network = build_network(small(key, voxel_size=voxel_size, out_channels=3))
    logits = network(torch.randn(1, 1, 17, 30, 25))
    assert logits.shape == (1, 3, 17, 30, 25)
    logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("key", KEYS)
def test_a_single_voxel_can_be_trained_on_and_predicted(key):
    network = build_network(small(key))
    assert network(torch.randn(1, 1, 1, 1, 1)).shape == (1, 1, 1, 1, 1)
    assert network.eval()(torch.randn(2, 1, 3, 1, 2)).shape == (2, 1, 3, 1, 2)


@pytest.mark.parametrize("key", KEYS)
def test_channels_last_gives_the_same(key):
    torch.manual_seed(0)
    network = build_network(small(key)).eval()
    image = torch.randn(2, 1, 16, 16, 32)
    with torch.no_grad():
        expected = network(image)
        network.to(memory_format=torch.channels_last_3d)
        actual = network(image.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("key", PLANNED)
@pytest.mark.parametrize(("voxel_size", "left_out"), [(None, 0), ((1.75, 0.8, 0.8), 1), ((5.0, 1.0, 1.0), 2)])
def test_coarse_z_is_halved_less_often(key, voxel_size, left_out):
    z, y, x = build_network(small(key, voxel_size=voxel_size)).divisor
    assert y == x
    assert z == y // 2**left_out


def test_segresnet_follows_the_plan_for_three_different_spacings():
    assert build_network(small("segresnet", voxel_size=(5.0, 2.0, 1.0))).divisor == (2, 4, 8)


def test_dynunet_looks_along_z_only_where_spacing_is_even():
    network = build_network(small("dynunet", voxel_size=(5.0, 1.0, 1.0))).network
    assert network.kernel_size == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]


def test_padding_keeps_a_fitting_image_as_it_is_and_fills_others_up():
    assert padded_size((32, 64, 64), (16, 16, 16)) == [32, 64, 64]
    assert padded_size((17, 30, 25), (16, 16, 16)) == [32, 32, 32]
    assert padded_size((16, 16, 16), (16, 16, 16)) == [16, 16, 32]


def test_the_padded_border_is_cut_off_where_it_was_added():
    from napari_celltrain.nets.architectures import SegmentationNetwork

    image = torch.randn(2, 1, 5, 6, 7)
    torch.testing.assert_close(SegmentationNetwork(torch.nn.Identity(), (4, 4, 4))(image), image)


def test_further_outputs_of_a_network_are_dropped():
    from napari_celltrain.nets.architectures import main_output

    main, other = torch.zeros(1, 2, 3, 3, 3), torch.ones(1, 2, 3, 3, 3)
    assert main_output([main, other]) is main
    assert torch.equal(main_output(torch.stack([main, other], dim=1)), main)


def test_equal_seeds_give_equal_networks():
    first, second = (torch.manual_seed(7) and build_network(small("unet")).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_vnet_of_large_size_is_that_of_monai():
    from monai.networks.nets.vnet import VNet

    expected = sum(math.prod(parameter.shape) for parameter in VNet().parameters())
    assert num_parameters(build_network(NetworkSpec(key="vnet", size="large"))) == expected


def test_trainable_parameters_are_counted():
    network = build_network(small("unet"))
    assert num_parameters(network) == 1_203_496
    next(network.parameters()).requires_grad = False
    assert num_parameters(network) < 1_203_496


def test_sizes_grow():
    for key in ("unet", "trailmap"):
        specs = [NetworkSpec(key=key, size=size) for size in ("small", "medium", "large")]
        counts = [num_parameters(build_network(spec)) for spec in specs]
        assert counts == sorted(set(counts))


def test_a_description_survives_being_written_and_refuses_nonsense():
    spec = small("dynunet", out_channels=2, voxel_size=(2.0, 0.5, 0.5))
    assert NetworkSpec.model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError):
        NetworkSpec(key="unet", out_channels=0)


def test_an_unknown_network_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match="Did you mean 'unet'"):
        build_network(NetworkSpec(key="unett"))


def test_vnet_refuses_channels_that_it_cannot_take():
    with pytest.raises(ConfigError, match="3 channels"):
        build_network(small("vnet", in_channels=3))


def test_weights_are_loaded_where_they_fit():
    source, sink = build_network(small("trailmap")), build_network(small("trailmap"))
    load_weights(sink, source.state_dict())
    assert all(torch.equal(source.state_dict()[name], tensor) for name, tensor in sink.state_dict().items())


def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed():
    network = build_network(small("unet"))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    names = sorted(state)
    for name in names[:8]:
        del state[name]
    state["stray"] = torch.zeros(1)
    state[names[9]] = torch.zeros(2, 3)
    with pytest.raises(ModelFileError) as caught:
        load_weights(network, state)
    message = str(caught.value)
    assert f"missing in the file: {', '.join(names[:5])} and 3 more" in message
    assert "unknown to the network: stray" in message
    assert f"{names[9]} (2 × 3 in the file" in message
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())


def test_other_packages_can_add_a_network(monkeypatch):
    def build(spec: NetworkSpec) -> Architecture:
        return Architecture(torch.nn.Conv3d(spec.in_channels, spec.out_channels, 1), (2, 2, 2))

    entry = registry.Entry("tiny", "Tiny", "One convolution.", build)
    point = SimpleNamespace(name="tiny", value="other:entry", dist=None, load=lambda: entry)
    asked = []
    monkeypatch.setattr(registry, "entry_points", lambda group: asked.append(group) or [point])
    fresh = registry.Registry("model", entry_point_group="napari_celltrain.models")
    for own in MODELS:
        fresh.add(own)
    monkeypatch.setattr(models, "MODELS", fresh)
    network = build_network(NetworkSpec(key="tiny"))
    assert asked == ["napari_celltrain.models"]
    assert network.divisor == (2, 2, 2)
    assert network(torch.zeros(1, 1, 3, 3, 3)).shape == (1, 1, 3, 3, 3)
