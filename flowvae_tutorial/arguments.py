"""Arguments become plain numbers, at the door: `int`, `float` and `str` of Python's own.

A NumPy scalar or a tensor of one number is as good as a number to calculate with, and not to keep:
a checkpoint that held one could not be read again.

Example:
    >>> import numpy as np
    >>> from flowvae_tutorial.arguments import number, whole
    >>> whole(np.int64(3), "epochs"), number(np.float32(0.5), "beta")
    (3, 0.5)
"""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeVar

from torch import Tensor

from .errors import InputError

Sizes = TypeVar("Sizes", bound=Any)
Called = TypeVar("Called")
# Of counts and seeds. No run gets so far, and sums and products of two stay within 64 bits.
LARGEST = 2**31 - 1
# Of one size of a network or a mixture: a million components of 40 numbers take 320 MB, and the
# next thousandfold no machine holds. How much the product of two sizes takes is the caller's.
SIZE = 1_000_000
# Of numbers: float32 ends at 3e38, and products of a number and a loss or a latent are to fit.
LARGEST_NUMBER = 1e30


def whole(value: object, name: str, least: int = 1, most: int = LARGEST) -> int:
    """The whole number that `value` is.

    Raises:
        InputError: it is none, or not from `least` to `most`. 2.0 is none, nor is True.
    """
    given = _plain(value)
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"{name} must be a whole number, got {_told(value)}")
    if not least <= given <= most:
        raise InputError(f"{name} must be from {least} to {most}, got {_told(given)}")
    return int(given)


def widths(values: object, name: str, *, least: int = 0) -> tuple[int, ...]:
    """The widths of at least so many layers, each a whole number from 1 to `SIZE`.

    Raises:
        InputError: they are not.
    """
    if isinstance(values, str) or not isinstance(values, Iterable) or _is_scalar(values):
        raise InputError(f"{name} must be whole numbers, such as (64, 64), got {_told(values)}")
    given = tuple(whole(value, name, most=SIZE) for value in values)
    if len(given) < least:
        raise InputError(f"{name} must name at least {least} layer, got {_told(values)}")
    return given


def plain_sizes(sizes: Sizes) -> Sizes:
    """The same named tuple of sizes; those that speak of hidden layers are several widths.

    Raises:
        InputError: one is no size.
    """
    given: dict[str, object] = {
        name: widths(size, name) if "hidden" in name else whole(size, name, least=0, most=SIZE)
        for name, size in sizes._asdict().items()
    }
    checked: Sizes = type(sizes)(**given)
    return checked


def number(
    value: object, name: str, *, positive: bool = False, most: float = LARGEST_NUMBER
) -> float:
    """The number from 0, or if `positive` above 0, to `most` that `value` is.

    Raises:
        InputError: it is none. NaN never is, infinity only if `most` is.
    """
    given = _real(value)
    if not 0 <= given <= most or (positive and given == 0):
        least = "a number above 0" if positive else "a number from 0"
        end = "" if most == math.inf else f" to {most:g}"
        raise InputError(f"{name} must be {least}{end}, got {_told(value)}")
    return given


def interval(value: object, name: str, *, unbounded: bool = False) -> tuple[float, float]:
    """Two numbers, the lower first, neither beyond ±1e30; or if `unbounded`, −∞ and ∞.

    Raises:
        InputError: they are not.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str) and not _is_scalar(value)
    given = [*map(_real, value)] if several else []  # type: ignore[call-overload]
    low, high = given if len(given) == 2 else (math.nan, math.nan)
    none = unbounded and low == -math.inf and high == math.inf
    if not none and not -LARGEST_NUMBER <= low < high <= LARGEST_NUMBER:
        raise InputError(
            f"{name} must be two numbers, the lower first, neither beyond ±{LARGEST_NUMBER:g}, got "
            f"{_told(value)}; {'networks.UNBOUNDED' if unbounded else 'None'} sets none"
        )
    return low, high


def weight(value: float | Tensor, name: str) -> float | Tensor:
    """The number from 0 that `value` is, or what is one for torch: gradients may run through it.

    Raises:
        InputError: it is of another kind.
    """
    plain = isinstance(value, float)
    if isinstance(value, Tensor):
        plain = value.ndim == 0 and value.is_floating_point() and not value.is_meta
    return value if plain else number(value, name)


def called(value: Called, name: str) -> Called:
    """The module or function that `value` is.

    Raises:
        InputError: it is none; a class is none yet.
    """
    if not callable(value) or isinstance(value, type):
        raise InputError(f"{name} must be a module, such as mlp(2, [32], 64), got {_told(value)}")
    return value


def text(value: object, name: str) -> str:
    """The text that `value` is.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {_told(value)}")
    return str(value)


def plain_name(value: object, name: str) -> str:
    """The text that `value` is, if files named by it stay in their folder.

    Raises:
        InputError: it is none, a path, or longer than 200 characters.
    """
    given = text(value, name)
    if len(given) > 200 or not set(given).isdisjoint("/\\\0"):
        raise InputError(
            f"{name} must be no path and have at most 200 characters, got {_told(value)}"
        )
    return given


def _is_scalar(value: object) -> bool:
    return getattr(value, "ndim", None) == 0


def _plain(value: object) -> object:
    """What a NumPy scalar or a tensor of one number holds; anything else as it is."""
    try:
        return value.item() if _is_scalar(value) else value  # type: ignore[attr-defined]
    except RuntimeError:  # a tensor without values, on torch's meta device
        return value


def _real(value: object) -> float:
    given = _plain(value)
    if isinstance(given, bool) or not isinstance(given, Real):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.nan


def _told(value: object) -> str:
    """On one line, and short: Python refuses to write whole numbers of many digits."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:60]}…"
