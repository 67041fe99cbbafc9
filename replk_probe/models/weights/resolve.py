"""Finding and fetching the requested weights (``auto``, ``pretrained``, a name, a path)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch

from replk_probe.errors import WeightsError, close_hint
from replk_probe.runtime.download import cache_dir, fetch, fetch_drive, is_intact
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.provenance import EMBEDDED, RANDOM_INIT, USER_MODULE, WeightsInfo

from .. import timm_registry
from ..heads.open_clip_models import open_clip_data, open_clip_file, open_clip_tags
from ..model_id import ModelId
from .catalog import CATALOG, default_entry
from .embedded import checked_file
from .entry import CatalogEntry, DataConfig
from .hub import cached_hub_file, fetch_from_hub, fetch_verified

Host = Literal["auto", "openmmlab", "drive"]

_HASH_IN_NAME = re.compile(r"[-_]([0-9a-f]{8,64})\.[a-z.]+$")
# In the order in which timm looks for them on the hub.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class _Download:
    """Options for every download: seconds to wait for an answer, progress bar, ignoring the cache."""

    timeout: float
    progress: bool
    force: bool = False


@dataclass(frozen=True)
class ResolvedWeights:
    """The weights chosen for a model, before they are loaded."""

    info: WeightsInfo  # provenance as far as it is known before the file is read: source and note
    path: Path | None = None  # file for load_checkpoint, or None for random weights and those of a factory
    # Normalization and input size that belong to the weights, or None if only the model defines them.
    data: DataConfig | None = None


def resolve_weights(
    model: ModelId,
    weights: str | None,
    *,
    connect_timeout: float = _CONNECT_SECONDS,
    progress: bool = True,
    force: bool = False,
) -> ResolvedWeights:
    """Find the weights for a model and download them into the cache if necessary.

    Args:
        model: Parsed name of the model.
        weights: None or ``"random"``; ``"pretrained"``; ``"auto"`` (pretrained if available, otherwise random with a
            note); a catalog name; a tag of timm (``tv_in1k``), torchvision (``IMAGENET1K_V2``) or open_clip
            (``laion2b_s34b_b79k``); a path.
        connect_timeout: Seconds to wait for a host to answer.
        progress: Whether to show progress bars on a terminal.
        force: Whether to download the file again even if it is cached.

    Returns:
        The weights; if they have a path, the file exists.

    Raises:
        WeightsError: There are no such weights, or they cannot be fetched. Never raised for ``"auto"``.
    """
    download = _Download(connect_timeout, progress, force)
    if weights in (None, "auto") and model.kind == "factory":
        resolved = ResolvedWeights(WeightsInfo(USER_MODULE))
    elif weights in (None, "random"):
        resolved = ResolvedWeights(WeightsInfo(RANDOM_INIT))
    elif weights == "pretrained":
        resolved = _pretrained(model, download)
    elif weights == "auto":
        try:
            resolved = _pretrained(model, download)
        except WeightsError as error:
            note = f"Using random weights: no pretrained weights available. {' '.join(str(error).split())}"
            resolved = ResolvedWeights(WeightsInfo(RANDOM_INIT, note=note))
    else:
        resolved = _named(model, weights)(download)
    if resolved.data is None and model.kind == "torchvision":
        # Unlike timm's, models of torchvision define no normalization: that of the first recipe is used.
        resolved = replace(resolved, data=_torchvision_data(next(iter(_torchvision_weights(model)), None)))
    if resolved.data is None and model.kind == "open_clip":
        resolved = replace(resolved, data=open_clip_data(model))
    return resolved


def check_weights_exist(model: ModelId, weights: str) -> None:
    """Raise WeightsError if ``weights`` is neither a name that is known for the model nor a file; nothing is loaded."""
    if weights not in ("auto", "pretrained", "random"):
        _named(model, weights)


def has_pretrained(model: ModelId) -> bool:
    """Whether ``"pretrained"`` weights are known for the model; nothing is downloaded, so that they may be unreachable.

    Those that a factory loads itself do not count.
    """
    if model.kind == "torchvision":
        return bool(_torchvision_tags(model))
    if model.kind == "factory":
        return False
    if model.kind == "open_clip":
        return bool(open_clip_tags(model))
    return default_entry(model.name) is not None or (not model.is_own and _timm_config(model, model.tag) is not None)


def weights_path(entry: CatalogEntry, host: Host = "auto") -> Path:
    """Path of a catalog entry's file in the cache, whether it exists or not."""
    name = entry.filename if host != "drive" else f"{entry.name}.pth"
    return cache_dir() / "weights" / name


