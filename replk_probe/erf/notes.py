"""What the reader must be told about a network or a run, in a sentence each; None where there is nothing to tell."""

from __future__ import annotations

from torch import nn

from .accumulator import BlockSums

# A norm or layer scale of this size lets so little through that its branch hardly shows beside the shortcut.
_CLOSED = 1e-4


def interval_note(sums: BlockSums) -> str | None:
    """Why there are no intervals, where two images or more let the reader expect some."""
    if sums.n_added < 2:
        return None
    if sum(count > 0 for count in sums.counts) < 2:
        return (
            f"No 95 % intervals: all {sums.n_added} usable images fell into one of the {len(sums.counts)} blocks of "
            "images that they are taken from."
        )
    return "No 95 % intervals: without one of the blocks of images the map is zero everywhere."


def trained_size_note(trained: tuple[int, int], measured: tuple[int, int]) -> str:
    """Whether a small model of this package sees images of the size that it was trained on."""
    size, other = (f"{height}x{width} px" for height, width in (trained, measured))
    if trained == measured:
        return f"Measured at {size}, the size of the training images of this small model."
    return f"This small model was trained on images of {size}, but is measured at {other}."


def closed_branches_note(model: nn.Module) -> str | None:
    """That random weights leave residual branches closed: some networks start training with them at zero."""
    closed = [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 1
        and parameter.numel() == max(parameter.shape)  # one scale for each channel
        and not name.endswith("bias")
        and bool((parameter.detach().abs() <= _CLOSED).all())
    ]
    if not closed:
        return None
    return (
        f"As this network is initialised, {len(closed)} of its branches are closed or nearly so (scales of at most "
        f"{_CLOSED:g}, such as {closed[0]}): with random weights the map shows little but what goes past them."
    )
