"""Numbers that a page prints and every run of it checks."""

import math


def expect(value: float, canonical: float, within: float, label: str = "", unit: str = "") -> None:
    """Print the canonical figure of a page, and raise unless this run's value agrees with it.

    A trained number differs between machines in its last digits. The page shows one figure for
    all, and every run of the page checks it.

    Args:
        value: what this run found.
        canonical: what the page prints.
        within: how far the two may lie apart, at most half of the effect the text claims.
        label: what it is, printed in front.
        unit: printed behind.

    Raises:
        AssertionError: the two lie further apart, or `value` is not finite.

    Example:
        >>> from flowvae_tutorial.notebook import expect
        >>> expect(22.0, 22.1, within=0.3, label="NLL", unit="nats")
        NLL: 22.1 nats (checked to 0.3)
    """
    value = float(value)
    name = f"{label}: " if label else ""
    # Written so that a NaN anywhere raises.
    if not (math.isfinite(value) and abs(value - canonical) <= within):
        raise AssertionError(
            f"{name}this run gives {value:.6g}, the page says {canonical:g} to within {within:g}"
        )
    print(f"{name}{canonical:g}{f' {unit}' if unit else ''} (checked to {within:g})")
