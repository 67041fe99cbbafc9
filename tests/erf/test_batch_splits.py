"""Any split of a batch gives the same maps, for networks of timm.

The suite runs a few networks. ``REPLK_PROBE_TEST_ALL_TIMM=1`` runs one network of every module file of timm, which
takes some ten minutes.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import timm
import torch

from replk_probe.erf import contribution_scores

# In the first three, batch norms precede tokens. Of equal blocks, few are enough in the suite.
FEWER: dict[str, dict[str, Any]] = {
    "levit_128s": {"depth": (1, 1, 1)},
    "xcit_nano_12_p8_224": {"depth": 1},
    "efficientformer_l1": {"depths": (1, 1, 1, 2)},
}
SUITE = """levit_128s xcit_nano_12_p8_224 efficientformer_l1 test_byobnet test_convnext test_efficientnet test_maxvit
test_resnet test_vit"""

ALL = """levit_128s xcit_nano_12_p8_224 efficientformer_l1 test_byobnet test_convnext test_efficientnet test_maxvit
test_resnet test_vit beit_base_patch16_224 halonet_h1 cait_xxs24_224 convit_tiny convmixer_768_32 cpubone_nano csatv2
cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla34 dpn48b edgenext_xx_small
efficientformerv2_s0 efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small
iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small lowformer_b0 test_mambaout
poolformer_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small test_nfnet
pit_xs_224 pvt_v2_b0 rdnet_tiny regnety_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnetv2_18
rexnet_100 selecsls42b legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_s3_tiny_224
swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small vgg11_bn
visformer_tiny vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224
ese_vovnet19b_slim legacy_xception xception41 naflexvit_base_patch16_siglip qwen3_vit_88m nasnetalarge pnasnet5large"""


@pytest.mark.no_cover
@pytest.mark.parametrize("name", (ALL if os.environ.get("REPLK_PROBE_TEST_ALL_TIMM") else SUITE).split())
def test_any_split_of_a_batch_gives_the_same_maps(name: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that were renamed
        model = timm.create_model(name, **FEWER.get(name, {})).double().eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):  # a norm of 0 and 1 hides errors
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
            torch.nn.init.normal_(norm.running_mean, std=0.1)
    config = model.default_cfg
    least = config.get("min_input_size", (3, 96, 96))
    size = config["input_size"][1:] if config.get("fixed_input_size") else [max(side, 96) for side in least[1:]]
    batch = torch.randn(3, 3, *size, dtype=torch.float64)
    together = contribution_scores(model, batch)
    assert together.isfinite().all() and together.flatten(1).amax(1).min() > 0
    one_by_one = torch.cat([contribution_scores(model, image[None]) for image in batch])
    uneven = torch.cat([contribution_scores(model, part) for part in batch.split((2, 1))])
    for maps in (one_by_one, uneven):
        torch.testing.assert_close(maps, together, rtol=1e-6, atol=1e-9 * float(together.max()))
