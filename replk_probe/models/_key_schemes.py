"""Which names the tensors of a family have in other people's code, and giving them those."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from replk_probe.errors import InvalidInputError

from ._key_names import official_name, timm_name
from .mobilenet_large import LargeKernelMobileNetV2
from .replknet import RepLKNet
from .slak import SLaK

_RENAME: dict[str, Callable[[str], str]] = {
    "official": official_name,
    "replk-probe": lambda name: name,
    "timm": timm_name,
}
SCHEMES = tuple(_RENAME)

# Families that a scheme has no names for, and why.
_WITHOUT: tuple[tuple[type[nn.Module], str, str], ...] = (
    (RepLKNet, "timm", "timm has no RepLKNet"),
    (LargeKernelMobileNetV2, "timm", "timm's MobileNet V2 has kernels of 3 x 3 alone and none with a bias"),
    (LargeKernelMobileNetV2, "official", "no authors' code of a MobileNet V2 with large kernels was published"),
)


def check_scheme(scheme: str, network: nn.Module, model: str) -> None:
    """InvalidInputError if there is no such scheme, or none for this network."""
    if scheme not in SCHEMES:
        raise InvalidInputError(
            f"Unknown naming scheme {scheme!r}. There are {len(SCHEMES)}. Use one of {', '.join(SCHEMES)}."
        )
    if scheme == "replk-probe" or isinstance(network, SLaK):
        return
    known = [reason for family, without, reason in _WITHOUT if isinstance(network, family) and scheme == without]
    if isinstance(network, RepLKNet) and not known:
        return
    elsewhere = type(network).__module__.startswith("timm.")
    others = "its own names are timm's" if elsewhere else "its tensors have one name each"
    reason = known[0] if known else others
    usable = "official or replk-probe" if isinstance(network, RepLKNet) else "replk-probe"
    raise InvalidInputError(f"{model} has no names of the scheme {scheme!r}: {reason}. Use {usable}.")


def in_scheme(scheme: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> those of a scheme that :func:`check_scheme` allows."""
    return {_RENAME[scheme](name): tensor for name, tensor in tensors.items()}


def timm_call(network: nn.Module) -> str | None:
    """The call that builds a merged SLaK or large-kernel ConvNeXt in timm, which has no names for its variants."""
    if not isinstance(network, SLaK):
        return None
    kernels = [stage[0].large_kernel.kernel_size[0] for stage in network.stages]  # type: ignore[index]
    arguments = {
        "num_classes": network.num_classes,
        "depths": network.depths,
        "dims": tuple(stage["num_chs"] for stage in network.feature_info),
        "kernel_sizes": tuple(kernels),
    }
    return f"timm.create_model('convnext_tiny', {', '.join(f'{name}={value}' for name, value in arguments.items())})"
