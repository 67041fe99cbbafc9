"""Names of tensors in published files -> names in our models, and in torchvision's; and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

# Names of the branches in the authors' files -> ours. SLaK's authors renamed theirs twice.
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
# A merged SLaK is a ConvNeXt of timm's with other kernels: its names here, and there. The first that matches counts.
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
# Norms that detectors and segmenters put behind each stage of RepLKNet or SLaK.
_STAGE_NORM = re.compile(r"(stages\.\d+\.norm|norm\d)\.(weight|bias|running_mean|running_var|num_batches_tracked)")
_TASK_HEADS = re.compile(r"(decode_head|auxiliary_head|neck|rpn_head|roi_head|bbox_head|mask_head)\.")
# torchvision's DenseNet files have a dot where its modules have none.
_DENSE = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def to_own_names(
    state: Mapping[str, Tensor], own: Mapping[str, object]
) -> tuple[dict[str, Tensor], dict[str, str], list[str], str]:
    """Rename the tensors of a file as our models, and torchvision's, call them.

    Args:
        state: Tensors by their names in the file.
        own: Names in the model; one that is there already is never changed. May be empty.

    Returns:
        Tensors by new name; new name -> name in the file; names dropped on purpose; the file's naming.
    """
    backbone = any(name.startswith("backbone.") for name in state) and not any(
        name.startswith("backbone.") for name in own
    )
    stages = [int(m[1]) for m in map(re.compile(r"(?:backbone\.)?stages\.(\d+)\.").match, state) if m]
    last_norm = f"stages.{max(stages, default=3)}.norm."
    large = any(".large_kernel." in name for name in state)
    # Of the model as well: this is how the files of timm's own ConvNeXt are called, too.
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
            # Of the multi-task head of the pre-trained XL model this is the classifier.
            new = re.sub(r"^head\.cls_22k\.", "head.", new)
            new = _DENSE.sub(r"\1\2", new)
            branch = _BRANCH.sub(lambda found: _BRANCHES[found[1]], new)
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


def official_name(name: str) -> str:
    """The name that the authors of RepLKNet and of SLaK have for one of ours."""
    return _OWN_BRANCH.sub(lambda found: _OFFICIAL[found[1]], name)


def timm_name(name: str) -> str:
    """The name in timm's ConvNeXt for one of our merged SLaK or ConvNeXt."""
    return _renamed(name, _TO_TIMM)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """``name`` with its beginning replaced by the first row that matches."""
    for pattern, new in table:
        renamed, count = re.subn(rf"^{pattern}", new, name)
        if count:
            return renamed
    return name


def merge_fused_branches(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Sum branches that have lost their batch norms: the authors' fusing code, run without merging first."""
    stems = [name.removesuffix("conv.bias") for name in state if name.endswith(".large_kernel.large_conv.conv.bias")]
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
