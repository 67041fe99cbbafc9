"""Checks of arguments that are the same in several functions, and the choice between options and a configuration."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from replk_probe.errors import InvalidInputError, WeightsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT", bound="DataclassInstance")
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def config_or_options(
    kind: type[DataclassInstance],
) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Decorator of a function that takes the options of ``kind`` as its argument ``config`` or as separate arguments.

    If ``config`` is given, an explicit argument with the name of a field is an error, even if its value is the default.
    The decorated function has the same signature.
    """
    names = {field.name for field in fields(kind)}

    def decorate(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            if kwargs.get("config") is not None:
                given = [name for name in signature.bind(*args, **kwargs).arguments if name in names]
                if given:
                    raise InvalidInputError(
                        f"Got a config and also {', '.join(given)}. Options are given either as config or as separate "
                        f"arguments. Pass config=dataclasses.replace(config, {given[0]}=...) instead."
                    )
            return function(*args, **kwargs)

        return checked

    return decorate


def choose_config(kind: type[ConfigT], config: Any, given: Mapping[str, Any]) -> ConfigT:
    """``config``, or if it is None, the configuration of the arguments with the names of its fields.

    ``given`` are all arguments of the function by name; those that are not fields of ``kind`` are ignored.
    """
    if config is None:
        return kind(**{field.name: given[field.name] for field in fields(kind)})
    if not isinstance(config, kind):
        raise InvalidInputError(
            f"Expected config to be an instance of {kind.__name__}, but got an object of type {type(config).__name__}. "
            f"Pass a configuration of that class, or the options as separate arguments."
        )
    return config


def whole(value: Any) -> int | None:
    """Convert any integer type to int; None for everything else, including booleans."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_integer(what: str, value: Any, least: int, *, other: str = "") -> int:
    """``value`` as an int of at least ``least``, or an InvalidInputError that names ``what``, as in "batch size".

    ``other`` is appended to the advice and names what else is accepted.
    """
    number = whole(value)
    if number is None or number < least:
        reason = "It must be an integer" if number is None else f"It must be at least {least}"
        raise InvalidInputError(f"The {what} cannot be {value!r}. {reason}. Use {least} or more{other}.")
    return number


def check_batch_size(value: Any) -> int | None:
    """A number of images at once of at least 1, or None for ``"auto"`` or None, by which it is chosen automatically."""
    automatic = value is None or (isinstance(value, str) and value == "auto")
    return None if automatic else check_integer("batch size", value, 1, other=", or 'auto'")


def check_bool(name: str, value: Any) -> bool:
    """``value``, or an InvalidInputError if it is not a bool."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"The option {name} cannot be {value!r}. It must be a bool. Use True or False.")
    return value


def check_selection(ema: Any, entry: Any, prefix: Any) -> None:
    """Raise InvalidInputError unless the options that select weights in a file are a bool and strings or None."""
    check_bool("ema", ema)
    for name, value in (("entry", entry), ("prefix", prefix)):
        if value is not None and (not isinstance(value, str) or not value):
            raise InvalidInputError(
                f"The option {name} cannot be {value!r}. It must be a string that is not empty. Use None to choose it "
                "automatically."
            )


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    """Raise InvalidInputError unless ``value`` is one of the ``known`` strings."""
    if not isinstance(value, str) or value not in known:
        raise InvalidInputError(f"Unknown {what} {value!r}. Choose from {', '.join(known)}.")


def check_name(name: Any) -> None:
    """Raise InvalidInputError unless ``name`` is a string or None."""
    if name is not None and not isinstance(name, str):
        raise InvalidInputError(f"The name {name!r} is not a string. Give a name for the result.")


def check_weights(weights: Any) -> str | None:
    """Weights as a string or None; a WeightsError if they are neither a name, a path nor None."""
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            f"Expected the weights as a name or a path, but got {weights!r}. "
            "Use 'pretrained', 'random', 'auto', a catalog name or a path."
        )
    return None if weights is None else os.fsdecode(weights)


def check_seed(seed: Any) -> int:
    """``seed`` as an int in [0, 2**63), the range of all generators used in this package, or an InvalidInputError."""
    number = whole(seed)
    if number is None or not 0 <= number < 2**63:
        raise InvalidInputError(
            f"The seed {seed!r} is invalid. A seed is an integer of 63 bits. Use 0 to 2**63 - 1, such as 0."
        )
    return number


def check_size(size: Any, smallest: int = 1, largest: int | None = None) -> tuple[int, int]:
    """(H, W) in pixels of a side or a pair of sides, which are limited by ``largest`` because of their memory."""
    pair = tuple(size) if isinstance(size, Iterable) and not isinstance(size, (str, bytes)) else (size, size)
    sides = [side for side in map(whole, pair) if side is not None]
    if len(pair) != 2 or len(sides) != 2:
        reason = "A size is a whole number of pixels, or a pair (height, width)"
    elif min(sides) < smallest:
        reason = f"The smallest side is {smallest} px"
    elif largest is not None and max(sides) > largest:
        reason = f"Sides above {largest} px need too much memory for the features of a single image"
    else:
        return sides[0], sides[1]
    raise InvalidInputError(
        f"Images of size {size!r} cannot be measured. {reason}. Give a side in pixels, such as 224."
    )


def check_statistics(name: str, values: Any, above: float = -math.inf) -> tuple[float, ...] | None:
    """Mean or standard deviation of each channel, from one number or several, or None.

    Raises:
        InvalidInputError: A value is not a finite number above ``above``, or there is none.
    """
    if values is None:
        return None
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    try:
        numbers = tuple(float(value) for value in (values if several else (values,)) if not isinstance(value, bool))
    except (TypeError, ValueError):
        numbers = ()
    if numbers and all(above < number < math.inf for number in numbers):
        return numbers
    positive = "positive " if above == 0 else ""
    raise InvalidInputError(
        f"The option {name} cannot be {values!r}. It must be one finite {positive}number, or one for each channel. "
        "Use for instance 0.5."
    )


def set_checked(config: DataclassInstance, **checked: Any) -> None:
    """Replace values of a frozen configuration by those that were checked and converted."""
    for name, value in checked.items():
        object.__setattr__(config, name, value)
