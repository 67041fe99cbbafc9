"""Write the manifest of the cue-conflict stimuli: `python scripts/make_manifest.py DIR`; DIR contains airplane/ etc.

Each line has the SHA-256 of a file, the SHA-256 of its decoded RGB bytes, and its path. The manifest is compressed.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

from replk_probe.images import list_images
from replk_probe.runtime.atomic_files import atomic_write_bytes, sha256_of
from replk_probe.shape_bias.stimuli.manifest import MANIFEST_FILE, PUBLISHED_SIZE, pixel_digest
from replk_probe.shape_bias.stimuli.names import parse_stimulus_name

OUTPUT = Path(__file__).resolve().parent.parent / "replk_probe" / "shape_bias" / "stimuli" / MANIFEST_FILE


def line(folder: Path, name: str) -> str:
    """The manifest line of one file; the script exits if the file differs from the published set."""
    path = folder / name
    pixels, size = pixel_digest(path)
    if size != PUBLISHED_SIZE or name != f"{parse_stimulus_name(path.name).shape}/{path.name}":
        raise SystemExit(f"{path} is not a published stimulus: {size}, {name}")
    return f"{sha256_of(path)}  {pixels}  {name}\n"


def main() -> None:
    """Write the manifest and print its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Folder of the stimuli.")
    folder = parser.parse_args().folder
    lines = [line(folder, name) for name in list_images(folder, "DIR")]
    # Without a time stamp, so that the same stimuli give the same file.
    atomic_write_bytes(OUTPUT, gzip.compress("".join(lines).encode("ascii"), mtime=0))
    print(f"{OUTPUT}: {len(lines)} files, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
