"""Renaming tensors between published files and the models of this package and torchvision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_choice

from ..architectures.mobilenet_v2 import LargeKernelMobileNetV2
from ..architectures.replknet import RepLKNet
from ..architectures.slak import SLaK
from ..architectures.unireplknet import UniRepLKNet

# Names of the branches in the authors' files -> names in this package. SLaK's authors renamed theirs twice.
_BRANCHES = {
    "lkb_origin": "large_conv",
    "lkb_reparam": "reparam_conv",
    "LoRA1": "column_conv",
    "Decom1": "column_conv",
    "LoRA2": "row_conv",
    "Decom2": "row_conv",
}
_BRANCH = re.compile(rf"(?<=\.large_kernel\.)({'|'.join(_BRANCHES)})(?=\.)")
_OFFICIAL = {"large_conv": "lkb_origin", "reparam_conv": "lkb_reparam", "column_conv": "LoRA1", "row_conv": "LoRA2"}
_OWN_BRANCH = re.compile(rf"(?<=\.large_kernel\.)({'|'.join(_OFFICIAL)})(?=\.)")
_BLOCK = r"(stages\.\d+\.\d+)"
# A merged SLaK is timm's ConvNeXt with other kernels: patterns for names in this package -> names in timm. The first
# match counts.
_TO_TIMM = (
    (r"downsample_layers\.0\.", r"stem."),
    (r"downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"stages\.(\d+)\.(\d+)\.large_kernel\.reparam_conv\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"stages\.(\d+)\.(\d+)\.pwconv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"norm\.", r"head.norm."),
    (r"head\.", r"head.fc."),
)
_FROM_TIMM = (
    (r"stem\.", r"downsample_layers.0."),
    (r"stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.", r"stages.\1.\2.large_kernel.reparam_conv."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.", r"stages.\1.\2.pwconv\3."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"head\.norm\.", r"norm."),
    (r"head\.fc\.", r"head."),
)
# UniRepLKNet: patterns for names in the authors' files -> names in this package, and the reverse. A merged large kernel
# has the name of the one before merging, but also a bias.
_FROM_UNIREPLKNET = (
    (rf"{_BLOCK}\.dwconv\.lk_origin\.", r"\1.dwconv.large_conv.conv."),
    (rf"{_BLOCK}\.dwconv\.origin_bn\.", r"\1.dwconv.large_conv.bn."),
    (rf"{_BLOCK}\.dwconv\.dil_conv_k(\d+)_(\d+)\.", r"\1.dwconv.dilated_conv_k\2_d\3.conv."),
    (rf"{_BLOCK}\.dwconv\.dil_bn_k(\d+)_(\d+)\.", r"\1.dwconv.dilated_conv_k\2_d\3.bn."),
    (rf"{_BLOCK}\.pwconv1\.1\.", r"\1.pwconv1."),
    (rf"{_BLOCK}\.act\.1\.", r"\1.act."),
    (rf"{_BLOCK}\.pwconv2\.0\.", r"\1.pwconv2."),
    (rf"{_BLOCK}\.pwconv2\.2\.", r"\1.pwconv2_bn."),
)
_FROM_MERGED_UNIREPLKNET = (
    (rf"{_BLOCK}\.dwconv\.lk_origin\.", r"\1.dwconv.reparam_conv."),
    *_FROM_UNIREPLKNET,
)
_TO_UNIREPLKNET = (
    (rf"{_BLOCK}\.dwconv\.(?:large_conv\.conv|reparam_conv)\.", r"\1.dwconv.lk_origin."),
    (rf"{_BLOCK}\.dwconv\.large_conv\.bn\.", r"\1.dwconv.origin_bn."),
    (rf"{_BLOCK}\.dwconv\.dilated_conv_k(\d+)_d(\d+)\.conv\.", r"\1.dwconv.dil_conv_k\2_\3."),
    (rf"{_BLOCK}\.dwconv\.dilated_conv_k(\d+)_d(\d+)\.bn\.", r"\1.dwconv.dil_bn_k\2_\3."),
    (rf"{_BLOCK}\.pwconv1\.", r"\1.pwconv1.1."),
    (rf"{_BLOCK}\.act\.", r"\1.act.1."),
    (rf"{_BLOCK}\.pwconv2\.", r"\1.pwconv2.0."),
    (rf"{_BLOCK}\.pwconv2_bn\.", r"\1.pwconv2.2."),
)
_UNIREPLKNET = re.compile(r"(backbone\.)?stages\.\d+\.\d+\.(dwconv\.(lk_origin|dil_conv)|act\.1\.gamma)")
_OWN_UNIREPLKNET = re.compile(rf"{_BLOCK}\.act\.gamma")
# Norms that detectors and segmenters add after each stage of RepLKNet, SLaK or UniRepLKNet.
_STAGE_NORM = re.compile(r"(stages\.\d+\.norm|norm\d)\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_TASK_HEADS = re.compile(r"(decode_head|auxiliary_head|neck|rpn_head|roi_head|bbox_head|mask_head)\.")
# torchvision's DenseNet files have a dot where its modules have none.
_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def to_own_names(
    state: Mapping[str, Tensor], own: Mapping[str, object]
) -> tuple[dict[str, Tensor], dict[str, str], list[str], str]:
    """Rename the tensors of a file to the names in the models of this package and torchvision.

    Args:
        state: Tensors by their names in the file.
        own: Names in the model, which are never changed; may be empty.

    Returns:
        Tensors by new name; a dictionary from new names to those in the file; names dropped on purpose; the file's
        naming scheme.
    """
    backbone = any(name.startswith("backbone.") for name in state) and not any(
        name.startswith("backbone.") for name in own
    )
    stages = [int(m[1]) for m in map(re.compile(r"(?:backbone\.)?stages\.(\d+)\.").match, state) if m]
    last_norm = f"stages.{max(stages, default=3)}.norm."
    unireplknet: tuple[tuple[str, str], ...] = ()
    if any(map(_UNIREPLKNET.match, state)):
        merged = any(name.endswith(".dwconv.lk_origin.bias") for name in state)
        unireplknet = _FROM_MERGED_UNIREPLKNET if merged else _FROM_UNIREPLKNET
    large = bool(unireplknet) or any(".large_kernel." in name or _OWN_UNIREPLKNET.search(name) for name in state)
    # The model is checked as well, because files of timm's own ConvNeXt have the same names.
    timm = "stages.0.blocks.0.conv_dw.weight" in state and any(".large_kernel." in name for name in own)
    renamed: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    dropped: list[str] = []
    official = False
    for name, tensor in state.items():
        new = name
        if name not in own:
            if backbone:
                new = new.removeprefix("backbone.")
                # mmpretrain puts the final norm into the last stage.
                new = re.sub(rf"^{re.escape(last_norm)}", "norm.", new) if name != new else new
                new = re.sub(r"^head\.fc\.", "head.", new)
            if timm:
                new = _renamed(new, _FROM_TIMM)
            # This is the classifier in the multi-task head of the pre-trained XL model.
            new = re.sub(r"^head\.cls_22k\.", "head.", new)
            new = _DENSE.sub(r"\1\2", new)
            branch = _renamed(_BRANCH.sub(lambda found: _BRANCHES[found[1]], new), unireplknet)
            official = official or branch != new
            new = branch
            if (large and _STAGE_NORM.fullmatch(new)) or (backbone and _TASK_HEADS.match(new)):
                dropped.append(name)
                continue
            if new in renamed:
                new = name
        renamed[new] = tensor
        origins[new] = name
    naming = "mmpretrain" if backbone else "timm" if timm else "official" if official else "own"
    return renamed, origins, dropped, naming


def is_unireplknet(names: Iterable[str]) -> bool:
    """Whether these are names in this package's UniRepLKNet."""
    return any(map(_OWN_UNIREPLKNET.fullmatch, names))


