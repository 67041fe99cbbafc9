"""The base class of dispatch modes in whose context nothing is compiled."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class UncompiledDispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A ``TorchDispatchMode`` for which torch does not import its compiler, which takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: torch then does not import ``torch._dynamo`` to disable it for ``__torch_dispatch__``."""
        return False
