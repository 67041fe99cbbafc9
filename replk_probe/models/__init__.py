"""RepLKNet, SLaK, UniRepLKNet and related architectures in timm's registry, and their weights and layer names.

Importing this package registers the models, so that ``timm.create_model("replknet31b")`` works.
"""

from __future__ import annotations

from replk_probe._lazy import public_names

from .architectures.convnext import LargeKernelConvNeXt
from .architectures.micro import default_models
from .architectures.mobilenet_v2 import LargeKernelMobileNetV2
from .architectures.replknet import RepLKNet
from .architectures.slak import SLaK
from .architectures.unireplknet import UniRepLKNet
from .branches.merge import BranchMerging, merge_parallel_branches
from .checkpoints.load import CheckpointReport
from .convert_checkpoint import ReparamReport, reparam_checkpoint
from .equivalence import Difference
from .factory import create_model, load_checkpoint
from .heads.headed import HeadedClassifier, save_head
from .layers.reparam import fuse_bn, fuse_conv_bn, merge_branches, reparameterize
from .records import attach_weights_info, data_config, weights_info
from .stages import LayerRef, ProbeSpec, final_layer, large_kernel_layers, probe_spec, resolve_layer
from .weights.entry import DataConfig

__all__ = [
    "BranchMerging",
    "CheckpointReport",
    "DataConfig",
    "Difference",
    "HeadedClassifier",
    "LargeKernelConvNeXt",
    "LargeKernelMobileNetV2",
    "LayerRef",
    "ProbeSpec",
    "RepLKNet",
    "ReparamReport",
    "SLaK",
    "UniRepLKNet",
    "attach_weights_info",
    "create_model",
    "data_config",
    "default_models",
    "final_layer",
    "fuse_bn",
    "fuse_conv_bn",
    "large_kernel_layers",
    "load_checkpoint",
    "merge_branches",
    "merge_parallel_branches",
    "probe_spec",
    "reparam_checkpoint",
    "reparameterize",
    "resolve_layer",
    "save_head",
    "weights_info",
]

__dir__ = public_names(__name__)
