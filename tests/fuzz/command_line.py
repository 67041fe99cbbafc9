"""Command lines with hostile paths, values and standard streams, each in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
# Seconds that one command may take, on a busy machine.
LONGEST = 120
# Commands after which importing torch once is faster than in each of them.
WARM_AFTER = 20

# Each line is a command, which runs in a fork of this process. After some commands it imports what most of them need.
_SERVER = """
import gc, io, json, os, sys, signal
from replk_probe.cli import main as program
warm_after = int(sys.argv[1])
for count, line in enumerate(sys.stdin):
    task = json.loads(line)
    if count == warm_after:
        # Imports are deferred as in the program, so that a fork does not have more to clear away at its end.
        from replk_probe.runtime.deferred_imports import defer_imports
        defer_imports()
        import matplotlib.pyplot, pandas, torch, rich.table
        import replk_probe.erf.plot, replk_probe.kernels.plot, replk_probe.shape_bias.plot
        import replk_probe.erf.plan, replk_probe.kernels.measure, replk_probe.shape_bias.plan
        import replk_probe.attribution.plan, replk_probe.attribution.plot, replk_probe.reliance.plan
        import torch._dynamo, replk_probe.models.factory, replk_probe.models.summary, replk_probe.reliance.plot_all
        gc.freeze()
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
signal.alarm(task["seconds"])
os.chdir(task["folder"])
os.environ.update(task["environment"])
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for number, name in ((1, "stdout"), (2, "stderr")):
    os.close(number)
    stream = None
    if task[name] == "|":
        reader, writer = os.pipe()
        os.close(reader)
        if writer != number:
            os.dup2(writer, number)
            os.close(writer)
    elif task[name]:
        descriptor = os.open(task[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
    if task[name]:
        errors = "strict" if number == 1 else "backslashreplace"
        stream = io.TextIOWrapper(open(number, "wb"), "utf-8", errors, line_buffering=number == 2)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
sys.argv = ["replk-probe", *task["arguments"]]
program.main()
"""

FULL, CLOSED, PIPE = "/dev/full", "", "|"


@dataclasses.dataclass(frozen=True)
class Done:
    """The exit status of a command, negative for a signal, and its output."""

    status: int
    out: str
    err: str


class Program:
    """Runs commands in forks of one process.

    Args:
        warm_after: Number of commands after which the process imports what most of them need.
    """

    def __init__(self, warm_after: int = WARM_AFTER) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(warm_after)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        atexit.register(self.close)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        stdout: str | None = None,
        stderr: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command in ``folder``.

        Args:
            arguments: Arguments of ``replk-probe``.
            folder: Current folder of the command; its output is stored in the parent folder.
            stdout: ``FULL``, ``CLOSED`` or ``PIPE`` (whose reader has gone), or None to capture the output.
            stderr: As ``stdout``.
            environment: Additional environment variables.
        """
        out, err = folder.with_name(f"{folder.name}.out"), folder.with_name(f"{folder.name}.err")
        task = {
            "arguments": [*arguments],
            "folder": str(folder),
            "stdout": str(out) if stdout is None else stdout,
            "stderr": str(err) if stderr is None else stderr,
            "environment": {"REPLK_PROBE_CACHE": str(folder.with_name("cache")), **(environment or {})},
            "seconds": LONGEST,
        }
        for path in (out, err):
            path.unlink(missing_ok=True)
        ask, answer = self._pipes()
        ask.write(json.dumps(task) + "\n")
        ask.flush()
        status = int(answer.readline())
        texts = [path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err)]
        return Done(status, *texts)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End the process."""
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait(LONGEST)


@functools.cache
def program() -> Program:
    """The process that all cases share."""
    return Program()


MODEL = "replknet_micro_k13"
PATHS = (
    "", ".", "..", "/", "~nouser/x", "~", "x" * 300, "y/" * 2100, "file", "file/below", "folder", "new", "new/er",
    "/dev/null", "/dev/full", "/proc/x", "/sys/kernel/x", "loop", "dangling", "a\nb", "a\x1b[2J\u202eb", "-", "--",
    "unreadable.json", "weights.safetensors", "image.png", "fifo", "ü" * 120, "\udcff", "%s", "{}", "http://[", "*",
    "x" * 240 + ".safetensors", "folder/in.safetensors", "result", "*/?[", "con", "a:b", "file.py:f", "bad.py:make",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "nan", "inf", "1e400", "", "x", "²", "1_0", "9" * 5000, "2.5", "0x10", "1,2", ",", "64",
    "18446744073709551616",
)  # fmt: skip
NAMES = (
    MODEL,
    "resnet18",
    "nope",
    "",
    "a.b:c",
    ":",
    "torchvision:",
    "torchvision:nope",
    "os:getcwd",
    "\x1b",
    "a" * 999,
)
# Option names, with the pool of their values; None for a flag.
OPTIONS: dict[str, dict[str, Sequence[str] | None]] = {
    "bench": {
        "--output": PATHS, "--shape": ("1,1,4,4,3,3", "1,1,4,4,3", "a", "0,0,0,0,0,0", *NUMBERS), "--model": NAMES,
        "--input-size": NUMBERS, "--repeats": ("1",), "--json": None, "--threads": ("1", "0", "x"),
    },
    "erf": {
        "--output": PATHS, "--data": PATHS, "--model": NAMES, "--weights": ("random", *PATHS), "--images": NUMBERS,
        "--size": ("32", "8", "-5", "0", "x", "[64, 64]"), "--layer": NAMES, "--thresholds": NUMBERS, "--seed": NUMBERS,
        "--resume": None, "--device": ("cpu", "cuda:9", "nope", "\x1b"), "--ema": None, "--precision": ("bf16", "x"),
    },
    "kernels": {
        "--output": PATHS, "--model": NAMES, "--weights": ("random", *PATHS), "--layer": ("stage4.0", *NAMES),
        "--strongest": ("0", *NUMBERS), "--aggregate": ("mean", "x"), "--variant": ("all", "small"), "--ema": None,
    },
    "shape-bias": {
        "--output": PATHS, "--stimuli": PATHS, "--mapping": PATHS, "--import": PATHS, "--model": NAMES,
        "--weights": PATHS, "--workers": ("0",), "--batch-size": NUMBERS, "--resume": None, "--allow-partial": None,
    },
    "behaviour": {
        "--output": PATHS, "--data": ("sets/edge", *PATHS), "--import": ("raw", *PATHS), "--mapping": PATHS,
        "--model": NAMES, "--weights": PATHS, "--sets": ("edge", "all", "shape,edge", "edge,,", *NAMES),
        "--batch-size": ("auto", *NUMBERS), "--workers": NUMBERS[:5], "--mean": NUMBERS, "--seed": NUMBERS,
        "--resume": None, "--bgr": None, "--tune": ("off", "x"), "--device": ("cpu", "cuda:9", "nope", "\x1b"),
    },
    "reliance": {
        "--output": PATHS, "--data": ("photos", *PATHS), "--model": NAMES, "--weights": PATHS, "--mapping": PATHS,
        "--suppressions": (
            "patch-shuffle:2+grayscale", "gaussian-blur", "grayscale+channel-shuffle", "patch-rotation:9999", "+", ":",
            "bilateral:nan", "gaussian-blur:1e-9", *NAMES,
        ),
        "--images": NUMBERS, "--size": ("16", "8x16", "1", *NUMBERS), "--batch-size": NUMBERS, "--mean": NUMBERS,
        "--std": NUMBERS, "--channels": ("1", *NUMBERS), "--seed": NUMBERS, "--bgr": None, "--resume": None,
    },
    "reparam": {"--output": PATHS, "--model": (MODEL, *NAMES), "--to": ("official", "timm"), "--no-merge": None},
    "sweep": {
        "--output": (*PATHS, "memory://x", "file:///x", "file://", "nope://x", "s3://", "://"), "--only": NAMES,
        "--status": PATHS, "--init": None, "--workers": NUMBERS, "--max-memory": NUMBERS, "--timeout": NUMBERS,
        "--engine": ("local", "x"), "--address": NAMES, "--fresh": None, "--retry-failed": None,
    },
    "data": {"--json": None, "--connect-timeout": NUMBERS, "--force": None},
    "weights": {"--json": None, "--connect-timeout": NUMBERS, "--ema": None, "--host": ("drive", "x")},
    "info": {"--json": None, "--help": None},
    "models": {"--json": None, "--help": None},
}  # fmt: skip
# Arguments without which a command does not start, or measures for long.
FIXED: dict[str, tuple[str, ...]] = {
    "bench": ("--repeats", "1", "--shape", "1,1,4,4,3,3"),
    "erf": ("--images", "1", "--size", "32", "--model", MODEL),
    "kernels": ("--model", MODEL, "--layer", "stage4.0", "--strongest", "0"),
    "shape-bias": ("--model", MODEL, "--workers", "0", "--stimuli", "stimuli"),
    "behaviour": (
        *("--model", "test_resnet", "--weights", "random", "--data", "sets", "--allow-partial", "--size", "32"),
        *("--workers", "0"),
    ),
    "reliance": ("--model", MODEL, "--images", "2", "--workers", "0", "--suppressions", "grayscale"),
    "reparam": ("weights.safetensors", "--model", MODEL),
    "sweep": ("--dry-run",),
}
# The commands below a command, with the pool of their argument.
BELOW: dict[str, dict[str, Sequence[str]]] = {
    "data": {"fetch": ("cue-conflict", "all", "edge,,x", "x"), "verify": ("cue-conflict", "edge", "")},
    "weights": {"list": ("*", "[", "nope", *PATHS), "fetch": (f"{MODEL}.shape90", *NAMES), "verify": PATHS},
    "models": {"": ("replknet_micro*", "[", *PATHS)},
    "sweep": {"": ("sweep.toml", "bad.toml", *PATHS)},
    "info": {"": ()},
}
# The last line may also end with a list, as click's "Got unexpected extra argument (x)".
_MESSAGE = re.compile(r"Error: \S.*[.)]\n?", re.DOTALL)


RAW_DATA = (
    "subj,session,trial,rt,object_response,category,condition,imagename\n"
    "net,1,1,NaN,cat,cat,0,0001_cc_0_cat_00_cat1-dog2.png\n"
    "net,1,2,NaN,dog,cat,0,0002_cc_0_cat_00_cat2-dog3.png\n"
)


def prepare(folder: Path) -> None:
    """Fill a folder with the files and folders that the pool of paths names."""
    from PIL import Image

    from replk_probe.models.weights.embedded import FOLDER

    (folder / "file").write_bytes(b"x")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "unreadable.json").write_bytes(b"\xff\xfe{")
    (folder / "bad.py").write_text("def make():\n    raise OSError(5, 'from the model')\n")
    (folder / "file.py").write_text("def f(:\n")
    (folder / "sweep.toml").write_text(f'models = ["{MODEL}", "bad.py:make"]\n[erf]\nimages = 1\nsize = 32\n')
    (folder / "bad.toml").write_text('models = ["nope"]\n[erf\n')
    os.mkfifo(folder / "fifo")
    shutil.copyfile(next(FOLDER.glob(f"{MODEL}.*safetensors")), folder / "weights.safetensors")
    Image.new("RGB", (40, 40), (90, 60, 30)).save(folder / "image.png")
    (folder / "raw").mkdir()
    (folder / "raw" / "cue-conflict").mkdir()
    for path in ("raw.csv", "cue-conflict/raw.csv"):
        (folder / "raw" / path).write_text(RAW_DATA)
    (folder / "stimuli").mkdir()
    Image.new("RGB", (64, 64), (90, 60, 30)).save(folder / "stimuli" / "cat1-dog2.png")
    for path in ("sets/edge/cat", "photos/cat", "photos/dog"):
        (folder / path).mkdir(parents=True)
        Image.new("RGB", (40, 40), (30, 60, 90)).save(folder / path / "cat1.png")
    # Where results and states are written.
    for name in ("erf.json", "kernels.json", "erf.ckpt", "behaviour.json", "reliance.ckpt"):
        (folder / "result" / name).mkdir(parents=True, exist_ok=True)


def arguments(rng: random.Random) -> list[str]:
    """A random command line."""
    command = rng.choice([*OPTIONS, "erf", "kernels", "reparam"])
    options = OPTIONS[command]
    words = [command]
    if command in BELOW:
        below = rng.choice([*BELOW[command]])
        words += [below] if below else []
        words += [rng.choice(BELOW[command][below])] if BELOW[command][below] and rng.random() < 0.9 else []
        if below == "verify" and command == "data":
            words.append(rng.choice(PATHS))
    words += FIXED.get(command, ())
    for option in rng.sample([*options], min(len(options), rng.choice((1, 1, 2, 3)))):
        values = options[option]
        words += [option] if values is None else [option, rng.choice(values)]
    if command == "reparam" and "--output" not in words:
        words += ["--output", "out.safetensors"]
    if rng.random() < 0.03:
        words.insert(rng.randrange(len(words)), rng.choice(("--nope", "-", "--", "\x1b", "--help")))
    return [word.replace("\0", "") for word in words]


def check(done: Done, stdout: str | None, stderr: str | None) -> list[str]:
    """What is wrong with the end of a command: a traceback, no message, or status 0 although output was lost."""
    problems = []
    if done.status not in (0, 1, 2):
        named = signal.Signals(-done.status).name if done.status < 0 else ""
        problems.append(f"ended with status {done.status} {named}")
    if "Traceback" in done.err or "Exception ignored" in done.err:
        problems.append("wrote a traceback")
    if done.status and stderr is None and stdout != PIPE and not _MESSAGE.search(done.err):
        problems.append("failed without a message")
    if done.status == 1 and stderr is None and sum(line.startswith("Error: ") for line in done.err.splitlines()) > 1:
        problems.append("wrote more than one message")
    if not done.status and stdout is not None:
        problems.append("reported success although its output was lost")
    if any(not (character.isprintable() or character == "\n") for character in done.out + done.err):
        problems.append("wrote control characters")
    return problems


def run(rng: random.Random, folder: Path) -> str:
    """Run one random command; return the kind of the outcome.

    Raises:
        AssertionError: A traceback, a missing message, or status 0 for lost output.
    """
    place = folder / "place"
    place.mkdir()
    prepare(place)
    words = arguments(rng)
    stdout = rng.choice((None, None, None, None, FULL, CLOSED, PIPE))
    stderr = rng.choice((None, None, None, None, None, FULL, CLOSED, PIPE))
    cache = rng.choice((*("",) * 8, "~nouser/x", "x" * 300, str(place / "file"), "/dev/null/x"))
    environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    environment |= {"REPLK_PROBE_CACHE": cache} if cache else {}
    done = program().run(words, place, stdout, stderr, environment)
    problems = check(done, stdout, stderr)
    # Left out of the message: nothing can be told about the output of a stream that was not captured.
    assert not problems, (
        f"replk-probe {words!r} {'; '.join(problems)}. stdout {stdout!r}, stderr {stderr!r}, {environment}\n"
        f"{done.out[-500:]}\n{done.err[-3000:]}"
    )
    return f"status {done.status}"
