"""Networks of timm's blocks with few channels: the same modules as in those with a name, in a tenth of the time."""

from __future__ import annotations

from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.shvit import SHViT
from torch import nn


def _byobnet(*blocks: ByoBlockCfg, stem: str) -> nn.Module:
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type=stem, stem_chs=8), num_classes=5)


def repvgg() -> nn.Module:
    """RepVGG, whose blocks have an identity where they keep the size."""
    return _byobnet(ByoBlockCfg("rep", d=2, c=8, gs=0), ByoBlockCfg("rep", d=1, c=16, gs=0), stem="rep")


def mobileone() -> nn.Module:
    """MobileOne, with four branches: a depthwise block, and a pointwise one with an identity."""
    branches = {"num_conv_branches": 4}
    depthwise = ByoBlockCfg("one", d=1, c=8, gs=1, block_kwargs=branches)
    pointwise = ByoBlockCfg("one", d=1, c=8, s=1, gs=0, block_kwargs={"kernel_size": 1, **branches})
    return _byobnet(depthwise, pointwise, stem="one")


def shvit() -> nn.Module:
    """SHViT, with blocks with and without attention."""
    return SHViT(num_classes=5, embed_dim=(16, 24, 32), partial_dim=(4, 6, 8), depth=(1, 1, 1), types=("i", "s", "s"))
