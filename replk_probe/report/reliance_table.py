"""The tables of relative accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replk_probe.reliance.result import RelianceResult
from replk_probe.reliance.suppressions import CUES, METHODS
from replk_probe.runtime.formatting import percent

from .text import PLAIN, Layout, note_lines, notes_of, table, wrapped

_LEGEND = (
    "shape, texture, color: accuracy when the cue is suppressed, in % of the accuracy without a suppression, mean over "
    "methods and strengths, and 95 % interval. The lower it is, the more the model relies on the cue."
)


def reliance_table(results: Sequence[RelianceResult], layout: Layout = PLAIN) -> str:
    """Table of the profile of every model; for one model also of every method."""
    cues = [cue for cue in CUES if any(one.cues == cue for result in results for one in result.profile)]
    rows = [
        [result.run.model, percent(result.accuracy, 1, ""), *(_profile_cell(result, cue) for cue in cues)]
        for result in results
    ]
    lines = [line for result in results for line in wrapped(_detail(result), layout=layout)]
    lines += ["", *table(("model", "accuracy %", *cues), rows, layout)]
    if len(results) == 1:
        lines += ["", *table(("suppression", "relative accuracy %"), [*_methods(results[0])], layout, left=(
            "relative accuracy %",
        ))]  # fmt: skip
    lines += ["", *wrapped(_LEGEND, layout=layout)]
    return "\n".join(
        [*lines, *note_lines([(one.run.model, notes_of(one.run.weights, one.notes)) for one in results], layout)]
    )


def _detail(result: RelianceResult) -> str:
    return (
        f"{result.run.model}: {result.run.weights.label}; {result.images_text}, {len(result.classes)} classes "
        f"({result.label_space})"
    )


def _profile_cell(result: RelianceResult, cue: str) -> str:
    found = next((one for one in result.profile if one.cues == cue), None)
    if found is None:
        return "-"
    limits = "" if found.interval is None else f" [{', '.join(percent(end, 0, '') for end in found.interval)}]"
    return f"{percent(found.relative_accuracy, 1, '')}{limits}"


def _methods(result: RelianceResult) -> Iterator[tuple[str, str]]:
    """One row for each method with its strengths, and one for each combination of cues."""
    for name, method in METHODS.items():
        members = [one for one in result.single if one.method == name]
        values = [
            f"{one.strength:g}: {percent(one.relative_accuracy, 0, '')}"
            if method.strengths
            else percent(one.relative_accuracy, 0, "")
            for one in members
        ]
        if members:
            yield f"{name} ({method.cue})", "  ".join(values)
    for one in result.profile:
        if "+" in one.cues:
            yield one.cues.replace("+", " + "), _profile_cell(result, one.cues)
