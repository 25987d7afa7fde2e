"""Self-checks of the book's exercises, one module a chapter: a hint for each common mistake.

A check never shows a solution. It calls the reader's function on numbers where right and wrong
answers differ, compares, and names the mistake that it recognises.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Hint(Exception):
    """The answer is not right yet; the message helps on."""


def exercise(number: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function that raises `Hint` into a check that prints its verdict in one line."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def checked(*answer: Any) -> None:
            try:
                check(*answer)
            except Hint as hint:
                print(f"Exercise {number}: not yet. {hint}")
            else:
                print(f"Exercise {number}: correct.")

        return checked

    return decorate


def ask(answer: Callable[..., Any], *arguments: Any, shape: tuple[int, ...]) -> Tensor:
    """Call the reader's function and return its tensor, of the shape that the exercise asks for.

    Raises:
        Hint: nothing is written yet, the function fails, or what it returns has another shape.
    """
    try:
        value = answer(*arguments)
    except Exception as error:  # whatever a reader's first try raises
        raise Hint(f"Your function stopped with {type(error).__name__}: {error}") from error
    if value is None or value is Ellipsis:
        raise Hint("Write your answer in the cell above and run it again.")
    if not isinstance(value, Tensor):
        raise Hint(f"Return a tensor; your function returned {type(value).__name__}.")
    if tuple(value.shape) != shape:
        raise Hint(
            f"The result should have shape {shape}, yours has {tuple(value.shape)}. "
            "Which axis do you sum over?"
        )
    return value


def close(value: Tensor, target: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors agree, relative to the larger of 1 and the target."""
    scale = target.abs().clamp(min=1)
    return bool(((value - target).abs() <= tolerance * scale).all()) and bool(
        torch.isfinite(value).all()
    )
