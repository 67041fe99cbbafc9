"""A classifier and stimuli in, decisions out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError, ResumeError
from replk_probe.images import UnreadableImageError
from replk_probe.models import create_model
from replk_probe.models.inference import environment
from replk_probe.models.inference.environment import environment_of
from replk_probe.runtime.checkpoint import Checkpoint, ResumeWarning
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias import decision_plan
from replk_probe.shape_bias.config import ShapeBiasConfig
from replk_probe.shape_bias.decision_mapping import LabelMapping, imagenet_mapping
from replk_probe.shape_bias.decisions import Decisions
from replk_probe.shape_bias.measure import measure_shape_bias
from replk_probe.shape_bias.model_vs_human.raw_data import read_folder
from replk_probe.shape_bias.plan import plan_shape_bias
from replk_probe.shape_bias.result import ShapeBiasResult
from replk_probe.shape_bias.stimuli.names import CATEGORIES
from replk_probe.shape_bias.stimuli.stimulus_set import StimulusSet
from replk_probe.shape_bias.stimulus_source import open_stimuli

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def run_of(result: ShapeBiasResult) -> RunInfo:
    assert isinstance(result.run, RunInfo)
    return result.run


def decided(result: ShapeBiasResult) -> Decisions:
    assert result.decisions is not None
    return result.decisions


def by_hand(model: nn.Module, stimuli: StimulusSet, mapping: LabelMapping) -> dict[str, str]:
    """The decisions by the definition, image by image."""
    found = {}
    for index, stimulus in enumerate(stimuli.stimuli):
        pixels = (np.asarray(stimuli.load(index)) / 255 - MEAN) / STD
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(pixels).permute(2, 0, 1).float()[None])
        softmax = logits[0].softmax(0)
        means = [float(softmax[list(members)].mean()) for members in mapping.indices]
        found[stimulus.name] = mapping.categories[int(np.argmax(means))]
    return found


def test_decisions_are_those_of_the_definition(small_net: nn.Module, small_stimuli: Path) -> None:
    before = {name: value.clone() for name, value in small_net.state_dict().items()}
    small_net.train()
    result = measure_shape_bias(small_net, small_stimuli, size=32, batch_size=5)
    assert small_net.training and all(parameter.requires_grad for parameter in small_net.parameters())
    for name, value in small_net.state_dict().items():
        assert torch.equal(value, before[name])
    mapping = LabelMapping("each", CATEGORIES, tuple((index,) for index in range(16)))
    decisions = decided(result)
    assert dict(zip(decisions.names, decisions.response, strict=True)) == by_hand(
        small_net, open_stimuli(small_stimuli), mapping
    )
    assert len(set(decisions.response)) > 3  # else the test would show little
    assert decisions.observer == "SmallNet" and result.model is not None
    assert (result.model.counts.n_conflict, result.model.counts.n_congruent) == (24, 8)
    run = run_of(result)
    assert run.image_ids == decisions.names and run.image_source == f"folder:{small_stimuli.name}"
    assert (run.input_size, run.mean, run.std, run.config["resize"]) == ((32, 32), tuple(MEAN), tuple(STD), "none")
    assert any("alphabetical order" in note for note in result.notes)
    assert any("normalization of" in note for note in result.notes)


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_workers_and_batches_change_nothing(
    small_net: nn.Module, small_stimuli: Path, workers: int, batch_size: int
) -> None:
    expected = measure_shape_bias(small_net, small_stimuli, size=32, workers=0, batch_size=7)
    found = measure_shape_bias(small_net, small_stimuli, size=32, workers=workers, batch_size=batch_size)
    assert decided(found) == decided(expected)
    assert found.probabilities is not None and expected.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-9)


class Elsewhere(nn.Module):
    """A classifier whose forward pass must not run before it is moved to the device of the measurement."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.is_moved = net, False

    def forward(self, images: Tensor) -> Any:
        assert self.is_moved
        return self.net(images)


