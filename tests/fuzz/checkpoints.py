"""Damaged and hostile weights files: unusual tensors, other objects, calls, and files with changed bytes."""

from __future__ import annotations

import collections
import datetime
import io
import os
import random
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import nn

from replk_probe.errors import ReplkProbeError
from replk_probe.models.architectures.replknet import RepLKNet
from replk_probe.models.checkpoints.load import inspect_checkpoint, load_checkpoint
from replk_probe.models.checkpoints.rename_keys import SCHEMES, in_scheme

T = TypeVar("T")

_LONGEST_SECONDS = 20.0
_MARKER = "pwned"
_NAMES = (
    "posix system",
    "builtins eval",
    "builtins getattr",
    "torch load",
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor",
    "torch FloatStorage",
    "torch.storage UntypedStorage",
    "pathlib PosixPath",
)
_OPCODES = (
    b"()}]tlud0R12bcioQqrhj.NKMJ\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8f\x90\x91\x92\x93\x94\x95\x96\x97"
)


class _Call:
    """An object whose pickle is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class _Settings(dict[str, Any]):
    """A dictionary with attributes."""


_CALLS = (
    _Call(os.system, f"touch {_MARKER}"),
    _Call(eval, f"open({_MARKER!r}, 'w')"),
    _Call(exec, f"open({_MARKER!r}, 'w')"),
    _Call(open, _MARKER, "w"),
    _Call(np.lib.format.open_memmap, _MARKER, "w+", "f4", (1,)),
)


def _network(kind: float) -> nn.Module:
    """One of two networks: a plain one, and one with parallel branches, whose files have other names."""
    if kind < 0.6:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return RepLKNet((5, 5), (1, 1), (4, 4), 3, num_classes=2)


def _content(rng: random.Random, network: nn.Module) -> Any:
    """A state dict with special tensors, wrapped in entries and prefixes."""
    if isinstance(network, RepLKNet) and rng.random() < 0.5:
        network.fuse_bn() if rng.random() < 0.5 else network.reparameterize()
    names = in_scheme(rng.choice(SCHEMES[:2]), network.state_dict())
    state: dict[Any, Any] = dict(names)
    for _ in range(rng.choice([0, 0, 1, 2])):
        odd: list[Any] = [
            torch.tensor(1.0),
            torch.zeros(2, dtype=torch.complex64),
            torch.eye(2).to_sparse(),
            torch.zeros(1).expand(3, 4),
            torch.full((4,), float("nan")),
            torch.full((4,), -1.0),
            torch.zeros(4, dtype=torch.float8_e4m3fn),
            torch.zeros(0),
            torch.zeros(2, device="meta"),
            torch.zeros(2, dtype=torch.float4_e2m1fn_x2),
            torch.zeros(1).expand(1 << 20, 1 << 20),
            torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
            torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            nn.Parameter(torch.ones(4)),
            Path("run"),
            datetime.datetime(2024, 1, 2),
            np.arange(3),
            np.float32(1.0),
            collections.deque([1]),
            collections.defaultdict(list, a=[1]),
            _Settings(a=1),
            None,
            [1, {}],
            {3, 4},
        ]
        state[rng.choice([*state, "x", 7, "stem.0.conv.weight", "a.large_kernel.lkb_origin.conv.bias"])] = rng.choice(
            odd
        )
    prefix = rng.choice(["", "", "module.", "backbone.", "module.encoder_q."])
    content: Any = {f"{prefix}{name}" if isinstance(name, str) else name: value for name, value in state.items()}
    for _ in range(rng.randrange(3)):
        content = {rng.choice(["model", "state_dict", "teacher", "student", "net", "ema", "a.b"]): content, "epoch": 3}
        if rng.random() < 0.1:
            content["model"] = content
        if rng.random() < 0.1:
            content["args"] = rng.choice(_CALLS)
    return content


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changed, removed or inserted, among them instructions of pickles."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + rng.choice([1, 4, 100])]
        elif kind == 2:
            changed[at:at] = bytes([rng.choice(_OPCODES)])
        elif kind == 3:
            module, name = rng.choice(_NAMES).split()
            changed[at:at] = f"c{module}\n{name}\n".encode() + rng.choice([b"", b")R", b")\x81", b"}b"])
        elif kind == 4:
            number = rng.choice([0, 1, -1, 2**31 - 1, -(2**31)])
            changed[at : at + 4] = struct.pack("<i", number)
        else:
            start = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + rng.randrange(60)]
        if not changed:
            break
    return bytes(changed)


def _write(path: Path, rng: random.Random, network: nn.Module) -> None:
    content = _content(rng, network)
    if rng.random() < 0.1 and all(isinstance(value, torch.Tensor) for value in content.values()):
        plain = {str(name): value.contiguous() for name, value in network.state_dict().items()}
        path.write_bytes(_mutated(safetensors.torch.save(plain), rng))
        return
    legacy = rng.random() < 0.4
    buffer = io.BytesIO()
    protocol = rng.choice([2] * 20 + [4, 5])
    torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    kind = rng.random()
    if kind > 0.35:
        path.write_bytes(data if kind > 0.4 else _mutated(data, rng))
    elif legacy:
        path.write_bytes(_mutated(data, rng))
    else:  # mutate the records, so that the archive itself stays valid
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                record = source.read(info)
                if info.filename.endswith("/data.pkl") or rng.random() < 0.1:
                    record = _mutated(record, rng)
                target.writestr(info.filename, record)


def run(rng: random.Random, folder: Path) -> str:
    """Write one file, and inspect and load it; only a result or one of the package's errors may come out, in time.

    Returns:
        ``"loaded"``, ``"inspected"`` if it matches no network, or ``"refused"``.

    Raises:
        AssertionError: Something else happened, or code in the file was run.
    """
    path = folder / "weights.pth"
    kind = rng.random()
    before = Path.cwd()
    try:
        os.chdir(folder)  # the marker of the hostile objects is relative
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, for types that are prototypes or deprecated
            _write(path, rng, _network(kind))
        content = path.read_bytes()
        choice = rng.choice([{}, {}, {"ema": True}, {"entry": "teacher"}, {"prefix": "module."}, {"entry": "model"}])
        inspected = _outcome(lambda: inspect_checkpoint(path, **choice))
        network = _network(kind if rng.random() < 0.8 else rng.random())
        old = {name: value.clone() for name, value in network.state_dict().items()}
        report = _outcome(lambda: load_checkpoint(network, path, **choice))
        values = network.state_dict()
        if report is None:
            assert all(torch.equal(value, old[name]) for name, value in values.items()), "changed after an error"
        else:
            for name, value in values.items():
                assert bool(value.isfinite().all()), f"loaded values of {name} that are not finite"
                assert not name.endswith("running_var") or bool((value >= 0).all()), f"loaded negative {name}"
        assert not Path(_MARKER).exists(), "code in the file was run"
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}; first bytes {content[:80]!r}") from error
    finally:
        os.chdir(before)
    return "refused" if report is None and inspected is None else "inspected" if report is None else "loaded"


def _outcome(call: Callable[[], T]) -> T | None:
    start = time.perf_counter()
    try:
        return call()
    except ReplkProbeError as error:
        assert "\n" not in str(error), f"several lines: {error}"
        return None
    finally:
        seconds = time.perf_counter() - start
        assert seconds < _LONGEST_SECONDS, f"{seconds:.1f} s"
