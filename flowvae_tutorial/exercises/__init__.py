"""Self-checks of the book's exercises, one module a chapter: a hint for each common mistake.

A check never shows a solution. It calls the reader's function on numbers where right and wrong
answers differ, compares, and names the mistake that it recognises.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .hints import BITS, about_change, about_error, about_nothing, about_shape


class Hint(Exception):
    """The answer is not right yet; the message helps on."""


class Unnamed(Hint):
    """Something is wrong, and none of the mistakes that a check knows by name."""


class Verdict(int):
    """True or False, of which a notebook shows nothing: the printed line has said it."""

    def __repr__(self) -> str:
        return str(bool(self))

    def _ipython_display_(self) -> None:
        """Keep the notebook from showing a value below the line."""


def exercise(number: str) -> Callable[[Callable[..., None]], Callable[..., Verdict]]:
    """Turn a function that raises `Hint` into a check that says its verdict in one line.

    The check takes the reader's function and returns whether it is right. `seed` varies the
    numbers that it is tried on. With `raises=True` a wrong answer raises the `Hint` unprinted.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., Verdict]:
        @functools.wraps(check)
        def checked(answer: Any, *, seed: int = 0, raises: bool = False) -> Verdict:
            try:
                if not callable(answer):
                    raise Hint("Give the check your function itself: its name, without brackets.")
                check(answer, seed=seed)
            except Hint as error:
                found = isinstance(error, Unnamed) and _about_order(check, answer, seed)
                hint = found or error
                if raises:
                    raise Hint(f"Exercise {number}: not yet. {hint}") from None
                print(f"Exercise {number}: not yet. {hint}")
                return Verdict(False)
            print(f"Exercise {number}: correct.")
            return Verdict(True)

        return checked

    return decorate


def _names(answer: Callable[..., Any]) -> list[str]:
    """What the reader calls the arguments of a function."""
    try:
        return list(inspect.signature(answer).parameters)
    except (TypeError, ValueError):  # some of torch's own functions have none
        return []


def _with_swapped(answer: Callable[..., Any], i: int, j: int) -> Callable[..., Any]:
    @functools.wraps(answer)
    def other(*given: Any) -> Any:
        swapped = list(given)
        swapped[i], swapped[j] = given[j], given[i]
        return answer(*swapped)

    return other


def _with_turned(answer: Callable[..., Any], i: int) -> Callable[..., Any]:
    @functools.wraps(answer)
    def other(*given: Any) -> Any:
        def turned(*arguments: Any) -> Any:
            first, second = given[i](*arguments)
            return second, first

        return answer(*given[:i], turned, *given[i + 1 :])

    return other


def _about_order(check: Callable[..., None], answer: Callable[..., Any], seed: int) -> str | None:
    """The hint for a function that is right but for the order of two things that it is given."""
    names = _names(answer)
    tries = [
        (
            _with_swapped(answer, i, j),
            f"Your function is right with `{names[i]}` and `{names[j]}` in each other's place. In "
            "which order does the exercise give them?",
        )
        for i, j in itertools.combinations(range(len(names)), 2)
    ]
    tries += [
        (
            _with_turned(answer, i),
            f"Your function is right with the two results of `{name}` in each other's place. Which "
            "of them comes first?",
        )
        for i, name in enumerate(names)
    ]
    for other, hint in tries:
        try:
            check(other, seed=seed)
        except Hint:
            continue
        return hint
    return None


def ask(answer: Callable[..., Any], *arguments: Any, shape: tuple[int, ...]) -> Tensor:
    """Call the reader's function and return its tensor, of the shape that the exercise asks for.

    It gets copies of the tensors, and leaves them as they are. Where one number is asked for, it
    may be Python's.

    Raises:
        Hint: nothing is written yet, the function fails or writes into what it was given, or what
            it returns has another shape.
    """
    copies = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
    # Some hints rest on what torch refuses, and importing zuko switches its checks off.
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    try:
        value = answer(*copies)
    except Hint:  # of what the function was given
        raise
    except Exception as error:  # whatever a reader's first try raises
        raise Unnamed(about_error(error, answer)) from error
    finally:
        Distribution.set_default_validate_args(checks)
    if value is None or value is Ellipsis:
        raise Hint(about_nothing(answer))
    for i, (given, left) in enumerate(zip(arguments, copies, strict=True)):
        if isinstance(given, Tensor) and not torch.equal(given, left):
            raise Hint(about_change(_names(answer)[i : i + 1]))
    if isinstance(value, float) and shape == ():
        value = torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, Tensor):
        raise Unnamed(f"Return a tensor; your function returned {type(value).__name__}.")
    if value.dtype == torch.bool:
        raise Hint("Your tensor holds True and False; numbers are asked for.")
    found = tuple(value.shape)
    if found != shape:
        raise Unnamed(
            f"The result should have shape {shape}, yours has {found}. {about_shape(found, shape)}"
        )
    return value


def takes(value: Tensor, size: int, hint: str) -> Tensor:
    """A tensor that a reader gave to a function of the exercise's, if its last axis is right.

    Raises:
        Hint: it has another size.
    """
    if not isinstance(value, Tensor) or value.shape[-1:] != (size,):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise Unnamed(f"{hint} Yours was {found}.")
    return value


def numbers(*shape: int, seed: int) -> Tensor:
    """The same numbers for the same seed, from N(0, 1)."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ask_twice(
    answer: Callable[..., Any], *arguments: Any, shape: tuple[int, ...], hint: str
) -> Tensor:
    """`ask`, and refuse a function that draws where nothing is to be drawn.

    Raises:
        Hint: as `ask` does; `hint`, if two calls give different numbers.
    """
    value, again = (ask(answer, *arguments, shape=shape) for _ in range(2))
    if not torch.allclose(value, again, rtol=0, atol=0, equal_nan=True):
        raise Hint(f"Two calls give different numbers: you draw something. {hint}")
    return value


def close(value: Tensor, target: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors agree, relative to the larger of 1 and the target."""
    scale = target.abs().clamp(min=1)
    return bool(((value - target).abs() <= tolerance * scale).all()) and bool(
        torch.isfinite(value).all()
    )


def refuse(value: Tensor, target: Tensor, mistakes: Sequence[tuple[Tensor, str]]) -> None:
    """Let the right values pass, and name the mistake that the wrong ones come from.

    Args:
        value: what the reader's function returned.
        target: the right values, of the same shape.
        mistakes: what each known mistake gives, with the hint that it gets.

    Raises:
        Hint: the values are wrong.
    """
    if close(value, target):
        return
    for wrong, hint in mistakes:
        if close(value, wrong):
            raise Hint(hint)
    if close(value * math.log(2), target):
        raise Hint(BITS)
    if value.isnan().any():
        raise Unnamed(
            "Your result is NaN. Is there a logarithm or a root of a negative number in it, or 0 "
            "divided by 0?"
        )
    worst = int((value - target).abs().nan_to_num(nan=math.inf).argmax())
    raise Unnamed(
        f"One value should be {target.flatten()[worst].item():.4f}, yours is "
        f"{value.flatten()[worst].item():.4f}. Go through your formula term by term."
    )
