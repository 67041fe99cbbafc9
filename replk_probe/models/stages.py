"""Layer names (``stage4.0`` or a module path), and the stages of each architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from replk_probe.errors import InvalidInputError, close_names

from .layers.depthwise import PLAIN_CONVS
from .layers.large_kernel import LargeKernelConv

Side = Literal["output", "input"]

_STAGE = re.compile(r"stage(\d+)(?:\.(\d+))?")
_LAYER_N = re.compile(r"layer\d+")
_CONTAINERS = (nn.ModuleList, nn.Sequential)
_SHOWN = 4  # suggestions in an error message


@dataclass(frozen=True)
class LayerRef:
    """A module's output or input.

    Attributes:
        path: Module path, as for ``get_submodule``.
        module: Module at this path.
        side: Whether the output or the input of the module is meant.
    """

    path: str
    module: nn.Module
    side: Side = "output"


@dataclass(frozen=True)
class Stage:
    """The blocks of one resolution."""

    path: str  # path of the module whose output is that of the stage
    blocks: tuple[str, ...]  # paths of its blocks in order; separate feed-forward blocks are not counted


@dataclass(frozen=True)
class ProbeSpec:
    """The structure of a network that timm does not describe.

    Attributes:
        family: Name of the architecture, for display.
        stages: Stages in order; stage 1 is ``stages[0]``.
        final: Path and side of the last feature map before the final norm, or None if unknown.
    """

    family: str
    stages: tuple[Stage, ...]
    final: tuple[str, Side] | None = None


@runtime_checkable
class Specified(Protocol):
    """A network that defines its own :class:`ProbeSpec`."""

    def probe_spec(self) -> ProbeSpec:
        """The structure of the network in its current form."""


# The last feature map before the final norm, by package and class; where a norm module follows, its input.
_FINAL: dict[tuple[str, str], tuple[str, Side]] = {
    ("timm", "ResNet"): ("layer4", "output"),
    ("timm", "ConvNeXt"): ("stages", "output"),
    ("timm", "SwinTransformer"): ("norm", "input"),
    ("timm", "SwinTransformerV2"): ("norm", "input"),
    ("timm", "VisionTransformer"): ("norm", "input"),
    ("torchvision", "SwinTransformer"): ("norm", "input"),
    ("torchvision", "VisionTransformer"): ("encoder.ln", "input"),
}


def probe_spec(model: nn.Module) -> ProbeSpec:
    """The spec that ``model`` defines, or one derived from the naming conventions of timm and torchvision.

    Args:
        model: Any network.

    Returns:
        Its spec, without stages if no convention applies.

    Examples:
        >>> from replk_probe.models import create_model, probe_spec
        >>> spec = probe_spec(create_model("resnet18"))
        >>> spec.family, [stage.path for stage in spec.stages]
        ('ResNet', ['layer1', 'layer2', 'layer3', 'layer4'])
    """
    if isinstance(model, Specified):
        return model.probe_spec()
    ancestors = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(model).__mro__]
    final = next((_FINAL[key] for key in ancestors if key in _FINAL), None)
    if final is not None and not _has(model, final[0]):
        final = None
    return ProbeSpec(type(model).__name__, tuple(_stages(model)), final)


def final_layer(model: nn.Module) -> LayerRef | None:
    """The last feature map before the final norm, or None if the architecture is not known.

    Args:
        model: Any network.

    Returns:
        The layer, whose side says whether the map is the output or the input of its module; or None.

    Examples:
        >>> from replk_probe.models import create_model, final_layer
        >>> layer = final_layer(create_model("resnet18"))
        >>> layer.path, layer.side
        ('layer4', 'output')
    """
    final = probe_spec(model).final
    return None if final is None else LayerRef(final[0], model.get_submodule(final[0]), final[1])


def resolve_layer(model: nn.Module, spec: str) -> LayerRef:
    """Find the layer with the given name.

    Args:
        model: Any network.
        spec: ``"stage4.0"`` (stages from 1, large-kernel blocks from 0), ``"stage4"`` (the whole stage), or a module
            path such as ``"stages.3.blocks.0.large_kernel"``, which takes precedence.

    Returns:
        The layer, with side ``"output"``.

    Raises:
        InvalidInputError: There is no such layer; the message lists similar names.

    Examples:
        >>> from replk_probe.models import create_model, resolve_layer
        >>> model = create_model("resnet18")
        >>> resolve_layer(model, "stage4").path, resolve_layer(model, "stage4.1").path
        ('layer4', 'layer4.1')
    """
    path = spec.strip()
    if path and _has(model, path):
        return LayerRef(path, model.get_submodule(path))
    stages = probe_spec(model).stages
    found = _STAGE.fullmatch(path)
    if found is None:
        raise InvalidInputError(f"{_no_layer(model, spec)} {_close(model, path, stages)}")
    if not stages:
        raise InvalidInputError(
            f"{_no_layer(model, spec)} Its stages are not known: use a module path. {_close(model, path, stages)}"
        )
    number, block = int(found[1]), found[2]
    if not 1 <= number <= len(stages):
        raise InvalidInputError(f"{_no_layer(model, spec)} {_extent(stages)}")
    stage = stages[number - 1]
    if block is None:
        return LayerRef(stage.path, model.get_submodule(stage.path))
    if int(block) >= len(stage.blocks):
        raise InvalidInputError(f"{_no_layer(model, spec)} {_extent(stages)}")
    path = stage.blocks[int(block)]
    return LayerRef(path, model.get_submodule(path))


def large_kernel_layers(model: nn.Module) -> dict[str, str]:
    """The spatial convolution of every block, as a dictionary from ``"stage4.0"`` to the module path.

    Args:
        model: Any network.

    Returns:
        The :class:`LargeKernelConv` of each block, or else its ``nn.Conv2d`` with the largest kernel (the first of
        several); blocks without a kernel above 1 x 1 are omitted.

    Examples:
        >>> from replk_probe.models import RepLKNet, large_kernel_layers
        >>> large_kernel_layers(RepLKNet(kernel_sizes=(13,), layers=(2,), channels=(8,)))
        {'stage1.0': 'stages.0.blocks.0.large_kernel', 'stage1.1': 'stages.0.blocks.2.large_kernel'}
    """
    layers: dict[str, str] = {}
    for number, stage in enumerate(probe_spec(model).stages, 1):
        for index, block in enumerate(stage.blocks):
            path = _spatial_conv(model, block)
            if path is not None:
                layers[f"stage{number}.{index}"] = path
    return layers


def _spatial_conv(model: nn.Module, block: str) -> str | None:
    best, area = None, 1
    for name, module in model.get_submodule(block).named_modules():
        path = f"{block}.{name}" if name else block
        if isinstance(module, LargeKernelConv):
            return path
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] * module.kernel_size[1] > area:
            best, area = path, module.kernel_size[0] * module.kernel_size[1]
    return best


def _stages(model: nn.Module) -> Iterator[Stage]:
    """Stages by convention: ``layer1..4``, ``stages``, ``layers``, ``blocks``, ``features``, ``encoder.layers``."""
    numbered = [name for name, _ in model.named_children() if _LAYER_N.fullmatch(name)]
    if numbered:
        for name in sorted(numbered, key=lambda name: int(name[len("layer") :])):
            yield _stage(model, name)
        return
    for name in ("stages", "layers", "blocks", "features", "encoder.layers"):
        if not _has(model, name) or not isinstance(model.get_submodule(name), _CONTAINERS):
            continue
        children = dict(model.get_submodule(name).named_children())
        stages = {key: child for key, child in children.items() if _is_stage(child, alone=name == "features")}
        if stages:
            for key in stages:
                yield _stage(model, f"{name}.{key}")
        elif name != "features" and children:
            yield _stage(model, name)  # one resolution throughout, as in a plain vision transformer
        else:
            continue
        return


def _is_stage(module: nn.Module, alone: bool) -> bool:
    """Whether a child is a stage rather than a block; ``alone`` if stems and downsampling layers are its siblings."""
    if isinstance(module, nn.Sequential):
        kinds = {type(child) for child in module}
        return len(kinds) == 1 and not kinds & {*PLAIN_CONVS, nn.Linear} if alone else True
    return not alone and any(isinstance(getattr(module, name, None), _CONTAINERS) for name in ("blocks", "layers"))


def _stage(model: nn.Module, path: str) -> Stage:
    module = model.get_submodule(path)
    for name in ("blocks", "layers"):
        if isinstance(getattr(module, name, None), _CONTAINERS):
            blocks = tuple(f"{path}.{name}.{key}" for key, _ in module.get_submodule(name).named_children())
            return Stage(path, blocks)
    blocks = tuple(f"{path}.{key}" for key, _ in module.named_children()) if isinstance(module, _CONTAINERS) else ()
    # A ModuleList is never called itself.
    return Stage(blocks[-1] if blocks and isinstance(module, nn.ModuleList) else path, blocks)


def _has(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), nn.Module)
    except AttributeError:
        return False


def _no_layer(model: nn.Module, spec: str) -> str:
    return f"Layer {spec!r} does not exist in {type(model).__name__}."


def _extent(stages: tuple[Stage, ...]) -> str:
    counts = ", ".join(str(len(stage.blocks)) for stage in stages)
    if len(stages) == 1:
        return f"It has one stage, with {counts} blocks: stage1.0 to stage1.{len(stages[0].blocks) - 1}."
    return f"It has stages 1 to {len(stages)}, with {counts} blocks, which count from 0."


def _close(model: nn.Module, path: str, stages: tuple[Stage, ...]) -> str:
    names = [name for name, _ in model.named_modules() if name]
    short = [f"stage{number}.{index}" for number, stage in enumerate(stages, 1) for index in range(len(stage.blocks))]
    close = close_names(path, [*short, *names], most=_SHOWN)
    if close:
        return f"Similar names: {', '.join(close)}."
    children = [name for name, _ in model.named_children()]
    if not children:
        return "It has no submodules."
    more = ", ..." if len(children) > 2 * _SHOWN else ""
    return (
        f"Its top-level modules: {', '.join(children[: 2 * _SHOWN])}{more}. {_extent(stages) if stages else ''}".strip()
    )
