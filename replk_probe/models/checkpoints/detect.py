"""Recognizing the architecture of a state dict from its names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .rename_keys import is_unireplknet

Shapes = Mapping[str, Sequence[int]]

# Width of the first stage and kernel of each stage -> name in print, name in the registry.
_REPLKNETS: dict[tuple[int, tuple[int, ...]], tuple[str, str | None]] = {
    (128, (31, 29, 27, 13)): ("RepLKNet-31B", "replknet31b"),
    (192, (31, 29, 27, 13)): ("RepLKNet-31L", "replknet31l"),
    (256, (27, 27, 27, 13)): ("RepLKNet-XL", "replknetxl"),
    (128, (25, 25, 25, 13)): ("RepLKNet-25", "replknet25"),
    (128, (13, 13, 13, 13)): ("RepLKNet-13", "replknet13"),
    (128, (7, 7, 7, 7)): ("RepLKNet-7", "replknet7"),
    (128, (3, 3, 3, 3)): ("RepLKNet-3", "replknet3"),
}
# Width of the first stage of the models in micro.py, and of the first convolution of their MobileNets.
_MICRO_WIDTH = 16
# Width of the first stage and blocks of the third.
_SLAKS: dict[tuple[int, int], tuple[str, str | None]] = {
    (124, 9): ("SLaK-T", "slak_tiny"),
    (124, 27): ("SLaK-S", "slak_small"),
    (166, 27): ("SLaK-B", "slak_base"),
    (96, 9): ("ConvNeXt-T with 31x31 kernels", "convnext_tiny_k31"),
    (96, 27): ("ConvNeXt-S with 31x31 kernels", "convnext_small_k31"),
    (128, 27): ("ConvNeXt-B with 31x31 kernels", "convnext_base_k31"),
}
_UNIREPLKNETS = {
    (40, 6): "A",
    (48, 6): "F",
    (64, 6): "P",
    (80, 8): "N",
    (80, 18): "T",
    (96, 27): "S",
    (128, 27): "B",
    (192, 27): "L",
    (256, 27): "XL",
}
_RESNETS = {
    (False, 2): "ResNet-18",
    (False, 6): "ResNet-34",
    (True, 6): "ResNet-50",
    (True, 23): "ResNet-101",
    (True, 36): "ResNet-152",
}
# Pattern of a name that only this architecture has -> title. The first match counts.
_OTHERS = (
    (r"^downsample_layers\.0\.0\.weight$", "a ConvNeXt, the authors' naming"),
    (r"^stages\.0\.blocks\.0\.conv_dw\.weight$", "a ConvNeXt, timm's naming"),
    (r"^features\.1\.0\.layer_scale$", "a ConvNeXt, torchvision's naming"),
    (r"^layers\.0\.blocks\.0\.attn\.relative_position_bias_table$", "a Swin Transformer"),
    (r"^features\.1\.0\.attn\.relative_position_bias_table$", "a Swin Transformer, torchvision's naming"),
    (r"^dist_token$", "a distilled DeiT"),
    (r"^blocks\.0\.attn\.qkv\.weight$", "a Vision Transformer (ViT or DeiT)"),
    (r"^encoder\.layers\.encoder_layer_0\.", "a Vision Transformer, torchvision's naming"),
    (r"^features\.\d+\.squeeze\.weight$", "a SqueezeNet"),
    (r"^features\.denseblock1\.", "a DenseNet"),
    (r"^features\.1\.conv\.0\.0\.", "a MobileNet V2"),
    (r"^conv_stem\.weight$", "an EfficientNet or MobileNet, timm's naming"),
    (r"^inception3a\.", "a GoogLeNet"),
    (r"^(rpn|roi_heads?|decode_head|bbox_head)\.", "a detector or segmenter"),
)


@dataclass(frozen=True)
class Fingerprint:
    """The apparent architecture of weights."""

    title: str  # title for display, such as "RepLKNet-31B" or "a SqueezeNet"
    model: str | None = None  # registry name, for models of this package; else None
    form: str | None = None  # "train", "merged" or "merged+fused"; None for families without such forms

    def __str__(self) -> str:
        """Title and form, such as ``RepLKNet-31B, merged form``."""
        return self.title if self.form is None else f"{self.title}, {self.form} form"


def form_of(names: Sequence[str] | Mapping[str, object]) -> str | None:
    """The form that tensor names of this package's models imply, or None for other networks."""
    keys = set(names)
    if is_unireplknet(keys):
        if any(key.endswith(".pwconv2.bias") for key in keys):
            return "merged+fused"
        return "merged" if any(key.endswith(".dwconv.reparam_conv.weight") for key in keys) else "train"
    if not _is_mobilenet(keys) and not any(".large_kernel." in key for key in keys):
        return None
    # The stem and the first depthwise layer only have a bias after their batch norm has been folded.
    if keys & {"stem.0.conv.bias", "features.0.0.bias"}:
        return "merged+fused"
    if "features.1.conv.0.0.bias" in keys or any(".reparam_conv." in key for key in keys):
        return "merged"
    return "train"


