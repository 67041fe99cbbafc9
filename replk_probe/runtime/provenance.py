"""Provenance of a result, which is saved and loaded with it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from replk_probe._version import __version__

RANDOM_INIT = "random-init"
USER_MODULE = "user-module"
UNKNOWN = "unknown"
EMBEDDED = "embedded:"  # prefix of the source of weights that are included in this package

# Entries of a checkpoint with its weights, in the order in which they are looked up. Training scripts of RepLKNet and
# SLaK write "model", most others "state_dict"; both may nest.
USUAL_ENTRIES = ("model", "state_dict", "model_state_dict", "model_weights", "module", "net", "params")

_PACKAGES = ("torch", "torchvision", "timm", "numpy")
# Beginning of the note on such a file.
NO_CLASSIFIER = "The file has no classifier"


@dataclass(frozen=True)
class HeadInfo:
    """What turns the features of a network into decisions, if that is not part of its weights.

    Attributes:
        kind: ``"linear"`` for a linear classifier, ``"text"`` for the similarity with text embeddings of class names.
        source: ``"file:NAME"`` (base name of the file), or ``"text tower"`` of the network itself.
        sha256: Hex digest of the file, or of the mean embeddings (float32, little-endian, ``[classes, dim]``) that the
            text tower computed.
        classes: Number of classes.
        class_names: Name of each class, by index; empty if the file of a linear head has none.
        templates: Templates of the texts, in which ``{}`` stands for a class name; empty if they are unknown.
        logit_scale: Natural logarithm of the factor of the similarities; None for a linear head.
        logit_bias: Number that is added to them; None for a linear head.
        features: Features that the head takes: ``"output"`` of the network without its classifier, or
            ``"class token and mean of the patch tokens"``.
    """

    kind: Literal["linear", "text"]
    source: str
    sha256: str
    classes: int
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    logit_scale: float | None = None
    logit_bias: float | None = None
    features: str = "output"

    @property
    def kind_label(self) -> str:
        """What the head is, in two words at most."""
        return "linear head" if self.kind == "linear" else "zero-shot"

    @property
    def label(self) -> str:
        """Short form for tables and figures."""
        if self.kind == "linear":
            return f"{self.kind_label} {self.source} [{self.sha256[:8]}]"
        texts = f"{self.classes} class names"
        if self.templates:
            texts += f" in {len(self.templates)} template{'s' * (len(self.templates) > 1)}"
        return f"{self.kind_label} with {texts} [{self.sha256[:8]}]"


@dataclass(frozen=True)
class WeightsInfo:
    """Provenance of a model's weights.

    Attributes:
        source: ``"random-init"``, ``"catalog:NAME"``, ``"embedded:NAME"`` (included in this package), ``"timm:TAG"``,
            ``"torchvision:TAG"``, ``"file:NAME"`` (base name of the file), ``"user-module"`` for a module passed by the
            caller with its own weights, or ``"unknown"`` for an imported result.
        sha256: Hex digest of the weights file, or None if there is none.
        seed: Seed of the random initialization, or None for weights that were loaded.
        form: Structure found in the file (``"train"``, ``"merged"``, ``"merged+fused"``), or None.
        wrapper: Entry of the file that was read (``"model"``, ``"model_ema"``, ...), or None for a flat file.
        dropped: Keys of the file without a counterpart in the model, which were left out on purpose.
        note: One sentence for the reader, for instance why random weights are used instead of trained ones.
        prefix: Beginning that was removed from the names in the entry (``"module."``), or None.
        head: Head that was added to the network, or None for its own.
    """

    source: str
    sha256: str | None = None
    seed: int | None = None
    form: str | None = None
    wrapper: str | None = None
    dropped: tuple[str, ...] = ()
    note: str | None = None
    prefix: str | None = None
    head: HeadInfo | None = field(default=None, metadata={"added_later": True})

    @property
    def is_random(self) -> bool:
        """Whether the weights are random, which tables and figures must state."""
        return self.source == RANDOM_INIT

    @property
    def lacks_classifier(self) -> bool:
        """Whether the weights are those of a file without a classifier, so that class scores have no meaning."""
        return self.head is None and NO_CLASSIFIER in (self.note or "")

    @property
    def is_embedded(self) -> bool:
        """Whether the weights are those of a small model trained on synthetic data rather than ImageNet."""
        return self.source.startswith(EMBEDDED)

    @property
    def label(self) -> str:
        """Short form for tables and figures, in capitals if the weights are random."""
        return self.own_label + ("" if self.head is None else f", {self.head.label}")

    @property
    def own_label(self) -> str:
        """The label without the head."""
        if self.is_random:
            return "RANDOM WEIGHTS" + ("" if self.seed is None else f" (seed {self.seed})")
        if self.source == USER_MODULE:
            return "user-module, origin of its weights unknown"
        if self.source == UNKNOWN:
            return "unknown weights"
        source = "small model trained on synthetic data" if self.is_embedded else self.source
        # Results of an average over training steps or of a teacher differ from those of other entries of the file.
        is_usual = not self.wrapper or self.wrapper == self.prefix or {*self.wrapper.split(".")} <= {*USUAL_ENTRIES}
        entry = "" if is_usual else f", {self.wrapper}"
        return source + entry + (f" [{self.sha256[:8]}]" if self.sha256 else "")


@dataclass(frozen=True)
class RunInfo:
    """Provenance of one measurement of one model.

    Equality ignores when and where it was computed: ``device``, ``seconds`` and ``versions``.

    Attributes:
        model: Name as given on the command line, or the class name of the caller's module.
        weights: Provenance of the weights.
        image_source: ``"folder:NAME"``, ``"embedded:dead-leaves"``, ``"tensor"``, or ``"imported:FILE"`` for a map that
            was not measured here.
        image_ids: Ids of the images that were measured, in the order of summation.
        input_size: ``(H, W)`` in pixels, or the sides of sequences and volumes.
        mean: Mean of each channel that was subtracted, for inputs in [0, 1].
        std: Standard deviation of each channel by which inputs were divided.
        seed: Seed of the image sample.
        device: ``"cpu"`` or ``"cuda:0 (NAME)"``; ``"unknown"`` for an imported map, as the next two.
        precision: Requested precision, ``"fp32"``, ``"fast"`` or ``"bf16"``; ``config["arithmetic"]`` is the precision
            actually used.
        backend: Backend that computed the large-kernel convolutions.
        seconds: Wall-clock time of the measurement.
        skipped: Images that could not be used, as ``{"id": ..., "reason": ...}``.
        config: All other options that affect the numbers.
        versions: Versions of replk-probe, Python and its dependencies.
    """

    model: str
    weights: WeightsInfo
    image_source: str
    image_ids: tuple[str, ...]
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    device: str = field(compare=False)
    precision: str
    backend: str
    seconds: float = field(compare=False)
    skipped: tuple[dict[str, str], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: software_versions(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """The provenance as plain dictionaries, lists and numbers."""
        return asdict(self)


def software_versions() -> dict[str, str]:
    """Versions of replk-probe, Python and the packages that affect the numbers, without importing them."""
    versions = {"replk-probe": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
