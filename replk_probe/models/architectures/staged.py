"""What the networks in the form of ConvNeXt have in common: alternating downsampling layers and stages of blocks."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers.classifier import MeanPooled
from ..layers.reparam import Reparameterizable
from ..stages import ProbeSpec, Stage


class Staged(Reparameterizable, MeanPooled):
    """Adds the passes through the layers, and their description, to a network.

    Attributes:
        family: Name of the architecture for the reader.
        depths: Number of blocks in each stage.
        downsample_layers: The stem, and the layer before each further stage.
        stages: The stages.
        norm: Norm of the pooled features.
        head: Linear classifier.
    """

    family: str
    depths: tuple[int, ...]
    downsample_layers: nn.ModuleList
    stages: nn.ModuleList
    norm: nn.Module
    head: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map before pooling and the final norm, ``[N, C, H / 32, W / 32]``."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, final norm and, unless ``pre_logits``, the classifier."""
        x = self.norm(x.mean((-2, -1)))
        logits: Tensor = x if pre_logits else self.head(x)
        return logits

    def probe_spec(self) -> ProbeSpec:
        """The stages; the output of the last is pooled before it is normalized."""
        stages = tuple(
            Stage(f"stages.{number}", tuple(f"stages.{number}.{index}" for index in range(depth)))
            for number, depth in enumerate(self.depths)
        )
        return ProbeSpec(self.family, stages, (stages[-1].path, "output"))
