"""Networks of timm's blocks with few channels: the same modules as in those with a name, in a tenth of the time."""

from __future__ import annotations

from functools import partial

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet, RegNetCfg
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
    return SHViT(num_classes=5, embed_dim=(16, 24), partial_dim=(4, 6), depth=(1, 1), types=("i", "s"))


def mobilenet_v3() -> nn.Module:
    """MobileNet V3, with both activations, in blocks with and without a gate, an expansion and a shortcut."""
    stages = "ds_r1_k3_s2_e1_c8_se0.25_nre ir_r1_k3_s2_e4_c12_nre ir_r2_k5_s2_e4_c16_se0.25 cn_r1_k1_s1_c32".split()
    gate = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU)
    sizes = {"num_classes": 5, "num_features": 24, "stem_size": 8}
    return MobileNetV3(decode_arch_def([[stage] for stage in stages]), act_layer=nn.Hardswish, se_layer=gate, **sizes)


def regnet() -> nn.Module:
    """RegNetY, with four stages, the third of which has a block without a change of size."""
    return RegNet(RegNetCfg(depth=5, w0=8, wa=8, wm=1.5, group_size=4, se_ratio=0.25), num_classes=5)