def test_outputs_are_counted_on_the_device(
    small_net: nn.Module, small_stimuli: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(model: nn.Module, device: torch.device) -> nn.Module:
        copied = copy.deepcopy(model)
        copied.is_moved = True  # type: ignore[assignment]
        return copied

    monkeypatch.setattr(decision_plan, "on_device", moved)
    found = measure_shape_bias(Elsewhere(small_net), small_stimuli, size=32)
    assert decided(found).response == decided(measure_shape_bias(small_net, small_stimuli, size=32)).response


class Rounding(nn.Module):
    """Two categories almost equal; which one is ahead depends on the size of the batch, as rounding may."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 16)
        logits[:, 1], logits[:, 7] = 5.0, 5.0 + 1e-6 * (len(images) - 2)
        return logits


def test_near_ties_are_decided_one_by_one(small_stimuli: Path) -> None:
    results = [measure_shape_bias(Rounding(), small_stimuli, size=32, batch_size=size) for size in (1, 4, 32)]
    assert [set(decided(result).response) for result in results] == [{"bear"}] * 3
    assert [run_of(result).config["decided one by one"] for result in results] == [0, 32, 32]


class Interrupted(nn.Module):
    """Raises after some images, as a user's Ctrl-C might."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 1 and Interrupted.left is not None:
            Interrupted.left -= 1
            if Interrupted.left < 0:
                raise KeyboardInterrupt
        return self.net(images)

    left: int | None = None


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield lambda left: monkeypatch.setattr(Interrupted, "left", left)


def test_a_resumed_run_gives_the_same(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, interrupted: Any
) -> None:
    net = Interrupted(small_net)
    expected = measure_shape_bias(net, small_stimuli, size=32, batch_size=8)
    interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        measure_shape_bias(net, small_stimuli, size=32, batch_size=8, checkpoint=tmp_path / "state")
    interrupted(2)  # two of four batches were done: two are left
    found = measure_shape_bias(net, small_stimuli, size=32, batch_size=8, checkpoint=tmp_path / "state", resume=True)
    assert decided(found) == decided(expected)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    plan = plan_shape_bias(net, small_stimuli, ShapeBiasConfig(size=(32, 32), batch_size=8))
    assert plan.difference(found) is None
    assert plan_shape_bias(net, small_stimuli, ShapeBiasConfig(size=(32, 32), batch_size=4)).difference(found) == (
        "It was created with batch_size 8, but this run has batch_size 4. Give batch_size 8, or start again without "
        "resume or in another folder."
    )
    with pytest.raises(ResumeError, match="Give batch_size 8"):
        measure_shape_bias(net, small_stimuli, size=32, batch_size=4, checkpoint=tmp_path / "state", resume=True)


def test_a_run_is_resumed_on_its_device_only(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, interrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"size": 32, "batch_size": 8, "checkpoint": tmp_path}
    interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        measure_shape_bias(Interrupted(small_net), small_stimuli, **options)
    interrupted(None)
    monkeypatch.setattr(environment, "describe_machine", lambda: {"cpu": "Another Processor"})
    with pytest.raises(ResumeError, match="but this run has processor Another Processor"):
        measure_shape_bias(Interrupted(small_net), small_stimuli, **options, resume=True)
    with pytest.warns(ResumeWarning, match="is resumed on another device"):
        found = measure_shape_bias(
            Interrupted(small_net), small_stimuli, **options, resume=True, allow_other_device=True
        )
    expected = measure_shape_bias(Interrupted(small_net), small_stimuli, size=32, batch_size=8)
    assert decided(found) == decided(expected)


@pytest.mark.parametrize(
    ("field", "value"), [("done", 10**6), ("done", -1), ("seconds", "0"), ("methods", [3]), ("done", None)]
)
def test_a_damaged_state_is_an_error(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, field: str, value: Any
) -> None:
    options: dict[str, Any] = {"size": 32, "batch_size": 8, "checkpoint": tmp_path}
    plan = plan_shape_bias(small_net, small_stimuli, ShapeBiasConfig(size=(32, 32), batch_size=8))
    numbers: dict[str, Any] = {"probabilities": np.zeros((32, 16), np.float32), "largest": np.zeros(32, np.float32)}
    numbers["depths"] = np.zeros(32, np.uint8)
    state = {"done": 0, "seconds": 0.0, "methods": []}
    Checkpoint(tmp_path, plan.record, environment=environment_of(plan.device)).save(state, numbers)
    assert decided(measure_shape_bias(small_net, small_stimuli, **options, resume=True)) == decided(plan.run())
    for damaged, arrays in (
        (state | {field: value}, numbers),
        (state, numbers | {"largest": np.zeros(31, np.float32)}),
        (state, numbers | {"probabilities": np.zeros((32, 16))}),
        (state, {"largest": numbers["largest"]}),
    ):
        Checkpoint(tmp_path, plan.record, environment=environment_of(plan.device)).save(damaged, arrays)
        with pytest.raises(ResumeError, match="damaged"):
            measure_shape_bias(small_net, small_stimuli, **options, resume=True)


def test_a_model_with_unprintable_characters_in_its_path_is_measured(small_stimuli: Path, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\u202eb.py"
    path.write_text("import timm\ndef net(): return timm.create_model('test_resnet', num_classes=16)\n")
    plan = plan_shape_bias(f"{path}:net", small_stimuli, ShapeBiasConfig(size=(32, 32)))
    assert plan.name == rf"{tmp_path}/a\x1b[2J\u202eb.py:net" and plan.run().decisions is not None
    with pytest.raises(InvalidInputError, match="printable"):
        ShapeBiasConfig(name="a\x1bb")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stimulus_that_breaks_on_the_way_is_named(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, workers: int
) -> None:
    for path in small_stimuli.glob("*/*.png"):
        target = tmp_path / path.relative_to(small_stimuli)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    plan = plan_shape_bias(small_net, tmp_path, ShapeBiasConfig(size=(32, 32), workers=workers))
    broken = tmp_path / "cat" / "cat2-dog1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UnreadableImageError, match=r"cat/cat2-dog1\.png.*truncated\."):
        plan.run()


def test_a_resize_is_explicit_and_recorded(small_net: nn.Module, small_stimuli: Path) -> None:
    result = measure_shape_bias(small_net, small_stimuli, size=48)
    assert run_of(result).config["resize"] == "bicubic, warped from 32x32 to 48x48"
    assert any("resized" in note for note in result.notes)
    stimuli = open_stimuli(small_stimuli)
    larger = replace(stimuli, size=(48, 48), loader=Enlarged(stimuli))
    assert decided(measure_shape_bias(small_net, larger, size=48)) == decided(result)


class Enlarged:
    """Stimuli at 48x48 px."""

    def __init__(self, stimuli: StimulusSet) -> None:
        self.stimuli = stimuli

    def __call__(self, index: int) -> Image.Image:
        return self.stimuli.load(index).resize((48, 48), Image.Resampling.BICUBIC)


def test_a_user_loader(small_net: nn.Module, small_stimuli: Path) -> None:
    stimuli = open_stimuli(small_stimuli)
    own = replace(stimuli, loader=lambda index: stimuli.load(index))
    assert decided(measure_shape_bias(small_net, own, size=32, workers=2)) == decided(
        measure_shape_bias(small_net, stimuli, size=32)
    )


def test_a_user_mapping(small_stimuli: Path) -> None:
    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(40)[[39]].expand(len(images), -1) * 9

    indices = tuple((index, 39 - index) for index in range(16))
    mapping = LabelMapping("own", CATEGORIES, indices)
    result = measure_shape_bias(First(), small_stimuli, mapping=mapping, size=32)
    assert set(decided(result).response) == {"airplane"}
    with pytest.raises(InvalidInputError, match=r"40 outputs.*Give mapping"):
        measure_shape_bias(First(), small_stimuli, size=32)


def test_a_head_of_another_label_space_is_refused_by_name(small_stimuli: Path) -> None:
    stimuli = replace(open_stimuli(small_stimuli), categories=("bear", "cat", "dog", "oven"))
    with pytest.raises(InvalidInputError, match=r"16 outputs.*4 categories.*Give mapping"):
        measure_shape_bias("torchvision:squeezenet1_1", stimuli, weights="random", num_classes=16)


class Fails(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError("no images today")


@pytest.mark.parametrize(
    ("model", "message"),
    [(nn.Conv2d(3, 4, 1), r"gives \[1, 4, 32, 32\]"), (Fails(), "no images today"), (nn.Flatten(), "3072 outputs")],
)
def test_what_is_no_classifier_is_refused(small_stimuli: Path, model: nn.Module, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan_shape_bias(model, small_stimuli, ShapeBiasConfig(size=(32, 32)))


class WithLogits(nn.Module):
    """Gives its outputs as an object, as some libraries do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return (self.net(images), "more")


def test_outputs_may_be_wrapped(small_net: nn.Module, small_stimuli: Path) -> None:
    plain = decided(measure_shape_bias(small_net, small_stimuli, size=32))
    assert decided(measure_shape_bias(WithLogits(small_net), small_stimuli, size=32)).response == plain.response


def test_outputs_that_are_not_finite_are_refused(small_net: nn.Module, small_stimuli: Path) -> None:
    with torch.no_grad():
        small_net.get_parameter("head.bias")[3] = 3e38
        small_net.get_parameter("head.weight")[3] = 3e38
    with pytest.raises(InvalidInputError, match="not finite"):
        measure_shape_bias(small_net, small_stimuli, size=32)


def test_weights_that_are_not_finite_are_named(small_net: nn.Module, small_stimuli: Path) -> None:
    with torch.no_grad():
        small_net.get_parameter("head.bias")[3] = torch.nan
    with pytest.raises(InvalidInputError, match=r"head\.bias has values that are not finite"):
        measure_shape_bias(small_net, small_stimuli, size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size cannot be 0"),
        ({"workers": -1}, "number of workers cannot be -1"),
        ({"precision": "fp8"}, "Unknown precision"),
        ({"size": 0}, "size 0"),
        ({"size": 64.5}, r"size 64\.5"),
        ({"size": "64"}, "size '64'"),
        ({"size": (64,)}, r"size \(64,\)"),
        ({"size": True}, "size True"),
        ({"batch_size": True}, "batch size cannot be True"),
        ({"batch_size": 2.0}, r"batch size cannot be 2\.0"),
        ({"stimuli": 3}, "but got an object of type int"),
        ({"name": 3}, "cannot be called 3"),
        ({"name": ""}, "cannot be called ''"),
        ({"name": "a:"}, "cannot be called ''"),
        ({"name": "a:humans"}, "name 'humans'"),
        ({"name": "subject-99"}, "treats every observer whose name starts"),
        ({"mapping": 3}, "not a mapping"),
        ({"allow_partial": True}, "Leave allow_partial out"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_arguments_are_refused(
    small_net: nn.Module, small_stimuli: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure_shape_bias(small_net, **{"stimuli": small_stimuli, **options})


def test_whole_numbers_may_be_numpys(small_net: nn.Module, small_stimuli: Path) -> None:
    numbers = {"size": np.int64(32), "batch_size": np.int64(4), "workers": np.int64(0)}
    config = ShapeBiasConfig(**numbers)  # type: ignore[arg-type]
    assert config == ShapeBiasConfig(size=(32, 32), batch_size=4, workers=0)
    assert config.size is not None
    assert type(config.size[0]) is type(config.batch_size) is type(config.workers) is int


def test_observers_are_checked_before_the_run(small_stimuli: Path) -> None:
    with pytest.raises(InvalidInputError, match="but got an object of type str"):
        measure_shape_bias(Fails(), small_stimuli, observers="humans")  # type: ignore[arg-type]


def test_a_mapping_may_be_a_dictionary(small_net: nn.Module, small_stimuli: Path) -> None:
    given = {category: [15 - index] for index, category in enumerate(CATEGORIES)}
    result = measure_shape_bias(small_net, small_stimuli, mapping=given, size=32)
    mapping = LabelMapping("own", CATEGORIES, tuple(given.values()))  # type: ignore[arg-type]
    assert decided(result) == decided(measure_shape_bias(small_net, small_stimuli, mapping=mapping, size=32))


@pytest.mark.parametrize("done", [0, 2])
def test_a_state_is_kept_only_after_the_first_batch(
    small_net: nn.Module, small_stimuli: Path, tmp_path: Path, interrupted: Any, done: int
) -> None:
    state = tmp_path / "state"
    interrupted(done)
    with pytest.raises(KeyboardInterrupt):
        measure_shape_bias(Interrupted(small_net), small_stimuli, size=32, batch_size=8, checkpoint=state)
    assert state.exists() == (done > 0)
    with torch.no_grad():
        small_net.get_parameter("head.bias")[3] = 3e38
        small_net.get_parameter("head.weight")[3] = 3e38
    with pytest.raises(InvalidInputError, match="not finite"):
        measure_shape_bias(small_net, small_stimuli, size=32, batch_size=8, checkpoint=state)
    assert not state.exists()


@pytest.mark.parametrize("precision", ["fast", "bf16"])
def test_reduced_precision_is_recorded(small_net: nn.Module, small_stimuli: Path, precision: str) -> None:
    result = measure_shape_bias(small_net, small_stimuli, size=32, precision=precision)
    assert run_of(result).precision == precision
    arithmetic = run_of(result).config["arithmetic"]
    assert arithmetic.startswith("bfloat16 products" if "was requested" not in arithmetic else "float32 throughout")
    if precision == "fast":
        assert "only affects gradients, and none are computed" in arithmetic


# Real weights on the real stimuli.


@pytest.fixture(scope="module")
def squeezenet(data_dir: Path) -> nn.Module:
    return create_model("torchvision:squeezenet1_0", str(data_dir / "weights" / "squeezenet1_0_imagenet.safetensors"))


@pytest.fixture(scope="module")
def some_stimuli(data_dir: Path) -> StimulusSet:
    """Every 32nd of the published stimuli."""
    return some_of(open_stimuli(data_dir / "cue-conflict"), range(0, 1280, 32))


def some_of(stimuli: StimulusSet, indices: range) -> StimulusSet:
    return replace(
        stimuli, stimuli=tuple(stimuli.stimuli[index] for index in indices), loader=Some(stimuli, tuple(indices))
    )


class Some:
    def __init__(self, stimuli: StimulusSet, indices: tuple[int, ...]) -> None:
        self.stimuli, self.indices = stimuli, indices

    def __call__(self, index: int) -> Image.Image:
        return self.stimuli.load(self.indices[index])


def test_real_decisions_are_those_of_the_definition(squeezenet: nn.Module, some_stimuli: StimulusSet) -> None:
    result = measure_shape_bias(squeezenet, some_stimuli, name="torchvision:squeezenet1_0")
    decisions = decided(result)
    expected = by_hand(squeezenet, some_stimuli, imagenet_mapping())
    assert dict(zip(decisions.names, decisions.response, strict=True)) == expected
    assert decisions.observer == "squeezenet1_0"


@pytest.mark.slow
def test_real_weights_on_a_third_of_the_stimuli(squeezenet: nn.Module, data_dir: Path, tmp_path: Path) -> None:
    stimuli = open_stimuli(data_dir / "cue-conflict")
    assert len(stimuli) == 1280 and sum(stimulus.is_conflict for stimulus in stimuli.stimuli) == 1200
    result = measure_shape_bias(squeezenet, some_of(stimuli, range(0, 1280, 3)), name="torchvision:squeezenet1_0")
    assert result.model is not None
    counts = result.model.counts
    assert (counts.n_conflict, counts.n_congruent) == (401, 26)
    # Few decisions may differ with the rounding of another machine.
    assert (counts.n_shape, counts.n_texture) == (pytest.approx(57, abs=1), pytest.approx(194, abs=1))
    assert 0.15 < counts.overall < 0.30
    result.save(tmp_path)
    (again,) = read_folder(tmp_path)
    assert again == result.decisions
    imported = ShapeBiasResult.from_decisions(observers=[again])
    assert imported.observers[0].counts == counts


def test_each_deviation_changes_real_decisions(squeezenet: nn.Module, some_stimuli: StimulusSet) -> None:
    stimuli = some_stimuli
    mapping = imagenet_mapping()

    def logits_of(crop: bool) -> npt.NDArray[np.float32]:
        rows = []
        for index in range(len(stimuli)):
            picture = stimuli.load(index)
            if crop:
                picture = picture.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
            pixels = torch.from_numpy((np.asarray(picture) / 255 - MEAN) / STD).permute(2, 0, 1).float()
            rows.append(pixels)
        with torch.inference_mode():
            return torch.cat([squeezenet(torch.stack(rows[at : at + 16])) for at in range(0, len(rows), 16)]).numpy()

    logits = logits_of(crop=False)
    softmax = torch.from_numpy(logits).softmax(1).numpy()

    def by(values: npt.NDArray[np.float32], aggregate: Any) -> npt.NDArray[np.intp]:
        return np.stack([aggregate(values[:, list(members)], 1) for members in mapping.indices], 1).argmax(1)

    right = by(softmax, np.mean)
    member = {index: category for category, members in enumerate(mapping.indices) for index in members}
    cropped = torch.from_numpy(logits_of(crop=True)).softmax(1).numpy()
    wrong = {
        "sum": by(softmax, np.sum),
        "max": by(softmax, np.max),
        "mean of logits": by(logits, np.mean),
        "top-1 of 1000": np.array([member.get(int(index), -1) for index in logits.argmax(1)]),
        "resize and crop": by(cropped, np.mean),
    }
    # Of 40: hundreds of the 1280.
    changed = {name: int((decisions != right).sum()) for name, decisions in wrong.items()}
    assert min(changed.values()) > 6, changed
