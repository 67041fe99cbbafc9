"""Exported and traced programs contain torch's convolution, and compiled ones the native kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replk_probe.models import create_model
from replk_probe.ops import DepthwiseConv2d, PreparedKernel, conv_input_gradient, depthwise_conv2d

SHAPE = (2, 3, 9, 8)
BATCH, HEIGHT, WIDTH = (torch.export.Dim(name, min=2, max=256) for name in ("batch", "height", "width"))
DYNAMIC = ({0: BATCH, 2: HEIGHT, 3: WIDTH},)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = DepthwiseConv2d(3, 3, (5, 7), padding=(2, 3), groups=3)
        self.conv.activation = "relu"

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Function(nn.Module):
    """The function, with any backend; ``even`` gives a kernel that torch computes in every case."""

    def __init__(self, backend: Any = "auto", even: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 1, 4 if even else 5, 7)), nn.Parameter(torch.randn(3))
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias, activation="relu", backend=self.backend)


class InputGradient(Function):
    def forward(self, x: Tensor) -> Tensor:
        return conv_input_gradient(x, self.weight)


class Prepared(Function):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = PreparedKernel()

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel.forward(x, self.weight, self.bias)


USES: dict[str, Callable[[], nn.Module]] = {
    "layer": Layer,
    "function": Function,
    "native": lambda: Function("native"),
    "aten": lambda: Function("aten"),
    "even": lambda: Function(even=True),
    "input gradient": InputGradient,
    "prepared": Prepared,
}


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.no_cover
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("use", USES)
def test_exported_programs_contain_operators_of_torch_only(use: str, strict: bool) -> None:
    model, x = USES[use]().eval(), torch.randn(SHAPE)
    program = torch.export.export(model, (x,), strict=strict, dynamic_shapes=DYNAMIC)
    assert all(name.startswith("aten.") for name in operators(program))
    larger = torch.randn(5, 3, 20, 31)
    for image in (x, larger, larger.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(program.module()(image), model(image))


@pytest.mark.usefixtures("native")
# Newer versions of torch warn of TorchScript's end.
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("use", [use for use in USES if use != "prepared"])
def test_traces_contain_operators_of_torch_only(use: str) -> None:
    model, x = USES[use]().eval(), torch.randn(SHAPE)
    made = torch.jit.trace(model, x)
    assert all(node.kind().startswith(("aten::", "prim::")) for node in made.inlined_graph.nodes())
    larger = torch.randn(5, 3, 20, 31)
    for image in (x, larger, larger.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(made(image), model(image))


def test_compiled_programs_contain_the_native_operator() -> None:
    recorded: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        recorded.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(Layer().eval(), fullgraph=True, backend=backend)(torch.randn(SHAPE))
    assert recorded == ["replk_probe.dwconv2d"]
    torch._dynamo.reset()


def test_a_saved_program_runs_without_this_package(tmp_path: Path) -> None:
    model, x = nn.Sequential(Layer(), Function()).eval(), torch.randn(SHAPE)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=DYNAMIC), tmp_path / "model.pt2")
    torch.save((x, model(x).detach()), tmp_path / "tensors.pt")
    code = """
import sys
sys.modules["replk_probe"] = None  # importing it raises ImportError
import torch
program = torch.export.load("model.pt2").module()
x, want = torch.load("tensors.pt")
torch.testing.assert_close(program(x), want)
torch.testing.assert_close(program(torch.cat([x, x])), torch.cat([want, want]))
print("equal")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "equal\n"


def run_onnx(model: nn.Module, path: Path, opset: int, *images: Tensor) -> list[Tensor]:
    """Export with torch's exporter, and compute the outputs by onnxruntime."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package}, which torch.onnx.export needs, is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    torch.onnx.export(
        model, (images[0],), path, dynamo=True, opset_version=opset, dynamic_shapes=DYNAMIC, verbose=False
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [torch.from_numpy(session.run(None, {name: image.numpy()})[0]) for image in images]


@pytest.mark.no_cover
# The exporter and the packages that it uses warn of their own deprecations.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("use", "opset"), [("layer", 21), ("function", 18), ("even", 18), ("input gradient", 20)])
def test_onnx_runtime_gives_the_same_results(use: str, opset: int, tmp_path: Path) -> None:
    model, images = USES[use]().eval(), (torch.randn(SHAPE), torch.randn(5, 3, 20, 31))
    for found, image in zip(run_onnx(model, tmp_path / "model.onnx", opset, *images), images, strict=True):
        torch.testing.assert_close(found, model(image).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "replknet_micro_k31_rep",
            {"layers": (1,), "channels": (16,), "strides": (4,), "kernel_sizes": (31,)},
        ),
        ("mobilenetv2_micro_k13_rep", {"setting": ((1, 16, 1, 1), (3, 24, 2, 2))}),
        ("unireplknet_a", {"depths": (1,), "dims": (8,), "kernel_sizes": ((13,),)}),
    ],
)
def test_models_are_exported_to_onnx(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = create_model(name, "random", seed=0, **options).eval()
    assert any(isinstance(module, DepthwiseConv2d) for module in model.modules())
    images = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 96, 64)
    for found, image in zip(run_onnx(model, tmp_path / "model.onnx", 18, *images), images, strict=True):
        torch.testing.assert_close(found, model(image).detach(), rtol=1e-3, atol=1e-4)
