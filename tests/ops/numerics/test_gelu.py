"""GELU through the C interface, against float64, with bounds from the rounding errors of each step."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

U = 2.0**-24
# Results below it may be flushed to zero or lose digits as subnormal numbers.
TINY = 1e-36
SHAPES = [(1, 1), (3, 7), (2, 16), (5, 33), (4, 1024), (3, 1025), (2, 5000), (7, 64)]


class Gelu:
    """Calls one instruction set of the library."""

    def __init__(self, library: ctypes.CDLL, isa: int, threads: int = 1) -> None:
        self.library, self.isa, self.threads = library, isa, threads

    def status(self, name: str, rows: int, columns: int, *tensors: Tensor | None) -> int:
        addresses = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
        function = getattr(self.library, f"replk_gelu_{name}")
        status: int = function(self.isa, self.threads, ctypes.c_int64(rows), ctypes.c_int64(columns), *addresses)
        return status

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, squares = torch.full_like(x, torch.nan), torch.full((len(x),), torch.nan, dtype=torch.float64)
        assert self.status("forward", *x.shape, x, y, squares) == 0
        return y, squares

    def products(self, x: Tensor, grad: Tensor) -> Tensor:
        products = torch.full((len(x),), torch.nan, dtype=torch.float64)
        assert self.status("products", *x.shape, x, grad, products) == 0
        return products

    def grad_input(self, x: Tensor, grad: Tensor, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.full_like(x, torch.nan) if out is None else out
        assert self.status("grad_input", *x.shape, x, grad, a, b, out) == 0
        return out


def normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution and density in float64; the former with full relative precision in the lower tail."""
    wide = x.double()
    return 0.5 * torch.erfc(-wide * 0.5**0.5), torch.exp(-0.5 * wide**2) / (2 * torch.pi) ** 0.5


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    a, b = (torch.randn(shape[0], generator=generator) for _ in range(2))
    return 3 * x, grad, a, b


@pytest.fixture
def kernels(numerics) -> list[Gelu]:
    return [
        Gelu(numerics.native.library, number) for number in sorted({kernel.isa for kernel in numerics.native.kernels})
    ]


def test_every_magnitude_is_accurate(kernels):
    dense = torch.linspace(-14, 14, 2**20)
    small = torch.logspace(-38, 0, 10_000)
    x = torch.cat([dense, small, -small, torch.logspace(1, 38, 1000), -torch.logspace(1, 38, 1000)])[None]
    distribution, density = normal(x)
    wide = x.double()
    exact = wide * distribution
    relative = (8 + 2 * wide**2) * U
    one, zero = torch.ones(1), torch.zeros(1)
    for gelu in kernels:
        y, _ = gelu.forward(x)
        # Beyond the range of exp the result is zero, as is the exact one when rounded to float32.
        assert ((y - exact).abs() <= relative.nan_to_num(posinf=1e300) * exact.abs() + TINY).all()
        derivative = gelu.grad_input(x, torch.ones_like(x), one, zero)
        error = (derivative - (distribution + wide * density)).abs()
        assert (error <= relative * (1 + wide.abs()) + TINY)[wide.abs() < 14].all()
        assert torch.equal(derivative[wide > 14], torch.ones_like(x)[wide > 14])
        assert (derivative[wide < -14] == 0).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_and_gradient(kernels, shape):
    x, grad, a, b = draw(shape)
    wide, given = x.double(), grad.double()
    distribution, density = normal(x)
    y, derivative = wide * distribution, distribution + wide * density
    relative = (8 + 2 * wide**2) * U
    # A lane adds up to 64 terms, and the sum of the lanes takes up to four additions more; one rounding of the product.
    added = (64 + 4 + 1) * U
    for gelu in kernels:
        found, squares = gelu.forward(x)
        assert ((found - y).abs() <= relative * y.abs() + TINY).all()
        assert ((squares - (y**2).sum(1)).abs() <= 1.001 * (y**2 * (2 * relative + added)).sum(1) + TINY).all()
        products, terms = gelu.products(x, grad), y * given
        assert ((products - terms.sum(1)).abs() <= 1.001 * (terms.abs() * (relative + added)).sum(1) + TINY).all()
        scaled, activated = a.double()[:, None] * given, b.double()[:, None] * y
        inner_error = (scaled.abs() + 2 * activated.abs()) * U + activated.abs() * (relative + U)
        bound = relative * (1 + wide.abs()) * (scaled + activated).abs() + derivative.abs() * inner_error
        exact = derivative * (scaled + activated)
        result = gelu.grad_input(x, grad, a, b)
        assert ((result - exact).abs() <= 1.001 * (bound + U * exact.abs()) + TINY).all()
        for alias in (x.clone(), grad.clone()):
            operands = (alias, grad) if torch.equal(alias, x) else (x, alias)
            assert torch.equal(gelu.grad_input(*operands, a, b, out=alias), result)


