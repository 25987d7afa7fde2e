"""What torch asks of every distribution: sizes and values looked at, a support, one line to print.

Example:
    >>> import torch
    >>> from flowvae_tutorial import CouplingFlow
    >>> CouplingFlow(4)().log_prob(torch.zeros(3))
    Traceback (most recent call last):
        ...
    flowvae_tutorial.errors.InputError: z must have 4 numbers in its last dimension, got (3,)
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from .errors import InputError

Shape = torch.Size | list[int] | tuple[int, ...]


class Region(constraints.Constraint):
    """The vectors that pass a check: a support that no constraint of torch's describes."""

    event_dim = 1

    def __init__(self, holds: Callable[[Tensor], Tensor]) -> None:
        self.holds = holds

    def check(self, value: Tensor) -> Tensor:
        """Which of the vectors `(..., D)` belong, `(...)`."""
        return self.holds(value)


def check_value(distribution: Distribution, z: Tensor) -> None:
    """Refuse what the log-density of a distribution over vectors cannot take.

    Another size always raises an InputError: it would broadcast to a wrong answer. With torch's
    `validate_args` on, so do values that are not finite or do not fit the batch shape.
    """
    shape, (size,) = tuple(z.shape), distribution.event_shape
    if shape[-1:] != (size,):
        raise InputError(f"z must have {size} numbers in its last dimension, got {shape}")
    if not distribution._validate_args:
        return
    if not z.isfinite().all():
        raise InputError("z has NaN or infinite values: only finite ones have a density")
    batch = tuple(distribution.batch_shape)
    for one, other in zip(reversed(shape[:-1]), reversed(batch), strict=False):
        if one != other and 1 not in (one, other):
            raise InputError(f"z of shape {shape} does not fit the batch shape {batch}")


def check_support(distribution: Distribution, z: Tensor) -> None:
    """Refuse z with values out of the support, by an InputError."""
    if not supported(distribution, z).all():
        raise InputError(f"z has values outside of the support of {family(distribution)}")


def supported(distribution: Distribution, z: Tensor) -> Tensor:
    """Which of the z lie in the support: all, if the distribution names none."""
    try:
        support = distribution.support
    except NotImplementedError:
        support = None
    return z.new_ones(()).bool() if support is None else support.check(z)


def rsample(distribution: Distribution, sample_shape: Shape = ()) -> Tensor:
    """A reparametrised sample; where there is none the error says so, as torch's own does not."""
    try:
        return distribution.rsample(torch.Size(sample_shape))
    except NotImplementedError as error:
        raise NotImplementedError(str(error) or no_rsample(distribution)) from error


def no_rsample(distribution: Distribution) -> str:
    """What an error says of a distribution without `rsample`."""
    return f"{family(distribution)} has no reparametrised samples: use `sample`, without gradients"


def family(distribution: Distribution) -> str:
    """The name of the class, without torch's `Independent` around it."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__


def described(distribution: Distribution, parts: str) -> str:
    """One line for a `repr`: shapes first, then what the distribution is built from."""
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    return f"{type(distribution).__name__}(batch_shape={batch}, event_shape={event}, {parts})"
