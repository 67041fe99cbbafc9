"""`replk-probe info`: what computes the large-kernel convolutions on this machine, and why not something faster."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click

_NAME, _WIDTH = 17, 100


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything in full.")
def command(as_json: bool) -> None:
    """Show what computes the large-kernel convolutions here: CPU, native library, methods, backend.

    The environment may force a choice, for tests and bug reports: REPLK_PROBE_ISA (portable, avx2, avx512) and
    REPLK_PROBE_METHOD (direct, fft, blocked, blocked-pfa, reference, aten). REPLK_PROBE_SPECTRA_MB bounds the memory of
    prepared kernels, REPLK_PROBE_LIBRARY names another library. A value that does not exist is told, with exit status
    1; a library that cannot be used is told, and torch's own convolution serves.
    """
    from replk_probe.ops import describe_machine

    found = describe_machine()
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))
    if found["error"]:
        # Not by an exception: the table says it, and is what is pasted into reports.
        click.get_current_context().exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    native = found["native"]
    yield from _row("CPU", f"{found['cpu']}, {_count(found['cores'], 'core')}: {' '.join(found['cpu_features'])}")
    yield from _row("torch", f"{found['torch']}, {_count(found['torch_threads'], 'thread')}")
    if native["loaded"]:
        yield from _row("native library", native["path"])
        yield from _row("", f"interface {native['abi_version']}, built by {native['compiler']}")
        best = "" if native["isa"] == native["best_isa"] else f" (there is {native['best_isa']})"
        yield from _row("instruction set", f"{native['isa'] or 'none, see the error below'}{best}")
        yield from _row("methods", ", ".join(native["methods"]) or "none")
        yield from _row(
            "threads", f"torch's own, by {native['openmp']}" if native["openmp"] else "started by each call"
        )
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
    """A name and its text, wrapped under itself; paths and compilers' lines stay in one piece."""
    label = name
    for line in text.splitlines() or [""]:
        for part in textwrap.wrap(line, _WIDTH - _NAME, break_long_words=False, break_on_hyphens=False) or [""]:
            yield f"{label:<{_NAME}}{part}".rstrip()
            label = ""
