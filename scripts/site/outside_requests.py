"""Hook of mkdocs: no page of the site loads anything from another server."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger

_LOADED = re.compile(
    r"<(?:script|img|iframe|source|embed|video|audio|object|use)\b[^>]*?\b(?:src|srcset|data|href)=[\"']?(?:https?:)?//[^\"'>\s]+"
    r"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*?\bhref=[\"']?(?:https?:)?//[^\"'>\s]+",
    re.IGNORECASE,
)
_IMPORTED = re.compile(r"(?:url\(|@import\s)[\"'\s]*(?:https?:)?//[^)\"'\s]+")
_log = get_plugin_logger("outside_requests")


def on_post_build(config: MkDocsConfig) -> None:
    """Warn about each address, which ends a strict build."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        pattern = {".html": _LOADED, ".css": _IMPORTED}.get(path.suffix)
        for found in pattern.findall(path.read_text(encoding="utf-8")) if pattern else ():
            _log.warning("%s loads from another server: %s", path.relative_to(config.site_dir), found[-200:])
