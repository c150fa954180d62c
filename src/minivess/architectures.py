"""MONAI's networks beside DynUNet and two of our own, each built from a resolved record.

Nothing is downloaded.

MONAI halves every axis at each level of SegResNet and of VISTA3D's encoder. Here the strides of
the record are set on the built layers, so that thin axes keep their slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import nn
from torch.nn import functional

from minivess.contracts import Network, Shape

if TYPE_CHECKING:
    from torch import Tensor


def segresnet(network: Network) -> nn.Module:
    """MONAI's SegResNet; channels double at each level.

    Raises:
        ValueError: filters that do not double, or a first stride.
    """
    from monai.networks.nets.segresnet import SegResNet

    strides, levels = _strides(network), _doubling(network)
    module = SegResNet(
        spatial_dims=3,
        init_filters=network.filters[0],
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        dropout_prob=network.dropout or None,
        norm=network.monai_norm,
        **{
            "blocks_down": (1, *(2,) * (levels - 2), 4),
            "blocks_up": (1,) * (levels - 1),
            **network.arguments,
        },
    )
    for layer, stride in zip(module.down_layers[1:], strides, strict=True):
        next(part for part in layer.modules() if isinstance(part, nn.Conv3d)).stride = stride
    for layer, stride in zip(module.up_samples, reversed(strides), strict=True):
        scaled = next(part for part in layer.modules() if isinstance(part, nn.Upsample))
        scaled.scale_factor = tuple(float(step) for step in stride)
    return module


def unet(network: Network) -> nn.Module:
    """MONAI's residual UNet."""
    from monai.networks.nets.unet import UNet

    return UNet(
        spatial_dims=3,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        channels=network.filters,
        kernel_size=network.kernel_size[0],
        up_kernel_size=network.kernel_size[0],
        norm=network.monai_norm,
        dropout=network.dropout,
        **{"strides": _strides(network), "num_res_units": 2, **network.arguments},
    )


def swinunetr(network: Network) -> nn.Module:
    """MONAI's SwinUNETR; it halves every axis five times, whatever the data."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    if len(network.filters) != 1:
        message = f"SwinUNETR takes one number of features, not filters {network.filters}"
        raise ValueError(message)
    return SwinUNETR(
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        feature_size=network.filters[0],
        norm_name=network.norm,
        drop_rate=network.dropout,
        spatial_dims=3,
        **network.arguments,
    )


def vista3d(network: Network) -> nn.Module:
    """VISTA3D's encoder with its class head, one prompt for each class; no points.

    He et al., "VISTA3D: Versatile Imaging SegmenTation and Annotation", 2024.
    """
    return Vista3d(network)


class Vista3d(nn.Module):
    """Logits (B, C, X, Y, Z) of all classes at once."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        from monai.networks.nets.segresnet_ds import SegResNetDS2
        from monai.networks.nets.vista3d import ClassMappingClassify

        strides, levels = _strides(network), _doubling(network)
        width = network.filters[0]
        self.image_encoder = SegResNetDS2(
            in_channels=network.in_channels,
            out_channels=width,
            init_filters=width,
            norm=network.norm,
            **{
                "blocks_down": (1, 2, 2, *(4,) * (levels - 3))[:levels],
                "dsdepth": 1,
                **network.arguments,
            },
        )
        # Points are not trained here, so their branch would only take memory.
        self.image_encoder.up_layers = nn.ModuleList(nn.Identity() for _ in strides)
        _restride(self.image_encoder, strides)
        self.class_head = ClassMappingClassify(network.out_channels, width, use_mlp=True)
        self.register_buffer("classes", torch.arange(network.out_channels)[:, None])

    def forward(self, volume: Tensor) -> Tensor:
        """Each class asks for its mask."""
        features = self.image_encoder(volume, with_point=False, with_label=True)[1]
        masks: Tensor = self.class_head(features, self.classes)[0]
        return masks.transpose(0, 1)


def _restride(encoder: Any, strides: tuple[Shape, ...]) -> None:
    from monai.networks.blocks.upsample import UpSample

    for level, stride in zip(encoder.encoder.layers, strides, strict=False):
        level["downsample"].stride = stride
    for level, stride in zip(encoder.up_layers_auto, reversed(strides), strict=True):
        convolution = next(p for p in level["upsample"].modules() if hasattr(p, "in_channels"))
        level["upsample"] = UpSample(
            spatial_dims=3,
            in_channels=convolution.in_channels,
            out_channels=convolution.out_channels,
            mode="deconv",
            kernel_size=3,
            scale_factor=stride,
            bias=False,
        )
    encoder.anisotropic_scales = [*strides, (1, 1, 1)]


def _strides(network: Network) -> tuple[Shape, ...]:
    """The strides between levels; the first one would shrink the output."""
    if network.strides[0] != (1, 1, 1):
        message = f"the first stride must be (1, 1, 1), not {network.strides[0]}"
        raise ValueError(message)
    return network.strides[1:]


def _doubling(network: Network) -> int:
    """Number of levels."""
    first, levels = network.filters[0], len(network.filters)
    doubled = tuple(first * 2**level for level in range(levels))
    if levels < 2 or network.filters != doubled:
        message = f"filters must double over two levels or more, as {doubled} does"
        raise ValueError(message)
    return levels


