"""Rebuild the figures of this repository by running the command in each figures/NAME/command.txt.

    python scripts/make_figures.py              # all, except those below
    python scripts/make_figures.py erf-trained  # some
    python scripts/make_figures.py --list       # what each command does here

A folder has figure.png (or table.md), data.csv and command.txt, whose lines that start with # say how long the command
takes. Commands may contain environment variables ($REPLK_PROBE_TEST_DATA). Without names, figures are kept that need
real data that is not here, that scripts make, which may take hours, and that show measured times, which differ between
runs; the last line of the output names them. All others have the same bytes after every run with the same software and
number of threads.

To add a figure, add a folder with its command; additional sheets are replaced only where they exist.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

FIGURES = Path(__file__).resolve().parent.parent / "figures"
_WIDTH, _HEIGHT = 1000, 2000  # pixels
_LARGEST = 450_000  # bytes; larger figures, such as noise, are reduced to 256 colors
_EXTRAS = ("contact_sheet.png", "overview.png", "suppressions.png")


def read_command(folder: Path) -> tuple[str, str]:
    """The command of a figure, and the remark about it."""
    lines = (folder / "command.txt").read_text(encoding="utf-8").strip().splitlines()
    remarks = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    (command,) = [line for line in lines if not line.startswith("#")]
    if shlex.split(command)[0] not in ("replk-probe", "python"):
        raise SystemExit(f"{folder.name}: the command must start with replk-probe or python, but is {command!r}.")
    return command, " ".join(remarks)


def reason_to_keep(folder: Path, *, named: bool) -> str | None:
    """Why a figure is not rebuilt, or None. Figures that are named are rebuilt if their data is here."""
    command, _ = read_command(folder)
    if "$" in os.path.expandvars(command):
        return "an environment variable of its command is not set"
    if named:
        return None
    program, action, *_ = shlex.split(command)
    if program == "python":
        return "it is made by a script, which may take long"
    return "it measures times, which differ from run to run" if action == "bench" else None


def rebuild(folder: Path) -> None:
    """Run the folder's command and keep its output: figure.png, data.csv and additional sheets."""
    command = os.path.expandvars(read_command(folder)[0])
    program, *arguments = shlex.split(command)
    if program == "python":
        subprocess.run([sys.executable, *arguments], check=True, cwd=FIGURES.parent)
        return
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, "-m", "replk_probe", *arguments, "--output", work], check=True)
        # For several models the command writes a comparison, for a single one files named after the command.
        stem = "comparison" if (Path(work) / "comparison.png").exists() else arguments[0].replace("-", "_")
        shrink(Path(work) / f"{stem}.png", folder / "figure.png")
        shutil.copyfile(Path(work) / f"{stem}.csv", folder / "data.csv")
        for extra in _EXTRAS:
            # Only existing sheets are replaced, since those of published stimuli must not be in the repository.
            if (Path(work) / extra).exists() and (folder / extra).exists():
                shrink(Path(work) / extra, folder / extra)


def shrink(source: Path, target: Path) -> None:
    """Write a copy of a figure that is small enough for the repository."""
    with Image.open(source) as image:
        image = image.convert("RGB")
        image.thumbnail((_WIDTH, _HEIGHT))
        image.save(target, optimize=True)
        if target.stat().st_size > _LARGEST:
            # This method keeps rare colors, such as the light end of a color bar.
            colors = Image.Quantize.MAXCOVERAGE
            image.quantize(256, method=colors, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Rebuild the figures named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.parent.name for path in FIGURES.glob("*/command.txt"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Figures to rebuild: {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="Only print what each command does.")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(known)}")
    kept = []
    for name in args.names or known:
        command, remark = read_command(FIGURES / name)
        reason = reason_to_keep(FIGURES / name, named=bool(args.names))
        print(f"{name}: {command}{f'  ({remark})' if remark else ''}", flush=True)
        if reason is not None:
            kept.append(f"{name} ({reason})")
        elif not args.list:
            start = time.monotonic()
            before = _contents(FIGURES / name)
            rebuild(FIGURES / name)
            changed = [file for file, content in _contents(FIGURES / name).items() if content != before.get(file)]
            what = f"rebuilt, {', '.join(changed)} changed" if changed else "rebuilt, no byte changed"
            print(f"{name}: {what} ({time.monotonic() - start:.0f} s)", flush=True)
    if kept:
        print(f"Kept as {'it is' if len(kept) == 1 else 'they are'}: {'; '.join(kept)}")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
