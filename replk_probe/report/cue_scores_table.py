"""The table of the scores of images with one cue each."""

from __future__ import annotations

from collections.abc import Sequence

from replk_probe.runtime.formatting import dimensions
from replk_probe.runtime.provenance import RunInfo
from replk_probe.shape_bias.cue_scores import PUBLISHED_NOTE, CueScore, published_scores
from replk_probe.shape_bias.result import ShapeBiasResult

from .text import PLAIN, Layout, decimals, note_lines, notes_of, table, wrapped


def cue_scores_table(results: Sequence[ShapeBiasResult], layout: Layout = PLAIN) -> str:
    """Table of the mean reciprocal ranks of several models, and for one model of each label.

    Published scores of the same set follow.

    Args:
        results: Results with scores, of the same set.
        layout: Width and colors.
    """
    scored = [(result.run, result.scores) for result in results if isinstance(result.run, RunInfo) and result.scores]
    cues = list(dict.fromkeys(cue for _, scores in scored for cue in scores.by_cue))
    lines: list[str] = []
    for run, scores in scored:
        lines += wrapped(f"{run.model}: {run.weights.label}", "", layout)
        detail = f"{len(scores.names)} images of {run.image_source}; {dimensions(run.input_size)} px; "
        lines += wrapped(f"{detail}{run.precision} on {run.device}", "  ", layout)
    rows = []
    for run, scores in scored:
        random = " (RANDOM)" if run.weights.is_random else ""
        cells = [text for cue in cues for text in _cells(scores.by_cue.get(cue))]
        rows.append([f"{run.model}{random}", *cells, decimals(scores.relative)])
    published = published_scores(scored[0][0].image_source)
    for name, known in published.items():
        cells = [text for cue in cues for text in (decimals(known[cue], 4) if cue in known else "-", "-", "-")]
        rows.append([f"{name}, published", *cells, "-"])
    share = f"{cues[0]} / sum"
    heads = [text for cue in cues for text in (cue, f"95 % ({cue})", f"top-1 % ({cue})")]
    optional = [*(f"top-1 % ({cue})" for cue in cues), share]
    blocks = [lines, table(["mean reciprocal rank", *heads, share], rows, layout, optional=optional)]
    if published:
        blocks[-1] += wrapped(PUBLISHED_NOTE, "", layout)
    if len(scored) == 1:
        for cue, some in scored[0][1].by_label.items():
            ordered = sorted(some.items(), key=lambda item: -item[1].mean_reciprocal_rank)
            texts = (f"{label} {one.mean_reciprocal_rank:.3f}" for label, one in ordered)
            blocks.append(wrapped(f"{cue}: {', '.join(texts)}", "", layout))
    names = [(run.model, notes_of(run.weights, result.notes)) for (run, _), result in zip(scored, results, strict=True)]
    blocks.append(note_lines(names, layout))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _cells(score: CueScore | None) -> tuple[str, str, str]:
    if score is None:
        return "-", "-", "-"
    low, high = score.ci95
    return decimals(score.mean_reciprocal_rank, 4), f"{low:.4f} to {high:.4f}", f"{100 * score.top1:.1f}"
