"""Weights files rewritten: branches merged, tensors renamed; no file is kept that computes something else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replk_probe import __version__
from replk_probe.errors import InvalidInputError, WeightsError
from replk_probe.runtime.atomic_files import atomic_path
from replk_probe.runtime.progress import progress as progress_bar

from .checkpoints.load import CheckpointReport, load_checkpoint
from .checkpoints.rename_keys import check_scheme, in_scheme, timm_call
from .checkpoints.write import write_safetensors
from .equivalence import Difference, largest_difference, outputs_of
from .factory import create_model, data_config
from .inference.check import input_channels, random_image
from .layers.reparam import MERGE_METHODS, Mergeable, reparameterize

# Relative differences above which nothing is written. Merging is computed in float64; then weights are rounded to the
# dtype of the file, which is felt most where branches of opposite signs are summed.
_MERGING = 1e-9
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_ROUNDING_HALF = 5e-2
_MERGED = ("merged", "merged+fused")


@dataclass(frozen=True)
class ReparamReport:
    """What a weights file was, and what was written.

    Attributes:
        source: The file that was read.
        written: The new file, as it was read back.
        scheme: How its tensors are called: ``"official"``, ``"replk-probe"`` or ``"timm"``.
        layers: How many layers were merged.
        convolutions: How many convolutions they consisted of.
        parameters: Of the network, before and after.
        image_shape: Of the random image, ``(1, C, H, W)``.
        merging: How far outputs are from those before, before the weights were rounded; None where nothing was merged.
        rounding: The same with the new file.
        timm_model: The call that builds the network in timm, where the file has timm's names.
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
    timm_model: str | None


def reparam_checkpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str,
    *,
    scheme: str = "replk-probe",
    merge: bool = True,
    ema: bool = False,
    force: bool = False,
    progress: bool = False,
) -> ReparamReport:
    """Merge the branches in a weights file, or rename its tensors alone, and write the result as safetensors.

    Each large kernel, the branches beside it and their batch norms become one convolution with bias, computed in
    float64 and rounded to the dtype of the file; all other tensors stay as they are, bit for bit. Before merging, after
    it, and with the new file, the network is run in float64 on one random image of the size that it is for.

    Args:
        path: The file, in any form that :func:`~replk_probe.models.load_checkpoint` reads.
        output: The new file, ``*.safetensors``.
        model: Name of the network, as for :func:`~replk_probe.models.create_model`.
        scheme: How tensors are to be called. ``"official"``: as in the code of RepLKNet's and SLaK's authors;
            ``"replk-probe"``: as in the model; ``"timm"``: as in timm's ConvNeXt, which a merged SLaK or large-kernel
            ConvNeXt is.
        merge: Merge the branches; otherwise only names change.
        ema: Take the averaged entry of the file.
        force: Replace ``output`` if it is there.
        progress: Draw a bar on a terminal.

    Returns:
        What was done, and the differences that were found.

    Raises:
        WeightsError: The file cannot be read, does not fit the model, is merged already, or computes something else
            afterwards.
        InvalidInputError: There is nothing to merge, the family has no such names, or ``output`` cannot be written.
        UnknownModelError: The name leads to no model.
    """
    path, output = Path(path), Path(output)
    _check_output(path, output, force=force)
    network = create_model(model).double()
    check_scheme(scheme, network, model)
    layers = _mergeable_layers(network) if merge else []
    if merge and not layers:
        raise _nothing_to_merge(network, model)
    source = load_checkpoint(network, path, ema=ema)
    _check_form(source, scheme, merge=merge)

    image = random_image(data_config(network).input_size, input_channels(network), torch.float64)
    steps = (3 if merge else 2) * (len(layers) + 1)
    bar: Any
    with progress_bar(total=steps, desc="verifying", unit="layer", disable=not progress) as bar:
        expected = outputs_of(network, image, layers, bar.update)
        _refuse_not_finite(expected, path)
        names, parameters = set(network.state_dict()), _parameters(network)
        convolutions = sum(_convolutions(network.get_submodule(layer)) for layer in layers)
        merging = None
        if merge:
            reparameterize(network)
            merging = largest_difference(expected, outputs_of(network, image, layers, bar.update))
            _refuse_above(_MERGING, merging, path, "Please report this, with the name of the model.")
        tensors = _rounded(network.state_dict(), names, source.dtypes)
        parameters_after = _parameters(network)
        timm_model = timm_call(network) if scheme == "timm" else None
        del network  # the next one is as large

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
            tolerance = _tolerance(source) if merge else _MERGING
            _refuse_above(tolerance, rounding, path, "Merge the float32 file that it was made from, if there is one.")
    return ReparamReport(
        source=source,
        written=replace(written, path=output),
        scheme=scheme,
        layers=len(layers),
        convolutions=convolutions,
        parameters=(parameters, parameters_after),
        image_shape=tuple(image.shape),
        merging=merging,
        rounding=rounding,
        timm_model=timm_model,
    )


