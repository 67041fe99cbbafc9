"""Catalog of the published weights of large-kernel networks: address, license and accuracy.

Every address, hash prefix and accuracy is as published by the host named in the entry. The Google Drive files have no
published hash. This project has neither redistributed nor altered any published file. The weights of the package's own
small models come last.
"""

from __future__ import annotations

from typing import Any

from replk_probe.errors import WeightsError, close_hint

from .embedded import embedded_entries
from .entry import CatalogEntry

_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0/replknet/replknet-"
# The variable part of the names of the files that OpenMMLab converted, and the hash prefix at its end.
_OPENMMLAB_FILES = {
    "replknet31b.in1k_224": ("31B_3rdparty_in1k", "fd08e268"),
    "replknet31b.in1k_384": ("31B_3rdparty_in1k-384px", "03a170ce"),
    "replknet31b.in22k_ft_in1k_224": ("31B_in21k-pre_3rdparty_in1k", "54ed5c46"),
    "replknet31b.in22k_ft_in1k_384": ("31B_in21k-pre_3rdparty_in1k-384px", "76c92b24"),
    "replknet31l.in22k_ft_in1k_384": ("31L_in21k-pre_3rdparty_in1k-384px", "dc3fc07c"),
    "replknetxl.meg73m_ft_in1k_320": ("XL_meg73m-pre_3rdparty_in1k-320px", "88259b1d"),
}


def _published(
    name: str, drive_id: str, training: str, top1: float | None, input_size: int = 224, **others: Any
) -> CatalogEntry:
    """One entry for a file of the authors; ``others`` are further fields of :class:`CatalogEntry`."""
    file, sha256 = _OPENMMLAB_FILES.get(name, (None, None))
    if name.startswith("slak"):
        authors, repository = "SLaK (Liu et al., ICLR 2023)", "VITA-Group/SLaK"
    else:
        authors, repository = "RepLKNet (Ding et al., CVPR 2022)", "DingXiaoH/RepLKNet-pytorch"
    converted = ", converted and re-published by OpenMMLab (mmpretrain)" if file else ""
    return CatalogEntry(
        name=name,
        model=name.split(".")[0],
        url=f"{_OPENMMLAB}{file}_20221118-{sha256}.pth" if file else None,
        drive_id=drive_id,
        sha256=sha256,
        license=f"MIT (of github.com/{repository}; the files have none of their own)",
        provenance=f"as published by the authors of {authors}{converted}",
        training=training,
        top1=top1,
        input_size=input_size,
        **others,
    )


_SLAK: dict[str, Any] = {
    "training": "ImageNet-1K, 300 epochs, 40 % sparse",
    "remark": "The authors do not state whether the plain or the averaged entry of the file has this accuracy; the "
    "plain entry is loaded.",
}
_TABLE_10 = "The paper's Table 10 (effective receptive field) was measured on these weights."
_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IN1K_120 = "ImageNet-1K, 120 epochs"
_IN22K = "ImageNet-22K"
_IN22K_384 = "ImageNet-22K, then ImageNet-1K at 384"
_ENTRIES = (
    _published("replknet31b.in1k_224", "1azQUiCxK9feYVkkrPqwVPBtNsTzDrX7S", "ImageNet-1K, 300 epochs", 83.5),
    _published(
        "replknet31b.in1k_384", "1vo-P3XB6mRLUeDzmgv90dOu73uCeLfZN", "ImageNet-1K, fine-tuned at 384", 84.8, 384
    ),
    _published("replknet31b.in22k", "1PYJiMszZYNrkZOeYwjccvxX8UHMALB7z", _IN22K, None, num_classes=21841),
    _published(
        "replknet31b.in22k_ft_in1k_224", "1DslZ2voXZQR1QoFY9KnbsHAeF84hzS0s", "ImageNet-22K, then ImageNet-1K", 85.2
    ),
    _published("replknet31b.in22k_ft_in1k_384", "1Sc46BWdXXm2fVP-K_hKKU_W8vAB-0duX", _IN22K_384, 86.0, 384),
    _published("replknet31b.in1k_120ep", "1aQQiGfCoiBYSw2Ms506-ZFpnC9V6891s", _IN1K_120, 83.07, remark=_TABLE_10),
    _published(
        "replknet31l.in22k",
        "16jcPsPwo5rko7ojWS9k_W-svHX-iFknY",
        _IN22K,
        None,
        num_classes=21841,
        remark="Users report that its class scores are wrong; its features were used for fine-tuning.",
    ),
    _published("replknet31l.in22k_ft_in1k_384", "1JYXoNHuRvC33QV1pmpzMTKEni1hpWfBl", _IN22K_384, 86.6, 384),
    _published(
        "replknetxl.meg73m",
        "1CBHAEUlCzoHfiAQmMIjZhDMAIyHUmAAj",
        "MegData73M (not public)",
        None,
        320,
        num_classes=None,
        remark="The head is one of several used in training, for the classes of ImageNet-22K.",
        **_HALF,
    ),
    _published(
        "replknetxl.meg73m_ft_in1k_320",
        "1tPC60El34GntXByIRHb-z-Apm4Y5LX1T",
        "MegData73M (not public), then ImageNet-1K at 320",
        87.8,
        320,
        **_HALF,
    ),
    _published("replknet13.in1k_120ep", "15gohkZof_Qi4__jluUXacB_0Gvbuf5GI", _IN1K_120, 83.02, remark=_TABLE_10),
    _published("slak_tiny.in1k", "1Iut2f5FMS_77jGPYoUJDQzDIXOsax1u4", top1=82.5, **_SLAK),
    _published("slak_small.in1k", "1etM6KQbnlsgDAZ37adsQJ3UI8Bbv2AVe", top1=83.8, **_SLAK),
    _published("slak_base.in1k", "1duUxUD3RSblQ6eDHd0n-u0aulwGypf1j", top1=84.0, **_SLAK),
    *embedded_entries(),
)
CATALOG: dict[str, CatalogEntry] = {entry.name: entry for entry in _ENTRIES}

