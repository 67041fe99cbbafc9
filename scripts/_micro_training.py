"""Training of the small models on the synthetic split, shared by ``train_micro.py`` and ``micro_study.py``.

A run is determined by the model, the seed and the recipe, with the probability with which the shape belongs to the
label (the texture always does). The seed selects the initial weights and the row of training
images, each of which is seen once. An interrupted run can be resumed, with the same bytes as a result.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from replk_probe.models import create_model, data_config
from replk_probe.models.architectures.micro import DEFAULT_TAG, INPUT_SIZE, MICRO_MODELS, SHAPE_VALIDITIES
from replk_probe.models.summary import count_parameters
from replk_probe.ops import DepthwiseConv2d, native_info, planned_method
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_bytes, atomic_write_text
from replk_probe.runtime.checkpoint import Checkpoint, discard
from replk_probe.runtime.progress import progress as progress_bar
from replk_probe.runtime.provenance import software_versions
from replk_probe.shape_bias.synthetic import SYNTHETIC_CATEGORIES, synthetic_images, synthetic_training

SCHEMA_VERSION = 2
# A row of images that no training may use; seeds of trainings are smaller.
HELD_OUT_ROW = 1_000_000
HELD_OUT_IMAGES = 4096

_SAVE_EVERY = 20.0  # seconds between saved states
_DRAWN = 1024  # images drawn at a time
_EVALUATED = 256  # images per forward pass
_WATCHED = 256  # held-out images for the accuracy in the log


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of training.

    Attributes:
        shape_validity: Probability with which the shape of a training image belongs to its label.
        images: Total number of training images, each seen once.
        batch_size: Number of images per step.
        learning_rate: Maximum learning rate.
        beta2: Decay rate of Adam's mean of squared gradients. With the usual 0.999, these networks, whose accuracy
            stays at chance level for the first few hundred steps, may not improve in time.
        weight_decay: Weight decay of matrices and dense kernels; scales and shifts have none.
        kernel_decay: Weight decay of depthwise kernels. A batch norm follows each, so that the decay by itself changes
            no output; without it, the initial noise and that of Adam's steps would remain in the kernels.
        warm_up: Fraction of the steps in which the learning rate rises, before it falls to 0 along a cosine.
        log_every: Number of steps between two lines of the log.
    """

    shape_validity: float = SHAPE_VALIDITIES[DEFAULT_TAG]
    images: int = 14_000
    batch_size: int = 16
    learning_rate: float = 3e-3
    beta2: float = 0.98
    weight_decay: float = 0.05
    kernel_decay: float = 2.0
    warm_up: float = 0.1
    log_every: int = 125

    @property
    def tag(self) -> str:
        """Tag of the weights, which states the validity of the shape in percent."""
        return f"shape{100 * self.shape_validity:g}"

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return max(self.images // self.batch_size, 1)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rising = max(round(self.warm_up * self.steps), 1)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (1 + math.cos(math.pi * (step - rising) / max(self.steps - rising, 1))) / 2


# Types of the entries of a saved state.
_STATE = {
    "step": int,
    "seconds": float,
    "log": list[dict[str, Any]],
    "sums": list[float],
    "convolutions": dict[str, dict[str, str]],
}


@dataclass
class Run:
    """One training, finished or not."""

    name: str
    seed: int
    recipe: Recipe
    model: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])  # losses and correct answers since the last line
    convolutions: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the weights."""
        versions = software_versions()
        return {
            "model": self.name,
            "seed": self.seed,
            **asdict(self.recipe),
            "threads": torch.get_num_threads(),
            "instruction set": native_info().isa,
            **{f"version of {package}": versions[package] for package in ("replk-probe", "torch", "timm")},
        }


def train(
    name: str,
    seed: int,
    recipe: Recipe,
    *,
    state: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    stop_at: int | None = None,
) -> Run:
    """Train a model and return the run, with its weights, statistics and log.

    Args:
        name: Name of the model.
        seed: Seed of the initial weights and of the row of training images.
        recipe: Hyperparameters.
        state: Folder for the state of an unfinished run; it is kept after the last step.
        resume: Whether to continue from the saved state, if there is one.
        progress: Whether to show a progress bar.
        stop_at: Step after which to simulate an interruption, for tests.

    Raises:
        KeyboardInterrupt: The run was interrupted; its state is saved.
        ResumeError: The state belongs to another run.
    """
    run = _new_run(name, seed, recipe)
    store = None if state is None else Checkpoint(state, run.config)
    if store is not None and resume:
        _restore(run, store)
    elif store is not None:
        discard(store.folder)
    watched = held_out(_WATCHED), conflicting()
    batches = _batches(seed, recipe, run.step)
    saved_at, start = time.monotonic(), time.monotonic() - run.seconds
    bar: Any = progress_bar(total=recipe.steps, initial=run.step, desc=name, unit="step", disable=not progress)
    with bar, _interruptible() as interrupted:
        while run.step < recipe.steps:
            _step(run, *next(batches))
            if run.step % recipe.log_every == 0 or run.step == recipe.steps:
                _note(run, watched)
                bar.set_postfix_str(f"loss {run.log[-1]['loss']:.3f}, held out {run.log[-1]['held_out']:.3f}")
            bar.update(1)
            run.seconds = time.monotonic() - start
            stop = bool(interrupted) or run.step == stop_at
            if store is not None and (stop or time.monotonic() - saved_at > _SAVE_EVERY):
                _keep(run, store)
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    run.model.eval()
    return run


def held_out(count: int | None = None) -> tuple[Tensor, Tensor]:
    """Congruent images not used in training, ``[N, 3, 64, 64]``, not normalized, and their labels ``[N]``."""
    images, labels = synthetic_training(count or HELD_OUT_IMAGES, INPUT_SIZE, HELD_OUT_ROW)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def conflicting() -> tuple[Tensor, Tensor, Tensor]:
    """One image of each pair of a shape and another texture, the shapes and the textures, ``[240]`` each."""
    shape, texture = np.argwhere(~np.eye(len(SYNTHETIC_CATEGORIES), dtype=bool)).T
    images = synthetic_images(shape, texture, INPUT_SIZE, HELD_OUT_ROW, HELD_OUT_IMAGES)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(shape), torch.from_numpy(texture)


@torch.no_grad()
def decisions(model: nn.Module, images: Tensor) -> Tensor:
    """Classes of images in eval mode, ``[N]``; the model's mode is restored."""
    training = model.training
    model.eval()
    found = torch.cat([model(_normalized(model, x)).argmax(1) for x in images.split(_EVALUATED)])
    model.train(training)
    return found


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of correct answers in eval mode; the model's mode is restored."""
    return int((decisions(model, images) == labels).sum()) / len(labels)


