"""Rebuild the figures of this repository by running the command in each figures/NAME/command.txt.

    python scripts/make_figures.py              # all
    python scripts/make_figures.py erf-trained  # some

Commands may contain environment variables ($REPLK_PROBE_TEST_DATA). Figures whose variables are not set and those made
by scripts (python scripts/...) are skipped. To add a figure, add a folder with its command; additional sheets are
replaced only where they exist.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FIGURES = Path(__file__).resolve().parent.parent / "figures"
_WIDTH, _HEIGHT = 1000, 2000  # pixels
_LARGEST = 450_000  # bytes; larger figures, such as noise, are reduced to 256 colors
_EXTRAS = ("contact_sheet.png", "overview.png")


def rebuild(folder: Path) -> None:
    """Run the folder's command and keep its output: figure.png, data.csv and additional sheets."""
    command = os.path.expandvars((folder / "command.txt").read_text(encoding="utf-8").strip())
    if "$" in command:
        print(f"{folder.name}: skipped, because an environment variable of its command is not set")
        return
    with tempfile.TemporaryDirectory() as work:
        program, *arguments = shlex.split(command)
        if program == "python":
            print(f"{folder.name}: skipped, because it takes long; run: {command}")
            return
        if program != "replk-probe":
            raise SystemExit(f"{folder.name}: the command must start with replk-probe, not {program}.")
        subprocess.run([sys.executable, "-m", "replk_probe", *arguments, "--output", work], check=True)
        # For several models the command writes a comparison, for a single one files named after the command.
        stem = "comparison" if (Path(work) / "comparison.png").exists() else arguments[0].replace("-", "_")
        shrink(Path(work) / f"{stem}.png", folder / "figure.png")
        shutil.copyfile(Path(work) / f"{stem}.csv", folder / "data.csv")
        for extra in _EXTRAS:
            # Only existing sheets are replaced, since those of published stimuli must not be in the repository.
            if (Path(work) / extra).exists() and (folder / extra).exists():
                shrink(Path(work) / extra, folder / extra)
    print(f"{folder.name}: rebuilt")


def shrink(source: Path, target: Path) -> None:
    """Write a copy of a figure that is small enough for the repository."""
    with Image.open(source) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDTH, _HEIGHT))
        image.save(target, optimize=True)
        if target.stat().st_size > _LARGEST:
            image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Rebuild the figures named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.parent.name for path in FIGURES.glob("*/command.txt"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"Figures to rebuild, by default all: {', '.join(known)}"
    )
    args = parser.parse_args()
    for name in args.names or known:
        if name not in known:
            parser.error(f"unknown figure {name!r}; choose from {', '.join(known)}")
        rebuild(FIGURES / name)


if __name__ == "__main__":
    main()