# The weights that "pretrained" selects: those of the headline result where a model has several.
_DEFAULTS = {
    "replknet31b": "replknet31b.in1k_224",
    "replknet31l": "replknet31l.in22k_ft_in1k_384",
    "replknetxl": "replknetxl.meg73m_ft_in1k_320",
    "replknet13": "replknet13.in1k_120ep",
    "slak_tiny": "slak_tiny.in1k",
    "slak_small": "slak_small.in1k",
    "slak_base": "slak_base.in1k",
    **{entry.model: entry.name for entry in embedded_entries()},
}


def catalog_entries(model: str | None = None) -> tuple[CatalogEntry, ...]:
    """All entries, or those for one model with the default entry first."""
    if model is None:
        return _ENTRIES
    default = _DEFAULTS.get(model)
    return tuple(sorted((e for e in _ENTRIES if e.model == model), key=lambda entry: entry.name != default))


def default_entry(model: str) -> CatalogEntry | None:
    """The entry that ``"pretrained"`` selects, or None for a model without weights."""
    return CATALOG.get(_DEFAULTS.get(model, ""))


def hub_entries(pattern: str) -> tuple[CatalogEntry, ...]:
    """Weights published by timm whose ``MODEL.TAG`` name matches a pattern (``swin_tiny*``), in timm's order."""
    import timm

    entries = []
    for name in timm.list_models(pattern, pretrained=True):
        cfg = timm.get_pretrained_cfg(name)
        if cfg is None or not cfg.hf_hub_id:
            continue
        page = f"https://huggingface.co/{cfg.hf_hub_id}"
        entries.append(
            CatalogEntry(
                name=name,
                model=name.split(".")[0],
                url=None,
                drive_id=None,
                sha256=None,
                license=cfg.license or f"unstated (see {page})",
                provenance=f"as published by timm at {page}"
                + (f", originally at {cfg.origin_url}" if cfg.origin_url else ""),
                training=(cfg.tag or "").replace("_", " "),
                top1=None,
                input_size=cfg.input_size[-1],
                num_classes=cfg.num_classes,
                mean=cfg.mean,
                std=cfg.std,
                hub_id=cfg.hf_hub_id,
            )
        )
    return tuple(entries)


def find_entry(name: str) -> CatalogEntry:
    """The entry with this name, or the default entry of the model with this name.

    Raises:
        WeightsError: There is no such entry; the message lists similar names.
    """
    entry = CATALOG.get(name) or default_entry(name)
    if entry is None:
        raise WeightsError(
            f"Unknown weights {name!r}. The catalog has no such name{close_hint(name, CATALOG, cutoff=0.5)}. "
            "List it with 'replk-probe weights list'."
        )
    return entry


def entries_with_digest(sha256: str) -> tuple[CatalogEntry, ...]:
    """Entries whose published digest is a prefix of ``sha256``, the full digest of a file."""
    return tuple(entry for entry in _ENTRIES if entry.sha256 and sha256.startswith(entry.sha256))
