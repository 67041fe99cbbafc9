"""Building a network by name, with its weights, their provenance and its preprocessing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from replk_probe.errors import InvalidInputError
from replk_probe.runtime.checks import check_bool, check_seed, check_selection, check_weights
from replk_probe.runtime.devices import resolve_device
from replk_probe.runtime.provenance import WeightsInfo

from .architectures.registration import set_weights_loader
from .builders import builder_of
from .checkpoints.load import CheckpointReport
from .checkpoints.load import load_checkpoint as load_file
from .heads.head_file import read_head
from .heads.headed import with_head
from .heads.prompts import choose_prompts, embed_prompts, find_tokenizer
from .model_id import ModelId
from .records import attach_weights_info, data_config, weights_info
from .weights.resolve import ResolvedWeights, resolve_weights


def create_model(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = False,
    seed: int = 0,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    head: str | os.PathLike[str] | None = None,
    class_names: str | os.PathLike[str] | Sequence[str] | None = None,
    templates: str | os.PathLike[str] | Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a network in eval mode, with the requested weights.

    Models of open_clip (CLIP, SigLIP) become classifiers by the text embeddings of class names: their image tower
    followed by a :class:`~replk_probe.models.HeadedClassifier`. Other networks can be given a linear head or text
    embeddings from a file.

    Args:
        name: A name in timm's registry, which includes the models of this package (``"replknet31b"``,
            ``"resnet18.a1_in1k"``, ``"replknet_micro_k3.shape75"``); ``"torchvision:resnet101"``;
            ``"open_clip:ViT-B-32"``, which requires the extra ``clip``; ``"package.module:factory"`` or
            ``"path/to/file.py:factory"`` for a callable that returns an ``nn.Module``.
        weights: None or ``"random"``; ``"pretrained"``; ``"auto"`` (pretrained if available, otherwise random with a
            note); a catalog name; a tag of timm, torchvision or open_clip; a path. A factory keeps its own weights with
            None and ``"auto"``.
        pretrained: As in timm: True is the same as ``weights="pretrained"``.
        seed: Seed of the random initialization, in [0, 2**63). The global random state does not change.
        ema: Whether to load the averaged entry of a checkpoint.
        entry: Entry of a checkpoint to load, as in :func:`load_checkpoint`.
        prefix: Prefix of the names in a checkpoint, as in :func:`load_checkpoint`.
        head: Path of a safetensors file with a linear head for the features of the network (``weight`` ``[classes,
            features]``, and optionally ``bias`` ``[classes]``), or with text embeddings for its output (``embeddings``
            ``[classes, dim]`` or ``[classes, templates, dim]``, and optionally ``logit_scale``, a natural logarithm
            that defaults to log 100, and ``logit_bias``). The metadata of text embeddings has the JSON lists
            ``class_names`` and optionally ``templates``. A linear head with twice as many inputs as the network has
            features takes the class token and the mean of the patch tokens, as those of DINOv2.
        class_names: For models of open_clip: the names of the classes, ``"imagenet-1k"`` for those of ImageNet (the
            default), or a text file with one name per line.
        templates: For models of open_clip: texts in which ``{}`` stands for the class name, ``"imagenet-80"`` for the
            80 that CLIP's authors used for ImageNet, or a text file with one per line. Defaults to ``"a photo of a
            {}."``. The embeddings of all templates are averaged after normalization, and normalized again.
        device: Device that the network is moved to after loading, and on which text embeddings are computed; None to
            leave it on the CPU.
        dtype: Floating-point type that the network is converted to after loading, or None.
        **overrides: Keyword arguments of the builder, such as ``num_classes=10`` or ``img_size=1024``.

    Returns:
        The network. :func:`weights_info` and :func:`data_config` return its provenance and preprocessing, also for the
        copies that this package makes, but not for those made with ``copy.deepcopy`` or a pickle.

    Raises:
        UnknownModelError: There is no model of this name.
        InvalidInputError: The builder fails with these options; or the seed, the device, the dtype, a flag or the
            combination of ``weights`` and ``pretrained`` is invalid.
        BackendError: The machine does not have the device.
        WeightsError: The weights or the head cannot be found, downloaded, read or matched to the model.

    Examples:
        >>> import torch
        >>> from replk_probe import create_model
        >>> model = create_model("resnet18", num_classes=10)
        >>> model(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 10])
        >>> from replk_probe.models import weights_info
        >>> weights_info(model).source, weights_info(model).seed
        ('random-init', 0)
    """
    if check_bool("pretrained", pretrained):
        if weights in ("random", "auto"):
            raise InvalidInputError(
                f"Cannot combine pretrained=True with weights={weights!r}. They request different weights. "
                "Pass only one of the two."
            )
        weights = "pretrained" if weights is None else weights
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InvalidInputError(
            f"The dtype {dtype!r} is invalid. Networks need a floating-point type. Use one such as torch.float32."
        )
    target = None if device is None else resolve_device(device)
    check_selection(ema, entry, prefix)
    model_id = ModelId.parse(name)
    finish = _finishing(model_id, head, class_names, templates)
    build, resolved, seed = _prepare(model_id, weights, seed)
    with _seeded(seed):
        model = build(overrides)
    _apply(model, resolved, seed, ema=ema, entry=entry, prefix=prefix)
    return finish(model.eval(), target).to(device=target, dtype=dtype)


