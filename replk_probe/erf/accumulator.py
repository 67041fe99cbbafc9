"""Sums of contribution maps over blocks of images, and the result that is computed from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from replk_probe.errors import InvalidInputError
from replk_probe.models import weights_info
from replk_probe.models.inference.copying import device_and_dtype
from replk_probe.models.inference.cudnn_passes import contiguous_note
from replk_probe.models.inference.environment import versions_on
from replk_probe.models.inference.input_gradient import planned_backend
from replk_probe.models.inference.prepare import PreparedModel, module_of
from replk_probe.models.model_id import name_of
from replk_probe.runtime.checkpoint import Checkpoint, SavedState
from replk_probe.runtime.checks import check_seed
from replk_probe.runtime.devices import device_label, experimental_note, preserved_generators, strict_arithmetic
from replk_probe.runtime.parts import ChosenMethods
from replk_probe.runtime.provenance import RunInfo

from .area_protocols import DEFAULT_THRESHOLDS, logarithm_note, saturation_note
from .arguments import TensorImages, check_thresholds
from .attribution import DEFAULT as GRADIENT
from .attribution import attribution_record
from .choose_target import target_for
from .contribution import InputGradient, check_batch
from .convention import DEFAULT, Convention, convention_of, convention_record
from .convergence import Criterion, MeasuredBlocks, convergence_of
from .jackknife import Blocks, intervals_of
from .measured_positions import map_function, measured_position, position_note, recentering_of, window_middle
from .notes import interval_note
from .objective import check_target
from .occlusion_rows import Compared
from .position_rule import CENTER, parse_position
from .receptive_field.tracer import Field
from .result import ErfResult, RatioRow
from .target_layer import Layer, TargetLayer, point_of

# Enough groups for a jackknife interval; each costs one float64 map of memory.
MAX_BLOCKS = 20

FloatArray = npt.NDArray[np.float64]

# Types of the entries of a saved state.
_STATE = {
    "done": int, "counts": list[int], "used": list[str], "skipped": list[dict[str, str]], "seconds": float,
    "methods": list[str], "depths": list[int], "occluded": list[list[tuple[float, float] | None]],
    "batch_sizes": list[int] | None,
}  # fmt: skip


def capacity_of(done: int) -> int:
    """Capacity of growing blocks, in images, after ``done`` images."""
    capacity = MAX_BLOCKS
    while capacity < done:
        capacity *= 2
    return capacity


def block_bounds(n_images: int) -> tuple[int, ...]:
    """First image of each of at most 20 blocks of about equal size, and at the end the number of images."""
    blocks = min(n_images, MAX_BLOCKS)
    return tuple(block * n_images // blocks for block in range(blocks + 1))


@dataclass
class BlockSums:
    """Sums in float64 over fixed blocks of images, each in image order, so that the result is reproducible."""

    n_images: int  # number of images in the whole measurement
    size: tuple[int, ...]  # shape of the maps of one image: (H, W), or (P, H, W) for several positions
    done: int = 0  # number of images processed so far, including those that were skipped
    # Sum of the maps of each block, [H, W], or None while the block has no image.
    sums: list[FloatArray | None] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # number of images in each sum

    def __post_init__(self) -> None:
        """Start empty."""
        self._bounds = block_bounds(self.n_images)
        blocks = len(self._bounds) - 1
        self.sums = self.sums or [None] * blocks
        self.counts = self.counts or [0] * blocks

    @property
    def block(self) -> int:
        """Index of the block of the next image (the last block when all images are done)."""
        index = min(self.done, self.n_images - 1)
        return next(block for block in range(len(self.counts)) if index < self._bounds[block + 1])

    def add(self, scores: npt.ArrayLike) -> int:
        """Add the map of the next image, ``[H, W]``; returns the block that changed."""
        block = self.block
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != self.size:
            raise InvalidInputError(
                f"A map of shape {list(values.shape)} cannot be added to maps of shape {list(self.size)}. A mean needs "
                "maps of one size. Give images of one size."
            )
        total = self.sums[block]
        if total is None:
            self.sums[block] = values.copy()
        else:
            total += values
        self.counts[block] += 1
        self.done += 1
        return block

    @property
    def n_added(self) -> int:
        """Number of images in all sums."""
        return sum(self.counts)

    def in_larger_blocks(self) -> BlockSums:
        """The same sums in blocks of twice as many images, for twice as many images as before."""
        pairs = list(zip(self.sums[::2], self.sums[1::2], strict=True))
        sums = [second if first is None else first if second is None else first + second for first, second in pairs]
        counts = [first + second for first, second in zip(self.counts[::2], self.counts[1::2], strict=True)]
        empty = len(pairs)
        return BlockSums(2 * self.n_images, self.size, self.done, [*sums, *[None] * empty], [*counts, *[0] * empty])

    def stacked(self) -> FloatArray:
        """Sums of all blocks, ``[B, H, W]``; zero for blocks without an image."""
        return np.stack([np.zeros(self.size) if block is None else block for block in self.sums])

    def mean(self) -> FloatArray:
        """Mean over all images, ``[H, W]``; blocks are added in order."""
        total = np.zeros(self.size)
        for block in self.sums:
            if block is not None:
                total += block
        return total / self.n_added


@dataclass
class RunState:
    """The state of an unfinished measurement, including the runs that this one resumes."""

    sums: BlockSums  # sums of the maps so far
    used: list[str] = field(default_factory=list)  # ids of the images in the sums
    # Images that could not be used, as {"id": ..., "reason": ...}.
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    methods: set[str] = field(default_factory=set)  # methods used for depthwise convolutions
    depths: list[int] = field(default_factory=list)  # in bits, of images with more than eight bits per value
    device_notes: list[str] = field(default_factory=list)  # on other devices that the measurement was continued on
    # Comparisons of the occlusion check for the images so far, which begins after the last image was added.
    occluded: list[Compared] = field(default_factory=list)
    # Numbers of images at once, in descending order, the last of which is in use; empty if it is that of the plan.
    batch_sizes: list[int] = field(default_factory=list)
    # Whether the number of images is not known in advance: blocks are merged in pairs whenever all of them are full.
    grows: bool = False
    chosen: ChosenMethods = field(default_factory=lambda: ChosenMethods({}, []))

    def __post_init__(self) -> None:
        """Note where the state begins: that of a part of a measurement does not begin at the first image."""
        self._first = self.sums.done
        self._changed: set[int] = set()  # blocks that have changed since the state was saved

    @property
    def done(self) -> int:
        """Index of the next image."""
        return self.sums.done

    def add(self, image_id: str, scores: FloatArray | str) -> None:
        """Add the scores of the next image, ``[H, W]``, or why there are none."""
        if self.grows and self.sums.done == self.sums.n_images:
            self.sums = self.sums.in_larger_blocks()
            self._changed = {block for block, count in enumerate(self.sums.counts) if count}
        if not isinstance(scores, str) and not np.isfinite(scores).all():
            scores = "Its contribution scores are not finite."
        if isinstance(scores, str):
            self.sums.done += 1
            self.skipped.append({"id": image_id, "reason": scores})
            return
        self._changed.add(self.sums.add(scores))
        self.used.append(image_id)

    def extend(self, part: RunState) -> None:
        """Add the state of a part that begins at the next image and at the next block."""
        for block, count in enumerate(part.sums.counts):
            if count:
                self.sums.sums[block], self.sums.counts[block] = part.sums.sums[block], count
        self.sums.done = part.sums.done
        self.used += part.used
        self.skipped += part.skipped
        self.seconds += part.seconds
        self.methods |= part.methods
        self.depths += part.depths
        self.batch_sizes = sorted({*self.batch_sizes, *part.batch_sizes}, reverse=True)

    def save(self, store: Checkpoint) -> None:
        """Save the state; sums that have not changed since the last time are not written again."""
        state = {"done": self.sums.done, "counts": self.sums.counts, "used": self.used, "skipped": self.skipped}
        state |= {"seconds": self.seconds, "methods": sorted(self.methods), "depths": self.depths}
        state |= {"occluded": self.occluded} | ({"batch_sizes": self.batch_sizes} if self.batch_sizes else {})
        sums = {block: self.sums.sums[block] for block in sorted(self._changed)}
        store.save(state, {f"block-{block:02d}": array for block, array in sums.items() if array is not None})
        self._changed.clear()

    def restore(self, store: Checkpoint, ids: Sequence[str], end: int) -> None:
        """Restore the saved state, if there is one, of a measurement of the images ``ids`` up to index ``end``."""
        saved = store.load(_STATE, lambda saved: self._fault(saved, ids, end))
        if saved is None:
            return
        done, counts = saved.state["done"], saved.state["counts"]
        sums = [saved.arrays[f"block-{block:02d}"] if count else None for block, count in enumerate(counts)]
        n_images = capacity_of(done) if self.grows else self.sums.n_images
        self.sums = BlockSums(n_images, self.sums.size, done, sums, counts)
        self.used, self.skipped = saved.state["used"], saved.state["skipped"]
        self.seconds = saved.state["seconds"]
        self.methods, self.depths = {*saved.state["methods"]}, saved.state["depths"]
        self.occluded = saved.state["occluded"]
        self.batch_sizes = saved.state["batch_sizes"] or []

    def _fault(self, saved: SavedState, ids: Sequence[str], end: int) -> str | None:
        """What is wrong with a saved state of a measurement of the images ``ids`` up to index ``end``."""
        done, counts, skipped = (saved.state[name] for name in ("done", "counts", "skipped"))
        # The other entries follow from the number of images and those that were skipped.
        reasons = {one.get("id"): one.get("reason") for one in skipped if len(one) == 2}
        indices = [index for index in range(self._first, min(done, end)) if ids[index] not in reasons]
        expected, _ = np.histogram(indices, block_bounds(capacity_of(done) if self.grows else len(ids)))
        blocks = [f"block-{block:02d}" for block, count in enumerate(counts) if count]
        # Blocks that were merged with others leave their arrays.
        arrays = {
            name: (array.shape, array.dtype.name)
            for name, array in saved.arrays.items()
            if name in blocks or not self.grows
        }
        is_known = (
            saved.state["seconds"] >= 0
            and self._first <= done <= end
            and len(reasons) == len(skipped) == done - self._first - len(indices)
            and None not in reasons.values()
            and saved.state["used"] == [ids[index] for index in indices]
            and counts == expected.tolist()
            and len(saved.state["occluded"]) <= len(indices)
            and min(saved.state["batch_sizes"] or [1]) > 0
            and arrays == dict.fromkeys(blocks, (self.sums.size, "float64"))
            and all(np.isfinite(array).all() for array in saved.arrays.values())
        )
        return None if is_known else "Its sums are not those of its images."


def result_of(
    state: RunState,
    target: TargetLayer,
    run: RunInfo,
    thresholds: Sequence[float],
    *,
    arithmetic: str,
    resize: str,
    convention: str | Convention = DEFAULT,
    notes: Sequence[str | None] = (),
    precision_note: str | None = None,
    criterion: Criterion | None = None,
) -> ErfResult:
    """The result of a measurement of at least one image; the values known here are added to ``run``.

    ``arithmetic`` is the precision actually used, ``resize`` describes how images were resized, and ``criterion`` is
    the one by which the measurement was to end.
    """
    sums, skipped = state.sums, tuple(state.skipped)
    each_map = convention_of(convention).map_of
    map_of = map_function(target, each_map)
    maps = each_map(sums.mean())
    center, followed, center_note = target.center()
    stacked = sums.stacked()
    recentering = recentering_of(target) if target.position.is_several else None
    positions = tuple(
        measured_position(
            target, place, stacked[:, index] if recentering else stacked, sums.counts, thresholds, each_map
        )
        for index, place in enumerate(target.places)
    )
    contribution = maps if recentering is None else recentering.mean(maps)
    middle = window_middle(target)
    blocks = Blocks(stacked, sums.counts, map_of)
    measured = MeasuredBlocks.of(blocks, thresholds, center, middle)
    intervals = intervals_of(measured.ratios, measured.half_widths)
    numbers = measured.statistics.numbers()
    convergence = convergence_of(
        stacked, sums.counts, thresholds, center, criterion, middle=middle, map_of=map_of, whole=measured
    )
    total = len(state.used) + len(skipped)
    skipped_note = f"{len(skipped)} of {total} images were skipped, see run.skipped." if skipped else None
    missing_note = interval_note(sums.counts) if None in intervals.values() else None
    found = (
        *notes,
        center_note,
        position_note(target),
        skipped_note,
        missing_note,
        precision_note,
        logarithm_note(contribution),
        criterion.note(blocks, thresholds, center, middle) if criterion and not convergence.converged else None,
        # A position near the border is limited by it at any size.
        None if target.position.kind == "at" else saturation_note(contribution, center, numbers.border_share),
    )
    return ErfResult(
        contribution=contribution,
        run=replace(
            run,
            image_ids=tuple(state.used),
            input_size=target.input_size,
            seconds=round(state.seconds, 3),
            skipped=skipped,
            config={
                **run.config,
                "thresholds": list(thresholds),
                "layout": str(target.layout),
                "arithmetic": arithmetic,
                "resize": resize,
                "intervals": f"95 %, jackknife over {len(sums.counts)} blocks of images, Student's t",
            },
        ),
        n_images=sums.n_added,
        n_skipped=len(skipped),
        input_size=target.input_size,
        layer=target.label,
        # Of one of several inputs, the layer may have positions along other axes.
        feature_size=target.layout.size if len(target.layout.size) == len(target.input_size) else None,
        center=center,
        center_source="receptive field" if followed else "stride rule",
        theoretical_rf=target.field.extent if followed and isinstance(target.field, Field) else None,
        ratios=tuple(
            RatioRow(protocol, threshold, answer.side, answer.ratio, intervals[protocol, threshold])
            for (protocol, threshold), answer in measured.ratios.items()
        ),
        notes=tuple(note for note in found if note),
        numbers=numbers,
        convergence=convergence,
        position=str(target.position),
        positions=positions,
        position_maps=None if recentering is None else maps,
    )


class ErfAccumulator:
    """Effective receptive field accumulated over batches, for instance in a training loop.

    The interface is that of a torchmetrics metric.

    The model is measured as it is at each update, in eval mode, float32 without TF32, and without autocast; it is not
    copied or prepared. Its modes, parameters, ``.grad``, buffers and hooks and the random number generators are left
    as they were. The map equals that of :func:`~replk_probe.measure_erf` for the same images to 1e-3 relative L2 in
    float32 (1e-9 in float64), the bound for the copy that is measured there.

    Intervals are computed over 10 to 20 blocks of consecutive images, for 20 images and more.

    Examples:
        >>> import torch
        >>> from replk_probe import ErfAccumulator
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.ReLU())
        >>> erf = ErfAccumulator(network, layer="0")
        >>> for _ in range(3):
        ...     erf.update(torch.rand(2, 3, 32, 32))
        >>> result = erf.compute()
        >>> result.n_images, result.theoretical_rf
        (6, 5)
    """

    def __init__(
        self,
        model: nn.Module | PreparedModel,
        layer: Layer = None,
        *,
        target: str | None = None,
        position: str | Sequence[int] = CENTER,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        convention: str | Convention = DEFAULT,
        attribution: str = GRADIENT,
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        """Start without images.

        Args:
            model: Model, as in :func:`~replk_probe.erf.contribution_scores`.
            layer: Layer, as in :func:`~replk_probe.erf.contribution_scores`.
            target: Target, as in :func:`~replk_probe.erf.contribution_scores`.
            position: Position, as in :func:`~replk_probe.erf.contribution_scores`. A grid or random positions need
                20 maps of memory for each position.
            thresholds: Shares of the total contribution, each in (0, 1).
            convention: Convention, as in :func:`~replk_probe.measure_erf`.
            attribution: Attribution, as in :func:`~replk_probe.measure_erf`.
            name: Name of the model in the result; None for the name it was created with, or that of its class.
            seed: Seed of random positions.

        Raises:
            InvalidInputError: An argument is invalid.
        """
        self._model = model
        self._module = module_of(model)
        self._layer, self._objective = point_of(self._module, layer), check_target(target)
        self._thresholds = check_thresholds(thresholds)
        self._convention, self._attribution = convention_of(convention), attribution
        self._record = convention_record(convention) | attribution_record(attribution, 0)
        self._name = name_of(self._module) if name is None else name
        self._position, self._seed = parse_position(position), check_seed(seed)
        self.reset()

    def __repr__(self) -> str:
        """One line with the model, the layer, the number of images in the mean and of those skipped, and their size."""
        point, state = self._target or self._layer, self._state
        facts: dict[str, object] = {"model": self._name, "layer": None if point is None else point.label}
        facts |= {"images": len(state.used) if state else 0, "skipped": len(state.skipped) if state else 0}
        facts["input_size"] = self._target.input_size if self._target else None
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in facts.items())})"

    def reset(self) -> None:
        """Forget all images. Images of another size may follow."""
        self._gradient: InputGradient | None = None
        self._target: TargetLayer | None = None
        self._state: RunState | None = None
        self._channels = 0

    def update(self, images: Tensor) -> None:
        """Add a batch of images.

        Args:
            images: Normalized images ``[N, C, H, W]``, floating point, on any device. All batches have the same C, H
                and W. Images without finite scores are skipped and counted.

        Raises:
            InvalidInputError: The batch or the layer cannot be used; earlier batches are kept.
        """
        start = time.perf_counter()
        check_batch(images)
        device = device_and_dtype(self._module).get("device", images.device)
        with ExitStack() as stack:
            stack.enter_context(preserved_generators(device))
            stack.enter_context(strict_arithmetic())
            target, gradient, state = self._target, self._gradient, self._state
            if target is None or gradient is None or state is None:
                target = target_for(self._module, images.shape, self._layer, self._convention, self._objective)
                target = target.at(self._position, self._seed)
                gradient = InputGradient(self._model, target, self._convention, self._attribution)
                state = RunState(BlockSums(MAX_BLOCKS, target.map_shape), grows=True)
            if tuple(images.shape[2:]) != target.input_size:
                raise InvalidInputError(
                    f"Images {list(images.shape)} of {list(images.shape[2:])} pixels cannot be added to images of "
                    f"{list(target.input_size)}. A mean needs maps of one size. Call reset() before another size."
                )
            scores = gradient.scores(images).cpu().double().numpy()
        self._target, self._gradient, self._state, self._channels = target, gradient, state, images.shape[1]
        for values in scores:
            state.add(TensorImages.id_of(state.sums.done), self._convention.summand(values))
        state.seconds += time.perf_counter() - start

    def compute(self) -> ErfResult:
        """The mean contribution map of all images so far and its area ratios; more images may follow.

        Returns:
            The result, as from :func:`~replk_probe.measure_erf`.

        Raises:
            InvalidInputError: There is no image with finite scores.
        """
        state, target = self._state, self._target
        if state is None or target is None or state.sums.n_added == 0:
            raise InvalidInputError(
                "There is no contribution map yet. No image with finite scores was added. Call update() first."
            )
        model, module = self._model, self._module
        place = device_and_dtype(module)
        device = place.get("device", torch.device("cpu"))
        if isinstance(model, PreparedModel):
            state.methods |= {*model.methods.take()}
            precision, backend, arithmetic = model.precision, model.backend_used(state.methods), model.arithmetic
        else:
            precision, backend = "fp32", planned_backend(module)
            arithmetic = f"{str(place.get('dtype', torch.float32)).removeprefix('torch.')} throughout"
        run = RunInfo(
            model=self._name,
            weights=weights_info(module),
            image_source=TensorImages.source,
            image_ids=(),
            input_size=target.input_size,
            mean=(0.0,) * self._channels,
            std=(1.0,) * self._channels,
            seed=self._seed,
            device=device_label(device),
            precision=precision,
            backend=backend,
            seconds=0.0,
            config={"model": self._name, "layer": target.label, **self._record, **target.position.recorded()}
            | ({} if self._objective is None else {"target": self._objective}),
            versions=versions_on(device),
        )
        return result_of(
            state,
            target,
            run,
            self._thresholds,
            arithmetic=arithmetic,
            resize="as given",
            convention=self._convention,
            notes=[target.note, experimental_note(device), contiguous_note(module, device)],
        )
