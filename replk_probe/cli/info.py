"""`replk-probe info`: the backend of large-kernel convolutions on this machine, and why it was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

_NAME = 17  # width of the column of names
_MOST_CHOICES = 20


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all details.")
def command(as_json: bool) -> None:
    """Show the CPU, the native library, the convolution backend, the GPU and the stored choices of methods.

    Environment variables for tests and bug reports: REPLK_PROBE_ISA (portable, avx2, avx512, neon) and
    REPLK_PROBE_METHOD (direct, fft, blocked, blocked-pfa, reference, aten, torch-fft) force a choice.
    REPLK_PROBE_SPECTRA_MB limits the memory of prepared kernels. REPLK_PROBE_LIBRARY is the path of another library. An
    invalid value is reported with exit status 1; if the library cannot be loaded, torch's convolution (aten) is used,
    and torch's Fourier transforms (torch-fft) for the large kernels for which they are faster.
    """
    from replk_probe.ops import describe_machine, describe_tuning

    found = describe_machine() | {"tuning": describe_tuning()}
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
    yield from _tuning_rows(found["tuning"])
    for index, (name, value) in enumerate(found["environment"].items()):
        yield "" if index else "environment", f"{name}={value}"
    if found["error"]:
        yield "error", found["error"]


def _tuning_rows(tuning: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The GPU, what is missing to use it, and the methods that were chosen by measurement."""
    from replk_probe.runtime.formatting import counted

    versions = [f"{name} {tuning[key]}" for name, key in (("cuDNN", "cudnn"), ("Triton", "triton")) if tuning[key]]
    yield "GPU", f"{tuning['gpu'] or 'none'}, {', '.join(versions)}"
    if tuning["missing"]:
        yield "", f"not available: {'; '.join(tuning['missing'])}"
    chosen, unreadable = tuning["choices"], tuning["unreadable"]
    if not chosen and not unreadable:
        return
    yield "tuning", f"{counted(len(chosen), 'choice')} in {tuning['folder']}"
    if unreadable:
        yield "", f"{counted(unreadable, 'stored file')} cannot be read; these choices are measured again"
    device = None
    for one in chosen[:_MOST_CHOICES]:
        if one["environment"].get("device") != device:
            device = one["environment"].get("device")
            yield "", f"on {device}:"
        gain = "" if one["gain"] is None else f", {one['gain']:.2f} times the speed of {one['default']}"
        gain = "" if one["method"] == one["default"] else gain
        yield "", f"{one['problem']}: {one['method']}{gain} ({one['reason']}; {one['time'][:10]})"
        refused = "; ".join(f"{name} ({reason})" for name, reason in one["refused"].items())
        if refused:
            yield "", f"  not used: {refused}"
    if len(chosen) > _MOST_CHOICES:
        yield "", f"and {len(chosen) - _MOST_CHOICES} more, see --json"
