"""A network, a loss and the window, resolved so that they can be built anywhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from minivess.contracts.record import Contract, Shape, Spacing


class Limits(Contract):
    """What a model file says of its network instead of letting it be found."""

    divisibility_factor: Shape | None = None
    vram_per_voxel_train_bytes: float | None = None
    vram_base_mb: float | None = None
    max_patch_xy: int | None = None
    max_patch_z: int | None = None
    supports_amp: bool = True


class Network(Contract):
    """A network ready to build: every value resolved."""

    name: str = Field(description="file name in configs/models")
    family: str
    builder: str = Field(description="import path module:callable, called with this record")
    in_channels: int
    out_channels: int
    filters: tuple[int, ...]
    kernel_size: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    norm: str
    deep_supervision: bool
    dropout: float
    arguments: dict[str, Any] = Field(default={}, description="what only this builder knows")
    limits: Limits = Limits()

    @property
    def monai_norm(self) -> str | tuple[str, dict[str, Any]]:
        """The norm as MONAI takes it; a bare name would leave instance norm without scales."""
        if self.norm.lower() == "instance":
            return ("INSTANCE", {"affine": True})
        return ("GROUP", {"num_groups": 8}) if self.norm.lower() == "group" else self.norm


class LossTerm(Contract):
    """One weighted part of a loss."""

    loss: str = Field(description="a built-in name, or an import path module:callable")
    weight: float = 1.0
    arguments: dict[str, Any] = Field(default={})
    worst_neighbour: bool = Field(
        default=False, description="each voxel counts as the worst of its class beside it"
    )
    from_epoch: int = Field(default=0, ge=0, description="counted from 0; earlier it is left out")

    @property
    def formula(self) -> str:
        """For example `0.5*cldice (worst neighbour) from epoch 5`."""
        worst = " (worst neighbour)" if self.worst_neighbour else ""
        late = f" from epoch {self.from_epoch}" if self.from_epoch else ""
        return f"{self.weight:g}*{self.loss}{worst}{late}"


class Loss(Contract):
    """A loss to build: the weighted sum of its terms."""

    name: str = Field(description="file name in configs/losses")
    terms: tuple[LossTerm, ...]

    @property
    def formula(self) -> str:
        """For example `0.5*cbdice + 0.5*dice_ce_cldice`."""
        return " + ".join(term.formula for term in self.terms)


class Scale(Contract):
    """One scale for every volume: clip to low .. high, then subtract `mean`, divide by `std`."""

    low: float
    high: float
    mean: float
    std: float


Normalisation = Literal["zscore", "minmax", "dataset", "none"]


class Resampling(Contract):
    """How volumes are resampled before a network sees them."""

    method: str = Field(description="'spacing', or an import path module:callable")
    target_spacing: Spacing | None = Field(description="voxel size in the unit of the headers")


class Window(Contract):
    """How a network is run over a whole volume, everywhere in the same way."""

    patch_size: Shape = Field(description="of the windows")
    overlap: float
    normalisation: Normalisation
    scale: Scale | None = Field(default=None, description="with `dataset`: of the training volumes")
    mirrored: tuple[int, ...] = Field(
        default=(), description="axes along which mirrored copies are predicted and averaged"
    )
    resampling: Resampling | None = None


How = Literal["mean", "vote", "soup", "fold_soup"]


class Part(Contract):
    """A network of a model, and the voter that it belongs to; those of one voter are averaged."""

    network: Network
    window: Window
    voter: int = 0


class Composition(Contract):
    """The networks of a model: one, or those of an ensemble and how they are combined."""

    parts: tuple[Part, ...]
    how: How = "mean"

    @property
    def window(self) -> Window:
        """The window of the first network; all have the same resampling."""
        return self.parts[0].window
