"""The one exception that stands for a mistake of the caller's."""

import torch
from torch import Tensor


class InputError(ValueError):
    """Bad input, explained in one line that says what was wrong and what to do.

    Example:
        >>> from flowvae_tutorial import StandardNormal
        >>> StandardNormal(0)
        Traceback (most recent call last):
            ...
        flowvae_tutorial.errors.InputError: a prior needs at least 1 feature, got 0
    """


def may_look_at_values(x: Tensor) -> bool:
    """Whether a check may ask what numbers are in x, and not only for its form.

    In training on a GPU each look would hold up the CPU until the device has caught up, and under
    `torch.compile` it would break the graph in two.

    Example:
        >>> import torch
        >>> from flowvae_tutorial.errors import may_look_at_values
        >>> may_look_at_values(torch.zeros(3))
        True
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or not torch.is_grad_enabled()
