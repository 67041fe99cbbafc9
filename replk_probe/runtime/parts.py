"""Parts of a measurement: contiguous ranges of its images that are measured separately and then joined."""

from __future__ import annotations

import itertools
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from replk_probe.errors import InvalidInputError, ResumeError

from .checkpoint import METHODS, TUNING, Checkpoint, ResumeWarning, difference, exists
from .checks import check_integer
from .devices import may_tune
from .provenance import RunInfo
from .torchrun import gathered, this_process, together

if TYPE_CHECKING:
    import torch


def split(bounds: Sequence[int], count: int) -> list[range]:
    """Ranges of about equal length that together cover a measurement.

    Args:
        bounds: Where ranges may begin and end, ascending, from 0 to the number of images.
        count: Number of ranges; there are fewer if the bounds do not suffice.

    Raises:
        InvalidInputError: ``count`` is not a positive integer.
    """
    count = check_integer("number of parts", count, 1)
    total = bounds[-1]
    nearest = {min(bounds, key=lambda bound: abs(bound * count - index * total)) for index in range(count + 1)}
    return [range(*ends) for ends in itertools.pairwise(sorted(nearest))]


def check_part(bounds: Sequence[int], part: range) -> None:
    """Raise InvalidInputError unless a part begins and ends at one of the bounds."""
    if not (part.step == 1 and part.start < part.stop and {part.start, part.stop} <= {*bounds}):
        raise InvalidInputError(
            f"{part} is not a part of this measurement. Parts begin and end where they do not change the result. Use "
            "the ranges that parts() returns."
        )


def in_order(bounds: Sequence[int], parts: Iterable[range]) -> list[range]:
    """The parts in the order of the images.

    Raises:
        InvalidInputError: The parts do not cover every image exactly once.
    """
    found = sorted(parts, key=lambda part: part.start)
    for part in found:
        check_part(bounds, part)
    if [part.start for part in found] + [bounds[-1]] != [0] + [part.stop for part in found]:
        raise InvalidInputError(
            f"The parts {', '.join(map(str, found)) or '(none)'} do not form a whole. They must cover each of "
            f"{bounds[-1]} images exactly once. Give all ranges that one call of parts() returned."
        )
    return found


def saved_parts(folder: Path, total: int) -> list[range]:
    """The parts of a run whose states are in a folder of :func:`part_folders`, and the ranges between them.

    Args:
        folder: Folder of the run.
        total: Number of images of the measurement.

    Returns:
        Ranges that together cover the measurement; empty if there are no states.

    Raises:
        ResumeError: The states belong to runs that were divided in several ways.
    """
    names = (re.fullmatch(r"part-(\d+)-(\d+)", path.name) for path in folder.glob("part-*") if exists(path))
    found = sorted((int(name[1]), int(name[2])) for name in names if name)
    parts, end = [], 0
    for first, last in found:
        if not end <= first < last <= total:
            raise ResumeError(
                f"Cannot resume {folder}. Its states belong to runs that were divided in several ways. Start again "
                "without resume."
            )
        parts += [range(end, first)] * (end < first) + [range(first, last)]
        end = last
    return parts + [range(end, total)] * (0 < end < total)


def part_folders(folder: Path, parts: Iterable[range]) -> dict[range, Path]:
    """A folder for the state of each part; parts of a measurement that was divided otherwise have other folders."""
    return {part: folder / f"part-{part.start}-{part.stop}" for part in parts}


class ChosenMethods(NamedTuple):
    """The methods of convolutions that were chosen for a measurement.

    Attributes:
        methods: Names by problem, of those that replace the default.
        tuning: How each was chosen, also where the default was kept, for the record; empty if nothing was measured.
    """

    methods: dict[str, str]
    tuning: list[dict[str, Any]]

    @property
    def recorded(self) -> dict[str, Any]:
        """The entries of the record; none if nothing was measured."""
        return {name: value for name, value in ((METHODS, self.methods), (TUNING, self.tuning)) if value}


class PartState(Protocol):
    """The state of an unfinished measurement or of a part of it."""

    @property
    def done(self) -> int:
        """Index of the next image."""

    @property
    def device_notes(self) -> list[str]:
        """Notes on devices that the measurement was continued on."""

    chosen: ChosenMethods

    def extend(self, part: Any) -> None:
        """Add the state of the part that follows."""


StateT = TypeVar("StateT", bound=PartState)
ResultT = TypeVar("ResultT")


