"""The one exception that stands for a mistake of the caller's, and the check of data."""

import torch
from torch import Tensor
from torch.distributions import constraints


class InputError(ValueError):
    """Bad input, explained in one line that says what was wrong and what to do.

    Example:
        >>> from flowvae_tutorial import StandardNormal
        >>> StandardNormal(0)
        Traceback (most recent call last):
            ...
        flowvae_tutorial.errors.InputError: features must be from 1 to 1000000, got 0
    """


def may_look_at_values(x: Tensor) -> bool:
    """Whether a check may ask what numbers are in x, and not only for its form.

    In training on a GPU each look would hold up the CPU until the device has caught up, under
    `torch.compile` it would break the graph in two, and under `torch.func.vmap` there is no one
    answer for the examples of a batch.

    Example:
        >>> import torch
        >>> from flowvae_tutorial.errors import may_look_at_values
        >>> may_look_at_values(torch.zeros(3))
        True
    """
    # torch has no public name for the second question; its own autograd asks it this way.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return x.device.type == "cpu" or not torch.is_grad_enabled()


def check_data(
    x: Tensor,
    features: int | None,
    *,
    like: Tensor | None = None,
    support: constraints.Constraint = constraints.real,
    name: str = "x",
) -> None:
    """Refuse data that a model cannot take.

    Args:
        x: `(N, X)`.
        features: the X that it must have, or None for any.
        like: a parameter of the model, whose dtype and device it must share.
        support: the likelihood's.
        name: what the caller knows x by.

    Raises:
        InputError: x is no floating-point tensor of this shape, is empty, has another dtype or
            device, or values that are not finite or outside `support`.

    Example:
        >>> import torch
        >>> from flowvae_tutorial.errors import check_data
        >>> check_data(torch.rand(0, 64), features=64, name="train")
        Traceback (most recent call last):
            ...
        flowvae_tutorial.errors.InputError: train is empty: it must hold at least one example
    """
    if not isinstance(x, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(x).__name__}: use torch.as_tensor")
    if x.ndim != 2 or x.shape[1] != (features or max(1, x.shape[1])):
        raise InputError(
            f"{name} must have shape (N, {features or 'X'}), got {tuple(x.shape)}: flatten each "
            "example"
        )
    if len(x) == 0:
        raise InputError(f"{name} is empty: it must hold at least one example")
    if not x.is_floating_point():
        raise InputError(
            f"{name} must be floating point, got {x.dtype}: convert it and scale it to the "
            f"likelihood's range, {name}.float() / 255 for 8-bit images"
        )
    if like is not None and x.dtype != like.dtype:
        raise InputError(
            f"{name} is {x.dtype}, the model {like.dtype}: convert one, {name}.to({like.dtype})"
        )
    if like is not None and x.device != like.device:
        raise InputError(
            f"{name} is on {x.device}, the model on {like.device}: move one, "
            f'{name}.to("{like.device}")'
        )
    if not may_look_at_values(x):
        return
    # The sum is finite if all values are, unless it overflows: only then look at each.
    if not x.sum().isfinite() and not x.isfinite().all():
        raise InputError(f"{name} has NaN or infinite values: clean the data first")
    if not _lies_within(support, x):
        raise InputError(
            f"{name} has values that the likelihood gives no density: a Bernoulli likelihood "
            "takes 0 and 1 only, so binarise the images or use GaussianLikelihood"
        )


def _lies_within(support: constraints.Constraint, x: Tensor) -> bool:
    """Whether all of x lies in the support.

    Every training step pays for this, so the two usual supports are not left to torch, whose
    checks take several times as long.
    """
    support = getattr(support, "base_constraint", support)
    # Of a copied or pickled model the constraint is a copy, too.
    if type(support) is type(constraints.real):
        return True
    if type(support) is type(constraints.boolean):
        return torch.equal(x.round().clamp(0, 1), x)
    return bool(support.check(x).all())