def cached_path(entry: CatalogEntry) -> Path | None:
    """The cached file of a catalog entry from any host, or None; its digest is not checked."""
    if entry.hub_file is not None:
        return cached_hub_file(entry.hub_id or "", entry.hub_file)
    if entry.hub_id:  # The names of timm's files on the hub are not known.
        return None
    if entry.embedded:
        return entry.embedded
    hosts: tuple[Host, ...] = ("auto", "drive")
    return next((path for path in (weights_path(entry, host) for host in hosts) if path.is_file()), None)


def fetch_entry(
    entry: CatalogEntry,
    *,
    host: Host = "auto",
    connect_timeout: float = _CONNECT_SECONDS,
    progress: bool = True,
    force: bool = False,
) -> Path:
    """Download the file of a catalog entry into the cache; embedded weights need no download.

    Files of the Hugging Face hub are downloaded into the cache of its client.

    Args:
        entry: Catalog entry.
        host: Host; ``"auto"`` uses the cache, then the host of the entry: OpenMMLab before Google Drive.
        connect_timeout: Seconds to wait for the host to answer.
        progress: Whether to show a progress bar on a terminal.
        force: Whether to download the file again even if it is cached.

    Returns:
        Path of the file, after checking its digest: the published one, or that of the first download from Google Drive.

    Raises:
        WeightsError: See :func:`replk_probe.runtime.download.fetch` and :func:`~.hub.fetch_verified`.
    """
    if entry.embedded and host == "auto":
        return checked_file(entry)
    if entry.hub_id and entry.hub_file and host == "auto":
        return fetch_verified(entry.hub_id, entry.hub_file, entry.sha256, connect_timeout, force=force)
    path = weights_path(entry, host)
    if host == "auto" and not force and not path.is_file():
        copy = cached_path(entry)
        if copy is not None and is_intact(copy):
            return copy
    if entry.url is not None and host != "drive":
        return fetch(entry.url, path, entry.sha256, entry.size, progress, connect_timeout, force=force)
    if entry.drive_id is None or host == "openmmlab":
        place = f"{'in' if entry.embedded else 'on'} {entry.host}"
        raise WeightsError(f"{entry.name} is not on {host}. It is {place}. Use host 'auto'.")
    return fetch_drive(entry.drive_id, path, None, progress, connect_timeout, force)


def digest_in_name(path: Path) -> str | None:
    """First digits of the SHA-256 in a file's name (``resnet101-63fe2227.pth``), or None."""
    found = _HASH_IN_NAME.search(path.name)
    return found[1] if found else None


def _pretrained(model: ModelId, download: _Download) -> ResolvedWeights:
    if model.kind == "torchvision":
        return _torchvision(model, None, download)
    if model.kind == "open_clip":
        return _open_clip(model, None, download)
    if model.kind == "factory":
        raise _none_known(model, "The model is built by a user factory. Let the factory load them, or pass a path.")
    entry = default_entry(model.name)
    if entry is not None:
        return _from_catalog(entry, download)
    if model.is_own:
        raise _none_known(model, "Its authors published none. Pass a path, or use random.")
    return _timm(model, model.tag, download)


def _none_known(model: ModelId, reason: str) -> WeightsError:
    return WeightsError(f"No pretrained weights are known for {model}. {reason}")


def _named(model: ModelId, weights: str) -> Callable[[_Download], ResolvedWeights]:
    """How to get the weights with this catalog name (in full or without the model), path, or tag."""
    entry = CATALOG.get(weights) or CATALOG.get(f"{model.architecture}.{weights}")
    if entry is not None:
        if model.kind != "factory" and entry.model != (model.architecture if model.kind == "registry" else model.name):
            raise WeightsError(
                f"The weights {entry.name} do not match {model}. They are for {entry.model}. "
                "Use that model, or other weights."
            )
        return partial(_from_catalog, entry)
    path = usable_path(weights, "The weights file")
    if path.is_dir():
        raise WeightsError(f"Cannot read weights from {weights}. It is a folder. Pass the file in it.")
    if path.exists():
        return lambda _: ResolvedWeights(WeightsInfo(f"file:{path.name}"), path)
    known = [*CATALOG, "auto", "pretrained", "random"]
    if model.kind == "torchvision":
        tags = _torchvision_tags(model)
        if weights in tags:
            return partial(_torchvision, model, weights)
        known += tags
    elif model.kind == "open_clip":
        tags = open_clip_tags(model)
        if weights in tags:
            return partial(_open_clip, model, weights)
        known += tags
    elif model.kind == "registry" and not model.is_own:
        tags, tag = _timm_tags(model), weights.removeprefix(f"{model.architecture}.")
        if tag in tags:
            return partial(_timm, model, tag)
        known += tags
    raise WeightsError(
        f"No weights {weights!r} for {model}. There is no such file and no such name"
        f"{close_hint(weights, known, cutoff=0.5)}. List the names with 'replk-probe weights list'."
    )


