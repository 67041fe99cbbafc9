"""`replk-probe info`: the backend of large-kernel convolutions on this machine, and why it was chosen."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from ._output import show

_NAME, _WIDTH = 17, 100


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all details.")
def command(as_json: bool) -> None:
    """Show the CPU, the native library and the convolution backend.

    Environment variables for tests and bug reports: REPLK_PROBE_ISA (portable, avx2, avx512) and REPLK_PROBE_METHOD
    (direct, fft, blocked, blocked-pfa, reference, aten) force a choice. REPLK_PROBE_SPECTRA_MB limits the memory of
    prepared kernels. REPLK_PROBE_LIBRARY is the path of another library. An invalid value is reported with exit status
    1; if the library cannot be loaded, torch's convolution is used.
    """
    from replk_probe.ops import describe_machine

    found = describe_machine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(*_lines(found))
    if found["error"]:
        # Not by an exception: the error is part of the table, which users paste into bug reports.
        click.get_current_context().exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    native = found["native"]
    yield from _row("CPU", f"{found['cpu']}, {_count(found['cores'], 'core')}: {' '.join(found['cpu_features'])}")
    yield from _row("torch", f"{found['torch']}, {_count(found['torch_threads'], 'thread')}")
    if native["loaded"]:
        yield from _row("native library", native["path"])
        yield from _row("", f"interface {native['abi_version']}, built by {native['compiler']}")
        best = "" if native["isa"] == native["best_isa"] else f" (best: {native['best_isa']})"
        yield from _row("instruction set", f"{native['isa'] or 'none, see the error below'}{best}")
        yield from _row("methods", ", ".join(native["methods"]) or "none")
        yield from _row("threads", f"torch's own ({native['openmp']})" if native["openmp"] else "started by each call")
    else:
        yield from _row("native library", f"not loaded. {native['load_error']}")
    for index, (dtype, backend) in enumerate(found["backends"].items()):
        yield from _row("" if index else "backend", f"{dtype:<10}{backend}")
    if found["spectra_limit_bytes"] is not None:
        yield from _row("prepared kernels", f"at most {found['spectra_limit_bytes'] >> 20} MB")
    for index, (name, value) in enumerate(found["environment"].items()):
        yield from _row("" if index else "environment", f"{name}={value}")
    if found["error"]:
        yield from _row("error", found["error"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _row(name: str, text: str) -> Iterator[str]:
    """A name and its text, wrapped with a hanging indent; paths and compiler names are not split."""
    label = name
    for line in text.splitlines() or [""]:
        for part in textwrap.wrap(line, _WIDTH - _NAME, break_long_words=False, break_on_hyphens=False) or [""]:
            yield f"{label:<{_NAME}}{part}".rstrip()
            label = ""
