"""Compile the Triton kernels for GPUs that this machine does not have, and list what the compiled code takes.

One row for each kernel, problem and compute capability: the configuration that is used there, its registers, its bytes
of stack and of shared memory, and the limit of shared memory of the card. The script fails if a configuration uses the
stack, more than 255 registers, or more shared memory than its bound or the card allow. No GPU is required;
`cuobjdump` and `nvdisasm` are part of Triton.

    python scripts/compile_triton.py                               # all problems, sm_80, sm_90, sm_100 and sm_120
    python scripts/compile_triton.py --capability 8.6 --only 31x31 # some of them
    python scripts/compile_triton.py --all                         # also configurations that are not the first choice
    python scripts/compile_triton.py --instructions                # also the inner loops, against the tensor cores
    python scripts/compile_triton.py --json table.json --markdown table.md

With `--instructions`, "share of peak" is an upper bound on paper, not a measurement: the cycles for which the products
of one step occupy the tensor cores, divided by the cycles in which a scheduler issues the instructions of that step,
one in each cycle. "Useful" is the share of these products that are terms of the result, except at the upper and lower
edges of planes; the rest are products with zeros. Neither accounts for waiting for memory.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError as error:
    sys.exit(f"Triton cannot be imported: {error}. Install it with: pip install triton")

from replk_probe.ops.methods import toeplitz_kernels
from replk_probe.ops.methods.interface import ConvProblem, Direction
from replk_probe.ops.methods.toeplitz_tiles import Tiling, shared_limit, tiling_of, tilings

CAPABILITIES = ((8, 0), (9, 0), (10, 0), (12, 0))
MOST_REGISTERS = 255
MOST_TENSOR_MEMORY = 512

# N, C, H, W, Kh, Kw: RepLKNet at 224 and 1024 px, SLaK, odd widths, small and very large kernels.
SIZES = (
    (64, 384, 32, 32, 31, 31),
    (64, 384, 64, 64, 31, 31),
    (64, 384, 64, 64, 13, 13),
    (64, 384, 16, 16, 7, 7),
    (1, 128, 256, 256, 31, 31),
    (1, 512, 64, 64, 27, 27),
    (64, 128, 56, 56, 51, 5),
    (8, 96, 57, 57, 21, 21),
    (8, 64, 200, 200, 61, 61),
    (2, 3, 5, 5, 3, 3),
)
DTYPES = ("bfloat16", "float32")
DIRECTIONS: tuple[Direction, ...] = ("forward", "grad_weight")

# Multiply-adds of the tensor cores in a cycle for each of the four schedulers of a multiprocessor: 16-bit numbers, and
# TF32. From the peaks in NVIDIA's descriptions of A100, H100, B200 and RTX PRO 6000.
RATES = {(8, 0): (256, 128), (9, 0): (512, 256), (10, 0): (1024, 512), (12, 0): (128, 64)}
MATRIX_INSTRUCTIONS = ("HMMA", "HGMMA", "UTCHMMA", "OMMA", "QMMA")


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel takes.

    Attributes:
        problem: The problem, as a label.
        capability: Compute capability, such as ``"9.0"``.
        tile: The sizes of the configuration, as a label.
        warps: Warps of a block.
        stages: Stages of the pipeline.
        registers: Registers of a thread.
        stack: Bytes of stack of a thread, of which spilled registers are a part.
        local: Bytes of local memory of a thread.
        shared: Bytes of shared memory of a block.
        bound: The bound by which the configuration was offered, in bytes.
        limit: The limit of the card, in bytes.
        tensor_memory: Columns of tensor memory of a block; 0 before compute capability 10.
        loop: Instructions of a step of the inner loop; only with disassembly.
        matrix_instructions: Those of them for the tensor cores.
        share_of_peak: Upper bound of the share of the peak of the tensor cores, from these instructions.
        useful: Share of the products that are terms of the result.
    """

    problem: str
    capability: str
    tile: str
    warps: int
    stages: int
    registers: int
    stack: int
    local: int
    shared: int
    bound: int
    limit: int
    tensor_memory: int
    loop: int | None = None
    matrix_instructions: int | None = None
    share_of_peak: float | None = None
    useful: float | None = None

    @property
    def faults(self) -> list[str]:
        """Limits that the kernel exceeds."""
        found = [f"{self.registers} registers"] if self.registers > MOST_REGISTERS else []
        found += [f"{self.stack} bytes of stack"] if self.stack else []
        found += [f"{self.local} bytes of local memory"] if self.local else []
        if self.shared > min(self.bound, self.limit):
            found.append(f"{self.shared} bytes of shared memory, bound {self.bound}, limit {self.limit}")
        if self.tensor_memory > MOST_TENSOR_MEMORY:
            found.append(f"{self.tensor_memory} columns of tensor memory")
        if self.loop == 0:
            found.append("no loop")
        return found