def record_of(run: Run, weights: bytes, sha256: str, commit: str | None) -> dict[str, Any]:
    """The training record of a finished run, which accompanies its weights."""
    recipe = run.recipe
    return {
        "schema_version": SCHEMA_VERSION,
        "order": MICRO_MODELS.index(run.name),
        "model": run.name,
        "what": "small model trained on synthetic data; not an ImageNet result",
        "licence": "MIT",
        "seed": run.seed,
        "recipe": asdict(recipe),
        "images": recipe.steps * recipe.batch_size,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "optimiser": f"AdamW, beta2 {recipe.beta2:g}, weight decay {recipe.weight_decay:g}, of depthwise kernels "
        f"{recipe.kernel_decay:g}",
        "schedule": f"linear to {recipe.learning_rate:g} over {recipe.warm_up:.0%} of the steps, cosine to 0",
        "tag": recipe.tag,
        "shape_validity": recipe.shape_validity,
        "training_images": f"replk_probe.shape_bias.synthetic.synthetic_training, row {run.seed}, shape_validity "
        f"{recipe.shape_validity:g}",
        "held_out_images": f"the same with shape_validity 1, row {HELD_OUT_ROW}, images 0 to {HELD_OUT_IMAGES - 1}",
        "held_out_accuracy": accuracy(run.model, *held_out()),
        "final_loss": run.log[-1]["loss"],
        "parameters": count_parameters(run.model),
        "classes": len(SYNTHETIC_CATEGORIES),
        "input_size": INPUT_SIZE,
        "mean": list(data_config(run.model).mean),
        "std": list(data_config(run.model).std),
        "convolutions": run.convolutions,
        "backend": _backend(run.convolutions),
        "precision": "float32 on the CPU",
        "threads": torch.get_num_threads(),
        "seconds": round(run.seconds, 1),
        "sha256": sha256,
        "bytes": len(weights),
        "commit": commit,
        # The kernel of the operating system does not affect the weights.
        "versions": {name: value for name, value in software_versions().items() if name != "platform"},
    }


def weights_of(run: Run) -> bytes:
    """The trained network as safetensors, with separate branches and batch norms."""
    state = {name: value.contiguous() for name, value in run.model.state_dict().items()}
    images = run.recipe.steps * run.recipe.batch_size
    what = (
        f"{run.name}.{run.recipe.tag}, a small model trained on synthetic data ({images} images, seed {run.seed}); "
        "license: MIT"
    )
    # A single entry, because the order of several would vary from call to call.
    return bytes(save(state, {"description": what}))


def write(run: Run, folder: Path, stem: str, commit: str | None) -> dict[str, Any]:
    """Write ``stem.safetensors``, ``stem.csv`` (the log) and last ``stem.json`` (the record, which is returned)."""
    weights = weights_of(run)
    record = record_of(run, weights, hashlib.sha256(weights).hexdigest(), commit)
    atomic_write_bytes(folder / f"{stem}.safetensors", weights)
    atomic_write_text(folder / f"{stem}.csv", log_csv(run.log))
    atomic_write_text(folder / f"{stem}.json", strict_json(record))
    return record


