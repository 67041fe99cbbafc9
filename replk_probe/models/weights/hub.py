"""Files of the Hugging Face hub, through its own client: its cache, resumed downloads, mirrors and tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replk_probe.errors import WeightsError
from replk_probe.runtime.atomic_files import sha256_of
from replk_probe.runtime.download import check_digest, check_reachable

_SHA256 = re.compile("[0-9a-f]{64}")


def fetch_from_hub(
    repository: str, files: Sequence[str], timeout: float, *, revision: str | None = None, force: bool = False
) -> Path:
    """The first of ``files`` that is in the client's cache, or else in the repository.

    The client of the hub resumes interrupted downloads. It reads ``HF_HOME`` for its cache and ``HF_TOKEN``; the hub is
    at ``HF_ENDPOINT`` if that is set.

    Args:
        repository: Name of the repository, ``OWNER/NAME``.
        files: Names of files, in the order in which they are tried.
        timeout: Seconds to wait for the hub to answer.
        revision: Branch, tag or commit; None for the main branch.
        force: Whether to download the file again even if it is cached.

    Raises:
        WeightsError: The hub cannot be reached, or has none of the files.
    """
    import huggingface_hub

    endpoint = _endpoint()
    options: dict[str, Any] = {"revision": revision, "endpoint": endpoint}
    for file in () if force else files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, **options, local_files_only=True))
        except Exception:
            # The client reports a file missing from the cache by one of several errors.
            continue
    # The client's own timeouts and retries are much longer.
    check_reachable(endpoint, timeout)
    failure: Exception | None = None
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, **options, force_download=force))
        except Exception as error:
            # Errors come from three underlying libraries; the last one is reported.
            failure = error
    reason = " ".join(str(failure).split())[:160].rstrip(".")
    raise WeightsError(
        f"Cannot fetch {repository} from the Hugging Face hub. {reason}. Pass a path, or use random."
    ) from failure


def fetch_verified(repository: str, file: str, sha256: str | None, timeout: float, *, force: bool = False) -> Path:
    """A file of the hub with a known digest; a cached file with another one is downloaded again.

    Args:
        repository: Name of the repository, ``OWNER/NAME``.
        file: Name of the file.
        sha256: Its SHA-256, or None for the one that the hub states.
        timeout: Seconds to wait for the hub to answer.
        force: Whether to download the file again even if it is cached.

    Raises:
        WeightsError: The hub cannot be reached, has no such file or states no digest of it, or the digest differs.
    """
    path = fetch_from_hub(repository, (file,), timeout, force=force)
    expected = sha256 or _stated_digest(path, repository, file, timeout)
    if not force and sha256_of(path) != expected:
        path = fetch_from_hub(repository, (file,), timeout, force=True)
    check_digest(path, file, expected)
    return path


def cached_hub_file(repository: str, file: str) -> Path | None:
    """The file in the client's cache, or None; its digest is not checked."""
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _stated_digest(path: Path, repository: str, file: str, timeout: float) -> str:
    """The SHA-256 that the hub states for a large file: in its answer, and then as the file's name in the cache."""
    stated = path.resolve().name
    if not _SHA256.fullmatch(stated):  # systems without symbolic links
        import huggingface_hub

        endpoint = _endpoint()
        url = huggingface_hub.hf_hub_url(repository, file, endpoint=endpoint)
        try:
            stated = huggingface_hub.get_hf_file_metadata(url, timeout=timeout).etag or ""
        except Exception as error:
            reason = " ".join(str(error).split())[:160].rstrip(".")
            raise WeightsError(f"Cannot verify {file} of {repository}. {reason}. Try again later.") from error
        if not _SHA256.fullmatch(stated):
            raise WeightsError(
                f"Cannot verify {file} of {repository}. The hub states no SHA-256 of it. Download it from "
                f"{endpoint}/{repository}, compare it with what its authors state, and pass its path."
            )
    return stated
