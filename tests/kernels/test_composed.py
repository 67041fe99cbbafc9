"""Composed kernels and comparisons with another checkpoint in the measurement, its results and its figures."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from safetensors.torch import save_file
from torch import Tensor, nn

import replk_probe
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.kernels import KernelResult, draw_composed, draw_kernels, load_results, measure_kernels
from replk_probe.kernels.plot import save_figures
from replk_probe.report.kernels_table import channels_table
from replk_probe.sweeps.analyzers import ANALYZERS
from replk_probe.sweeps.document import read_document
from replk_probe.sweeps.job import Job
from replk_probe.sweeps.plan import plan_jobs


class LKA(nn.Module):
    """In the manner of VAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv_spatial = nn.Conv2d(channels, channels, 7, padding=9, groups=channels, dilation=3)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


def van() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), LKA(8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GELU(), LKA(8)
    ).eval()


def test_composed_kernels_follow_the_stored_ones() -> None:
    model = van()
    result = measure_kernels(model, compose=True)
    assert [(kernel.layer, kernel.variant, kernel.kernel_size) for kernel in result.kernels] == [
        ("1.conv0", "merged", (5, 5)), ("1.conv_spatial", "merged", (7, 7)), ("2", "merged", (3, 3)),
        ("4.conv0", "merged", (5, 5)), ("4.conv_spatial", "merged", (7, 7)),
        ("1", "composed", (23, 23)), ("4", "composed", (23, 23)),
    ]  # fmt: skip
    first, second = (conv.weight.detach().double()[:, 0] for conv in (model[1].conv0, model[1].conv_spatial))
    expected = torch.zeros(8, 23, 23, dtype=torch.float64)
    for row in range(7):
        for column in range(7):
            place = (slice(None), slice(3 * row, 3 * row + 5), slice(3 * column, 3 * column + 5))
            expected[place] += first * second[:, row, column, None, None]
    kernel = result.kernel("1", "composed")
    np.testing.assert_allclose(kernel.magnitude, expected.abs().sum(0).numpy(), rtol=1e-12)
    assert (kernel.channels, kernel.operation) == (8, "depthwise")
    assert kernel.branches == ("conv0", "conv_spatial") and kernel.composed_of == ("1.conv0", "1.conv_spatial")
    (channel,) = kernel.strongest_channels[0]
    np.testing.assert_allclose(kernel.strongest[0], expected[channel].numpy(), atol=1e-15)
    assert any("away from the borders" in note for note in kernel.notes)
    # The stored kernels do not depend on it.
    assert measure_kernels(van()).kernels == result.kernels[:5]


def test_only_kernels_of_the_requested_layers_are_composed() -> None:
    layers = [(one.layer, one.variant) for one in measure_kernels(van(), "4.conv0", compose=True).kernels]
    assert layers == [("4.conv0", "merged"), ("4", "composed")]
    (alone,) = measure_kernels(van(), "2", compose=True).kernels
    assert alone.notes[-1].startswith("No kernels were composed: none of the depthwise convolutions is dilated")


def test_the_notes_state_why_nothing_was_composed() -> None:
    def notes(model: nn.Module) -> str:
        return " ".join(measure_kernels(model.eval(), compose=True).notes)

    def conv(**options: object) -> nn.Conv2d:
        return nn.Conv2d(4, 4, 3, padding=1, groups=4, **options)

    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(), conv()

    text = notes(nn.Sequential(conv(), nn.GELU(), conv()))
    assert "2 is not composed with another kernel: gelu lies between it and 0." in text
    assert "No kernels were composed: none of the depthwise convolutions" in text
    assert "No kernels were composed: no forward pass of the network could be recorded." in notes(Refusing())
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert "No kernels were composed: only depthwise convolutions are composed" in notes(dense)


