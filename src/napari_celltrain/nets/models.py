"""The networks that can be trained, and how a description of one becomes a module.

Sizes are called small, medium and large; what they mean is in the table beside each builder. Batches of volumes hold
one or two patches, so instance normalization is used wherever MONAI leaves the choice; it leaves none for the
Attention U-Net and V-Net, whose batch normalization (like TRAILMAP's) keeps running statistics in buffers, which an
average of weights has to take over as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from napari_celltrain.io.axes import zyx
from napari_celltrain.nets.geometry import NUM_LEVELS, plan_strides, total_stride
from napari_celltrain.registry import Registry
from napari_celltrain.values.config import ZYX, Frozen, Spacing
from napari_celltrain.values.errors import ConfigError, ModelFileError
from napari_celltrain.values.outside import shown
from napari_celltrain.values.text import sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_celltrain.nets.architectures import SegmentationNetwork

ModelSize = Literal["small", "medium", "large"]


class NetworkSpec(Frozen):
    """Everything that decides a network's shape; stored in ``model.yaml``, so that weights fit for ever."""

    key: str
    """Which network, by its name in the registry."""
    size: ModelSize = "medium"
    """How wide and deep it is."""
    in_channels: int = Field(default=1, ge=1)
    """Channels of the image."""
    out_channels: int = Field(default=1, ge=1)
    """Channels of the logits: 1, or one per class."""
    voxel_size: Spacing | None = None
    """Size of a voxel along z, y and x; decides which axes are downsampled where. Empty: cubic."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a builder returns: a module, and the (z, y, x) that the sizes of its input must be multiples of."""

    module: nn.Module
    divisor: ZYX


ModelBuilder = Callable[[NetworkSpec], Architecture]

MODELS: Registry[ModelBuilder] = Registry("model", entry_point_group="napari_celltrain.models")


def build_network(spec: NetworkSpec) -> SegmentationNetwork:
    """The network with new weights, drawn from torch's global random numbers."""
    from napari_celltrain.nets.architectures import SegmentationNetwork

    architecture = MODELS[spec.key].build(spec)
    return SegmentationNetwork(architecture.module, architecture.divisor)


def num_parameters(network: nn.Module) -> int:
    """Trainable numbers of the network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Replace all weights and buffers by ``state``; where it does not fit exactly, refuse and change nothing."""
    own = network.state_dict()
    findings = {
        "missing in the file": sorted(own.keys() - state.keys()),
        "unknown to the network": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} ({sizes(state[name].shape) or 'one number'} in the file, "
            f"{sizes(own[name].shape) or 'one number'} in the network)"
            for name in sorted(own.keys() & state.keys())
            if state[name].shape != own[name].shape
        ],
    }
    lines = [
        f"\n  - {title}: {', '.join(map(shown, names[:5]))}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in findings.items()
        if names
    ]
    if lines:
        raise ModelFileError(
            "These weights belong to another network. Choose the model, model size, classes and voxel size that they "
            f"were trained with. What differs:{''.join(lines)}"
        )
    network.load_state_dict(state)


# --- the networks ---------------------------------------------------------------------------------------

_WIDTHS: dict[ModelSize, tuple[int, ...]] = {
    "small": (8, 16, 32, 64, 128),
    "medium": (16, 32, 64, 128, 256),
    "large": (32, 64, 128, 256, 512),
}
_INSTANCE_NORM: tuple[str, dict[str, bool]] = ("instance", {"affine": True})


def _strides(spec: NetworkSpec) -> tuple[ZYX, ...]:
    return plan_strides(spec.voxel_size, NUM_LEVELS[spec.key])


@MODELS.register("unet", "U-Net (residual)", "The quickest here and a good first choice for most data.")
def build_unet(spec: NetworkSpec) -> Architecture:
    """The residual U-Net of Kerfoot et al. 2018, https://doi.org/10.1007/978-3-030-12029-0_40."""
    from monai.networks.nets.unet import UNet

    strides = _strides(spec)
    channels = (spec.in_channels, spec.out_channels)
    # strides may differ by axis, whatever MONAI's annotation says
    module = UNet(3, *channels, _WIDTHS[spec.size], cast(Any, strides), num_res_units=2, norm=_INSTANCE_NORM)
    return Architecture(module, total_stride(strides))


