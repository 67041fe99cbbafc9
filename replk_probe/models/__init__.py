"""Networks: RepLKNet, SLaK and their kin in timm's registry, weights, re-parameterization, names of layers.

Importing this package registers the models, so that ``timm.create_model("replknet31b")`` works.
"""

from __future__ import annotations

from . import convnext_large, micro, mobilenet_large, replknet, slak
from ._checkpoints import CheckpointReport
from ._create import DataConfig, attach_weights_info, create_model, data_config, load_checkpoint, weights_info
from ._reparam import fuse_bn, fuse_conv_bn, merge_branches, reparameterize
from ._reparam_file import ReparamReport, reparam_checkpoint
from ._same_outputs import Difference
from ._spec import LayerRef, ProbeSpec, final_layer, large_kernel_layers, probe_spec, resolve_layer
from .micro import default_models

__all__ = [
    "CheckpointReport",
    "DataConfig",
    "Difference",
    "LayerRef",
    "ProbeSpec",
    "ReparamReport",
    "attach_weights_info",
    "convnext_large",
    "create_model",
    "data_config",
    "default_models",
    "final_layer",
    "fuse_bn",
    "fuse_conv_bn",
    "large_kernel_layers",
    "load_checkpoint",
    "merge_branches",
    "micro",
    "mobilenet_large",
    "probe_spec",
    "reparam_checkpoint",
    "reparameterize",
    "replknet",
    "resolve_layer",
    "slak",
    "weights_info",
]
