"""The calls of the modules of a network, and the functions that the code of each module calls itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        path: Path of the module.
        number: Number of the call among those of this module, from 1.
        operations: Number of functions with a tensor result that its own code has called so far.
        input: Whatever the one who follows the calls notes about its input.
    """

    path: str
    number: int
    operations: int = 0
    input: Any = None


Watcher: TypeAlias = Callable[[Call, Any], None]


class ModuleCalls(TorchFunctionMode):
    """Follows the calls of all modules of a network, and the functions that the code of each module calls itself.

    The functions of torch that Python code calls are the same, in the same order, on every device and with or without
    gradients, and folding replaces modules but not the code around them. So the number of a function among those of
    one module call identifies a value that is no module's output.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        entered: Watcher | None = None,
        left: Watcher | None = None,
        operating: Callable[[], None] | None = None,
        operated: Callable[[Call, Any, Tensor], None] | None = None,
    ) -> None:
        """Prepare to follow a network; nothing happens before the context is entered.

        Args:
            model: The network.
            entered: Called with every module call and the arguments.
            left: Called with every module call and the output.
            operating: Called before every function.
            operated: Called with the innermost module call, the function and its result, a tensor.
        """
        super().__init__()
        self._model, self._entered, self._left = model, entered, left
        self._operating, self._operated = operating, operated
        self._counts: Counter[str] = Counter()
        self._stack: list[Call] = []
        self._thread: int | None = None
        self._hooks = ExitStack()

    @property
    def current(self) -> Call | None:
        """The innermost module call."""
        return self._stack[-1] if self._stack else None

    @property
    def counts(self) -> Counter[str]:
        """Number of calls of each module, by path."""
        return self._counts

    def __enter__(self) -> ModuleCalls:
        """Add hooks to all modules."""
        self._thread = threading.get_ident()
        for path, module in self._model.named_modules():
            enter, leave = partial(self._enter, path), partial(self._leave, path)
            self._hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            self._hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove the hooks."""
        self._thread = None
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function and count it."""
        if self._operating is not None:
            self._operating()
        result = func(*args, **(kwargs or {}))
        if self._stack and isinstance(result, Tensor):
            self._stack[-1].operations += 1
            if self._operated is not None:
                self._operated(self._stack[-1], func, result)
        return result

    def _enter(self, path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self._counts[path] += 1
            self._stack.append(Call(path, self._counts[path]))
            if self._entered is not None:
                self._entered(self._stack[-1], (*args, *kwargs.values()))

    def _leave(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread and self._stack:
            call = self._stack.pop()
            if self._left is not None and output is not None:
                self._left(call, output)
