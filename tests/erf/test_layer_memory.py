"""Layers are looked up once for each network and shape, and again when the network changes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replk_probe.erf import contribution_scores, probe_layer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
        self.deep = True
        self.widths = [4, 4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (self.body(x) if self.deep else x).mean((2, 3))


class Shallow(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    real = probe_layer._find_target
    monkeypatch.setattr(probe_layer, "_find_target", lambda *args: (found.append(1), real(*args))[1])
    return found


def support(model: nn.Module, size: int = 16) -> int:
    return int((contribution_scores(model, torch.ones(1, 3, size, size)) > 0).any(1).sum())


def test_one_pass_for_each_shape(passes: list[int]) -> None:
    torch.manual_seed(0)
    model = Net()
    first = contribution_scores(model, torch.ones(1, 3, 16, 16))
    model.train()
    with torch.no_grad():
        model.stem.weight.copy_(model.stem.weight.clone())
    torch.testing.assert_close(contribution_scores(model, torch.ones(2, 3, 16, 16))[:1], first)
    assert len(passes) == 1
    contribution_scores(model, torch.ones(1, 3, 16, 12))
    assert len(passes) == 2


def shallow(model: Net) -> None:
    model.deep = False


def another_module(model: Net) -> None:
    model.body = nn.Conv2d(4, 4, 1)


def another_setting(model: Net) -> None:
    model.body[1].stride = (2, 2)


def a_list(model: Net) -> None:
    model.widths[0] = 5


def another_forward(model: Net) -> None:
    model.__class__ = Shallow


@pytest.mark.parametrize("change", [shallow, another_module, another_setting, a_list, another_forward])
def test_a_changed_network_is_looked_at_again(change: Callable[[Net], None], passes: list[int]) -> None:
    torch.manual_seed(0)
    model = Net()
    before = support(model)
    change(model)
    found = support(model)
    fresh = Net()
    change(fresh)
    fresh.load_state_dict(model.state_dict())
    assert len(passes) == 2 and found == support(fresh)
    assert before == 7 and found == {shallow: 3, another_module: 3, another_forward: 3}.get(change, 7)


def test_networks_are_not_kept_alive() -> None:
    model = Net()
    contribution_scores(model, torch.ones(1, 3, 16, 16))
    freed = weakref.ref(model)
    del model
    gc.collect()
    assert freed() is None
