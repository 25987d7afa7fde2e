"""The one exception that stands for a mistake of the caller's."""


class InputError(ValueError):
    """Bad input, explained in one line that says what was wrong and what to do.

    Example:
        >>> from flowvae_tutorial import StandardNormal
        >>> StandardNormal(0)
        Traceback (most recent call last):
            ...
        flowvae_tutorial.errors.InputError: a prior needs at least 1 feature, got 0
    """
