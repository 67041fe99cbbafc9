"""Registration of the architectures and their variants with timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model, register_notrace_module
from torch import nn

from replk_probe.ops import DepthwiseConv2d

# A leaf for timm's `features_only`, as torch's own convolutions are.
register_notrace_module(DepthwiseConv2d)

WeightsLoader = Callable[[nn.Module, str, str], None]
_load_weights: WeightsLoader


def set_weights_loader(loader: WeightsLoader) -> None:
    """Set the function that loads named weights (model, its name, the weights) for ``pretrained=True``.

    ``models.factory``, which imports the architectures, sets it.
    """
    global _load_weights
    _load_weights = loader


def timm_cfg(
    first_conv: str,
    input_size: int = 224,
    mean: float | None = None,
    classifier: str = "head",
    num_classes: int = 1000,
    stride: int = 32,
) -> Any:
    """Preprocessing and layer names of one variant, as a ``pretrained_cfg`` of timm.

    Args:
        first_conv: Path of the first convolution.
        input_size: Side of the input in pixels; if it is not 224, the whole image is squashed instead of cropped.
        mean: Mean and standard deviation of all channels, or None for those of ImageNet.
        classifier: Path of the last linear layer.
        num_classes: Number of outputs of the classifier.
        stride: Total stride of the last feature map.
    """
    return {
        "url": "",
        "num_classes": num_classes,
        "input_size": (3, input_size, input_size),
        "pool_size": (input_size // stride, input_size // stride),
        "crop_pct": 0.875 if input_size == 224 else 1.0,
        "crop_mode": "center" if input_size == 224 else "squash",
        "interpolation": "bicubic",
        "first_conv": first_conv,
        "classifier": classifier,
        "mean": IMAGENET_DEFAULT_MEAN if mean is None else (mean,) * 3,
        "std": IMAGENET_DEFAULT_STD if mean is None else (mean,) * 3,
    }


def register_variant(cls: type[nn.Module], name: str, config: Mapping[str, Any], module: str | None = None) -> None:
    """Make ``timm.create_model(name)`` build ``cls(**config)``.

    ``module``, by default that of ``cls``, must already define ``default_cfgs``. ``pretrained=True`` loads the default
    weights of this package's catalog, because the keys of the authors' files must be renamed.
    """

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        arguments = {**config, **kwargs}
        # Modules are not registered in execution order (transitions are separate), so features are traced.
        features = {"feature_cls": "fx", "out_indices": (0, 1, 2, 3)}
        model: nn.Module = build_model_with_cfg(cls, name, False, feature_cfg=features, **arguments)
        if pretrained:
            _load_weights(model, name, "pretrained")
        return model

    build.__name__ = build.__qualname__ = name
    build.__module__ = module or cls.__module__
    build.__doc__ = f"{cls.__name__}, variant ``{name}``."
    register_model(build)
