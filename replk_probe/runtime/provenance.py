"""What produced a result: written into every record, read back with it. Free of torch."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

from replk_probe._version import __version__

RANDOM_INIT = "random-init"
USER_MODULE = "user-module"
EMBEDDED = "embedded:"  # what the source of weights that are a part of this package begins with

_PACKAGES = ("torch", "torchvision", "timm", "numpy")


@dataclass(frozen=True)
class WeightsInfo:
    """Where a model's weights came from.

    Attributes:
        source: ``"random-init"``, ``"catalog:NAME"``, ``"embedded:NAME"`` (a part of this package), ``"timm:TAG"``,
            ``"torchvision:TAG"``, ``"file:NAME"`` (base name of the file), or ``"user-module"`` for a module handed
            over by the caller, whose weights are its own.
        sha256: Hex digest of the weights file, or None where there is none.
        seed: Seed of the random initialisation, or None for weights that were loaded.
        form: Structure found in the file (``"train"``, ``"merged"``, ``"merged+fused"``), or None.
        wrapper: Entry of the file that was read (``"model"``, ``"model_ema"``, ...), or None for a flat file.
        dropped: Keys of the file that have no place in the model and were left out on purpose.
        note: One sentence for the reader, for instance why random weights stand in for trained ones.
    """

    source: str
    sha256: str | None = None
    seed: int | None = None
    form: str | None = None
    wrapper: str | None = None
    dropped: tuple[str, ...] = ()
    note: str | None = None

    @property
    def is_random(self) -> bool:
        """True where nothing was trained: such a result must never look trained."""
        return self.source == RANDOM_INIT

    @property
    def is_embedded(self) -> bool:
        """True for the small models trained on synthetic data: such a result must never look like one on ImageNet."""
        return self.source.startswith(EMBEDDED)

    @property
    def label(self) -> str:
        """Short form for tables and figures, loud where the weights are random."""
        if self.is_random:
            return "RANDOM WEIGHTS" + ("" if self.seed is None else f" (seed {self.seed})")
        if self.source == USER_MODULE:
            return "user-module, origin of its weights unknown"
        source = "small model trained on synthetic data" if self.is_embedded else self.source
        # The average over the training is another network than its last state, in the same file.
        entry = f", {self.wrapper}" if self.wrapper and "ema" in self.wrapper else ""
        return source + entry + (f" [{self.sha256[:8]}]" if self.sha256 else "")


@dataclass(frozen=True)
class RunInfo:
    """The circumstances of one measurement of one model.

    Attributes:
        model: Name as given on the command line, or the class name of the caller's module.
        weights: See :class:`WeightsInfo`.
        image_source: ``"folder:NAME"``, ``"embedded:dead-leaves"`` or ``"tensor"``.
        image_ids: Ids of the images that were measured, in the order of the sums.
        input_size: ``(H, W)`` in pixels.
        mean: Per-channel mean that was subtracted, of an input in [0, 1].
        std: Per-channel standard deviation that was divided by.
        seed: Seed of the image sample.
        device: ``"cpu"`` or ``"cuda:0 (NAME)"``.
        precision: ``"fp32"``, ``"fast"`` or ``"bf16"``, as asked for; ``config["arithmetic"]`` says what the hardware
            made of it.
        backend: What computed the large-kernel convolutions.
        seconds: Wall-clock time of the measurement.
        skipped: Images that could not be used: ``{"id": ..., "reason": ...}``.
        config: Every other option that decides the numbers.
        versions: Of replk-probe, Python and the packages below it.
    """

    model: str
    weights: WeightsInfo
    image_source: str
    image_ids: tuple[str, ...]
    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    device: str
    precision: str
    backend: str
    seconds: float
    skipped: tuple[dict[str, str], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: software_versions())

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)


def software_versions() -> dict[str, str]:
    """Versions of replk-probe, Python and the packages that decide the numbers, without importing them."""
    versions = {"replk-probe": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