# --- residual encoders of our own ---------------------------------------------------------


def resenc(network: Network) -> nn.Module:
    """nnU-Net's residual encoder: more blocks the deeper, and a plain decoder.

    Isensee et al., "nnU-Net Revisited", MICCAI 2024. `arguments` may hold `blocks`, of each level.
    """
    return ResidualUNet(
        network, ResidualBlock, **{"blocks": (1, 3, 4, 6, 6, 6), **network.arguments}
    )


def mednext(network: Network) -> nn.Module:
    """MedNeXt S: large depthwise kernels between narrow and wide channels, two blocks a level.

    Roy et al., "MedNeXt", MICCAI 2023. `arguments` may hold `blocks`, of each level.
    """
    return ResidualUNet(
        network, NextBlock, **{"blocks": (2,) * 6, "decoder_blocks": 2, **network.arguments}
    )


class ResidualUNet(nn.Module):
    """Logits (B, C, X, Y, Z); with deep supervision in train() (B, heads, C, X, Y, Z)."""

    def __init__(
        self, network: Network, block: Any, *, blocks: Sequence[int], decoder_blocks: int = 1
    ) -> None:
        super().__init__()
        widths, strides, kernels = network.filters, network.strides, network.kernel_size
        levels = len(widths)
        if len(_strides(network)) < 1 or len(blocks) < levels:
            message = f"{levels} levels (filters) take 2 or more, and as many numbers of blocks"
            raise ValueError(message)

        def stage(level: int, width: int, stride: Shape, count: int) -> nn.Module:
            inside = [width, *(widths[level],) * (count - 1)]
            steps = [stride, *((1, 1, 1),) * (count - 1)]
            made = [
                block(one, widths[level], kernels[level], step, network.monai_norm)
                for one, step in zip(inside, steps, strict=True)
            ]
            return nn.Sequential(*made, *([nn.Dropout3d(network.dropout)] * bool(network.dropout)))

        self.stem = nn.Conv3d(
            network.in_channels, widths[0], kernels[0], padding=_padding(kernels[0])
        )
        self.encoder = nn.ModuleList(
            stage(level, widths[max(0, level - 1)], strides[level], blocks[level])
            for level in range(levels)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(deep, shallow, stride, stride)
            for shallow, deep, stride in zip(widths, widths[1:], strides[1:], strict=False)
        )
        self.decoder = nn.ModuleList(
            stage(level, 2 * widths[level], (1, 1, 1), decoder_blocks)
            for level in range(levels - 1)
        )
        heads = min(3, levels - 1) if network.deep_supervision else 1
        self.heads = nn.ModuleList(
            nn.Conv3d(width, network.out_channels, 1) for width in widths[:heads]
        )

    def forward(self, volume: Tensor) -> Tensor:
        """Encode, then decode from the deepest level up."""
        features, found = [], self.stem(volume)
        for stage in self.encoder:
            found = stage(found)
            features.append(found)
        decoded: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            found = torch.cat([self.up[level](found), features[level]], dim=1)
            found = self.decoder[level](found)
            decoded.insert(0, found)
        answer: Tensor = self.heads[0](decoded[0])
        if not self.training or len(self.heads) == 1:
            return answer
        deeper = (head(part) for head, part in zip(self.heads, decoded, strict=False))
        size = answer.shape[2:]
        return torch.stack([functional.interpolate(part, size) for part in deeper], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a pooled and projected way round them."""

    def __init__(self, inside: int, outside: int, kernel: Shape, stride: Shape, norm: Any) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(inside, outside, kernel, stride, _padding(kernel), bias=False),
            get_norm_layer(norm, 3, outside),
            nn.LeakyReLU(0.01),
            nn.Conv3d(outside, outside, kernel, 1, _padding(kernel), bias=False),
            get_norm_layer(norm, 3, outside),
        )
        same = inside == outside and max(stride) == 1
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.AvgPool3d(stride, stride),
                nn.Conv3d(inside, outside, 1, bias=False),
                get_norm_layer(norm, 3, outside),
            )
        )

    def forward(self, volume: Tensor) -> Tensor:
        """Add both ways."""
        return functional.leaky_relu(self.convolutions(volume) + self.around(volume), 0.01)


class NextBlock(nn.Module):
    """A depthwise convolution, then twice as many channels, then few again."""

    def __init__(self, inside: int, outside: int, kernel: Shape, stride: Shape, norm: Any) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(inside, inside, kernel, stride, _padding(kernel), groups=inside),
            get_norm_layer(norm, 3, inside),
            nn.Conv3d(inside, 2 * inside, 1),
            nn.GELU(),
            nn.Conv3d(2 * inside, outside, 1),
        )
        same = inside == outside and max(stride) == 1
        self.around = nn.Identity() if same else nn.Conv3d(inside, outside, 1, stride)

    def forward(self, volume: Tensor) -> Tensor:
        """Add both ways."""
        found: Tensor = self.convolutions(volume) + self.around(volume)
        return found


def _padding(kernel: Shape) -> Shape:
    x, y, z = kernel
    return x // 2, y // 2, z // 2