def _from_catalog(entry: CatalogEntry, download: _Download) -> ResolvedWeights:
    path = fetch_entry(entry, connect_timeout=download.timeout, progress=download.progress, force=download.force)
    source = f"{EMBEDDED}{entry.name}" if entry.embedded else f"catalog:{entry.name}"
    return ResolvedWeights(WeightsInfo(source, note=entry.remark), path, entry.data_config)


def _torchvision_weights(model: ModelId) -> Any:
    """Torchvision's enumeration of the weights of one model; empty if there are none."""
    from torchvision import models

    registry: Any = models
    try:
        return registry.get_model_weights(model.architecture)
    except ValueError:
        return ()


def _torchvision_tags(model: ModelId) -> list[str]:
    return [str(weight.name) for weight in _torchvision_weights(model)]


def _torchvision_data(weight: Any) -> DataConfig | None:
    if weight is None:
        return None
    preset = weight.transforms()
    if not hasattr(preset, "mean"):  # a detector's, which its own transform normalizes
        return None
    # Segmentation networks are trained on crops, but evaluated on whole images of this size.
    side = int((preset.crop_size if hasattr(preset, "crop_size") else preset.resize_size)[0])
    return DataConfig(tuple(preset.mean), tuple(preset.std), (side, side))


def _torchvision(model: ModelId, tag: str | None, download: _Download) -> ResolvedWeights:
    tags = _torchvision_tags(model)
    if not tags:
        raise _none_known(model, "torchvision has none. Pass a path, or use random.")
    # The papers compare with the first recipe; torchvision's own default is the newest.
    weight = _torchvision_weights(model)[tag or ("IMAGENET1K_V1" if "IMAGENET1K_V1" in tags else tags[0])]
    path = _into_torch_hub(weight.url, download)
    return ResolvedWeights(WeightsInfo(f"torchvision:{weight}"), path, _torchvision_data(weight))


def _open_clip(model: ModelId, tag: str | None, download: _Download) -> ResolvedWeights:
    tags = open_clip_tags(model)
    if not tags:
        raise _none_known(model, "open_clip lists none. Pass a path, or use random.")
    tag = tag or tags[0]
    repository, url, data = open_clip_file(model, tag)
    if repository:
        path = fetch_from_hub(repository, _OPEN_CLIP_FILES, download.timeout, force=download.force)
    else:
        path = _into_torch_hub(url, download)
    return ResolvedWeights(WeightsInfo(f"open_clip:{tag}"), path, data)


def _timm_tags(model: ModelId) -> list[str]:
    names = timm_registry.list_tagged(f"{model.architecture}.*", pretrained=True)
    return [name.removeprefix(f"{model.architecture}.") for name in names]


def _timm_config(model: ModelId, tag: str | None) -> Any:
    """Timm's description of the weights of a model, or None if there is none with a file to download."""
    name = f"{model.architecture}.{tag}" if tag else model.name
    cfg = timm_registry.pretrained_cfg(name)
    return cfg if cfg is not None and (cfg.hf_hub_id or cfg.url) else None


def _timm(model: ModelId, tag: str | None, download: _Download) -> ResolvedWeights:
    name = f"{model.architecture}.{tag}" if tag else model.name
    cfg = _timm_config(model, tag)
    if cfg is None:
        raise _none_known(model, "timm lists none. Pass a path, or use random.")
    _, height, width = cfg.input_size
    info = WeightsInfo(f"timm:{model.architecture}.{cfg.tag}" if cfg.tag else f"timm:{name}")
    path = _from_hub(cfg, download) if cfg.hf_hub_id else _into_torch_hub(str(cfg.url), download)
    return ResolvedWeights(info, path, DataConfig(tuple(cfg.mean), tuple(cfg.std), (height, width)))


def _from_hub(cfg: Any, download: _Download) -> Path:
    """The file that timm would load."""
    repository, _, revision = cfg.hf_hub_id.partition("@")
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES
    return fetch_from_hub(repository, files, download.timeout, revision=revision or None, force=download.force)


def _into_torch_hub(url: str, download: _Download) -> Path:
    """Download to the folder where torchvision and timm look for the file."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    return fetch(url, path, digest_in_name(path), None, download.progress, download.timeout, force=download.force)
