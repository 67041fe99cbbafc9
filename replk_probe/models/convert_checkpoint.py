"""Rewriting weights files: merging branches and renaming tensors, with the result verified before it is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe._version import __version__
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.paths import usable_path
from replk_probe.runtime.progress import progress as progress_bar

from .branches.merge import BranchMerging, merge_parallel_branches
from .branches.own_methods import OwnMerging, has_merge_methods, merge_by_own_methods
from .checkpoints.load import CheckpointReport, load_checkpoint
from .checkpoints.rename_keys import check_scheme, in_scheme, timm_call
from .checkpoints.write import write_safetensors
from .equivalence import Difference, largest_difference, outputs_of
from .factory import create_model
from .inference.check import input_channels, random_image, tolerance
from .inference.copying import meta_copy_of
from .layers.reparam import Foldable, Mergeable, merge_as_published
from .records import data_config
from .summary import count_parameters

# Relative difference above which nothing is written, since merging is computed in float64. Rounding to the dtype of the
# file then matters most where branches of opposite signs are summed.
_MERGING = 1e-9
_MERGED = ("merged", "merged+fused")


@dataclass(frozen=True)
class ReparamReport:
    """The file that was read and the file that was written.

    Attributes:
        source: Report on the file that was read.
        written: Report on the new file, after reading it back.
        scheme: Naming scheme of its tensors: ``"official"``, ``"replk-probe"`` or ``"timm"``.
        layers: Number of layers that were merged.
        convolutions: Number of convolutions in these layers before merging.
        parameters: Number of parameters of the network before and after.
        image_shape: Shape of the random image, ``(1, C, H, W)``.
        merging: Difference from the original outputs before the weights are rounded, or None if nothing was merged.
        rounding: Difference from the original outputs with the new file.
        unmerged: One sentence for each block of parallel branches that was left as it is, and one if the network's own
            methods were not used or merged in float32, or "".
        own_methods: Number of these layers that were merged by the network's own methods.
        timm_model: Call that builds the network in timm, if the file has timm's names.
    """

    source: CheckpointReport
    written: CheckpointReport
    scheme: str
    layers: int
    convolutions: int
    parameters: tuple[int, int]
    image_shape: tuple[int, ...]
    merging: Difference | None
    rounding: Difference
    unmerged: str
    own_methods: int
    timm_model: str | None


def reparam_checkpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str,
    *,
    scheme: str = "replk-probe",
    merge: bool = True,
    ema: bool = False,
    entry: str | None = None,
    prefix: str | None = None,
    force: bool = False,
    progress: bool = False,
) -> ReparamReport:
    """Merge the branches in a weights file, or only rename its tensors, and write the result as safetensors.

    Each large kernel, its parallel branches and their batch norms become one convolution with bias, computed in
    float64 and rounded to the dtype of the file; all other tensors keep their exact values. In a UniRepLKNet, all norms
    and scales of its blocks are folded as well, as in the files that its authors' code merges. Networks that are not of
    this package are merged by the methods of their own modules, such as ``switch_to_deploy``, if the outputs remain the
    same, and have the names that these methods choose; see :func:`~.branches.own_methods.merge_by_own_methods`. The
    branches that they leave are found by :func:`~.branches.merge.merge_parallel_branches`, and the merged
    convolution has the name of one of them. Before merging, after merging and with the new file, the network is run in
    float64 on one random image of its input size.

    Args:
        path: Path of the file, in any form that :func:`~replk_probe.models.load_checkpoint` reads.
        output: Path of the new file, ``*.safetensors``.
        model: Name of the network, as for :func:`~replk_probe.models.create_model`.
        scheme: Naming scheme of the new file. ``"official"``: as in the code of RepLKNet's, SLaK's and UniRepLKNet's
            authors; ``"replk-probe"``: as in the model; ``"timm"``: as in timm's ConvNeXt, for a merged SLaK or
            large-kernel ConvNeXt.
        merge: Whether to merge the branches; otherwise only names change.
        ema: Whether to read the averaged entry of the file.
        entry: Entry of the file to read, as in :func:`~replk_probe.models.create_model`.
        prefix: Prefix of the names in the file, as in :func:`~replk_probe.models.create_model`.
        force: Whether to overwrite ``output`` if it exists.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        A report on both files and on the differences found.

    Raises:
        WeightsError: The file cannot be read, does not match the model or is already merged, or the outputs would
            change.
        InvalidInputError: There is nothing to merge, the scheme does not apply, or ``output`` cannot be written.
        UnknownModelError: There is no model of this name.

    Examples:
        >>> import torch
        >>> from replk_probe.models import create_model, default_models, reparam_checkpoint
        >>> name = default_models("kernels")[0]
        >>> torch.save(create_model(name, "random").state_dict(), "trained.pth")
        >>> report = reparam_checkpoint("trained.pth", "merged.safetensors", name)
        >>> report.convolutions == 2 * report.layers, report.merging.relative < 1e-6
        (True, True)
    """
    path, output = usable_path(path, "The weights file"), usable_path(output, "The output file")
    _check_output(path, output, force=force)
    network = create_model(model).double()
    check_scheme(scheme, network, model)
    blocks = _mergeable_blocks(network) if merge else {}
    layers, count = [layer for path, block in blocks.items() for layer in _compared(path, block)], len(blocks)
    convolutions = sum(map(_convolutions_in, blocks.values()))
    can_fold = any(isinstance(block, Foldable) for block in blocks.values())
    foreign = merge and not layers
    if foreign and not has_merge_methods(network):
        _mergeable_branches(network, model)  # raises if there is nothing, before the file is read
    source = load_checkpoint(network, path, ema=ema, entry=entry, prefix=prefix)
    _check_form(source, scheme, merge=merge, finished=_MERGED[1:] if can_fold else _MERGED)
    own, traced = OwnMerging(), BranchMerging()
    if foreign:
        own = merge_by_own_methods(network)
        traced = _mergeable_branches(network, model, own)
        layers = [*own.layers, *traced.layers]
        count, convolutions = len(own.blocks) + len(traced.blocks), own.convolutions + traced.convolutions

    image = random_image(data_config(network).input_size, input_channels(network), torch.float64)
    steps = (3 if merge else 2) * (len(layers) + 1)
    bar: Any
    with progress_bar(total=steps, desc="verifying", unit="layer", disable=not progress) as bar:
        expected = outputs_of(network, image, layers, bar.update)
        _refuse_not_finite(expected, path)
        names, parameters = set(network.state_dict()), count_parameters(network)
        merging = None
        if merge:
            if foreign:
                network = own.network or network
                merge_parallel_branches(network)
            else:
                merge_as_published(network)
            merging = largest_difference(expected, outputs_of(network, image, layers, bar.update))
            limit = max(_MERGING, own.limit)
            _refuse_above(limit, merging, path, "Please report this with the name of the model.")
        tensors = _rounded(network.state_dict(), names, source.dtypes)
        parameters_after = count_parameters(network)
        timm_model = timm_call(network) if scheme == "timm" else None
        del network  # the next network is as large

        metadata = {
            "replk_probe_version": __version__,
            "model": model,
            "scheme": scheme,
            "merged": "yes" if merge or source.form in _MERGED else "no",
            "source_file": path.name,
            "source_sha256": source.sha256,
        }
        with atomic_path(output) as temporary:
            write_safetensors(in_scheme(scheme, tensors), temporary, metadata)
            tensors.clear()
            again = create_model(model).double()
            written = load_checkpoint(again, temporary)
            rounding = largest_difference(expected, outputs_of(again, image, layers, bar.update))
            limit = _tolerance(source) if merge else _MERGING
            _refuse_above(limit, rounding, path, "Merge the float32 file that it was made from, if there is one.")
    return ReparamReport(
        source=source,
        written=replace(written, path=output),
        scheme=scheme,
        layers=count,
        convolutions=convolutions,
        parameters=(parameters, parameters_after),
        image_shape=tuple(image.shape),
        merging=merging,
        rounding=rounding,
        unmerged=" ".join(filter(None, (own.note, traced.reasons))),
        own_methods=len(own.blocks),
        timm_model=timm_model,
    )


def _check_output(path: Path, output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise InvalidInputError(f"Cannot write {output}. It is a folder. Pass the path of a file in it.")
    if output.suffix != ".safetensors":
        raise InvalidInputError(
            f"Cannot write {output}. Weights are only written as safetensors, which contains no code. Name it "
            f"{output.stem or 'weights'}.safetensors; torch.save(safetensors.torch.load_file(...), ...) converts it "
            "to .pth."
        )
    if not output.exists():
        return
    if path.exists() and output.samefile(path):
        raise InvalidInputError(f"Cannot write {output}. It is the input file. Choose another name.")
    if not force:
        raise InvalidInputError(f"Cannot write {output}. The file exists. Use force to overwrite it.")


def _check_form(source: CheckpointReport, scheme: str, *, merge: bool, finished: Sequence[str]) -> None:
    if merge and source.form in finished:
        raise WeightsError(
            f"{source.path.name} is already merged. It is in {source.form} form, which has no branches. Use it as it "
            "is, or only rename its tensors without merging."
        )
    if scheme == "timm" and source.form == "train" and not merge:
        raise InvalidInputError(
            f"{source.path.name} cannot use timm's names before merging. Where it has branches, timm's ConvNeXt has "
            "one convolution. Merge the branches as well."
        )


def _mergeable_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The outermost blocks that have branches or norms to merge, by their paths."""
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        if isinstance(module, Mergeable | Foldable) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return found