def test_channels_without_a_convolution_are_left_out() -> None:
    model = timm.create_model("inception_next_atto").eval()
    result = measure_kernels(model, "stages.0.blocks.0.*", compose=True, strongest=64)
    kernel = result.kernel("stages.0.blocks.0.token_mixer", "composed")
    assert kernel.channels == 30 and len(kernel.strongest) == 30
    assert {place for (place,) in kernel.strongest_channels} == set(range(10, 40))
    assert kernel.branches == (
        "dwconv_hw (channels 10-19)", "dwconv_w (channels 20-29)", "dwconv_h (channels 30-39)",
    )  # fmt: skip
    assert any("channels that are passed on without a convolution" in note for note in kernel.notes)
    # The bands have the norm behind the mixer folded in, which the stored kernels before the concatenation have not.
    norm = model.stages[0].blocks[0].norm
    scale = (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach()
    band = model.stages[0].blocks[0].token_mixer.dwconv_w.weight.detach().double()[:, 0, 0]
    place = kernel.strongest_channels.index((25,))
    np.testing.assert_allclose(kernel.strongest[place][4], (band[5] * scale[25]).numpy(), rtol=1e-14)
    assert kernel.batch_norm == ("stages.0.blocks.0.norm",)


def test_only_the_tensors_of_the_kernels_are_read_from_a_file(tmp_path: Path) -> None:
    model = timm.create_model("inception_next_atto").eval()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    by_file = measure_kernels("inception_next_atto", compose=True, weights=str(tmp_path / "net.safetensors"))
    assert by_file.kernels == measure_kernels(model, compose=True).kernels


def test_a_saved_result_is_read_again(tmp_path: Path) -> None:
    torch.save(van().state_dict(), tmp_path / "other.pth")
    result = measure_kernels(van(), compose=True, against=tmp_path / "other.pth")
    result.save(tmp_path)
    again = KernelResult.load(tmp_path)
    assert again == result and again.run.compose and again.run.against is not None
    assert again.run.against.source == "file:other.pth"
    record = json.loads((tmp_path / "kernels.json").read_text())
    entry = next(one for one in record["kernels"] if one["variant"] == "composed")
    assert entry["composed_of"] == ["1.conv0", "1.conv_spatial"] and entry["change"]["relative_norm"] == 0
    with (tmp_path / "kernels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]][-12:] == [
        "low_frequency_share", "middle_frequency_share", "high_frequency_share", "orientation", "anisotropy",
        "channel_anisotropy", "distance_mean", "distance_median", "rank_mean", "rank_median",
        "change_relative_norm", "change_cosine",
    ]  # fmt: skip
    for row, kernel in zip(rows, result.kernels, strict=True):
        assert kernel.channel_statistics is not None
        assert float(row["rank_mean"]) == kernel.channel_statistics.rank_mean
        assert (float(row["change_relative_norm"]), float(row["change_cosine"])) == (0, pytest.approx(1))
    assert list(result.to_dataframe()["rank_mean"]) == [float(row["rank_mean"]) for row in rows]


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    result = measure_kernels(van(), compose=True)
    result.save(tmp_path)
    record = json.loads((tmp_path / "kernels.json").read_text())
    for entry in record["kernels"]:
        for name in ("composed_of", "channel_statistics", "change"):
            del entry[name]
    for name in ("compose", "against"):
        del record["run"]["models"][0][name]
    (tmp_path / "kernels.json").write_text(json.dumps(record))
    (again,) = load_results(tmp_path)
    assert not again.run.compose and again.run.against is None
    for old, new in zip(again.kernels, result.kernels, strict=True):
        np.testing.assert_array_equal(old.magnitude, new.magnitude)
        assert old.channel_statistics is None and old.change is None
    assert "-" in channels_table([again])
    again.save(tmp_path / "again")


def test_against_another_checkpoint(tmp_path: Path) -> None:
    model, other = van(), van()
    with torch.no_grad():
        other[1].conv0.weight *= 2
        other[2].weight += 1
    torch.save(other.state_dict(), tmp_path / "other.pth")
    before = copy.deepcopy(model.state_dict())
    # A module of the measured network selects the same layer of the other one.
    layers = [model[1], "2", "4.conv0"]
    result = measure_kernels(model, layers, compose=True, against=tmp_path / "other.pth")
    changes = {(kernel.layer, kernel.variant): kernel.change for kernel in result.kernels}
    for name in (("1.conv0", "merged"), ("1", "composed")):
        change = changes[name]
        assert change is not None and change.relative_norm == pytest.approx(0.5) and change.cosine == pytest.approx(1)
    change = changes["2", "merged"]
    first, second = (net[2].weight.detach().double().flatten() for net in (model, other))
    assert change is not None
    assert change.relative_norm == pytest.approx(float((first - second).norm() / second.norm()), rel=1e-12)
    assert change.cosine == pytest.approx(float(first @ second / first.norm() / second.norm()), rel=1e-12)
    unchanged = changes["4", "composed"]
    assert unchanged is not None and unchanged.relative_norm == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_against_the_initialization_of_a_model_given_by_name() -> None:
    result = measure_kernels("replknet_micro_k13_rep", "stage4.0", "all", against="random")
    assert result.run.against is not None and result.run.against.is_random
    assert all(kernel.change is not None and kernel.change.relative_norm for kernel in result.kernels)
    same = measure_kernels("replknet_micro_k13_rep", "stage4.0", against="auto").kernels[0].change
    assert same is not None and same.relative_norm == 0


def test_against_a_merged_file(tmp_path: Path) -> None:
    model = replk_probe.create_model("replknet_micro_k13_rep")
    torch.save(copy.deepcopy(model).reparameterize().state_dict(), tmp_path / "merged.pth")
    result = measure_kernels(model, "stage4.0", "all", against=tmp_path / "merged.pth")
    changes = {kernel.variant: kernel.change for kernel in result.kernels}
    assert changes["large"] is None and changes["small"] is None
    assert changes["merged"] is not None and changes["merged"].relative_norm == pytest.approx(0, abs=1e-6)
    assert "the other checkpoint has no finite kernel of this variant" in result.notes[-1]


def test_merged_kernels_of_other_packages_are_compared_with_their_branches(tmp_path: Path) -> None:
    name = f"{Path(__file__).parents[1] / 'models' / 'small_timm_networks.py'}:mobileone"
    torch.manual_seed(0)
    torch.save(replk_probe.create_model(name).state_dict(), tmp_path / "a.pth")
    replk_probe.models.reparam_checkpoint(tmp_path / "a.pth", tmp_path / "b.safetensors", name)
    result = measure_kernels(name, weights=tmp_path / "b.safetensors", against=tmp_path / "a.pth")
    changes = [kernel.change for kernel in result.kernels]
    assert all(change is not None and change.relative_norm < 1e-6 for change in changes)
    assert not any("own method" in note for note in result.notes)


def test_against_files_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth"):
        measure_kernels(van(), against=tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"none\.pth"):
        measure_kernels(van(), against="none.pth")
    with pytest.raises(WeightsError, match="Expected the weights as a name or a path"):
        measure_kernels(van(), against=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="The option compose cannot be 1"):
        measure_kernels(van(), compose=1)  # type: ignore[arg-type]


def test_the_figure_shows_the_stored_kernels_next_to_the_composed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = measure_kernels(van(), compose=True)
    figure = draw_composed([result])
    maps = [image for axes in figure.axes for image in axes.get_images() if image.get_gid() == "map"]
    assert len(maps) == 6
    texts = [item.get_text() for item in figure.findobj(Text)]
    for words in ("Sequential, 1", "Sequential, 4", "conv0", "conv_spatial", "composed", "23\u00d723, 8 channels"):
        assert words in texts
    assert figure.get_figwidth() <= 7
    # The other figures show the stored kernels, of which there are as many as without composing.
    assert len(draw_kernels([result]).axes[0].get_images()) == len(
        draw_kernels([measure_kernels(van())]).axes[0].get_images()
    )
    # Rendering takes most of the time.
    monkeypatch.setattr(Figure, "savefig", lambda figure, stream, format, **options: stream.write(format.encode()))
    names = {path.name for path in save_figures([result], tmp_path)}
    assert {"composed.png", "composed.pdf"} <= names
    save_figures([measure_kernels(van())], tmp_path)
    assert not (tmp_path / "composed.png").exists()
    with pytest.raises(InvalidInputError, match="There are no composed kernels to draw"):
        draw_composed([measure_kernels(van())])


def test_many_composed_kernels_fit_on_a_page() -> None:
    result = measure_kernels("inception_next_atto", weights="random", compose=True)
    figure = draw_composed([result, result])
    assert figure.get_figwidth() <= 7 and figure.get_figheight() < 11
    assert "of 24 composed kernels" in " ".join(item.get_text() for item in figure.findobj(Text))


def test_a_sweep_has_the_options(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'models = ["replknet_micro_k13"]\n[kernels]\nlayer = "stage4.0"\ncompose = true\nagainst = "other.pth"\n'
    )

    def planned(seed: int) -> Job:
        other = replk_probe.create_model("replknet_micro_k13", seed=seed, weights="random")
        torch.save(other.state_dict(), tmp_path / "other.pth")
        (job,) = plan_jobs(read_document(path))
        return job

    job = planned(3)
    result = ANALYZERS["kernels"].plan(job).run()
    assert result.run.compose and result.run.against.source == "file:other.pth"
    assert result.kernels[0].change.relative_norm > 0.1
    # Another content of the file is another job.
    assert planned(4).key != job.key == planned(3).key
