"""Networks: RepLKNet, SLaK and their kin in timm's registry, weights, re-parameterization, names of layers.

Importing this package registers the models, so that ``timm.create_model("replknet31b")`` works.
"""

from __future__ import annotations

from . import convnext_large, mobilenet_large, replknet, slak
from ._reparam import fuse_bn, fuse_conv_bn, merge_branches, reparameterize
from ._spec import LayerRef, ProbeSpec, final_layer, large_kernel_layers, probe_spec, resolve_layer

__all__ = [
    "convnext_large",
    "fuse_bn",
    "fuse_conv_bn",
    "merge_branches",
    "mobilenet_large",
    "reparameterize",
    "replknet",
    "slak",
]
