"""Every registered model has the published size, to the last parameter, and the published names."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import replk_probe.models as models
from replk_probe.models.architectures.micro import MICRO_MODELS
from replk_probe.models.summary import count_macs, count_parameters, describe, own_models


class Size(NamedTuple):
    params: int
    merged: int
    fused: int
    macs: int
    macs_merged: int


# Counted with the authors' code; MACs at 224 x 224.
REPLKNET = {
    "replknet31b": Size(79_864_168, 79_527_272, 79_438_952, 15_431_298_048, 15_353_525_248),
    "replknet31l": Size(172_671_016, 172_165_672, 172_033_192, 32_780_739_072, 32_664_079_872),
    "replknetxl": Size(335_435_752, 335_399_656, 335_210_984, 63_078_899_712, 63_078_899_712),
    "replknet3": Size(71_906_408, 71_894_376, 71_806_056, 12_938_654_720, 12_938_654_720),
    "replknet7": Size(72_712_552, 72_375_656, 72_287_336, 13_140_864_000, 13_063_091_200),
    "replknet13": Size(74_156_392, 73_819_496, 73_731_176, 13_514_173_440, 13_436_400_640),
    "replknet25": Size(78_709_096, 78_372_200, 78_283_880, 14_886_988_800, 14_809_216_000),
}
# Entries of the published files: number in training form, number in merged form.
ENTRIES = {
    "replknet31b": (1171, 931),
    "replknet31l": (1171, 931),
    "replknetxl": (1027, 931),
    "replknet13": (1171, 931),
}
MACS_AT = {
    ("replknet31b", 384): 45_118_578_688,
    ("replknet31l", 384): 95_989_420_032,
    ("replknetxl", 320): 128_730_316_800,
}
# With all branches, as SLaK's authors count them: parameters, MACs.
BRANCHED = {
    "slak_tiny": (50_703_838, 8_704_776_370),
    "slak_small": (91_131_820, 16_604_014_234),
    "slak_base": (157_950_792, 28_509_057_219),
    "convnext_tiny_k31": (32_120_008, 6_164_663_808),
    "convnext_small_k31": (58_648_264, 11_347_944_960),
    "convnext_base_k31": (99_824_232, 18_907_039_744),
}
# ConvNeXt's naive large kernels, without branch and norms, cost what the merged ones do.
CONVNEXT_MERGED_MACS = {
    "convnext_tiny_k31": 6_111_038_208,
    "convnext_small_k31": 11_260_450_560,
    "convnext_base_k31": 18_790_380_544,
}
MOBILENET = {3: (3_504_872, 300_774_272), 9: (4_018_664, 466_505_600), 13: (4_646_632, 669_066_112)}
DEPTHWISE_CHANNELS = 7136  # of all 17 layers


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **options)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    return model


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", REPLKNET)
def test_replknet_in_all_three_forms(name: str) -> None:
    want = REPLKNET[name]
    model = on_meta(name)
    entries = [len(model.state_dict())]
    assert (count_parameters(model), count_macs(model, (224, 224))) == (want.params, want.macs)
    models.reparameterize(model)
    entries.append(len(model.state_dict()))
    assert name not in ENTRIES or tuple(entries) == ENTRIES[name]
    assert (count_parameters(model), count_macs(model, (224, 224))) == (want.merged, want.macs_merged)
    models.fuse_bn(model)
    assert (count_parameters(model), count_macs(model, (224, 224))) == (want.fused, want.macs_merged)


@pytest.mark.parametrize(("name", "side"), MACS_AT)
def test_macs_at_the_size_of_the_published_weights(name: str, side: int) -> None:
    model = models.reparameterize(on_meta(name))
    assert count_macs(model, (side, side)) == MACS_AT[name, side]


@pytest.mark.parametrize("name", BRANCHED)
def test_slak_and_convnext(name: str) -> None:
    model = on_meta(name)
    assert (count_parameters(model), count_macs(model, (224, 224))) == BRANCHED[name]
    if name in CONVNEXT_MERGED_MACS:
        assert count_macs(models.reparameterize(model), (224, 224)) == CONVNEXT_MERGED_MACS[name]


@pytest.mark.parametrize("noskip", ["", "_noskip"])
@pytest.mark.parametrize("size", MOBILENET)
def test_mobilenet(size: int, noskip: str) -> None:
    params, macs = MOBILENET[size]
    plain = on_meta(f"mobilenetv2_k{size}{noskip}")
    assert (count_parameters(plain), count_macs(plain, (224, 224))) == (params, macs)
    merged = count_parameters(models.reparameterize(plain))
    assert merged == params - DEPTHWISE_CHANNELS  # scale and shift become a bias
    if size == 3:
        return
    branched = on_meta(f"mobilenetv2_k{size}_rep{noskip}")
    assert count_parameters(branched) == params + DEPTHWISE_CHANNELS * (3 * 3 + 2)
    models.reparameterize(branched)
    assert (count_parameters(branched), count_macs(branched, (224, 224))) == (merged, macs)


def test_the_table_covers_every_model() -> None:
    mobilenets = {f"mobilenetv2_k{size}{noskip}" for size in MOBILENET for noskip in ("", "_noskip")}
    mobilenets |= {f"mobilenetv2_k{size}_rep{noskip}" for size in (9, 13) for noskip in ("", "_noskip")}
    unireplknets = {f"unireplknet_{size}" for size in (*"afpntsbl", "xl")}
    # Those of micro.py and unireplknet.py are counted in test_micro.py and test_unireplknet.py.
    assert set(own_models()) == {*REPLKNET, *BRANCHED, *mobilenets, *unireplknets, *MICRO_MODELS}


@pytest.mark.parametrize("name", ["replknet31b", "slak_tiny", "mobilenetv2_k13_rep"])
def test_the_listing_counts_the_same(name: str) -> None:
    row = describe(name)
    model = on_meta(name)
    assert row["parameters"] == count_parameters(model)
    assert row["macs_unmerged"] == count_macs(model, (224, 224))
    models.reparameterize(model)
    assert row["parameters_merged"] == count_parameters(model)
    assert row["macs"] == min(row["macs_unmerged"], count_macs(model, (224, 224)))


# One network of each architecture that ``replk-probe models`` lists, with few of the equal blocks.
@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("replknet7", {"layers": (1, 1, 1, 1)}),
        ("slak_tiny", {"depths": (1, 1, 1, 1)}),
        ("mobilenetv2_k9_rep", {}),
        ("resnet101", {"layers": (2, 1, 1, 1)}),
        ("convnext_tiny", {"depths": (1, 1, 1, 1)}),
        ("swin_tiny_patch4_window7_224", {"depths": (2, 1, 1, 1)}),
        ("deit_tiny_patch16_224", {"depth": 1}),
    ],
)
def test_counting_skips_nothing_that_counts(name: str, few: dict[str, Any]) -> None:
    model = on_meta(name, **few)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert 2 * count_macs(model, (224, 224)) == counter.get_total_flops()
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_names_and_shapes_of_a_replknet_block() -> None:
    model = on_meta("replknetxl")
    assert (
        shapes(model).items()
        >= {
            "stem.0.conv.weight": (256, 3, 3, 3),
            "stem.3.bn.running_var": (256,),
            "stages.0.blocks.0.prelkb_bn.weight": (256,),
            "stages.0.blocks.0.pw1.conv.weight": (384, 256, 1, 1),
            "stages.0.blocks.0.large_kernel.large_conv.conv.weight": (384, 1, 27, 27),
            "stages.0.blocks.0.large_kernel.large_conv.bn.num_batches_tracked": (),
            "stages.0.blocks.0.pw2.conv.weight": (256, 384, 1, 1),
            "stages.2.blocks.35.preffn_bn.running_mean": (1024,),
            "stages.2.blocks.35.pw1.conv.weight": (4096, 1024, 1, 1),
            "stages.2.blocks.35.pw2.bn.bias": (1024,),
            "transitions.2.0.conv.weight": (2048, 1024, 1, 1),
            "transitions.2.1.conv.weight": (2048, 1, 3, 3),
            "norm.running_var": (2048,),
            "head.weight": (1000, 2048),
        }.items()
    )
    assert shapes(on_meta("replknet31b"))["stages.1.blocks.2.large_kernel.small_conv.conv.weight"] == (256, 1, 5, 5)
    merged = shapes(models.reparameterize(model))
    assert merged["stages.3.blocks.2.large_kernel.reparam_conv.weight"] == (3072, 1, 13, 13)
    assert merged["stages.3.blocks.2.large_kernel.reparam_conv.bias"] == (3072,)
    fused = shapes(models.fuse_bn(model))
    assert fused["stages.0.blocks.1.pw1.conv.bias"] == (1024,)
    assert not [key for key in fused if "running" in key and "prelkb" not in key and "preffn" not in key][2:]


def test_names_and_shapes_of_slak() -> None:
    tiny = shapes(on_meta("slak_tiny"))
    assert len(tiny) == 470 and len(shapes(on_meta("slak_small"))) == len(shapes(on_meta("slak_base"))) == 920
    assert (
        tiny.items()
        >= {
            "downsample_layers.0.0.weight": (124, 3, 4, 4),
            "downsample_layers.0.1.bias": (124,),
            "downsample_layers.3.0.weight": (499,),
            "downsample_layers.3.1.weight": (998, 499, 2, 2),
            "stages.0.0.gamma": (124,),
            "stages.0.0.large_kernel.column_conv.conv.weight": (124, 1, 51, 5),
            "stages.0.0.large_kernel.row_conv.conv.weight": (124, 1, 5, 51),
            "stages.0.0.large_kernel.small_conv.conv.weight": (124, 1, 5, 5),
            "stages.0.0.norm.weight": (124,),
            "stages.3.2.large_kernel.row_conv.bn.running_var": (998,),
            "stages.3.2.pwconv1.weight": (3992, 998),
            "stages.3.2.pwconv2.bias": (998,),
            "norm.bias": (998,),
            "head.weight": (1000, 998),
        }.items()
    )


def test_names_of_mobilenet_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        reference = torchvision.models.mobilenet_v2()
    assert shapes(on_meta("mobilenetv2_k3")) == shapes(reference)
    larger = shapes(on_meta("mobilenetv2_k13"))
    assert larger.keys() == shapes(reference).keys() and larger["features.15.conv.1.0.weight"] == (960, 1, 13, 13)
    branched = shapes(on_meta("mobilenetv2_k13_rep"))
    assert branched["features.15.conv.1.0.large_conv.conv.weight"] == (960, 1, 13, 13)
    assert branched["features.15.conv.1.0.small_conv.conv.weight"] == (960, 1, 3, 3)
