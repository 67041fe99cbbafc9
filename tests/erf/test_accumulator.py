"""The effective receptive field of a model while it is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import replk_probe
from replk_probe.erf import ErfAccumulator, ErfResult, measure_erf, prepare
from replk_probe.erf.accumulator import BlockSums
from replk_probe.errors import InvalidInputError


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 7, stride=2, padding=3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(6, 6, 3, padding=1),
        )


def images(n: int, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("n", "batch_size"), [(3, 1), (20, 7), (47, 16), (90, 16)])
def test_the_result_is_that_of_the_measurement(n: int, batch_size: int) -> None:
    model, data = network(), images(n)
    erf = ErfAccumulator(model)
    for batch in data.split(batch_size):
        erf.update(batch)
    found, expected = erf.compute(), measure_erf(model.eval(), data)
    assert relative(found.contribution, expected.contribution) < 1e-3
    assert (found.layer, found.center, found.theoretical_rf) == (
        expected.layer,
        expected.center,
        expected.theoretical_rf,
    )
    assert found.theoretical_rf == 11
    assert (found.n_images, found.run.image_ids) == (n, expected.run.image_ids)
    for row, other in zip(found.ratios, expected.ratios, strict=True):
        assert (row.protocol, row.threshold) == (other.protocol, other.threshold)
        assert row.side == pytest.approx(other.side, abs=2) and row.ci95 is not None


def test_in_float64_it_is_exact() -> None:
    model, data = network().double(), images(5).double()
    erf = ErfAccumulator(model, layer=model[4])
    erf.update(data)
    result = erf.compute()
    assert relative(result.contribution, measure_erf(model, data, layer="4").contribution) < 1e-9
    assert result.run.config["arithmetic"] == "float64 throughout"


def test_a_model_in_training_is_left_as_it_is() -> None:
    model = network().train()
    model[1].eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    calls: list[int] = []
    model[4].register_forward_hook(lambda *_: calls.append(1))

    def train() -> Tensor:
        loss = model(images(4)).square().mean()
        loss.backward()
        return loss.detach()

    torch.manual_seed(7)
    train()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    random = torch.get_rng_state()

    erf = ErfAccumulator(model, "2")
    with torch.autocast("cpu"):
        erf.update(images(3))
    erf.compute()

    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert calls == [1], "nothing after the layer is computed"
    optimizer.step()
    before = erf.compute().contribution
    erf.reset()
    erf.update(images(3))
    assert relative(erf.compute().contribution, before) > 1e-3, "the model is measured as it is now"


def test_a_network_that_draws_random_numbers_leaves_the_generator_alone() -> None:
    class Noisy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 1e-3 * torch.rand_like(x))

    before = torch.get_rng_state()
    model = Noisy(3, 4, 3)
    torch.set_rng_state(before)
    erf = ErfAccumulator(model)
    erf.update(images(2))
    assert torch.equal(before, torch.get_rng_state())


def test_reset_forgets_images_and_their_size() -> None:
    erf = ErfAccumulator(network(), name="mine")
    with pytest.raises(InvalidInputError, match="no contribution map yet"):
        erf.compute()
    erf.update(images(2))
    with pytest.raises(InvalidInputError, match=r"\[16, 16\] pixels cannot be added to images of \[32, 32\]"):
        erf.update(images(1, 16))
    with pytest.raises(InvalidInputError, match=r"\[3, 32, 32\]"):
        erf.update(images(1)[0])
    assert erf.compute().n_images == 2
    erf.reset()
    erf.update(images(1, 16))
    result = erf.compute()
    assert (result.n_images, result.input_size, result.run.model) == (1, (16, 16), "mine")


def test_images_that_are_not_finite_are_skipped() -> None:
    data = images(3)
    data[1, 0, 0, 0] = float("nan")
    erf = ErfAccumulator(network())
    erf.update(data)
    result = erf.compute()
    assert (result.n_images, [skipped["id"] for skipped in result.run.skipped]) == (2, ["tensor-0001"])
    erf.reset()
    erf.update(data[1:2])
    with pytest.raises(InvalidInputError, match="no contribution map yet"):
        erf.compute()


def test_prepared_models_can_be_accumulated_and_the_result_saved(tmp_path) -> None:
    erf = replk_probe.ErfAccumulator(prepare(network(), "fp32"), thresholds=[0.5])
    erf.update(images(2))
    result = erf.compute()
    assert result.thresholds == (0.5,) and result.run.backend == "torch"
    result.save(tmp_path)
    assert ErfResult.load(tmp_path).ratios == result.ratios


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"model": 5}, "of type int"), ({"thresholds": 0.5}, "sequence"), ({"layer": nn.ReLU()}, "not part of")],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ErfAccumulator(**{"model": network(), **arguments})


def test_the_representation_states_what_was_added() -> None:
    erf = ErfAccumulator(network(), name="net")
    assert repr(erf) == "ErfAccumulator(model='net', layer=None, images=0, skipped=0, input_size=None)"
    batch = images(3)
    batch[1] = torch.nan
    erf.update(batch)
    layer = erf.compute().layer
    assert repr(erf) == f"ErfAccumulator(model='net', layer={layer!r}, images=2, skipped=1, input_size=(32, 32))"
    erf.reset()
    assert "images=0, skipped=0, input_size=None" in repr(erf)
    assert "layer='4'" in repr(ErfAccumulator(network(), layer="4"))


def test_blocks_grow_without_losing_an_image() -> None:
    maps = np.random.default_rng(0).random((45, 2, 3))
    sums = BlockSums(20, (2, 3))
    for scores in maps:
        if sums.done == sums.n_images:
            sums = sums.in_larger_blocks()
        sums.add(scores)
    assert sums.counts == [4] * 10 + [4, 1] + [0] * 8
    np.testing.assert_allclose(sums.mean(), maps.mean(0), rtol=1e-12)
    np.testing.assert_allclose(sums.stacked()[0], maps[:4].sum(0), rtol=1e-12)