def _finishing(
    model_id: ModelId, head: Any, class_names: Any, templates: Any
) -> Callable[[nn.Module, torch.device | None], nn.Module]:
    """The function that adds the head to a loaded network; files and names are checked before it is built."""
    if head is not None and (class_names is not None or templates is not None):
        raise InvalidInputError(
            "Cannot combine a head with class names or templates. A head has its own classes. Pass only one of them."
        )
    if head is not None:
        given = read_head(head)

        def add_head(model: nn.Module, device: torch.device | None) -> nn.Module:
            return with_head(image_tower(model), given)

        return add_head
    if model_id.kind != "open_clip":
        if class_names is not None or templates is not None:
            raise InvalidInputError(
                f"Class names and templates cannot be embedded by {model_id}. Only models of open_clip have a text "
                "tower. Give head, a file with text embeddings."
            )
        return lambda model, device: model
    builder_of(model_id)  # raises for unknown models
    prompts, tokenizer = choose_prompts(class_names, templates), find_tokenizer(model_id)

    def add_texts(model: nn.Module, device: torch.device | None) -> nn.Module:
        embedded = embed_prompts(model, tokenizer, prompts, device or torch.device("cpu"))
        return with_head(image_tower(model), embedded)

    return add_texts


def create_partly(
    name: str,
    weights: str | os.PathLike[str] | None,
    needed: Callable[[nn.Module], Sequence[str]],
    *,
    seed: int = 0,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
) -> nn.Module:
    """Build a network of which only some modules are loaded; its forward pass cannot be run.

    Weights that come from a file are only read for the modules needed, and the rest of the network stays on the meta
    device. Random weights, those of a factory, and networks whose builder needs real tensors are always complete.

    Args:
        name: Model name, as in :func:`create_model`.
        weights: Weights, as in :func:`create_model`.
        needed: Function that maps the network, still without weights, to the module paths that are needed.
        seed: Seed, as in :func:`create_model`.
        ema: Whether to load the averaged entry of a checkpoint.
        entry: Entry to load, as in :func:`load_checkpoint`.
        prefix: Prefix of the names, as in :func:`load_checkpoint`.

    Returns:
        The network, in eval mode.

    Raises:
        UnknownModelError: There is no model of this name.
        InvalidInputError: The builder fails, the seed or ``ema`` is invalid, or ``needed`` raises it.
        WeightsError: The weights cannot be found, downloaded, read or matched to the model.
    """
    check_selection(ema, entry, prefix)
    model_id = ModelId.parse(name)
    build, resolved, seed = _prepare(model_id, weights, seed)
    skeleton = None if resolved.path is None or model_id.kind == "factory" else _skeleton(build)
    if skeleton is not None:
        _apply(skeleton, resolved, seed, ema=ema, entry=entry, prefix=prefix, only=needed(skeleton))
        return skeleton.eval()
    with _seeded(seed):
        model = build({})
    needed(model)  # raises errors
    # Everything: in a file in merged form, the modules have other names, and here they have values nevertheless.
    _apply(model, resolved, seed, ema=ema, entry=entry, prefix=prefix)
    return model.eval()


def create_skeleton(name: str) -> nn.Module | None:
    """The network on the meta device, without values of its tensors, or None if its builder needs real tensors.

    Raises:
        UnknownModelError: There is no model of this name.
    """
    return _skeleton(builder_of(ModelId.parse(name)))


