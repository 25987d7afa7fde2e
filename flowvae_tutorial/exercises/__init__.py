"""Self-checks of the book's exercises, one module a chapter: a hint for each common mistake.

A check never shows a solution. It calls the reader's function on numbers where right and wrong
answers differ, compares, and names the mistake that it recognises.
"""

import functools
import math
from collections.abc import Callable, Sequence
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


ERRORS = {
    "Expected parameter scale": (
        "torch refuses your scale, because a standard deviation must be positive. What do you have "
        "to do to log σ first?"
    ),
    "can be implicitly created only for scalar": (
        "autograd takes the gradient of one number, and you gave it one for each example. Which "
        "way of joining them leaves the gradient of each as it is?"
    ),
    "does not require grad": (
        "autograd has no record of what you differentiate: the tensor must ask for a gradient "
        "before anything is computed from it."
    ),
}
"""What torch says of a mistake that readers make often, and the hint in its place."""


def _about_shape(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if [size for size in found if size != 1] == [size for size in wanted if size != 1]:
        return "The two differ by an axis of length 1: did you keep one, or add one?"
    if not wanted:
        return "One number is asked for: take the mean."
    return "What does each axis count, and over which one do you sum?"


def ask(answer: Callable[..., Any], *arguments: Any, shape: tuple[int, ...]) -> Tensor:
    """Call the reader's function and return its tensor, of the shape that the exercise asks for.

    It gets copies of the tensors, so it may write into them. Where one number is asked for, it may
    be Python's.

    Raises:
        Hint: nothing is written yet, the function fails, or what it returns has another shape.
    """
    copies = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
    try:
        value = answer(*copies)
    except Exception as error:  # whatever a reader's first try raises
        for words, hint in ERRORS.items():
            if words in str(error):
                raise Hint(hint) from error
        # The first line: torch adds whole tensors to some of its messages.
        reason = str(error).partition("\n")[0]
        raise Hint(f"Your function stopped with {type(error).__name__}: {reason}") from error
    if value is None or value is Ellipsis:
        raise Hint("Write your answer in place of the dots.")
    if isinstance(value, float) and shape == ():
        value = torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, Tensor):
        raise Hint(f"Return a tensor; your function returned {type(value).__name__}.")
    if value.dtype == torch.bool:
        raise Hint("Your tensor holds True and False; numbers are asked for.")
    found = tuple(value.shape)
    if found != shape:
        raise Hint(
            f"The result should have shape {shape}, yours has {found}. {_about_shape(found, shape)}"
        )
    return value


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
    if value.isnan().any():
        raise Hint("Your result is NaN. Is there a logarithm or a root of a negative number in it?")
    worst = int((value - target).abs().nan_to_num(nan=math.inf).argmax())
    raise Hint(
        f"One value should be {target.flatten()[worst].item():.4f}, yours is "
        f"{value.flatten()[worst].item():.4f}. Go through your formula term by term."
    )
