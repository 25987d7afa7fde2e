"""The one exception that stands for a mistake of the caller's."""


class InputError(ValueError):
    """Bad input, explained in one line that says what was wrong and what to do."""
