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


_UNIREPLKNET_REPOSITORY = "DingXiaoH/UniRepLKNet"
# For the others, the hub's answer to a request has the digest.
_UNIREPLKNET_DIGESTS = {
    "unireplknet_a.in1k_224": "a0ef11d8514590413a11493850e4882bb2c15c4c0203f97481158c7c58d76128",
    "unireplknet_f.in1k_224": "b070ba01e853df306ac9d945f3c3592506595908adc1333d09983209fef7d5c8",
    "unireplknet_p.in1k_224": "36363a5df396c0550b67208c50cd1936d7154839ad8f791937e952b6093a83d4",
    "unireplknet_s.in22k_ft_in1k_384": "120fd52aeb737512807600c53d89d86b0f2e81172b8049768e7ce52c389accfa",
    "unireplknet_s.in22k": "0ce556076536e876e407592fce67f5cbdb6245c6dfbc35e8cdc25b51a3ccfe43",
    "unireplknet_b.in22k": "aa3d4d70eb992e5e9f4dee0a4542fbad71c3cea7e2f08c03720c7308c1d62c51",
    "unireplknet_b.in22k_ft_in1k_384": "cb37d591f7eec89bc08b49b727798722aa9f4c465c7358936f6573d568dcab2a",
    "unireplknet_l.in22k": "b46656fb33fab335b1a2844822c76b325ba4c404186303649d84762e08ef5fb2",
    "unireplknet_xl.in22k_ft_in1k_384": "a5fb3d98f978dc4925cd50d3f3f8fd0c7dc5e47a8b4f22a68decb0c56fadf268",
}


def _unireplknet(variant: str, tag: str, top1: float | None = None) -> CatalogEntry:
    """One entry for a file of UniRepLKNet's authors."""
    training, input_size, file = {
        "in1k_224": ("ImageNet-1K", 224, f"in1k_224_acc{top1:.2f}" if top1 else ""),
        "in22k": (_IN22K, 224, "in22k_pretrain"),
        "in22k_ft_in1k_384": (_IN22K_384, 384, f"in22k_to_in1k_384_acc{top1:.2f}" if top1 else ""),
    }[tag]
    name = f"unireplknet_{variant}.{tag}"
    return CatalogEntry(
        name=name,
        model=f"unireplknet_{variant}",
        url=None,
        drive_id=None,
        sha256=_UNIREPLKNET_DIGESTS.get(name),
        license="Apache-2.0 (of github.com/AILab-CVC/UniRepLKNet)",
        provenance=f"as published by the authors of UniRepLKNet (Ding et al., CVPR 2024) at "
        f"https://huggingface.co/{_UNIREPLKNET_REPOSITORY}",
        training=training,
        top1=top1,
        input_size=input_size,
        num_classes=None if tag == "in22k" else 1000,
        hub_id=_UNIREPLKNET_REPOSITORY,
        hub_file=f"unireplknet_{variant}_{file}.pth",
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
    *(
        _unireplknet(variant, "in1k_224", top1)
        for variant, top1 in zip("afpnts", (77.03, 78.58, 80.23, 81.64, 83.21, 83.91), strict=True)
    ),
    *(
        _unireplknet(variant, tag, accuracy)
        for variant, top1 in {"s": 86.44, "b": 87.40, "l": 87.88, "xl": 87.96}.items()
        for tag, accuracy in (("in22k_ft_in1k_384", top1), ("in22k", None))
    ),
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
    **{f"unireplknet_{variant}": f"unireplknet_{variant}.in1k_224" for variant in "afpnts"},
    **{f"unireplknet_{variant}": f"unireplknet_{variant}.in22k_ft_in1k_384" for variant in ("b", "l", "xl")},
    **{entry.model: entry.name for entry in reversed(embedded_entries())},
}


def catalog_entries(model: str | None = None) -> tuple[CatalogEntry, ...]:
    """All entries, or those for one model with the default entry first."""
    if model is None:
        return _ENTRIES
    default = _DEFAULTS.get(model)
    return tuple(sorted((e for e in _ENTRIES if e.model == model), key=lambda entry: entry.name != default))


def default_entry(model: str) -> CatalogEntry | None:
    """The entry that ``"pretrained"`` selects for a model or for MODEL.TAG, or None if there is none."""
    return CATALOG.get(_DEFAULTS.get(model, model))


def hub_entries(pattern: str) -> tuple[CatalogEntry, ...]:
    """Weights published by timm whose ``MODEL.TAG`` name matches a pattern (``swin_tiny*``), in timm's order."""
    from .. import timm_registry

    entries = []
    for name in timm_registry.list_tagged(pattern, pretrained=True):
        cfg = timm_registry.pretrained_cfg(name)
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
    entry = default_entry(name)
    if entry is None:
        raise WeightsError(
            f"Unknown weights {name!r}. The catalog has no such name{close_hint(name, CATALOG, cutoff=0.5)}. "
            "List it with 'replk-probe weights list'."
        )
    return entry


def entries_with_digest(sha256: str) -> tuple[CatalogEntry, ...]:
    """Entries whose published digest is a prefix of ``sha256``, the full digest of a file."""
    return tuple(entry for entry in _ENTRIES if entry.sha256 and sha256.startswith(entry.sha256))