def _compared(path: str, block: nn.Module) -> list[str]:
    """Paths of the layers whose outputs merging the block must preserve."""
    return [f"{path}.{name}" for name in block.preserved_layers] if isinstance(block, Foldable) else [path]


def _convolutions_in(block: nn.Module) -> int:
    """Number of convolutions that are merged; those of channel attention in a block are not."""
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    return sum(not isinstance(block, Foldable) or max(conv.kernel_size) > 1 for conv in convs)


def _mergeable_branches(network: nn.Module, model: str, own: OwnMerging | None = None) -> BranchMerging:
    """What is merged in a network of another package after its own methods, without changing it.

    Raises InvalidInputError if neither merges anything.
    """
    own = own or OwnMerging()
    found = merge_parallel_branches(meta_copy_of(own.network or network))
    if not found.blocks and own.network is None:
        why = found.reasons or own.note or f"No layer of {type(network).__name__} has parallel branches."
        raise InvalidInputError(f"{model} has nothing to merge. {why} Rewrite its file without merging.")
    return found


def _rounded(state: Mapping[str, Tensor], before: set[str], dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Copies of the tensors: those from the file in their dtypes, and merged ones in the widest of these."""
    floats = [dtype for dtype in dtypes.values() if dtype.is_floating_point]
    widest = max(floats, key=lambda dtype: dtype.itemsize, default=torch.float32)
    return {
        name: tensor.detach().to(dtypes.get(name, widest), copy=True).contiguous()
        for name, tensor in state.items()
        if name in dtypes or name not in before
    }


def _tolerance(source: CheckpointReport) -> float:
    kinds = {dtype for dtype in source.dtypes.values() if dtype.is_floating_point}
    return max(map(tolerance, kinds), default=_MERGING)


def _refuse_not_finite(outputs: Mapping[str, Tensor], path: Path) -> None:
    for layer, output in outputs.items():
        if not bool(torch.isfinite(output).all()):
            raise WeightsError(
                f"{path.name} was not rewritten. On a random image the outputs of {layer or 'the network'} are NaN or "
                "infinite, so nothing can be verified; a negative variance in a batch norm causes this. Use an "
                "earlier checkpoint of the training."
            )


def _refuse_above(limit: float, found: Difference, path: Path, advice: str) -> None:
    if found.relative <= limit:
        return
    place = f"of {found.layer}" if found.layer else "of the network"
    raise WeightsError(
        f"{path.name} was not rewritten. On a random image the outputs {place} would differ by {found.relative:.1e} "
        f"of the largest, but rounding explains at most {limit:.0e}. {advice}"
    )
