"""The page: one HTML file without any request, whose scripts and styles are permitted by their hashes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from replk_probe import __version__
from replk_probe.collection import Collection, collected
from replk_probe.plot_style import COLORS
from replk_probe.results import Result
from replk_probe.runtime.atomic_files import atomic_write_text
from replk_probe.runtime.escaping import printable

from . import definitions, kernel_section, reliance_section, shape_bias_section
from .attribution_section import attribution_section
from .behaviour_section import behaviour_section
from .bench_section import bench_section
from .cue_scores_section import cue_scores_sections
from .erf_section import erf_section
from .kernel_section import kernel_section as kernel_models
from .map_images import LARGEST, color_stops
from .provenance_section import origins_of
from .reliance_section import reliance_section as reliance_of_models
from .shape_bias_section import shape_bias_sections
from .summary import summary_of
from .sweep_section import sweep_section

DEFAULT_TITLE = "Results of replk-probe"
# The colors of all figures, lighter for a dark background.
_DARK_COLORS = ("#ff8a5c", "#5db4f0", "#3fcf9f", "#e9a3c9", "#f2b63c", "#b794d6", "#9ad4f5")


def write_report(
    results: Collection | Iterable[Result], path: str | Path, *, title: str = DEFAULT_TITLE, description: str = ""
) -> None:
    """Write :func:`render_report` to a file, completely or not at all.

    Args:
        results: Results, as in :func:`render_report`.
        path: File to write, which is replaced if it exists; its folder is created.
        title: Title of the page.
        description: A paragraph below the title.

    Raises:
        InvalidInputError: The file cannot be written, or an object is not a result of this package.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.collection import find_results
        >>> from replk_probe.erf import import_erf
        >>> from replk_probe.html_report import write_report
        >>> import_erf(np.ones((32, 32)), name="uniform").save("results/uniform")
        >>> write_report(find_results("results"), "report.html", title="One map")
    """
    atomic_write_text(path, render_report(results, title=title, description=description))


def render_report(results: Collection | Iterable[Result], *, title: str = DEFAULT_TITLE, description: str = "") -> str:
    """The page with all numbers, maps and charts of results.

    The page is one file that requests nothing; it works without scripts as well. It depends only on the results, so
    that equal results give equal bytes.

    Args:
        results: What :func:`~replk_probe.collection.find_results` found, or results of any analyzers.
        title: Title of the page.
        description: A paragraph below the title.

    Returns:
        HTML. Maps with more than 256 pixels in a direction are drawn as means over squares of pixels; numbers and
        windows are those of the results.

    Raises:
        InvalidInputError: An object is not a result of this package.

    Examples:
        >>> import numpy as np
        >>> from replk_probe.erf import import_erf
        >>> from replk_probe.html_report import render_report
        >>> page = render_report([import_erf(np.ones((32, 32)), name="uniform")], title="One map")
        >>> "<title>One map</title>" in page
        True
    """
    collection = results if isinstance(results, Collection) else collected(results)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["word_parts"] = _word_parts
    colors = list(zip(COLORS, _DARK_COLORS, strict=True))
    style = environment.get_template("style.css").render(colors=colors)
    script = environment.get_template("script.js").render()
    summary = summary_of(collection)
    erf = erf_section(collection.erf, summary.erf_styles)
    return environment.get_template("report.html").render(
        title=title,
        description=description,
        version=__version__,
        policy=policy_of(style, script),
        style=style,
        script=script,
        summary=summary,
        erf=erf,
        values={} if erf is None else {str(index): card.values for index, card in enumerate(erf.cards)},
        stops=color_stops(),
        largest=LARGEST,
        stimuli=shape_bias_sections(collection.shape_bias, summary.bias_styles),
        bias_head=shape_bias_section.HEAD,
        behaviour=behaviour_section(collection.behaviour, summary.behaviour_styles),
        scored_sets=cue_scores_sections(collection.shape_bias),
        kernels=kernel_models(collection.kernels),
        kernel_head=kernel_section.HEAD,
        attributions=attribution_section(collection.attribution),
        reliance=reliance_of_models(collection.reliance, summary.reliance_styles),
        reliance_head=reliance_section.HEAD,
        bench=bench_section(collection.bench),
        sweeps=sweep_section(collection.sweeps),
        origins=origins_of(collection),
        unreadable=collection.unreadable,
        definitions=definitions,
        n_colors=len(colors),
    )


def policy_of(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this style sheet and this script, and images inside of it."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _printable(value: object) -> object:
    """A value of a template with invisible characters escaped; markup is unchanged."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _word_parts(name: str) -> list[str]:
    """The parts of a name between which a line may be broken."""
    return re.findall(r"[^_./:-]*[_./:-]+|[^_./:-]+", name)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