@MODELS.register(
    "segresnet",
    "SegResNet",
    "A deep residual network that does well in challenges; several times slower than the U-Net.",
)
def build_segresnet(spec: NetworkSpec) -> Architecture:
    """SegResNet, Myronenko 2018, https://arxiv.org/abs/1810.11654, in MONAI's form that allows for coarse axes."""
    from monai.networks.nets.segresnet_ds import SegResNetDS

    kept = [steps.count(1) for steps in zip(*_strides(spec), strict=True)]
    # MONAI plans by whole powers of two: this resolution makes it leave out as many halvings as our plan does.
    resolution = tuple(2.0**times for times in kept) if any(kept) else None
    module = SegResNetDS(
        3,
        init_filters=_WIDTHS[spec.size][0],
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        norm=_INSTANCE_NORM,
        blocks_down=(1, 2, 2, 4),
        resolution=resolution,
    )
    return Architecture(module, zyx(module.shape_factor()))


@MODELS.register(
    "dynunet", "DynUNet (nnU-Net)", "The U-Net of nnU-Net; the best fitted to volumes whose z steps are coarse."
)
def build_dynunet(spec: NetworkSpec) -> Architecture:
    """The network of nnU-Net, Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z."""
    from monai.networks.nets.dynunet import DynUNet

    plan = plan_strides(spec.voxel_size, NUM_LEVELS["dynunet"] + 1)
    strides = plan[:-1]
    # Kernels look along a coarse axis only from the level on at which its spacing is even with the others.
    # But a strided kernel of one voxel would skip every other voxel altogether.
    steps = (zip(*pair, strict=True) for pair in pairwise(((1, 1, 1), *plan)))
    module = DynUNet(
        3,
        spec.in_channels,
        spec.out_channels,
        kernel_size=[zyx(1 if step == after == 1 else 3 for step, after in pairs) for pairs in steps],
        strides=[(1, 1, 1), *strides],
        upsample_kernel_size=strides,
        filters=tuple(min(width, 320) for width in _WIDTHS[spec.size]),
        norm_name=_INSTANCE_NORM,
    )
    return Architecture(module, total_stride(strides))


@MODELS.register(
    "attention_unet",
    "Attention U-Net",
    "A U-Net that learns where to look; slow. For rare cells in a large background.",
)
def build_attention_unet(spec: NetworkSpec) -> Architecture:
    """Attention U-Net, Oktay et al. 2018, https://arxiv.org/abs/1804.03999; MONAI's uses batch normalization."""
    from monai.networks.nets.attentionunet import AttentionUnet

    # One level less than the U-Net: it works at full resolution, and this is where its time goes.
    widths, strides = _WIDTHS[spec.size][:-1], _strides(spec)
    module = AttentionUnet(3, spec.in_channels, spec.out_channels, widths, cast(Any, strides))
    return Architecture(module, total_stride(strides))


@MODELS.register(
    "vnet", "V-Net", "Large filters and many weights; very slow. Halves all axes alike: made for cubic voxels."
)
def build_vnet(spec: NetworkSpec) -> Architecture:
    """V-Net; MONAI's blocks, with their batch normalization and dropout, in three widths (large is MONAI's)."""
    from napari_celltrain.nets.architectures import ScalableVNet

    width = _WIDTHS[spec.size][0] // 2
    if width % spec.in_channels:
        raise ConfigError(
            f"A V-Net cannot take {spec.in_channels} channels, as they do not divide {width}; use another."
        )
    return Architecture(ScalableVNet(spec.in_channels, spec.out_channels, width), (16, 16, 16))


@MODELS.register(
    "swinunetr",
    "Swin UNETR",
    "A transformer: sees far, needs much data, time and memory. Halves all axes alike; patches in steps of 32.",
)
def build_swinunetr(spec: NetworkSpec) -> Architecture:
    """Swin UNETR, Hatamizadeh et al. 2022, https://arxiv.org/abs/2201.01266."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    features = {"small": 12, "medium": 24, "large": 48}[spec.size]
    module = SwinUNETR(spec.in_channels, spec.out_channels, feature_size=features, norm_name=_INSTANCE_NORM)
    return Architecture(module, (32, 32, 32))


@MODELS.register("trailmap", "TRAILMAP", "The U-Net made for axons in cleared brains; for thin, branching structures.")
def build_trailmap(spec: NetworkSpec) -> Architecture:
    """A 3D U-Net as in TRAILMAP; the large one has the paper's widths."""
    from napari_celltrain.nets.architectures import TrailMap

    strides = _strides(spec)
    module = TrailMap(spec.in_channels, spec.out_channels, _WIDTHS[spec.size][0], strides)
    return Architecture(module, total_stride(strides))
