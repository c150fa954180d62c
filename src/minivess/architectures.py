"""MONAI's networks beside DynUNet, each built from a resolved record. Nothing is downloaded.

MONAI halves every axis at each level of SegResNet and of VISTA3D's encoder. Here the strides of
the record are set on the built layers, so that thin axes keep their slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
