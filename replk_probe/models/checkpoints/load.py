"""Loading weights of every published form into a model in place; an error leaves the model unchanged."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from replk_probe.errors import WeightsError
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.provenance import NO_CLASSIFIER

from ..branches.merge import merge_parallel_branches
from ..branches.own_methods import become, call_merge_methods, has_merge_methods, like, unchanged
from ..branches.recording import stored_tensors
from ..inference.copying import copy_of, meta_copy_of
from ..layers.large_kernel import LargeKernelConv
from ..model_id import check_network, name_of
from ..weight_values import is_finite, is_negative_variance
from .detect import Fingerprint, fingerprint, form_of
from .entries import StateFile
from .match import Plan, is_recomputed, loaded_classes, match, replace_head
from .read import read_state_files
from .rename_keys import merge_fused_branches, to_own_names

_FORMS = ("train", "merged", "merged+fused")
_SHOWN_KEYS = 3
# A tensor of a branch of a large kernel: number of the stage from 0, and name of the branch.
_BRANCH = re.compile(r"stages\.(\d+)\..*\.((?:large|column|row|small|dilated)_conv\w*)\.(?:conv|bn)\.\w+")
# State dicts of one file that are compared with a model.
_MOST_CANDIDATES = 12


@dataclass(frozen=True)
class CheckpointReport:
    """Description of a weights file and, once it is loaded, of what was loaded from it.

    Attributes:
        path: Path of the file.
        sha256: Hex digest of the file.
        title: Description of the weights by names and shapes, such as ``"RepLKNet-31B"``.
        model: Registry name of the model that the weights seem to belong to, for models of this package; else None.
        form: Structure found in the file: ``"train"``, ``"merged"`` or ``"merged+fused"``; None for families without
            such forms.
        naming: Naming scheme: ``"mmpretrain"``, ``"official"``, ``"timm"`` or ``"own"`` (that of the model itself).
        wrapper: Entry of the file that was read (``"model"``, ``"model_ema"``, nested ones joined by a dot);
            ``"module."`` or the like if names only have a prefix; None for a flat file.
        averaged: Whether that entry is an average over training steps.
        tensors: Number of tensors in the entry.
        num_classes: Number of outputs of the classifier, or None if there is none or it was not loaded.
        not_finite: Names in the file of the tensors with NaN or infinite values; such files are not loaded.
        dropped: Names in the file without a counterpart in the model that were left out on purpose.
        missing: Names in the model that the file leaves unchanged: those of a missing classifier or final norm.
        head: ``"loaded"``, ``"replaced"`` (the model now has the file's number of classes), ``"missing"`` (not in the
            file: the model keeps its own, and its class scores are meaningless) or ``"dropped"`` (not in the model);
            None if the file was not loaded.
        dtypes: Type in the file of each tensor that was loaded, by its name in the model.
        prefix: Beginning that was removed from the names in the entry (``"module."``), or None.
    """

    path: Path
    sha256: str
    title: str
    model: str | None
    form: str | None
    naming: str
    wrapper: str | None
    averaged: bool
    tensors: int
    num_classes: int | None
    not_finite: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    head: str | None = None
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict, repr=False)
    prefix: str | None = None

    @property
    def note(self) -> str | None:
        """One sentence for the reader if the file has no classifier, or None."""
        if self.head == "missing":
            norm = " and no final norm" if any(name.startswith("norm.") for name in self.missing) else ""
            return f"{NO_CLASSIFIER}{norm}: features are trained, class scores are not."
        return None


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    only: Sequence[str] | None = None,
) -> CheckpointReport:
    """Load a weights file into ``model`` in place; see :func:`replk_probe.models.load_checkpoint`.

    Parameters keep their dtype and device; on the meta device they become real tensors. If ``only`` is not None, it
    lists the module paths to load: all names and shapes must match nevertheless, but other values are not loaded.
    """
    check_network(model)
    path = _checked(path)
    own = model.state_dict()
    has_forms = all(callable(getattr(model, name, None)) for name in ("reparameterize", "fuse_bn"))
    candidates: list[_Candidate] = []
    files = read_state_files(path, ema=ema, entry=entry, prefix=prefix, own=own)
    for file in itertools.islice(files, _MOST_CANDIDATES):
        candidates.append(_compared(model, own, file, has_forms=has_forms))
        if file.is_usual and not candidates[-1].plan.faults:
            break
    file, state, plan, form, naming, skeleton = _chosen(candidates, path, ema=ema)
    merge = None
    for candidate in _MERGING if plan.faults and not has_forms else ():
        structure = meta_copy_of(model)
        if candidate(structure):
            merged = match(structure, state, plan.origins, list(file.ignored))
            if not merged.faults:
                merge, plan, skeleton = candidate, merged, structure
                break
    if plan.faults:
        raise _does_not_fit(model, path, file, [one.file for one in candidates], plan, form, only or ())
    wanted = {name: value for name, value in plan.state.items() if only is None or _is_inside(name, only)}
    _refuse_unusable(wanted, plan.origins, skeleton, path)
    digest = sha256_of(path)
    dtypes = {name: value.dtype for name, value in plan.state.items()}

    _restructure(model, form, state)
    if merge is not None and not merge(model):
        raise WeightsError(
            f"{path.name} is merged, and the branches of {type(model).__name__} could not be merged with the values "
            "that it has now. Load the file into a new model."
        )
    for name, classes in plan.heads.items():
        replace_head(model, name, classes)
    on_meta = any(value.is_meta for value in own.values())
    if on_meta:  # There is nothing to copy into: the model takes copies of the memory-mapped tensors.
        target = model.state_dict()
        wanted = {name: value.to(target[name].dtype, copy=True) for name, value in wanted.items()}
    model.load_state_dict(wanted, strict=False, assign=on_meta)
    found = _identify(state)
    return CheckpointReport(
        path=path,
        sha256=digest,
        title=found.title,
        model=found.model,
        form=form if merge is None else "merged",
        naming=naming,
        wrapper=file.wrapper,
        prefix=_prefix(file, naming),
        averaged=file.averaged,
        tensors=len(file.state),
        num_classes=loaded_classes(model, plan),
        dropped=tuple(plan.dropped),
        missing=tuple(name for name in model.state_dict() if name not in plan.state and not is_recomputed(name)),
        head=plan.head,
        dtypes=dtypes,
    )


class _Candidate(NamedTuple):
    """A state dict of a file, renamed and compared with the model."""

    file: StateFile
    state: dict[str, Tensor]
    plan: Plan
    form: str | None
    naming: str
    skeleton: nn.Module


def _compared(model: nn.Module, own: Mapping[str, Tensor], file: StateFile, *, has_forms: bool) -> _Candidate:
    state, origins, dropped, naming = to_own_names(file.state, own)
    dropped += file.ignored
    state, merged_here = merge_fused_branches(state)
    if merged_here:
        origins.update({name: name.replace(".reparam_conv.", ".large_conv.conv.") for name in merged_here})
    form = form_of(state) if has_forms else None
    skeleton = meta_copy_of(model)
    _restructure(skeleton, form, state)
    plan = match(skeleton, state, origins, dropped)
    if plan.faults and (converted := _by_timm(skeleton, state)) is not None:
        candidate = match(skeleton, converted, {}, dropped)
        plan = candidate if candidate.faults < plan.faults else plan
    return _Candidate(file, state, plan, form, naming, skeleton)


def _chosen(candidates: Sequence[_Candidate], path: Path, *, ema: bool) -> _Candidate:
    """The candidate with the usual names if it matches the model, otherwise the only one that does, or the closest."""
    fitting = [one for one in candidates if not one.plan.faults]
    usual = [one for one in fitting if one.file.is_usual]
    fitting = usual or [one for one in fitting if one.file.averaged == ema] or fitting
    if len(fitting) > 1:
        raise _ambiguous(path, [one.file for one in fitting])
    return fitting[0] if fitting else min(candidates, key=lambda one: one.plan.faults)


def _ambiguous(path: Path, files: Sequence[StateFile]) -> WeightsError:
    return WeightsError(
        f"{path.name} has several sets of weights. Any of these may be meant: {'; '.join(map(str, files))}. "
        "Choose one with the options entry and prefix."
    )


def inspect_checkpoint(
    path: str | os.PathLike[str], *, ema: bool = False, entry: str | None = None, prefix: str | None = None
) -> CheckpointReport:
    """Read a weights file without a model and describe it.

    Args:
        path: Path of the file.
        ema: Whether to read the averaged entry.
        entry: Entry to read, or None for the usual one.
        prefix: Prefix of the names to read, which is removed from them, or None.

    Returns:
        The report, without the fields that describe the loading.

    Raises:
        WeightsError: The file cannot be read, is refused or contains no weights.
    """
    path = _checked(path)
    files = list(itertools.islice(read_state_files(path, ema=ema, entry=entry, prefix=prefix), _MOST_CANDIDATES))
    file = files[0]
    if len(files) > 1 and not file.is_usual:
        raise _ambiguous(path, files)
    state, origins, _, naming = to_own_names(file.state, {})
    found = _identify(merge_fused_branches(state)[0])
    heads = [state[name] for name in ("head.weight", "fc.weight", "classifier.weight") if name in state]
    heads = heads or [state[name] for name in ("head.fc.weight", "classifier.1.weight") if name in state]
    return CheckpointReport(
        path=path,
        sha256=sha256_of(path),
        title=found.title,
        model=found.model,
        form=found.form,
        naming=naming,
        wrapper=file.wrapper,
        prefix=_prefix(file, naming),
        averaged=file.averaged,
        tensors=len(file.state),
        num_classes=int(heads[0].shape[0]) if heads and heads[0].ndim else None,
        not_finite=_not_finite(state, origins),
    )


def non_finite_error(path: Path, names: Sequence[str]) -> WeightsError:
    """The error for a file with NaN or infinite values in these tensors."""
    return WeightsError(
        f"{path.name} contains NaN or infinite weights. {_some('tensor', list(names))} not finite. "
        "Fetch the file again, or use an earlier checkpoint of the training."
    )


def _checked(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise WeightsError(f"Expected a path, but got {path!r}. Weights are read from files. Pass the path of a file.")
    return usable_path(path, "The weights file")


def _restructure(model: nn.Module, form: str | None, state: Mapping[str, object]) -> None:
    """Give the network the structure of the file, in place."""
    network: Any = model
    if form == "train":
        for path, block in model.named_modules():
            if isinstance(block, LargeKernelConv) and block.has_equal_branches:
                if f"{path}.small_conv.conv.weight" not in state:
                    del block.small_conv
    if form == "merged":
        network.reparameterize()
    elif form == "merged+fused":
        network.fuse_bn()


def _merge_by_recording(model: nn.Module) -> bool:
    return bool(merge_parallel_branches(model).blocks)


def _merge_by_own_methods(model: nn.Module) -> bool:
    """Give a network the structure that the methods of its own modules give a copy of it, in place."""
    if not has_merge_methods(model):
        return False
    try:
        copied = copy_of(model)
        on_meta = any(tensor.is_meta for tensor in stored_tensors(copied).values())
        if on_meta:  # the methods may compute values that torch cannot combine with tensors without any
            copied.to_empty(device="cpu")
        with unchanged(model):
            blocks = call_merge_methods(copied)
    except Exception:  # the model's own code, which may raise anything
        return False
    if blocks:
        become(model, meta_copy_of(copied) if on_meta else like(copied, model))
    return bool(blocks)


def _merge_by_both(model: nn.Module) -> bool:
    return _merge_by_own_methods(model) and _merge_by_recording(model)


# Ways in which a file of a network of another package may have been merged. Each changes the network in place and
# returns whether anything was merged.
_MERGING: tuple[Callable[[nn.Module], bool], ...] = (_merge_by_recording, _merge_by_own_methods, _merge_by_both)


def _by_timm(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The state dict after timm's own conversion for this architecture (other namings, resized position tables)."""
    module = type(model).__module__
    convert: object = getattr(sys.modules.get(module), "checkpoint_filter_fn", None)
    if not module.startswith("timm.models.") or not callable(convert):
        return None
    try:
        converted = convert(dict(state), model)
    except Exception:
        # It raises all kinds of exceptions for files of other architectures, which the comparison describes better.
        return None
    if not isinstance(converted, dict):
        return None
    return {name: value for name, value in converted.items() if isinstance(value, Tensor)}


