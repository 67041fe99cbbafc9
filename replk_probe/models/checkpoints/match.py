"""Comparing a state dict with a model name by name, with tolerance for another classifier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

# Buffers that some versions save and others compute, and those that profilers add.
_RECOMPUTED = re.compile(r"(.*\.)?(num_batches_tracked|relative_position_index|attn_mask|total_ops|total_params)")
_HEADS = frozenset({"fc", "head", "heads", "classifier", "last_linear"})
_AUXILIARY = re.compile(r"(aux\d?|aux_classifier|AuxLogits)\.")


@dataclass
class Plan:
    """Tensors by their names in the model, and the differences between file and model."""

    state: dict[str, Tensor]
    origins: dict[str, str]
    dropped: list[str]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    heads: dict[str, int] = field(default_factory=dict)
    head: str = "loaded"

    @property
    def faults(self) -> int:
        """Number of names that do not match."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)


def match(model: nn.Module, state: dict[str, Tensor], origins: dict[str, str], dropped: list[str]) -> Plan:
    """Compare names and shapes, allowing for another classifier, no classifier, and tensors that can be ignored."""
    own = model.state_dict()
    plan = Plan(dict(state), origins, list(dropped))
    plan.missing = [name for name in own if name not in state and not is_recomputed(name)]
    has_head = any(key.startswith("head.") for key in own)
    for name in [name for name in state if name not in own]:
        head = name.startswith("head.") and not has_head
        if head or is_recomputed(name) or _AUXILIARY.match(name):
            plan.dropped.append(origins.get(name, name))
            del plan.state[name]
            plan.head = "dropped" if head else plan.head
        else:
            plan.unexpected.append(name)
    _drop_projection(model, own, plan)
    plan.misshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if plan.misshaped and (heads := _other_heads(model, own, state, plan.misshaped)):
        plan.heads, plan.misshaped, plan.head = heads, [], "replaced"
    if plan.missing and not plan.misshaped and not plan.heads and _is_headless(model, own, set(plan.missing)):
        plan.missing, plan.head = [], "missing"
    return plan


def _drop_projection(model: nn.Module, own: Mapping[str, Tensor], plan: Plan) -> None:
    """Drop a projection that self-supervised training put in the place of the classifier, which then is missing."""
    start = f"{_classifier_name(model)}." if plan.unexpected else ""
    if start and all(name.startswith(start) for name in plan.unexpected):
        if {name for name in own if name.startswith(start)} <= {*plan.missing}:
            plan.dropped += [plan.origins.get(name, name) for name in plan.unexpected]
            for name in plan.unexpected:
                del plan.state[name]
            plan.unexpected = []


def _other_heads(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], misshaped: list[str]
) -> dict[str, int]:
    """Classifiers that only differ in the number of classes: module name -> classes in the file."""
    heads: dict[str, int] = {}
    for name in misshaped:
        module, _, kind = name.rpartition(".")
        mine, theirs = own[name].shape, state[name].shape
        layer = model.get_submodule(module)
        if kind not in ("weight", "bias") or not isinstance(layer, nn.Linear | nn.Conv2d):
            return {}
        if len(mine) != len(theirs) or not theirs or mine[1:] != theirs[1:]:
            return {}
        parts = (state.get(f"{module}.{part}") for part in ("weight", "bias"))
        if any(part is not None and part.shape[:1] != theirs[:1] for part in parts):
            return {}
        heads[module] = theirs[0]
    # Several heads (distilled or auxiliary) share the number of classes; layers of another network would not.
    last = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    classifier = _classifier_name(model)
    if len(set(heads.values())) != 1 or not {last, classifier} & set(heads):
        return {}
    return heads


def _classifier_name(model: nn.Module) -> str | None:
    """Name of the classifier: the result of ``get_classifier``, or else the last layer with weights."""
    ask: object = getattr(model, "get_classifier", None)
    if callable(ask):
        try:
            answer = ask()
        except AttributeError:  # in a merged network, the layers of the classifier may have other names
            pass
        else:
            candidates = answer if isinstance(answer, tuple | list) else (answer,)
            for name, module in model.named_modules():
                if any(module is candidate for candidate in candidates) and not isinstance(module, nn.Identity):
                    return str(name)
            return None
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return str(layers[-1]) if layers else None


def _is_headless(model: nn.Module, own: Mapping[str, Tensor], missing: set[str]) -> bool:
    """Whether ``missing`` is exactly the classifier, with or without the final norm."""
    classifier = _classifier_name(model)
    norm = {name for name in own if name.startswith(("norm.", "fc_norm."))}
    if classifier is None:
        return missing <= norm
    top = classifier.split(".")[0]
    # Without get_classifier, only a module with one of the usual names is taken for the classifier.
    if callable(getattr(model, "get_classifier", None)) or top in _HEADS:
        head = {name for name in own if name.startswith((f"{classifier}.", f"{top}."))}
    else:
        head = {name for name in own if name.startswith(f"{classifier}.")}
    some_left = len(head | norm) < len(own)
    return some_left and bool(missing & head) and missing <= head | norm


def is_recomputed(name: str) -> bool:
    """Whether the model computes this tensor itself, so that a file need not contain it."""
    return _RECOMPUTED.fullmatch(name) is not None


def replace_head(model: nn.Module, name: str, classes: int) -> None:
    """Replace the layer ``name`` by one of the same kind with ``classes`` outputs, without drawing random numbers."""
    old = model.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None, device="meta")
    elif isinstance(old, nn.Conv2d):
        geometry: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "bias": old.bias is not None}
        size: Any = old.kernel_size
        new = nn.Conv2d(old.in_channels, classes, size, **geometry, device="meta")
    else:
        raise TypeError(f"{name} is {type(old).__name__}, which is not a classifier")
    weight = next(old.parameters())
    new = new.to(dtype=weight.dtype).to_empty(device=weight.device).requires_grad_(weight.requires_grad)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.train(old.training))
    if hasattr(model, "num_classes"):
        model.num_classes = classes  # type: ignore[assignment]


def loaded_classes(model: nn.Module, plan: Plan) -> int | None:
    """Number of outputs of the classifier loaded from the file, or None if none was loaded."""
    name = _classifier_name(model)
    if plan.head in ("missing", "dropped") or name is None:
        return None
    weight = plan.state.get(f"{name}.weight")
    return None if weight is None else int(weight.shape[0])
