"""From what the user asked for (``auto``, ``pretrained``, a name, a path) to a weights file on this machine."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from replk_probe.errors import WeightsError
from replk_probe.runtime.download import cache_dir, check_reachable, fetch, fetch_drive, is_intact
from replk_probe.runtime.provenance import EMBEDDED, RANDOM_INIT

from ..model_id import TORCHVISION, is_factory, is_own_model
from .catalog import CATALOG, catalog_entries, default_entry
from .embedded import checked_file
from .entry import CatalogEntry

Kind = Literal["random", "catalog", "timm", "torchvision", "file", "user-module"]
Host = Literal["auto", "openmmlab", "drive"]

_HASH_IN_NAME = re.compile(r"[-_]([0-9a-f]{8,64})\.[a-z.]+$")
# As timm looks for them on the hub.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class _Way:
    """How files are fetched."""

    timeout: float
    progress: bool
    force: bool = False


@dataclass(frozen=True)
class ResolvedWeights:
    """A decision about weights.

    Attributes:
        kind: ``"random"``: initialise; ``"user-module"``: whatever the user's factory made; otherwise where ``path``
            comes from.
        source: For the record: ``"random-init"``, ``"catalog:NAME"``, ``"embedded:NAME"``, ``"timm:TAG"``,
            ``"torchvision:TAG"``, ``"file:NAME"`` or ``"user-module"``.
        path: File for :func:`~replk_probe.models.load_checkpoint`; None for ``"random"`` and ``"user-module"``.
        entry: Catalog entry, for ``"catalog"``.
        note: One sentence for the reader, for instance why random weights stand in for trained ones.
    """

    kind: Kind
    source: str
    path: Path | None = None
    entry: CatalogEntry | None = None
    note: str | None = None


def resolve_weights(
    model_name: str,
    weights: str | None,
    *,
    connect_timeout: float = _CONNECT_SECONDS,
    progress: bool = True,
    force: bool = False,
) -> ResolvedWeights:
    """Find the weights for a model, downloading them into the cache if need be.

    Args:
        model_name: A registered or timm name, ``torchvision:NAME``, ``package.module:factory`` or ``file.py:factory``.
        weights: None or ``"random"``; ``"pretrained"``; ``"auto"`` (pretrained, else random with a note); a catalog
            name; a tag of timm (``tv_in1k``) or torchvision (``IMAGENET1K_V2``) of that model; a path.
        connect_timeout: Seconds that an absent network may cost.
        progress: Draw progress bars on a terminal.
        force: Fetch the file again, even if it is there.

    Returns:
        The decision; with a path, the file is there.

    Raises:
        WeightsError: Not for ``"auto"``: no such weights, or they cannot be fetched.
    """
    own_factory = is_factory(model_name)
    way = _Way(connect_timeout, progress, force)
    if weights is None:
        return _user_module() if own_factory else ResolvedWeights("random", RANDOM_INIT)
    if weights == "random":
        return ResolvedWeights("random", RANDOM_INIT)
    if weights == "auto":
        if own_factory:
            return _user_module()
        try:
            return _pretrained(model_name, way)
        except WeightsError as error:
            return ResolvedWeights(
                "random", RANDOM_INIT, note=f"Random weights stand in for trained ones. {' '.join(str(error).split())}"
            )
    if weights == "pretrained":
        return _pretrained(model_name, way)
    return _named(model_name, weights, way)


def weights_path(entry: CatalogEntry, host: Host = "auto") -> Path:
    """Where the file of a catalog entry lies in the cache, fetched or not."""
    name = entry.filename if host != "drive" else f"{entry.name}.pth"
    return cache_dir() / "weights" / name


def cached_path(entry: CatalogEntry) -> Path | None:
    """The file of a catalog entry if it is in the cache, from whichever host; its digest is not checked here."""
    if entry.hub_id:  # The hub's client keeps those, in its own cache.
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
    """Bring the file of a catalog entry into the cache; embedded weights are there already.

    Args:
        entry: What to fetch.
        host: ``"auto"``: what is in the cache, else OpenMMLab, else Google Drive where OpenMMLab does not have it.
        connect_timeout: Seconds that an absent network may cost.
        progress: Draw a progress bar on a terminal.
        force: Fetch it again, even if it is there.

    Returns:
        The file, its digest checked: the published one, or the one it had when it was fetched from Google Drive.

    Raises:
        WeightsError: See :func:`replk_probe.runtime.download.fetch`.
    """
    if entry.embedded and host == "auto":
        return checked_file(entry)
    path = weights_path(entry, host)
    if host == "auto" and not force and not path.is_file():
        copy = cached_path(entry)
        if copy is not None and is_intact(copy):
            return copy
    if entry.url is not None and host != "drive":
        return fetch(entry.url, path, entry.sha256, entry.size, progress, connect_timeout, force=force)
    if entry.drive_id is None or host == "openmmlab":
        place = f"{'in' if entry.embedded else 'on'} {entry.host}"
        raise WeightsError(f"{entry.name} is not on {host}. It lies {place}. Fetch it from there.")
    return fetch_drive(entry.drive_id, path, None, progress, connect_timeout, force)


def digest_in_name(path: Path) -> str | None:
    """First digits of the SHA-256 that a file's name promises (``resnet101-63fe2227.pth``), or None."""
    found = _HASH_IN_NAME.search(path.name)
    return found[1] if found else None


def _user_module() -> ResolvedWeights:
    return ResolvedWeights("user-module", "user-module")