def _prepare(
    model_id: ModelId, weights: Any, seed: Any
) -> tuple[Callable[[dict[str, Any]], nn.Module], ResolvedWeights, int]:
    """Check the arguments and fetch the weights before the network is built, which takes a while for large ones."""
    weights, seed = check_weights(weights), check_seed(seed)
    build = builder_of(model_id)
    return build, resolve_weights(model_id, weights), seed


def _skeleton(build: Callable[[dict[str, Any]], nn.Module]) -> nn.Module | None:
    """The network on the meta device, or None if its builder needs real tensors."""
    try:
        with torch.device("meta"):
            return build({})
    except InvalidInputError:
        return None


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Load named weights into an existing model, as timm's ``pretrained=True`` requires."""
    _apply(model, resolve_weights(ModelId.parse(name), weights), None)


# The architectures are registered before this module can be imported; see `registration`.
set_weights_loader(load_weights)


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
) -> CheckpointReport:
    """Load a weights file into ``model`` in place and record its provenance for later measurements.

    Files of RepLKNet (train, merged and deep-fused form), SLaK, UniRepLKNet (before and after merging), mmpretrain,
    timm and torchvision are supported, flat or nested, ``.pth`` in both serializations or safetensors. The model is
    merged or fused to match the file, and its classifier is given the file's number of classes. After an error the
    model is unchanged.

    Objects of other classes in the file are neither imported nor executed.

    Weights are searched in this order: in the entry with a usual name (``model``, ``state_dict``,
    ``model_state_dict``, ``model_weights``, ``module``, ``net``, ``params``, which may nest), or in the file itself; if
    none of these entries exists, in all entries. If the names in an entry are not those of the model, any prefix is
    removed under which all of them occur, and the other tensors are left out. An average over training steps
    (``model_ema``, ``ema``, ``encoder_k`` and the like) is only taken with ``ema`` or if there is nothing else. If
    several sets of weights match, as for ``teacher`` and ``student``, the error lists them.

    Args:
        model: The network.
        path: Path of the file.
        ema: Whether to load the averaged entry of the file (such as ``model_ema``) instead of the default one.
        entry: Entry of the file to load, nested ones joined by dots, such as ``"teacher"`` or ``"state.net"``; None to
            choose it as above.
        prefix: Beginning of the names to load, which is removed from them, such as ``"module.encoder_q."``; None to
            choose it as above.

    Returns:
        A description of the file and of what was loaded.

    Raises:
        WeightsError: The file cannot be read, is refused, or does not match the model.
        InvalidInputError: ``model`` is not an ``nn.Module``, ``ema`` is not a bool, or ``entry`` or
            ``prefix`` is not a string.

    Examples:
        >>> import torch
        >>> from replk_probe import load_checkpoint
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU())
        >>> state = {f"module.{name}": value for name, value in model.state_dict().items()}
        >>> torch.save({"epoch": 90, "state_dict": state}, "last.pth")
        >>> report = load_checkpoint(model, "last.pth")
        >>> report.tensors, report.wrapper, report.prefix
        (2, 'state_dict', 'module.')
    """
    check_selection(ema, entry, prefix)
    report = load_file(model, path, ema=ema, entry=entry, prefix=prefix)
    attach_weights_info(model, _loaded(WeightsInfo(f"file:{report.path.name}"), report))
    return report


def image_tower(model: nn.Module) -> nn.Module:
    """The image tower of a model of open_clip, with its provenance; any other network itself."""
    tower = getattr(model, "visual", None)
    if not (hasattr(model, "encode_text") and isinstance(tower, nn.Module)):
        return model
    attach_weights_info(tower, weights_info(model), data_config(model))
    return tower


def _apply(model: nn.Module, resolved: ResolvedWeights, seed: int | None, **selection: Any) -> None:
    """Load the weights that were resolved, and record their provenance and preprocessing.

    ``selection`` are the options of :func:`.checkpoints.load.load_checkpoint`.
    """
    info = resolved.info
    if resolved.path is not None:
        info = _loaded(info, load_file(model, resolved.path, **selection))
    elif info.is_random:
        info = replace(info, seed=seed)
    attach_weights_info(model, info, resolved.data)


def _loaded(info: WeightsInfo, report: CheckpointReport) -> WeightsInfo:
    """``info`` completed from the report on the loaded file."""
    return replace(
        info,
        sha256=report.sha256,
        form=report.form,
        wrapper=report.wrapper,
        prefix=report.prefix,
        dropped=report.dropped,
        note=" ".join(note for note in (info.note, report.note) if note) or None,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator, where networks are built, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs as well.
        torch.default_generator.manual_seed(seed)
        yield