def log_csv(log: list[dict[str, Any]]) -> str:
    """The log as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(log[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return stream.getvalue()


def _new_run(name: str, seed: int, recipe: Recipe) -> Run:
    model = create_model(name, "random", seed=seed).train()
    # Most of the time is spent on 1 x 1 convolutions and norms, which torch computes faster in this layout.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decays = {"depthwise": recipe.kernel_decay, "dense": recipe.weight_decay, "vector": 0.0}
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in decays}
    for parameter in model.parameters():
        depthwise = parameter.dim() == 4 and parameter.shape[1] == 1
        groups["depthwise" if depthwise else "dense" if parameter.dim() > 1 else "vector"].append(parameter)
    grouped = [{"params": groups[kind], "weight_decay": decay} for kind, decay in decays.items()]
    optimizer = torch.optim.AdamW(grouped, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)
    return Run(name, seed, recipe, model, optimizer)


def _batches(seed: int, recipe: Recipe, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = recipe.batch_size
    drawn = max(_DRAWN // size, 1)
    for step in range(first_step, recipe.steps, drawn):
        count = min(drawn, recipe.steps - step) * size
        images, labels = synthetic_training(count, INPUT_SIZE, seed, step * size, recipe.shape_validity)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        yield from zip(pixels.split(size), torch.from_numpy(labels).split(size), strict=True)


def _normalized(model: nn.Module, images: Tensor) -> Tensor:
    """Images as normalized float32, with channels last."""
    config = data_config(model)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (config.mean, config.std))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _step(run: Run, images: Tensor, labels: Tensor) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = run.recipe.rate(run.step)
    x = _normalized(run.model, images)
    if not run.convolutions:
        run.convolutions = _planned(run.model, x)
    logits = run.model(x)
    loss = F.cross_entropy(logits, labels)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.sums[0] += float(loss.detach()) * len(labels)
    run.sums[1] += int((logits.detach().argmax(1) == labels).sum())
    run.step += 1


def _planned(model: nn.Module, images: Tensor) -> dict[str, dict[str, str]]:
    """Backend and method of each depthwise convolution in each direction, by module."""
    found: dict[str, dict[str, str]] = {}
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:

            def see(conv: nn.Conv2d, args: tuple[Tensor], path: str = path) -> None:
                if not isinstance(conv, DepthwiseConv2d) or conv.stride != (1, 1):
                    found[path] = {"all": f"aten (stride {conv.stride[0]})"}
                    return
                plans = {
                    direction: planned_method(args[0].shape, conv.kernel_size, direction=direction)
                    for direction in ("forward", "grad_input", "grad_weight")
                }
                found[path] = {
                    direction: plan.method if plan.isa is None else f"native {plan.isa}: {plan.method}"
                    for direction, plan in plans.items()
                }

            handles.append(module.register_forward_pre_hook(see))
    training = model.training
    with torch.no_grad():
        model.eval()(images)  # in eval mode, so that running statistics do not change
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


def _backend(convolutions: dict[str, dict[str, str]]) -> str:
    native = sum(all(way.startswith("native") for way in ways.values()) for ways in convolutions.values())
    return (
        f"{native} of {len(convolutions)} depthwise convolutions by replk_probe.ops in both passes "
        f"({'native ' + str(native_info().isa) if native_info().loaded else 'no native library'}), all else by torch"
    )


def _note(run: Run, watched: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Add a line to the log, with the accuracy on congruent images and the shares of both cues under conflict."""
    congruent, (images, shape, texture) = watched
    found = decisions(run.model, images)
    before = run.log[-1]["step"] if run.log else 0
    seen = (run.step - before) * run.recipe.batch_size
    run.log.append(
        {
            "step": run.step,
            "images": run.step * run.recipe.batch_size,
            "learning_rate": float(f"{run.recipe.rate(run.step - 1):.6g}"),
            "loss": round(run.sums[0] / seen, 6),
            "accuracy": round(run.sums[1] / seen, 6),
            "held_out": accuracy(run.model, *congruent),
            "shape": round(float((found == shape).float().mean()), 6),
            "texture": round(float((found == texture).float().mean()), 6),
        }
    )
    run.sums = [0.0, 0.0]


def _keep(run: Run, store: Checkpoint) -> None:
    tensors = {f"model.{name}": value.contiguous() for name, value in run.model.state_dict().items()}
    for index, entry in run.optimizer.state_dict()["state"].items():
        tensors.update({f"optimiser.{index}.{name}": value.contiguous() for name, value in entry.items()})
    packed: npt.NDArray[np.uint8] = np.frombuffer(save(tensors), dtype=np.uint8)
    numbers = {name: getattr(run, name) for name in _STATE}
    store.save(numbers, {"tensors": packed})


def _restore(run: Run, store: Checkpoint) -> None:
    saved = store.load(_STATE)
    if saved is None:
        return
    tensors = load(saved.arrays["tensors"].tobytes())
    of_model = {name[len("model.") :]: value for name, value in tensors.items() if name.startswith("model.")}
    run.model.load_state_dict(of_model)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, entry = rest.partition(".")
            # The fused optimizer requires the layout of the parameters, which files do not keep.
            layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
            state.setdefault(int(index), {})[entry] = value.contiguous(memory_format=layout)
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": state})
    for name, value in saved.state.items():
        setattr(run, name, value)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Defer Ctrl-C until the current step is finished; a second Ctrl-C interrupts at once."""
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