@pytest.mark.parametrize("shape", [(1, 40), (5, 1000), (67, 33)], ids=str)
def test_threads_change_no_bit(numerics, kernels, shape):
    x, grad, a, b = draw(shape)
    for one in kernels:
        for threads in (2, 3, 64):
            many = Gelu(one.library, one.isa, threads)
            for found, expected in zip(many.forward(x), one.forward(x), strict=True):
                assert torch.equal(found, expected)
            assert torch.equal(many.products(x, grad), one.products(x, grad))
            assert torch.equal(many.grad_input(x, grad, a, b), one.grad_input(x, grad, a, b))


def test_other_memory_is_neither_read_nor_written(kernels):
    for columns in range(1, 70):
        x, grad, a, b = draw((1, columns))
        memory = [torch.full((columns + 40,), torch.nan) for _ in range(3)]
        # Aligned to one element only.
        inner = [part[17 : 17 + columns][None] for part in memory]
        inner[0].copy_(x)
        inner[1].copy_(grad)
        for gelu in kernels:
            squares, products = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
            assert gelu.status("forward", 1, columns, inner[0], inner[2], squares) == 0
            assert inner[2].isfinite().all() and torch.equal(squares, gelu.forward(x)[1])
            assert gelu.status("products", 1, columns, inner[0], inner[1], products) == 0
            assert torch.equal(products, gelu.products(x, grad))
            assert gelu.status("grad_input", 1, columns, inner[0], inner[1], a, b, inner[2]) == 0
            assert inner[2].isfinite().all()
            assert all(part[:17].isnan().all() and part[17 + columns :].isnan().all() for part in memory)


def test_non_finite_values(kernels):
    x = torch.tensor([[0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0]])
    for gelu in kernels:
        y, squares = gelu.forward(x)
        assert torch.equal(y.nan_to_num(nan=7.0, posinf=8.0)[0, :5], torch.tensor([0.0, 0.0, 8.0, 7.0, 7.0]))
        assert squares.isnan().all()
        # Rows do not affect each other.
        rows = torch.cat([x, torch.ones_like(x)])
        assert gelu.forward(rows)[1].isnan().tolist() == [True, False]


def test_empty_maps(kernels):
    for gelu in kernels:
        assert gelu.status("forward", 0, 5, None, None, None) == 0
        assert gelu.status("grad_input", 3, 0, None, None, None, None, None) == 0
        squares = torch.full((3,), torch.nan, dtype=torch.float64)
        assert gelu.status("forward", 3, 0, None, None, squares) == 0
        assert not squares.any()


def test_invalid_arguments_are_refused(numerics):
    library = numerics.native.library
    x, grad, a, _ = draw((2, 8))
    sums = torch.zeros(2, dtype=torch.float64)
    foreign = 2 if "neon" in numerics.isas else 4  # of another architecture
    for isa, threads, rows, columns in [
        (-1, 1, 2, 8),
        (foreign, 1, 2, 8),
        (5, 1, 2, 8),
        (0, 0, 2, 8),
        (0, 1025, 2, 8),
        (0, 1, -2, 8),
    ]:
        assert Gelu(library, isa, threads).status("forward", rows, columns, x, grad, sums) == 1
    auto = Gelu(library, 0)
    assert auto.status("forward", 2**40, 2**40, x, grad, sums) == 1
    for operands in [(None, grad, sums), (x, None, sums), (x, grad, None)]:
        assert auto.status("forward", 2, 8, *operands) == 1
        assert auto.status("products", 2, 8, *operands) == 1
    for missing in range(5):
        operands = [None if index == missing else tensor for index, tensor in enumerate((x, grad, a, a, grad))]
        assert auto.status("grad_input", 2, 8, *operands) == 1