def _check_output(path: Path, output: Path, *, force: bool) -> None:
    if output.suffix != ".safetensors":
        raise InvalidInputError(
            f"Cannot write {output}. Weights are written as safetensors only, which holds no code. Name it "
            f"{output.with_suffix('.safetensors').name}; torch.save(safetensors.torch.load_file(...), ...) makes a "
            ".pth of it."
        )
    if output.is_dir():
        raise InvalidInputError(f"Cannot write {output}. It is a folder. Give the name of a file in it.")
    if not output.exists():
        return
    if path.exists() and output.samefile(path):
        raise InvalidInputError(f"Cannot write {output}. It is the file that is read. Choose another name.")
    if not force:
        raise InvalidInputError(f"Cannot write {output}. There is such a file already. Pass --force to replace it.")


def _check_form(source: CheckpointReport, scheme: str, *, merge: bool) -> None:
    if merge and source.form in _MERGED:
        raise WeightsError(
            f"{source.path.name} is merged already. It is in {source.form} form, which has no branches. Use it as it "
            "is, or convert its names alone with --no-merge."
        )
    if scheme == "timm" and source.form == "train" and not merge:
        raise InvalidInputError(
            f"{source.path.name} cannot have timm's names as it is. Where it has branches, timm's ConvNeXt has one "
            "convolution. Leave out --no-merge."
        )


def _mergeable_layers(network: nn.Module) -> list[str]:
    """Paths of the outermost layers with branches, or with a batch norm of their own."""
    found: list[str] = []
    for path, module in network.named_modules():
        if isinstance(module, Mergeable) and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


def _nothing_to_merge(network: nn.Module, model: str) -> InvalidInputError:
    if any(hasattr(module, name) for module in network.modules() for name in MERGE_METHODS):
        return InvalidInputError(
            f"{model} cannot be merged here. It merges its branches by code of its own. For timm's models that is "
            "timm.utils.reparameterize_model(model)."
        )
    return InvalidInputError(
        f"{model} has nothing to merge. No layer of {type(network).__name__} has parallel branches. Pass --no-merge to "
        "rewrite its file alone."
    )


def _convolutions(layer: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in layer.modules())


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _rounded(state: Mapping[str, Tensor], before: set[str], dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Copies of what came from the file, in its dtypes, and of what merging made, in the widest of them."""
    floats = [dtype for dtype in dtypes.values() if dtype.is_floating_point]
    widest = max(floats, key=lambda dtype: dtype.itemsize, default=torch.float32)
    return {
        name: tensor.detach().to(dtypes.get(name, widest), copy=True).contiguous()
        for name, tensor in state.items()
        if name in dtypes or name not in before
    }


def _tolerance(source: CheckpointReport) -> float:
    kinds = {dtype for dtype in source.dtypes.values() if dtype.is_floating_point}
    return max((_ROUNDING.get(kind, _ROUNDING_HALF) for kind in kinds), default=_MERGING)


def _refuse_not_finite(outputs: Mapping[str, Tensor], path: Path) -> None:
    for layer, output in outputs.items():
        if not bool(torch.isfinite(output).all()):
            raise WeightsError(
                f"{path.name} was not rewritten. On a random image the outputs of {layer or 'the network'} are NaN or "
                "infinite, so that nothing can be verified; a negative variance of a batch norm does that. Choose an "
                "earlier checkpoint of the training."
            )


def _refuse_above(tolerance: float, found: Difference, path: Path, advice: str) -> None:
    if found.relative <= tolerance:
        return
    place = f"of {found.layer}" if found.layer else "of the network"
    raise WeightsError(
        f"{path.name} was not rewritten. On a random image the outputs {place} would differ by {found.relative:.1e} "
        f"of the largest, and {tolerance:.0e} is what rounding explains. {advice}"
    )