def unireplknet_name(name: str) -> str:
    """The name in the code of UniRepLKNet's authors for a name in this package."""
    return _renamed(name, _TO_UNIREPLKNET)


def official_name(name: str) -> str:
    """The name in the code of RepLKNet's and SLaK's authors for a name in this package."""
    return _OWN_BRANCH.sub(lambda found: _OFFICIAL[found[1]], name)


def timm_name(name: str) -> str:
    """The name in timm's ConvNeXt for a name in a merged SLaK or large-kernel ConvNeXt."""
    return _renamed(name, _TO_TIMM)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """``name`` with its beginning replaced according to the first pattern that matches."""
    for pattern, new in table:
        renamed, count = re.subn(rf"^{pattern}", new, name)
        if count:
            return renamed
    return name


def merge_fused_branches(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Sum branches whose batch norms were folded: the result of the authors' fusing code without prior merging."""
    stems = [name.removesuffix("conv.bias") for name in state if name.endswith(".large_kernel.large_conv.conv.bias")]
    stems = [stem for stem in stems if _can_be_added(state, stem)]
    if not stems:
        return state, []
    merged = dict(state)
    made = []
    for stem in stems:
        weight, bias = merged.pop(f"{stem}conv.weight"), merged.pop(f"{stem}conv.bias")
        small = stem.replace("large_conv.", "small_conv.conv.")
        if f"{small}weight" in merged and f"{small}bias" in merged:
            margin = (weight.shape[-1] - merged[f"{small}weight"].shape[-1]) // 2
            padded = nn.functional.pad(merged.pop(f"{small}weight").double(), [margin] * 4)
            weight = (weight.double() + padded).to(weight.dtype)
            bias = (bias.double() + merged.pop(f"{small}bias").double()).to(bias.dtype)
        target = stem.replace("large_conv.", "reparam_conv.")
        merged[f"{target}weight"], merged[f"{target}bias"] = weight, bias
        made += [f"{target}weight", f"{target}bias"]
    return merged, made


def _can_be_added(state: Mapping[str, Tensor], stem: str) -> bool:
    """Whether the branches have shapes that can be added; others match no model."""
    small = stem.replace("large_conv.", "small_conv.conv.")
    weight, bias = state.get(f"{stem}conv.weight"), state[f"{stem}conv.bias"]
    small_weight, small_bias = state.get(f"{small}weight", weight), state.get(f"{small}bias", bias)
    if weight is None or small_weight is None or weight.ndim != 4 or small_weight.ndim != 4:
        return False
    height, width = (a - b for a, b in zip(weight.shape[2:], small_weight.shape[2:], strict=True))
    same = weight.shape[:2] == small_weight.shape[:2] and bias.shape == small_bias.shape
    return same and height == width >= 0 and height % 2 == 0


_RENAME: dict[str, Callable[[str], str]] = {
    "official": official_name,
    "replk-probe": lambda name: name,
    "timm": timm_name,
}
SCHEMES = tuple(_RENAME)

# Architectures to which a scheme does not apply, and why.
_WITHOUT: tuple[tuple[type[nn.Module], str, str], ...] = (
    (RepLKNet, "timm", "timm has no RepLKNet"),
    (UniRepLKNet, "timm", "timm has no UniRepLKNet"),
    (LargeKernelMobileNetV2, "timm", "timm's MobileNet V2 only has 3 x 3 kernels without bias"),
    (LargeKernelMobileNetV2, "official", "no code for a MobileNet V2 with large kernels was published"),
)


def check_scheme(scheme: str, network: nn.Module, model: str) -> None:
    """Raise InvalidInputError if the scheme is unknown or does not apply to this network."""
    check_choice("naming scheme", scheme, SCHEMES)
    if scheme == "replk-probe" or isinstance(network, SLaK):
        return
    known = [reason for family, without, reason in _WITHOUT if isinstance(network, family) and scheme == without]
    has_official = isinstance(network, RepLKNet | UniRepLKNet)
    if has_official and not known:
        return
    elsewhere = type(network).__module__.startswith("timm.")
    others = "its own names are timm's" if elsewhere else "its tensors have no other names"
    reason = known[0] if known else others
    usable = "official or replk-probe" if has_official else "replk-probe"
    raise InvalidInputError(f"The naming scheme {scheme!r} does not apply to {model}: {reason}. Use {usable}.")


def in_scheme(scheme: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors renamed to a scheme that :func:`check_scheme` accepts."""
    rename = unireplknet_name if scheme == "official" and is_unireplknet(tensors) else _RENAME[scheme]
    return {rename(name): tensor for name, tensor in tensors.items()}


def timm_call(network: nn.Module) -> str | None:
    """The call that builds a merged SLaK or large-kernel ConvNeXt in timm, which has no such variants."""
    if not isinstance(network, SLaK):
        return None
    kernels = [stage[0].large_kernel.kernel_size[0] for stage in network.stages]  # type: ignore[index]
    arguments = {
        "num_classes": network.num_classes,
        "depths": network.depths,
        "dims": tuple(stage["num_chs"] for stage in network.feature_info),
        "kernel_sizes": tuple(kernels),
    }
    return f"timm.create_model('convnext_tiny', {', '.join(f'{name}={value}' for name, value in arguments.items())})"
