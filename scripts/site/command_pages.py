"""Hook of mkdocs: one page for each command, with all of its options."""

from __future__ import annotations

import html
import inspect
import re

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from replk_probe.cli.main import PROGRAM, cli


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    top = click.Context(cli, info_name=PROGRAM, max_content_width=100)
    rows = []
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        content = f"# {PROGRAM} {name}\n\n" + _command(command, click.Context(command, top, info_name=name))
        files.append(File.generated(config, f"commands/{name}.md", content=content))
        rows.append(f"| [`{PROGRAM} {name}`]({name}.md) | {command.get_short_help_str(200)} |")
    table = "\n".join(["| Command | |", "|---|---|", *rows])
    index = f"# Command line\n\n{_text(cli.help or '')}\n\n{table}\n\n## Options\n\n{_options(cli, top)}\n"
    files.append(File.generated(config, "commands/index.md", content=index))
    return files


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join(["", *command.collect_usage_pieces(context)])
    parts = [
        f"```text\n{context.command_path}{usage}\n```",
        _text(command.help or ""),
        f"## Options {{ #{context.info_name}-options }}\n\n{_options(command, context)}",
        _text(command.epilog or ""),
    ]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            assert one is not None
            title = f"## {context.command_path} {name}\n\n"
            parts.append(title + _command(one, click.Context(one, context, info_name=name)).replace("## O", "### O"))
    return "\n\n".join(part for part in parts if part)


def _options(command: click.Command, context: click.Context) -> str:
    entries = []
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None:
            identifier = f"{context.command_path} {max(option.opts, key=len)}".replace(PROGRAM, "")
            anchor = re.sub(r"\W+", "-", identifier).strip("-")
            entries.append(f'<dt id="{anchor}"><code>{html.escape(record[0])}</code></dt><dd>{_line(record[1])}</dd>')
    return f'<dl class="options">{"".join(entries)}</dl>'


def _text(text: str) -> str:
    """Help text of click as HTML; a paragraph that starts with a backspace keeps its lines."""
    shown = []
    for paragraph in inspect.cleandoc(text.partition("\f")[0]).split("\n\n"):
        if paragraph.startswith("\b\n"):
            shown.append(f"<pre>{html.escape(paragraph[2:])}</pre>")
        elif paragraph:
            shown.append(f"<p>{_line(paragraph)}</p>")
    return "\n\n".join(shown)


def _line(text: str) -> str:
    escaped = html.escape(" ".join(text.split()), quote=False)
    escaped = re.sub(rf"'({PROGRAM} [^']+)'", r"<code>\1</code>", escaped)
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r'<code class="option">\1</code>', escaped)
