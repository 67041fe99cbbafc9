"""Gradients that are zero but for a box."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replk_probe.models.inference.gradient_box import box_of, grown, put_back
from replk_probe.models.inference.input_gradient import freeze_layers

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def gradient(rows: slice, columns: slice, layout: Any = torch.contiguous_format) -> Tensor:
    grad = torch.zeros(2, 5, 20, 24)
    part = grad[1, 2, rows, columns]
    grad[1, 2, rows, columns] = torch.randn(part.shape, generator=torch.Generator().manual_seed(0))
    return grad.contiguous(memory_format=layout)


def test_the_box_holds_all_that_is_not_zero() -> None:
    rows, columns = slice(3, 9), slice(11, 12)
    assert box_of(gradient(rows, columns)) == (rows, columns)
    assert box_of(torch.zeros(1, 2, 6, 6)) == (slice(0, 1), slice(0, 1))
    assert box_of(torch.randn(1, 2, 6, 6)) is None
    assert box_of(gradient(slice(1, 19), slice(1, 23))) is None  # nothing to be gained
    assert box_of(torch.zeros(0, 2, 6, 6)) is None


def test_a_nan_is_not_zero() -> None:
    grad = gradient(slice(3, 9), slice(11, 12))
    grad[0, 0, 15, 20] = float("nan")
    assert box_of(grad) == (slice(3, 16), slice(11, 21))


def test_a_kernel_carries_the_box_on_as_far_as_the_plane_goes() -> None:
    grad = gradient(slice(3, 9), slice(11, 12))
    assert grown(box_of(grad), (5, 9), grad) == (slice(1, 11), slice(7, 16))
    assert grown(box_of(grad), (21, 3), grad) == (slice(0, 19), slice(10, 13))
    assert grown(box_of(grad), (51, 51), grad) is None and grown(None, (3, 3), grad) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_put_back_has_the_layout_of_the_whole(layout: Any) -> None:
    grad = gradient(slice(3, 9), slice(11, 14), layout)
    box = box_of(grad)
    assert box is not None
    found = put_back(grad[:, :, box[0], box[1]], box, grad)
    assert torch.equal(found, grad) and found.stride() == grad.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("conv", [{"kernel_size": 1}, {"kernel_size": (9, 3), "padding": (4, 1), "groups": 5}])
@pytest.mark.parametrize("place", [(slice(8, 9), slice(9, 10)), (slice(1, 7), slice(15, 24))])
def test_frozen_layers_compute_only_the_box_and_lose_nothing(
    layout: Any, conv: dict[str, Any], place: tuple[slice, slice]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 5, **conv)
    frozen = copy.deepcopy(layer)
    freeze_layers(frozen)
    x = torch.randn(2, 5, 20, 24).contiguous(memory_format=layout).requires_grad_()
    grad = gradient(*place, layout)
    (wanted,) = torch.autograd.grad(layer(x), x, grad)
    (found,) = torch.autograd.grad(frozen(x), x, grad)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    # Beyond the reach of the kernel the gradient is zero, not nearly so.
    assert torch.equal(found == 0, wanted == 0)
