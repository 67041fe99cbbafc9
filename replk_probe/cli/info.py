"""`replk-probe info`: the backend of large-kernel convolutions on this machine, and why it was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

_NAME = 17  # width of the column of names


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all details.")
def command(as_json: bool) -> None:
    """Show the CPU, the native library and the convolution backend.

    Environment variables for tests and bug reports: REPLK_PROBE_ISA (portable, avx2, avx512) and REPLK_PROBE_METHOD
    (direct, fft, blocked, blocked-pfa, reference, aten, torch-fft) force a choice. REPLK_PROBE_SPECTRA_MB limits the
    memory of prepared kernels. REPLK_PROBE_LIBRARY is the path of another library. An invalid value is reported with
    exit status 1; if the library cannot be loaded, torch's convolution (aten) is used, and torch's Fourier transforms
    (torch-fft) for the large kernels for which they are faster.
    """
    from replk_probe.ops import describe_machine

    found = describe_machine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        from replk_probe.report.text import terminal_layout, wrapped

        layout = terminal_layout()
        for name, text in _rows(found):
            for line in text.splitlines() or [""]:
                # Paths and compiler names are not split, so that they can be copied.
                click.echo("\n".join(wrapped(line, f"{name:<{_NAME}}", layout, break_words=False)))
                name = ""
    if found["error"]:
        # Not by an exception: the error is part of the table, which users paste into bug reports.
        click.get_current_context().exit(1)


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts; a row without a name continues the previous one."""
    from replk_probe.runtime.formatting import counted

    native = found["native"]
    yield "CPU", f"{found['cpu']}, {counted(found['cores'], 'core')}: {' '.join(found['cpu_features'])}"
    yield "torch", f"{found['torch']}, {counted(found['torch_threads'], 'thread')}"
    if native["loaded"]:
        yield "native library", native["path"]
        yield "", f"interface {native['abi_version']}, built by {native['compiler']}"
        best = "" if native["isa"] == native["best_isa"] else f" (best: {native['best_isa']})"
        yield "instruction set", f"{native['isa'] or 'none, see the error below'}{best}"
        yield "methods", ", ".join(native["methods"]) or "none"
        yield "threads", f"those of torch ({native['openmp']})" if native["openmp"] else "started by each call"
    else:
        yield "native library", f"not loaded. {native['load_error']}"
    for index, (dtype, backend) in enumerate(found["backends"].items()):
        yield "" if index else "backend", f"{dtype:<10}{backend}"
    if found["spectra_limit_bytes"] is not None:
        yield "prepared kernels", f"at most {found['spectra_limit_bytes'] >> 20} MB"
    for index, (name, value) in enumerate(found["environment"].items()):
        yield "" if index else "environment", f"{name}={value}"
    if found["error"]:
        yield "error", found["error"]
