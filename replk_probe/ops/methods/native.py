"""The methods of the native library for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from replk_probe.errors import BackendError

from .. import _cpu, _loader
from .._choice import COMPUTED_IN, forced, loaded_library, make_plan, uncovered
from .._prepared_weights import PreparedWeights
from .interface import ConvProblem

DIRECTIONS = {"forward": _loader.FORWARD, "grad_input": _loader.GRAD_INPUT, "grad_weight": _loader.GRAD_WEIGHT}


class NativeMethod:
    """One method of the native library, whatever the library itself would choose.

    Args:
        name: Name of the method in the library, or ``"auto"`` for the library's choice.
        prepared: Whether weights are prepared once for many calls, as by a module in eval mode.
    """

    def __init__(self, name: str, *, prepared: bool = True) -> None:  # noqa: D107
        self.name = name
        self._prepared = PreparedWeights() if prepared else None

    @property
    def _force(self) -> tuple[str | None, str]:
        return forced()[0], self.name

    def refusal(self, problem: ConvProblem, device: torch.device) -> str | None:
        """Why the library does not compute the problem by this method, or None."""
        if device.type != "cpu":
            return f"the device is {device} and only CPU kernels are compiled"
        if self.name == "auto":  # the library's choice includes torch's convolution
            return None
        reason = uncovered(problem.torch_dtype)
        if reason is not None:
            return reason
        try:
            self._planned(problem)
        except BackendError as error:
            return str(error).partition(". ")[0].rpartition(": ")[2]
        return None

    def workspace_bytes(self, problem: ConvProblem) -> int:
        """Scratch memory of a call and memory of a prepared weight, in bytes."""
        if uncovered(problem.torch_dtype) is not None:
            return 0
        plan = self._planned(problem)
        return int(plan.workspace_bytes + plan.packed_bytes)

    def planned_name(self, problem: ConvProblem) -> str:
        """Name of the method that the library uses: for ``"auto"`` the one that it chooses."""
        if uncovered(problem.torch_dtype) is not None:
            return "aten"
        return _loader.METHOD_NAMES[self._planned(problem).method]

    def uses_transforms(self, problem: ConvProblem) -> bool:
        """Whether rounding errors are relative to the whole plane."""
        name = self.planned_name(problem)
        kernels = () if name == "aten" else loaded_library().kernels
        return any(kernel.method == name and kernel.uses_fft for kernel in kernels)

    def _planned(self, problem: ConvProblem) -> _loader.Plan:
        dtype = problem.torch_dtype
        return make_plan(
            DIRECTIONS[problem.direction],
            (problem.n, problem.c, problem.h, problem.w),
            (problem.kh, problem.kw),
            COMPUTED_IN.get(dtype, dtype),
            threads=torch.get_num_threads(),
            prepared=self._prepared is not None,
            channels_last=problem.channels_last,
            force=self._force,
        )[1]

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        """``act(conv(input, weight) + bias)``, ``[N, C, H, W]``."""
        return _cpu.forward(input, weight, bias, relu, False, self._prepared, self._force)

    def grad_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the input, ``[N, C, H, W]``."""
        return _cpu.grad_input(grad, weight, False, self._prepared, self._force)

    def grad_weight(self, input: Tensor, grad: Tensor, kh: int, kw: int) -> Tensor:
        """Gradient of the weight, ``[C, 1, Kh, Kw]``, contiguous."""
        return _cpu.grad_weight(input, grad, kh, kw, False, self._force)