def _is_inside(name: str, paths: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the modules at ``paths``, or is one of these itself."""
    return any(f"{name}.".startswith(f"{path}.") for path in paths)


def _refuse_unusable(state: Mapping[str, Tensor], origins: Mapping[str, str], skeleton: nn.Module, path: Path) -> None:
    """Raise WeightsError for quantized or complex weights, values that are not finite and negative variances."""
    own = skeleton.state_dict()
    for name, value in state.items():
        if own[name].is_floating_point() and not value.is_floating_point():
            kind, other = ("complex", "real") if value.is_complex() else ("quantized", "floating-point")
            raise WeightsError(
                f"{path.name} contains {kind} weights. {origins.get(name, name)} is {value.dtype}, and the model "
                f"computes in {own[name].dtype}. Pass the {other} file."
            )
    broken = _not_finite(state, origins)
    if broken:
        raise non_finite_error(path, broken)
    negative = [origins.get(name, name) for name, value in state.items() if is_negative_variance(name, value)]
    if negative:
        raise WeightsError(
            f"{path.name} contains negative variances. {_some('tensor', negative)} below zero. "
            "Fetch the file again, or use an earlier checkpoint of the training."
        )


def _not_finite(state: Mapping[str, Tensor], origins: Mapping[str, str]) -> tuple[str, ...]:
    """Names in the file of the tensors with NaN or infinite values."""
    return tuple(origins.get(name, name) for name, value in state.items() if not is_finite(value))


def _prefix(file: StateFile, naming: str) -> str | None:
    return file.prefix + ("backbone." if naming == "mmpretrain" else "") or None


def _identify(state: Mapping[str, Tensor]) -> Fingerprint:
    # A weight without dimensions matches no network; it is described as a vector of one element.
    return fingerprint({name: tuple(value.shape) or (1,) for name, value in state.items()})


def _does_not_fit(
    model: nn.Module,
    path: Path,
    file: StateFile,
    others: Sequence[StateFile],
    plan: Plan,
    form: str | None,
    only: Sequence[str],
) -> WeightsError:
    own = model.state_dict()
    for names in (plan.missing, plan.misshaped):
        names.sort(key=lambda name: not _is_inside(name, only))  # requested modules come first
    seems, mine = _identify(plan.state), _identify(own)
    unexpected = [plan.origins.get(name, name) for name in plan.unexpected]
    misshaped = [
        # The form of the file may have tensors that the model in its current form lacks.
        f"{plan.origins.get(name, name)} {list(plan.state[name].shape)}"
        + (f" for {list(own[name].shape)}" if name in own else "")
        for name in plan.misshaped
    ]
    kinds = (("missing key", plan.missing), ("unexpected key", unexpected), ("mis-shaped key", misshaped))
    details = "; ".join(_some(what, names, verb=False) for what, names in kinds if names)
    hint = _hint(plan, own, seems, mine, form)
    if file is not others[0]:
        details = f"{details}, of {file}"
    if len(others) > 1 and not others[0].is_usual:
        hint = f"It has {'; '.join(map(str, others))}: choose one with the options entry and prefix, or another file."
    return WeightsError(f"{path.name} does not match {name_of(model)}. {hint} It differs in {details}.")


def _hint(plan: Plan, own: Mapping[str, Tensor], seems: Fingerprint, mine: Fingerprint, form: str | None) -> str:
    if "downsample_layers.0.0.weight" in own and "downsample_layers.0.0.weight" in plan.state:  # both are a SLaK
        if any(".column_conv." in name for name in own) and any(".large_conv." in name for name in plan.state):
            return "The file has undecomposed kernels (lkb_origin): build the model with decomposed=False."
        if any(".column_conv." in name for name in plan.state) and any(".large_conv." in name for name in own):
            return "The file has decomposed kernels: build the model with decomposed=True."
    had = form_of(own)
    if form and had and _FORMS.index(had) > _FORMS.index(form):
        return f"The model is already in {had} form, which cannot be undone: load the file into a new model."
    if seems.model and seems.model != mine.model:
        return f"The file appears to be {seems}: use the model {seems.model}, or another file."
    if seems.title != mine.title:
        return f"The file appears to be {seems}: use the model that it was made for, or another file."
    lacking = _lacking_branches(plan)
    if lacking:
        return f"The file lacks {lacking}: use the complete file, or a model without these layers."
    return "Use the model that the file was made for, or another file."


def _lacking_branches(plan: Plan) -> str:
    """The branches of large kernels to which all differences are limited, such as ``small_conv in stages 3, 4``."""
    stages: dict[str, set[int]] = {}
    for name in plan.missing:
        found = _BRANCH.fullmatch(name)
        if found is None or plan.unexpected or plan.misshaped:
            return ""
        stages.setdefault(found[2], set()).add(int(found[1]) + 1)
    return "; ".join(
        f"{branch} in stage{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"
        for branch, numbers in stages.items()
    )


def _some(what: str, names: list[str], verb: bool = True) -> str:
    """Count and first names, such as ``3 missing keys (a, b, c)``."""
    shown = ", ".join(names[:_SHOWN_KEYS]) + (", ..." if len(names) > _SHOWN_KEYS else "")
    plural = "" if len(names) == 1 else "s"
    verb_text = (" is" if len(names) == 1 else " are") if verb else ""
    return f"{len(names)} {what}{plural} ({shown}){verb_text}"