class _Settings(Protocol):
    """What this module needs of the options of a measurement."""

    @property
    def tune(self) -> str:
        """When methods of convolutions are chosen: ``"auto"``, ``"off"`` or ``"force"``."""


class Divisible(ABC, Generic[StateT, ResultT]):
    """A measurement of images that can be interrupted, continued, and divided into parts with the same result.

    Attributes:
        device: Device of the measurement.
        settings: Options of the measurement.
        _bounds: Indices of images where parts may begin and end, from 0 to the number of images.
        _options: The entries of :attr:`record` that are options of the function and the command.
        _optional: The entries that it lacks where an option is the usual one.
    """

    device: torch.device
    settings: _Settings
    _bounds: Sequence[int]
    _options: ClassVar[tuple[str, ...]]
    _optional: ClassVar[tuple[str, ...]]
    # The methods of convolutions on which the processes of torchrun have agreed; None in other runs.
    _agreed: ChosenMethods | None = None

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Everything that determines the result: equal records give equal bytes."""

    @property
    def _record_of_result(self) -> dict[str, Any]:
        """The entries of the record of a finished result, except those that are known only after the measurement."""
        return dict.fromkeys(self._optional) | self.record

    def difference(self, result: Any, *, allow_other_device: bool = False) -> str | None:
        """How a finished result differs from that of this measurement, with advice; None if it is the same.

        Args:
            result: Result of the same analyzer.
            allow_other_device: Whether it may have been measured on another device.
        """
        if not isinstance(result.run, RunInfo):
            return "It was imported, not measured. Start again without resume or in another folder."
        record = self._record_of_result
        return difference(record, result.run.config, record, self._options, allow_other_device=allow_other_device)

    @property
    @abstractmethod
    def _environment(self) -> Mapping[str, Any]:
        """The environment, which determines the rounding of the result."""

    @abstractmethod
    def _state(self, part: range, store: Checkpoint | None) -> StateT:
        """The saved state of a part, or an empty one if none is saved or ``store`` is None."""

    @abstractmethod
    def _measured(
        self, part: range, state: StateT, store: Checkpoint | None, progress: bool
    ) -> AbstractContextManager[Any]:
        """Add the images of a part that are not in the state."""

    @property
    def _may_tune(self) -> bool:
        """Whether methods of convolutions may be chosen for this measurement; equal in all processes."""
        return may_tune(self.settings.tune, self.device)

    @abstractmethod
    def _choose_methods(self, progress: bool) -> ChosenMethods:
        """The methods of convolutions for this measurement."""

    @abstractmethod
    def _run(self, state: StateT, store: Checkpoint | None, progress: bool) -> ResultT:
        """The result, after the images that are not in the state were added to it."""

    def parts(self, count: int) -> list[range]:
        """Divide the measurement into at most ``count`` parts of about equal length.

        Each part can be measured by :meth:`run_part` in a process of its own, in any order. They begin where neither
        the order of sums nor the images of a batch differ from those of :meth:`run`.

        Returns:
            Indices of the images of each part, in order.

        Raises:
            InvalidInputError: ``count`` is not a positive integer.
        """
        return split(self._bounds, count)

    def agree_on_methods(
        self, parts: Mapping[range, str | Path], *, allow_other_device: bool = False, progress: bool = False
    ) -> None:
        """Use the same methods of convolutions in all processes of torchrun, each of which calls this function.

        They are those of the parts that have been begun, or those that the first process chooses. Without this call,
        parts are measured by the usual methods.

        Args:
            parts: The folders of the parts that this process measures.
            allow_other_device: As in :meth:`run_part`.
            progress: Whether to draw a progress bar on stderr if that is a terminal.

        Raises:
            ResumeError: Parts have been begun with different methods.
        """
        if not self._may_tune:
            return
        process, begun = this_process(), []
        with together():
            for part, folder in parts.items():
                state, _ = self._restored(part, folder, allow_other_device=allow_other_device)
                begun += [state.chosen] if state.done > part.start else []
        saved = [ChosenMethods(*chosen) for each in gathered(begun) for chosen in each]
        chosen = _same(saved) if saved else ChosenMethods({}, [])
        if not saved:
            with together():
                if process is None or process.rank == 0:
                    chosen = self._choose_methods(progress)
            chosen = ChosenMethods(*gathered(chosen)[0])
        self._agreed = chosen

    def run_part(
        self, part: range, folder: str | Path, *, allow_other_device: bool = False, progress: bool = False
    ) -> None:
        """Measure a part, or continue it, and keep its state in a folder for :meth:`join`.

        Args:
            part: One of the ranges that :meth:`parts` returned.
            folder: Folder for the state of this part only; the state of an interrupted attempt is continued.
            allow_other_device: Whether an attempt of another device is continued.
            progress: Whether to draw a progress bar on stderr if that is a terminal.

        Raises:
            InvalidInputError: ``part`` is not a part of this measurement, or an image cannot be used.
            ResumeError: The state in the folder is damaged, or belongs to another part or another measurement.
        """
        check_part(self._bounds, part)
        state, store = self._restored(part, folder, allow_other_device=allow_other_device)
        if state.done < part.stop:
            with self._measured(part, state, store, progress):
                pass

    def join(self, parts: Mapping[range, str | Path], *, allow_other_device: bool = False) -> ResultT:
        """The result of a measurement whose parts are complete: that of :meth:`run`, with the sum of their times.

        Args:
            parts: Folder of each part, which is kept.
            allow_other_device: Whether parts of another device are used.

        Raises:
            InvalidInputError: The parts do not cover every image exactly once, or no image could be used.
            ResumeError: The state of a part is missing, incomplete or damaged, or belongs to another measurement.
        """
        whole, chosen = self._state(self._all, None), []
        for part in in_order(self._bounds, parts):
            state, store = self._restored(part, parts[part], allow_other_device=allow_other_device)
            if store is not None and state.done < part.stop:
                raise store.incomplete()
            whole.extend(state)
            chosen.append(state.chosen)
            whole.device_notes.extend(note for note in state.device_notes if note not in whole.device_notes)
        whole.chosen = _same(chosen)
        return self._run(whole, None, False)

    def run(
        self,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        allow_other_device: bool = False,
        progress: bool = False,
    ) -> ResultT:
        """Measure.

        Args:
            checkpoint: Folder in which the state is saved, or None.
            resume: Whether to continue from the state in that folder, if there is one.
            allow_other_device: Whether a state of another device is continued.
            progress: Whether to draw a progress bar on stderr if that is a terminal.

        Raises:
            InvalidInputError: An image cannot be used.
            ResumeError: The state is damaged, or belongs to another measurement.
        """
        restored = self._restored(self._all, checkpoint, resume=resume, allow_other_device=allow_other_device)
        return self._run(*restored, progress)

    @property
    def _all(self) -> range:
        """Indices of all images."""
        return range(self._bounds[-1])

    def _restored(
        self, part: range, folder: str | Path | None, *, resume: bool = True, allow_other_device: bool = False
    ) -> tuple[StateT, Checkpoint | None]:
        """The state of a part, which is empty if none is saved in the folder, and where it is saved."""
        store = None
        if folder is not None:
            entry = {} if part == self._all else {"part": f"{part.start} to {part.stop - 1}"}
            store = Checkpoint(
                folder, self.record | entry, self._options, resume=resume,
                environment=self._environment, allow_other_device=allow_other_device,
            )  # fmt: skip
        state = self._state(part, store)
        if store is not None:
            state.chosen = ChosenMethods(store.methods, store.tuning)
        if store is not None and store.device_note is not None:
            state.device_notes.append(store.device_note)
        return state, store

    def _begin(self, part: range, state: StateT, store: Checkpoint | None, progress: bool) -> None:
        """Choose the methods of convolutions of a run or a part that has not been begun."""
        if part.stop == part.start:
            return
        if state.done > part.start:
            if store is not None and state.chosen.methods and self.settings.tune == "off":
                warnings.warn(
                    f"The run in {store.folder} was started with methods of convolution that were chosen by "
                    "measurement. It keeps them although tune is 'off', because a run uses the same methods "
                    "throughout. Start again without resume to use the default.",
                    ResumeWarning,
                    stacklevel=2,
                )
            return
        if self._agreed is not None:
            state.chosen = self._agreed
        elif part == self._all and self._may_tune:
            state.chosen = self._choose_methods(progress)
        if store is not None:
            store.set_methods(*state.chosen)


def _same(chosen: Sequence[ChosenMethods]) -> ChosenMethods:
    """The methods of all parts; they may have been measured at different times.

    Raises:
        ResumeError: They differ.
    """
    if any(one.methods != chosen[0].methods for one in chosen):
        raise ResumeError(
            "Cannot join the parts of this measurement. Their convolutions were computed by different methods. "
            "Start again without resume."
        )
    return chosen[0]