def compile_kernel(problem: ConvProblem, tiling: Tiling, capability: tuple[int, int]) -> Any:
    """The kernel of a problem as ``triton.compile`` returns it."""
    pointer = "*" + {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[problem.dtype]
    if problem.direction == "grad_weight":
        kernel, pointers = toeplitz_kernels.correlate, {"x": pointer, "g": pointer, "dw": "*fp32"}
        constants = dict(tiling.constants)
    else:
        kernel, pointers = toeplitz_kernels.convolve, dict.fromkeys(("x", "table", "bias", "y"), pointer)
        constants = {**tiling.constants, "BIAS": True, "RELU": True}
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        signature={name: pointers.get(name, "constexpr" if name in constants else "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options)


def examine(problem: ConvProblem, tiling: Tiling, capability: tuple[int, int], is_disassembled: bool) -> Compiled:
    """Compile a kernel and read what it takes from its machine code."""
    kernel = compile_kernel(problem, tiling, capability)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = run_tool("cuobjdump", "--dump-resource-usage", cubin)
        listing = run_tool("nvdisasm", "-c", cubin) if is_disassembled else None
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    c = tiling.constants
    columns = f"{c['GROUP']}x{c['BN']}"
    window = f"{c['BK']}x{c['CHUNKS']}"
    return Compiled(
        problem=str(problem),
        capability=".".join(map(str, capability)),
        tile=f"rows {c['BM']}, columns {columns}, window {window}, images {c['NB']}",
        warps=tiling.warps,
        stages=tiling.stages,
        registers=int(numbers["REG"]),
        stack=int(numbers["STACK"]),
        local=int(numbers["LOCAL"]),
        shared=int(kernel.metadata.shared),
        bound=tiling.shared_bytes,
        limit=shared_limit(capability),
        tensor_memory=int(getattr(kernel.metadata, "tmem_size", None) or 0),
        **({} if listing is None else inner_loop(listing, problem, tiling, capability)),
    )


def run_tool(name: str, *arguments: Any) -> str:
    """Output of one of the tools of the CUDA toolkit in Triton's package."""
    tool = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def inner_loop(listing: str, problem: ConvProblem, tiling: Tiling, capability: tuple[int, int]) -> dict[str, Any]:
    """Instructions of the loop with the most matrix instructions, and what share of the peak they allow."""
    loop, matrix = max(loops(listing), key=lambda found: (found[1], -found[0]), default=(0, 0))
    c = tiling.constants
    bm, columns, window = int(c["BM"]), int(c["GROUP"]) * int(c["BN"]), int(c["BK"]) * int(c["CHUNKS"])
    is_gradient = problem.direction == "grad_weight"
    products = bm * columns * (int(c["BK"]) if is_gradient else window) / tiling.warps
    rate = RATES.get(capability)
    kinds = 1 if problem.dtype == "float32" else 0
    groups = -(-problem.kh // int(c["GROUP"])) * int(c["GROUP"])
    useful = (
        useful_columns(problem, tiling) * problem.kh / (groups if is_gradient else problem.kh + int(c["GROUP"]) - 1)
    )
    return {
        "loop": loop,
        "matrix_instructions": matrix,
        "share_of_peak": min(1.0, products * (3 if kinds else 1) / rate[kinds] / loop) if rate and loop else None,
        "useful": useful,
    }


def loops(listing: str) -> Iterator[tuple[int, int]]:
    """Instructions and matrix instructions of every loop in a listing of ``nvdisasm``."""
    labels: dict[str, int] = {}
    operations: list[str] = []
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(operations)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);", line):
            operations.append(found[1].partition(".")[0])
            target = re.search(r"(\.L_\w+)", found[2])
            if operations[-1] == "BRA" and target and target[1] in labels:
                body = operations[labels[target[1]] :]
                # On sm_100 one thread issues the products, in a block that may stand after the loop.
                if "LDGSTS" in body:
                    yield len(body), sum(operation in MATRIX_INSTRUCTIONS for operation in body)


def useful_columns(problem: ConvProblem, tiling: Tiling) -> float:
    """Share of the pairs of a pixel in a window and a pixel of its tile that a kernel row connects."""
    c = tiling.constants
    width, bn, window = problem.w, int(c["BN"]), int(c["BK"]) * int(c["CHUNKS"])
    pairs = 0
    for w0 in range(0, width, bn):
        start = 0 if c.get("WHOLE") else w0 - int(c["LEAD"])
        inside = range(max(start, 0), min(start + window, width))
        for out in range(w0, min(w0 + bn, width)):
            pairs += sum(abs(pixel - out) <= problem.kw // 2 for pixel in inside)
    return pairs / (-(-width // bn) * bn * window)


def offered(problem: ConvProblem, capability: tuple[int, int], is_all: bool) -> list[Tiling]:
    """The configuration that a card uses for a problem, or all that it may use."""
    if is_all:
        return [one for one in tilings(problem, capability) if one.shared_bytes <= shared_limit(capability)]
    found = tiling_of(problem, capability)
    return [] if found is None else [found]


def markdown(rows: Sequence[Compiled], is_disassembled: bool) -> str:
    """The rows as a table."""
    heads = ["problem", "capability", "configuration", "warps", "stages", "registers", "stack", "shared", "limit"]
    heads += ["loop", "matrix", "share of peak", "useful"] if is_disassembled else []
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        cells: list[Any] = [row.problem, row.capability, row.tile, row.warps, row.stages, row.registers, row.stack]
        cells += [row.shared, row.limit]
        if is_disassembled:
            share = "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}"
            cells += [row.loop, row.matrix_instructions, share, f"{row.useful:.0%}"]
        lines.append([str(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def capability(text: str) -> tuple[int, int]:
    """``"9.0"`` as ``(9, 0)``."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text)
    if found is None or int(found[1]) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a compute capability of at least 8.0, such as 9.0")
    return int(found[1]), int(found[2])


def main() -> None:
    """Compile, list, and fail where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--capability",
        type=capability,
        action="append",
        metavar="X.Y",
        help="at least 8.0, such as 9.0; may be repeated",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only problems whose label contains this text")
    parser.add_argument("--all", action="store_true", help="all configurations that fit, not only the first")
    parser.add_argument("--instructions", action="store_true", help="count the instructions of the inner loops")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the rows to")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="file to write the table to")
    options = parser.parse_args()
    rows, seen = [], set()
    for direction in DIRECTIONS:
        for dtype in DTYPES:
            for sizes in SIZES:
                problem = ConvProblem(direction, dtype, False, *sizes)
                if options.only not in str(problem):
                    continue
                for card in options.capability or CAPABILITIES:
                    for tiling in offered(problem, card, options.all):
                        key = (direction, dtype, card, tiling.warps, tiling.stages, *tiling.constants.values())
                        if key in seen:
                            continue
                        seen.add(key)
                        rows.append(examine(problem, tiling, card, options.instructions))
                        print(markdown(rows[-1:], options.instructions).splitlines()[-1], flush=True)
    if not rows:
        sys.exit(f"No problem of the script has a label with {options.only!r}, or no configuration fits.")
    print(f"\n{markdown(rows, options.instructions)}")
    faults = [f"{row.problem} {row.capability}: {', '.join(row.faults)}" for row in rows if row.faults]
    if options.json:
        versions = {"triton": triton.__version__, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(rows, options.instructions), encoding="utf-8")
    if faults:
        sys.exit("\n".join(["These kernels exceed a limit.", *faults]))
    print(f"All {len(rows)} kernels are within the limits.")


if __name__ == "__main__":
    main()