def fingerprint(shapes: Shapes) -> Fingerprint:
    """Recognize a state dict whose names follow this package's models.

    Args:
        shapes: Shape of each tensor by name.

    Returns:
        The most specific description; for unknown networks the number of tensors and the first names.
    """
    form = form_of(shapes)
    if is_unireplknet(shapes):
        return _unireplknet(shapes, form)
    if form is not None and not _is_mobilenet(shapes):
        return _large_kernel_network(shapes, form)
    if "layer1.0.conv1.weight" in shapes:
        blocks = _count(shapes, r"^layer3\.(\d+)\.")
        return Fingerprint(_RESNETS.get(("layer1.0.conv3.weight" in shapes, blocks), "a ResNet"))
    kernel = tuple(shapes.get("features.0.weight", ()))
    if "classifier.6.weight" in shapes and len(kernel) == 4:
        return Fingerprint("AlexNet" if kernel[-1] == 11 else "a VGG")
    for pattern, title in _OTHERS:
        if any(map(re.compile(pattern).search, shapes)):
            large = title == "a MobileNet V2" and form is not None
            return _mobilenet(shapes, form) if large else Fingerprint(title)
    first = ", ".join(list(shapes)[:3])
    return Fingerprint(f"an unknown network ({len(shapes)} tensors: {first}, ...)")


def _large_kernel_network(shapes: Shapes, form: str) -> Fingerprint:
    largest: dict[int, int] = {}  # side of the largest kernel of each stage
    for name, shape in shapes.items():
        if found := re.match(r"stages\.(\d+)\.", name):
            is_kernel = ".large_kernel." in name and name.endswith("conv.weight") and len(shape) >= 2
            side = max(tuple(shape)[-2:]) if is_kernel else 0
            largest[int(found[1])] = max(largest.get(int(found[1]), 0), side)
    kernels = [largest.get(stage, 0) for stage in range(1 + max(largest, default=-1))]
    if "stem.0.conv.weight" in shapes:
        width = shapes["stem.0.conv.weight"][0]
        title, model = _REPLKNETS.get((width, tuple(kernels)), ("", None))
        family = "RepLKNet"
        if width == _MICRO_WIDTH:
            # The last stages of the one with 31 x 31 kernels have smaller ones.
            title, model = f"RepLKNet-micro-{kernels[0]}", f"replknet_micro_k{kernels[0]}{_rep(shapes)}"
    else:
        width = next((shape[0] for name, shape in shapes.items() if name == "downsample_layers.0.0.weight"), 0)
        title, model = _SLAKS.get((width, _count(shapes, r"^stages\.2\.(\d+)\.")), ("", None))
        family = "SLaK"
    title = title or f"a {family} of width {width} with kernels {'-'.join(map(str, kernels))}"
    if family == "SLaK" and width not in (96, 128) and any(".large_conv." in name for name in shapes):
        title, model = f"{title} with undecomposed kernels (lkb_origin)", None
    return Fingerprint(title, model, form)


def _unireplknet(shapes: Shapes, form: str | None) -> Fingerprint:
    # Every form has the first 1 x 1 convolution of the first block, [4 C, C].
    width = next((shape[-1] for name, shape in shapes.items() if name == "stages.0.0.pwconv1.weight"), 0)
    blocks = _count(shapes, r"^stages\.2\.(\d+)\.")
    size = _UNIREPLKNETS.get((width, blocks))
    if size is None:
        return Fingerprint(f"a UniRepLKNet of width {width} with {blocks} blocks in stage 3", None, form)
    return Fingerprint(f"UniRepLKNet-{size}", f"unireplknet_{size.lower()}", form)


def _mobilenet(shapes: Shapes, form: str | None) -> Fingerprint:
    """Describe a MobileNet V2; ``features.1`` does not expand, so its depthwise layer is ``conv.0.0``."""
    layers = {name: shape for name, shape in shapes.items() if name.startswith("features.1.conv.0.0.")}
    side = max((shape[-1] for shape in layers.values() if len(shape) == 4), default=3)
    if side == 3:
        return Fingerprint("a MobileNet V2", "mobilenetv2_k3", form)
    micro = tuple(shapes.get("features.0.0.weight", ()))[:1] == (_MICRO_WIDTH,)
    return Fingerprint(
        f"a {'small ' if micro else ''}MobileNet V2 with {side}x{side} kernels",
        f"mobilenetv2_{'micro_' if micro else ''}k{side}{_rep(layers)}",
        form,
    )


def _is_mobilenet(names: Iterable[str]) -> bool:
    """The first inverted residual does not expand, so its depthwise layer comes first."""
    return any(name.startswith("features.1.conv.0.0.") for name in names)


def _rep(names: Iterable[str]) -> str:
    """Suffix of the name of a model with small branches; a merged model must have had some."""
    return "_rep" if any(".small_conv." in name or ".reparam_conv." in name for name in names) else ""


def _count(shapes: Shapes, pattern: str) -> int:
    return len({found[1] for found in map(re.compile(pattern).match, shapes) if found})
