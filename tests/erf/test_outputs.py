"""Layers named by call and by output, logits as targets, and detectors of torchvision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from click.testing import Result
from torch import Tensor, nn

from replk_probe.erf import (
    ErfAccumulator,
    ErfConfig,
    contribution_scores,
    input_gradient,
    measure_erf,
    prepare,
)
from replk_probe.erf.probe_layer import find_target
from replk_probe.errors import InvalidInputError
from replk_probe.models import create_model, data_config
from replk_probe.report.erf_table import erf_table

Run = Callable[..., Result]


def images(size: int = 32, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def plain_scores(total: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Contribution scores by plain autograd, from the number to differentiate."""
    leaf = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(leaf), leaf)
    return gradient.clamp_min(0).sum(1)


def middle(y: Tensor) -> Tensor:
    return y[:, :, y.shape[2] // 2, y.shape[3] // 2]


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-6 * expected.norm()


class Shared(nn.Module):
    """One activation and one convolution that are called several times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act = nn.GELU()
        self.stem, self.bn, self.conv = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.bn.running_mean.uniform_(-0.3, 0.3)
        self.fc = nn.Linear(6, 5)

    def maps(self, x: Tensor) -> list[Tensor]:
        found = [self.act(self.bn(self.stem(x)))]
        for _ in range(2):
            found.append(self.act(self.conv(found[-1])))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x)[-1].mean((2, 3)))


@pytest.mark.parametrize(("layer", "call"), [("act@1", 1), ("act@2", 2), ("act@3", 3), ("act@-1", 3), ("act@-3", 1)])
def test_a_call_of_a_layer_can_be_named(layer: str, call: int) -> None:
    model, batch = Shared().eval(), images()
    expected = plain_scores(lambda x: middle(model.maps(x)[call - 1]).relu().sum(), batch)
    assert find_target(model, batch.shape, layer).label == f"act (call {call})"
    assert_equal(contribution_scores(model, batch, layer), expected)
    for prepared in (prepare(model, layer=layer), prepare(model)):
        assert_equal(contribution_scores(prepared, batch, layer), expected)
    with input_gradient(model, layer) as gradient:
        assert_equal(gradient.scores(batch), expected)
    accumulator = ErfAccumulator(model, layer)
    accumulator.update(batch)
    for result in (measure_erf(model, batch, layer=layer), accumulator.compute()):
        assert result.layer == f"act (call {call})"
        assert_equal(torch.from_numpy(result.contribution.copy()).float(), expected.mean(0))


def test_the_calls_of_a_layer_differ_and_a_single_call_has_the_label_of_the_layer() -> None:
    model, batch = Shared().eval(), images()
    first, second, last = (contribution_scores(model, batch, f"conv@{call}") for call in (1, 2, -1))
    assert not torch.equal(first, second) and torch.equal(second, last)
    for layer in ("stem@1", "stem@-1"):
        assert find_target(model, batch.shape, layer).label == "stem"
        assert torch.equal(contribution_scores(model, batch, layer), contribution_scores(model, batch, "stem"))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("act", r"called 3 times .* Name one of its calls, 'act@1' to 'act@3' \(or 'act@-1' for the last\)"),
        ("act@4", r"Layer 'act@4' does not exist, because 'act' is called 3 times .* from 'act@1' to 'act@3'"),
        ("act@-4", "'act@-4' does not exist"),
        ("stem@2", "'stem' is called 1 time in one forward pass. Name it without a number"),
        ("act@0", "names call 0. The calls of a layer are counted from 1"),
        ("act@two", "'act@two' does not exist"),
        ("nothing@2", "'nothing' does not exist"),
        ("@2", "'@2' does not exist"),
        (":out", "':out' does not exist"),
        ("forward@2", "called 1 time"),
    ],
)
def test_calls_that_do_not_exist(layer: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        contribution_scores(Shared(), images(), layer)
    assert "\n" not in str(caught.value)


@dataclass
class Features:
    high: Tensor
    rest: dict[str, Any]


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


class Outputs(nn.Module):
    """Modules with outputs of many kinds; each contains the two maps."""

    KINDS: ClassVar[dict[str, Callable[[Tensor, Tensor], Any]]] = {
        "dictionary": lambda a, b: {"p3": a, "p4": b},
        "numbered": lambda a, b: {"0": a, "1": b},
        "sequence": lambda a, b: [a, b],
        "pair": lambda a, b: (a, b),
        "named": lambda a, b: Pair(a, b),
        "data": lambda a, b: Features(b, {"maps": [a, (b, None)], "name": "x"}),
        "text": lambda a, b: "a string",
        "nothing": lambda a, b: {},
        "empty": lambda a, b: [],
    }

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        for name, function in self.KINDS.items():
            module = nn.Identity()
            module.forward = lambda given, function=function: function(*given)  # type: ignore[method-assign]
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        a = self.a(x)
        b = self.b(a)
        for name in self.KINDS:
            found = self.get_submodule(name)((a, b))
            if name == "data":
                output = found
        return output


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        ("dictionary:p3", "a"),
        ("dictionary[p4]", "b"),
        ("numbered:1", "b"),
        ("sequence:0", "a"),
        ("sequence:-1", "b"),
        ("pair:1", "b"),
        ("pair@1:1", "b"),
        ("named:low", "a"),
        ("named:1", "b"),
        ("data:high", "b"),
        ("data:rest:maps:0", "a"),
        ("data:rest[maps][1]", "b"),
        ("data[rest]:maps:1:0", "b"),
        ("forward:high", "b"),
        ("forward:rest:maps:0", "a"),
    ],
)
def test_any_output_can_be_named(layer: str, same: str) -> None:
    model, batch = Outputs().eval(), images()
    assert torch.equal(contribution_scores(model, batch, layer), contribution_scores(model, batch, same))
    result = measure_erf(model, batch, layer=layer)
    assert result.layer == find_target(model, batch.shape, layer).label
    assert result.feature_size == {"a": (16, 16), "b": (8, 8)}[same]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "dictionary",
            r"a dict with 'p3', 'p4' \(\[1, 4, 16, 16\], \[1, 4, 8, 8\]\).* for example 'dictionary\[p4\]'",
        ),
        ("sequence", r"a list \(\[1, 4, 16, 16\], \[1, 4, 8, 8\]\).* for example 'sequence\[1\]'"),
        ("dictionary:p5", r"'dictionary\[p5\]' is not one tensor in it. Choose one .*'dictionary\[p4\]'"),
        ("data", r"a dataclass Features with 'high', 'rest' \("),
        ("data:rest:maps", r"for example 'data\[rest\]\[maps\]\[1\]\[0\]'"),
        ("forward", r"for example 'forward\[rest\]\[maps\]\[1\]\[0\]'"),
        ("text", "gives the string 'a string', but one tensor is needed"),
        ("text:0", r"gives the string 'a string'; 'text\[0\]' is not one tensor in it"),
        ("nothing", "gives an empty dict, but one tensor is needed"),
        ("nothing:p3", "gives an empty dict"),
        ("empty", "gives an empty list, but one tensor is needed"),
        ("a:out", r"'a\[out\]' is not one tensor in it. Name 'a' without a key"),
    ],
)
def test_outputs_that_cannot_be_measured(layer: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        contribution_scores(Outputs(), images(count=1), layer)
    assert "\n" not in str(caught.value)


def test_a_module_whose_name_contains_the_separators_is_named_in_full() -> None:
    model = nn.Sequential()
    model.add_module("a:0", nn.Conv2d(3, 4, 3))
    model.add_module("a@1", nn.Conv2d(4, 4, 3))
    for layer in ("a:0", "a@1"):
        assert find_target(model, (1, 3, 16, 16), layer).label == layer


class Segmenter(nn.Module):
    """A dense output of the input's size, in a dictionary with an auxiliary one."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.aux = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, classes, 1)
        self.classifier = nn.Conv2d(6, classes, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.tanh(self.body(x))
        found = {"aux": self.aux(y), "out": self.classifier(y)}
        return {
            key: F.interpolate(value, x.shape[2:], mode="bilinear", align_corners=False) for key, value in found.items()
        }


@pytest.mark.parametrize("index", [0, 3])
def test_the_logit_of_a_class_at_the_middle_of_a_dense_output(index: int) -> None:
    model, batch = Segmenter().eval(), images()
    expected = plain_scores(lambda x: model(x)["out"][:, index, 16, 16].sum(), batch)
    target = f"logit:{index}"
    assert_equal(contribution_scores(model, batch, target=target), expected)
    assert_equal(contribution_scores(prepare(model, layer="forward"), batch, target=target), expected)
    assert_equal(contribution_scores(model, batch, "forward:out", target=target), expected)
    with input_gradient(model, target=f" {target} ") as gradient:
        assert_equal(gradient.scores(batch), expected)
    accumulator = ErfAccumulator(model, target=target)
    accumulator.update(batch)
    for result in (measure_erf(model, batch, target=target), accumulator.compute()):
        assert result.layer == f"output of the model[out], logit {index}"
        assert result.run.config["target"] == target and result.feature_size == (32, 32)
        assert f"logit {index}" in " ".join(erf_table([result]).split())
        assert_equal(torch.from_numpy(result.contribution.copy()).float(), expected.mean(0))
    assert "target" not in measure_erf(model, batch).run.config


def test_the_logit_of_another_layer() -> None:
    model, batch = Segmenter().eval(), images()
    for layer, key in (("forward:aux", "aux"), ("forward[aux]", "aux")):
        expected = plain_scores(lambda x, key=key: model(x)[key][:, 1, 16, 16].sum(), batch)
        assert_equal(contribution_scores(model, batch, layer, target="logit:1"), expected)
    expected = plain_scores(lambda x: model.classifier(torch.tanh(model.body(x)))[:, 2, 8, 8].sum(), batch)
    assert_equal(contribution_scores(model, batch, "classifier", target="logit:2"), expected)


def test_a_negative_logit_is_differentiated_too() -> None:
    model = nn.Conv2d(3, 2, 3, padding=1)
    with torch.no_grad():
        model.bias.fill_(-100.0)
    batch = images()
    assert contribution_scores(model, batch, model).count_nonzero() == 0  # the ReLU removes everything
    found = contribution_scores(model, batch, target="logit:1")[0]
    weight = model.weight[1].flip(1, 2).flip(1, 2).clamp_min(0).sum(0).detach()
    assert torch.allclose(found[15:18, 15:18], weight) and found.count_nonzero() <= 9


def test_the_logit_of_a_classifier_has_no_position() -> None:
    model, batch = Shared().eval(), images()
    expected = plain_scores(lambda x: model(x)[:, 3].sum(), batch)
    assert_equal(contribution_scores(model, batch, target="logit:3"), expected)
    result = measure_erf(model, batch, target="logit:3")
    assert (result.layer, result.center, result.run.config["layout"]) == (
        "output of the model, logit 3", (15.5, 15.5), "[N, C]"
    )  # fmt: skip
    assert any("The output has no positions: the center of the windows is the middle" in note for note in result.notes)
    assert not any("1x1 positions" in note for note in result.notes)
    assert_equal(torch.from_numpy(result.contribution.copy()).float(), expected.mean(0))


def test_targets_share_no_layer_that_was_found_before() -> None:
    model, batch = Segmenter().eval(), images()
    maps = [contribution_scores(model, batch, "classifier", target=target) for target in (None, "logit:0", "logit:1")]
    assert not any(torch.equal(maps[one], maps[two]) for one, two in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(contribution_scores(model, batch, "classifier"), maps[0])


@pytest.mark.parametrize(
    "target", ["logit", "logit:", "logit:-1", "logit:1.5", "class:3", "3", "", 3, True, ["logit:3"]]
)
def test_targets_that_are_none(target: Any) -> None:
    for call in (
        lambda: contribution_scores(Segmenter(), images(), target=target),
        lambda: ErfAccumulator(Segmenter(), target=target),
        lambda: ErfConfig(target=target),
    ):
        with pytest.raises(InvalidInputError, match=r"The target .* is invalid.* Write 'logit:[K3]'"):
            call()


def test_a_class_out_of_range() -> None:
    says = r"There is no logit 4 in layer 'output of the model\[out\]'. It gives 4 features, .* a class up to 3"
    with pytest.raises(InvalidInputError, match=says):
        contribution_scores(Segmenter(), images(), target="logit:4")
    with pytest.raises(InvalidInputError, match="There is no logit 5 in layer 'output of the model'"):
        measure_erf(Shared(), images(), target="logit:5")


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    return create_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", "random")


def test_the_pyramid_of_a_detector(detector: Any) -> None:
    batch = images(64, count=1)
    for key in ("0", "pool"):
        expected = plain_scores(lambda x, key=key: middle(detector.backbone(x)[key]).relu().sum(), batch)
        assert_equal(contribution_scores(detector, batch, f"backbone:{key}"), expected)
    result = measure_erf(detector, batch, layer="backbone:0")
    assert (result.layer, result.feature_size) == ("backbone[0]", (2, 2))
    assert any("without its own resizing and normalization" in note for note in result.notes)
    assert data_config(detector).mean == (0.485, 0.456, 0.406)
    # The network itself is not changed: it still resizes and normalizes its images.
    assert detector.transform.min_size == (320,) and type(detector.transform).__name__ == "GeneralizedRCNNTransform"


def test_calls_of_the_head_of_a_detector(detector: Any) -> None:
    batch = images(64, count=1)
    for call, key in ((1, "0"), (-1, "pool")):
        expected = plain_scores(
            lambda x, key=key: middle(detector.rpn.head.conv(detector.backbone(x)[key])).relu().sum(), batch
        )
        assert_equal(contribution_scores(detector, batch, f"rpn.head.conv@{call}"), expected)


@pytest.mark.parametrize("layer", [None, "backbone"])
def test_a_detector_without_a_named_map_is_one_line_with_keys_and_sizes(detector: nn.Module, layer: str | None) -> None:
    says = r"a dict with '0', '1', 'pool' \(\[1, 256, 2, 2\].*Choose one by its key"
    with pytest.raises(InvalidInputError, match=says) as caught:
        measure_erf(detector, images(64, count=1), layer=layer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    # FCOS has the pyramid of RetinaNet, and the detector of key points that of Mask R-CNN.
    "name",
    ["retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"],
)
def test_other_detectors(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    target = find_target(model, (1, 3, 96, 96), "backbone:0")
    assert target.label == "backbone[0]" and target.layout.kind == "NCHW" and target.layout.size in ((24, 24), (12, 12))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_segmentation_networks(name: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    target = find_target(model, (1, 3, 64, 64), None, "logit:17")
    assert (target.label, target.layout.size) == ("output of the model, logit 17", (64, 64))
    assert target.center()[0] == (32.0, 32.0)
    assert find_target(model, (1, 3, 64, 64)).layout.size == (64, 64)


def test_restoration_is_measured_at_the_image_it_returns() -> None:
    torch.manual_seed(0)
    last = nn.Conv2d(8, 4, 5, padding=2)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), last, nn.PixelShuffle(2))
    last.bias.data.fill_(2.0)  # above zero, where the ReLU changes nothing
    batch = images(16, channels=1)
    target = find_target(model, batch.shape)
    assert target.layout.size == (32, 32)
    assert_equal(contribution_scores(model, batch), plain_scores(lambda x: model(x)[:, :, 16, 16].relu().sum(), batch))
    expected = plain_scores(lambda x: model(x)[:, 0, 16, 16].sum(), batch)
    assert_equal(contribution_scores(model, batch, target="logit:0"), expected)


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 1)\n"
        "    def forward(self, x):\n"
        "        x = self.act(self.conv(x))\n"
        "        return {'out': self.fc(self.act(x)), 'aux': x}\n"
    )
    yield f"{path}:Net"


@pytest.mark.parametrize(
    ("options", "layer"),
    [
        (["--layer", "act@-1"], "act (call 2)"),
        (["--layer", "forward:aux"], "output of the model[aux]"),
        (["--target", "logit:2"], "output of the model[out], logit 2"),
        (["--target", "logit:1", "--layer", "fc"], "fc, logit 1"),
    ],
)
def test_the_command_line_names_calls_outputs_and_logits(
    replk_probe: Run, networks: str, options: list[str], layer: str, tmp_path: Path
) -> None:
    common = ["erf", "--model", networks, "--weights", "random", "--images", "1", "--size", "16"]
    done = replk_probe(*common, "--output", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "out/erf.json").read_text())
    assert saved["erf"]["layer"] == layer and layer in " ".join(done.output.split())
    assert saved["run"]["config"].get("target") == (options[1] if options[0] == "--target" else None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layer", "act"], "'act@1' to 'act@2'"),
        (["--layer", "forward:p3"], "Choose one by its key, for example 'forward[aux]'"),
        (["--target", "logit:3"], "There is no logit 3"),
        (["--target", "17"], "Write 'logit:17'"),
    ],
)
def test_bad_names_are_one_line(replk_probe: Run, networks: str, options: list[str], says: str, tmp_path: Path) -> None:
    common = ["erf", "--model", networks, "--weights", "random", "--images", "1", "--size", "16"]
    failed = replk_probe(*common, "--output", tmp_path / "out", *options)
    errors = [line for line in failed.output.splitlines() if line.startswith("Error: ")]
    assert failed.exit_code == 1 and len(errors) == 1 and says in errors[0] and "Traceback" not in failed.output
