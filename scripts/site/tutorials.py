"""Hook of mkdocs: the tutorials in ``docs/tutorials``, executed as notebooks, with their outputs.

All of them run in one process, one after the other, each with a new namespace and in a new folder: importing torch five
times would take longer than the tutorials. An error in a cell ends the build. While a page is being written,
``REPLK_PROBE_SITE_NOTEBOOKS=DIR`` takes the executed notebooks of an earlier build instead, where there are any.
"""

from __future__ import annotations

import base64
import html
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_core.utils import run_sync
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = "tutorials"
_SECONDS = 1800  # of a cell, on a machine that others use as well
# tqdm warns in notebooks without widgets, which have no place on a page.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore:IProgress not found", "OMP_NUM_THREADS": "1"}
_HIDDEN_STYLE = re.compile(r"<style scoped>.*?</style>", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page and a notebook for each tutorial."""
    sources = sorted(Path(config.docs_dir, FOLDER).glob("*.py"))
    notebooks = {path.stem: jupytext.read(path) for path in sources}
    if earlier := os.environ.get("REPLK_PROBE_SITE_NOTEBOOKS"):
        executed = {name: Path(earlier, f"{name}.ipynb") for name in notebooks}
        notebooks |= {name: nbformat.read(path, 4) for name, path in executed.items() if path.exists()}
    else:
        _execute(notebooks)
    for name, notebook in notebooks.items():
        content = nbformat.writes(notebook)
        files.append(File.generated(config, f"{FOLDER}/{name}.ipynb", content=content))
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=_page(name, notebook, files, config)))
    return files


def _execute(notebooks: dict[str, NotebookNode]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(nbformat.v4.new_notebook(), timeout=_SECONDS)
        client.create_kernel_manager()
        client.start_new_kernel(cwd=folder, env=os.environ | _ENVIRONMENT)
        client.start_new_kernel_client()
        try:
            for notebook in notebooks.values():
                client.nb = nbformat.v4.new_notebook(cells=[_new_namespace(folder), *notebook.cells])
                client.execute(reset_kc=False, cleanup_kc=False)
        finally:
            client.kc.stop_channels()
            run_sync(client.km.shutdown_kernel)(now=True)


def _new_namespace(folder: str) -> NotebookNode:
    """A cell that removes the names of the tutorial before, and changes to a new folder."""
    return nbformat.v4.new_code_cell(
        f"__import__('os').chdir(__import__('tempfile').mkdtemp(dir={folder!r}))\n"
        "for _name in {*get_ipython().user_ns} - {*get_ipython().user_ns_hidden, '_name'}:\n"
        "    del get_ipython().user_ns[_name]"
    )


def _page(name: str, notebook: NotebookNode, files: Files, config: MkDocsConfig) -> str:
    parts, n_figures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                n_figures += 1
                figure = f"{name}_{n_figures}.png"
                files.append(File.generated(config, f"{FOLDER}/{figure}", content=base64.b64decode(data["image/png"])))
                parts.append(f"![Output of the code above]({figure}){{ .output }}")
            elif "text/html" in data:
                parts.append(_html(data["text/html"]))
            else:
                parts.append(_text(output, data))
    note = f"[Download this tutorial as a notebook, with its outputs]({name}.ipynb){{ download }}"
    title, _, text = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n{note}\n{text}\n"


def _html(shown: str) -> str:
    """HTML on lines of its own, as a block that Markdown does not touch."""
    lines = [line.strip() for line in _HIDDEN_STYLE.sub("", shown).splitlines() if line.strip()]
    return f'<div class="output">{"".join(lines)}</div>'


def _text(output: NotebookNode, data: dict[str, Any]) -> str:
    text = output.text if output.output_type == "stream" else data.get("text/plain", "")
    return f'<div class="output"><pre>{html.escape(text.rstrip())}</pre></div>'.replace("\n", "&#10;")
