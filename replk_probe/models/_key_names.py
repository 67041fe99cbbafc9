"""Names of tensors in published files -> names in our models, and in torchvision's."""

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
    return renamed, origins, dropped, "mmpretrain" if backbone else "official" if official else "own"


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