def _pretrained(model_name: str, way: _Way) -> ResolvedWeights:
    if is_factory(model_name):
        raise WeightsError(
            f"No pretrained weights are known for {model_name}. It is a factory of yours. "
            f"Let it load them, or pass a path."
        )
    if model_name.startswith(TORCHVISION):
        return _torchvision(model_name, None, way)
    entry = default_entry(model_name)
    if entry is not None:
        return _from_catalog(entry, way)
    if is_own_model(model_name):
        raise WeightsError(
            f"No pretrained weights are known for {model_name}. Its authors published none. Pass a path, or use random."
        )
    return _timm(model_name, None, way)


def _named(model_name: str, weights: str, way: _Way) -> ResolvedWeights:
    """A catalog name, in full or without the model; a file; a tag of timm's or torchvision's."""
    entry = CATALOG.get(weights) or CATALOG.get(f"{model_name}.{weights}")
    if entry is not None:
        if not is_factory(model_name) and entry.model != model_name:
            raise WeightsError(
                f"The weights {entry.name} do not fit {model_name}. They are for {entry.model}. "
                f"Use that model, or other weights."
            )
        return _from_catalog(entry, way)
    path = Path(weights).expanduser()
    if path.is_file():
        return ResolvedWeights("file", f"file:{path.name}", path)
    if path.is_dir():
        raise WeightsError(f"Cannot read weights from {weights}. It is a folder. Pass the file in it.")
    known = [entry.name for entry in catalog_entries()] + ["auto", "pretrained", "random"]
    if model_name.startswith(TORCHVISION):
        tags = _torchvision_tags(model_name)
        if weights in tags:
            return _torchvision(model_name, weights, way)
        known += tags
    elif not is_factory(model_name) and not is_own_model(model_name):
        tags = _timm_tags(model_name)
        if weights.removeprefix(f"{_architecture(model_name)}.") in tags:
            return _timm(model_name, weights.removeprefix(f"{_architecture(model_name)}."), way)
        known += tags
    close = difflib.get_close_matches(weights, known, n=3, cutoff=0.5)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise WeightsError(
        f"No weights {weights!r} for {model_name}. There is no such file and no such name{hint}. "
        f"List the names with 'replk-probe weights list'."
    )


def _from_catalog(entry: CatalogEntry, way: _Way) -> ResolvedWeights:
    path = fetch_entry(entry, connect_timeout=way.timeout, progress=way.progress, force=way.force)
    source = f"{EMBEDDED}{entry.name}" if entry.embedded else f"catalog:{entry.name}"
    return ResolvedWeights("catalog", source, path, entry, entry.remark)


def _torchvision_weights(model_name: str) -> Any:
    """Torchvision's enumeration of the weights of one model, or nothing."""
    from torchvision import models

    registry: Any = models
    try:
        return registry.get_model_weights(model_name.removeprefix(TORCHVISION))
    except ValueError:
        return ()


def _torchvision_tags(model_name: str) -> list[str]:
    return [str(weight.name) for weight in _torchvision_weights(model_name)]


def _torchvision(model_name: str, tag: str | None, way: _Way) -> ResolvedWeights:
    tags = _torchvision_tags(model_name)
    if not tags:
        raise WeightsError(
            f"No pretrained weights are known for {model_name}. torchvision has none. Pass a path, or use random."
        )
    # The papers compare with the first recipe; torchvision's own default is the newest.
    tag = tag or ("IMAGENET1K_V1" if "IMAGENET1K_V1" in tags else tags[0])
    weight = _torchvision_weights(model_name)[tag]
    path = _into_torch_hub(weight.url, way)
    return ResolvedWeights("torchvision", f"torchvision:{type(weight).__name__}.{tag}", path)


def _architecture(model_name: str) -> str:
    return model_name.split(".")[0]


def _timm_tags(model_name: str) -> list[str]:
    import timm

    names = timm.list_models(f"{_architecture(model_name)}.*", pretrained=True)
    return [name.split(".", 1)[1] for name in names if name.split(".")[0] == _architecture(model_name)]


def _timm(model_name: str, tag: str | None, way: _Way) -> ResolvedWeights:
    import timm

    name = f"{_architecture(model_name)}.{tag}" if tag else model_name
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(_architecture(name)) else None
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise WeightsError(
            f"No pretrained weights are known for {model_name}. timm lists none. Pass a path, or use random."
        )
    source = f"timm:{_architecture(name)}.{cfg.tag}" if cfg.tag else f"timm:{name}"
    if cfg.hf_hub_id:
        return ResolvedWeights("timm", source, _from_hub(cfg, way))
    return ResolvedWeights("timm", source, _into_torch_hub(str(cfg.url), way))


def _from_hub(cfg: Any, way: _Way) -> Path:
    """The file that timm itself would load, through the hub's own client and cache."""
    from timm.models import _hub

    hub: Any = _hub
    repository, _, revision = cfg.hf_hub_id.partition("@")
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES
    for file in () if way.force else files:
        try:
            return Path(hub.hf_hub_download(repository, file, revision=revision or None, local_files_only=True))
        except Exception:
            # Not in the cache: the client says so by one of several errors.
            continue
    # The client itself waits and retries for much longer.
    check_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), way.timeout)
    failure: Exception | None = None
    more = {"force_download": True} if way.force else {}
    for file in files:
        try:
            return Path(hub.hf_hub_download(repository, file, revision=revision or None, **more))
        except Exception as error:
            # Its errors come from three libraries below it; the last one is told.
            failure = error
    reason = " ".join(str(failure).split())[:160].rstrip(".")
    raise WeightsError(
        f"Cannot fetch {repository} from the Hugging Face hub. {reason}. Pass a path, or use random."
    ) from failure


def _into_torch_hub(url: str, way: _Way) -> Path:
    """Download to where torchvision and timm look for the same file."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    return fetch(url, path, digest_in_name(path), None, way.progress, way.timeout, force=way.force)
