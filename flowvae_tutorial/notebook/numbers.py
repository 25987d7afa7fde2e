"""Numbers that a page prints as they were measured, each with the band that the page allows."""

import math

from ..errors import InputError


def expect(value: float, canonical: float, within: float, label: str = "", unit: str = "") -> None:
    """Print what this run measured, the page's figure and how far the two may lie apart.

    A trained number differs between machines in its last digits. The page's tests ignore those
    digits and compare the rest of the line, so that a measurement outside the band stops them. In
    a reader's kernel it is printed like any other, and the line says how far outside it lies.

    Args:
        value: what this run found.
        canonical: the page's figure, which its text speaks of.
        within: how far the two may lie apart, at most half of the effect that the text claims.
        label: what it is, printed in front.
        unit: printed behind, without digits.

    Raises:
        InputError: the band holds every number, or none.

    Example:
        >>> from flowvae_tutorial.notebook import expect
        >>> expect(22.04, 22.1, within=0.3, label="NLL", unit="nats")
        NLL: 22.04 nats (page: 22.1 ± 0.3)
        >>> expect(22.54, 22.1, within=0.3, label="NLL", unit="nats")
        NLL: 22.54 nats (page: 22.1 ± 0.3, this is outside by 0.14)
    """
    if not (math.isfinite(canonical) and 0 < within < math.inf):
        raise InputError(f"{canonical} ± {within} is no band: give a figure and a width above 0")
    value = float(value)
    # One digit more than the band has; of a band of tens, none behind the point.
    places = max(0, 1 - math.floor(math.log10(within)))
    beyond = abs(value - canonical) - within
    # Written so that a NaN lies outside.
    outside = "" if beyond <= 0 else f", this is outside by {beyond:.{places}f}"
    name, of = f"{label}: " if label else "", f" {unit}" if unit else ""
    # Rounded to zero, −0.0 becomes 0.0.
    measured = f"{round(value, places) + 0.0:.{places}f}" if math.isfinite(value) else f"{value}"
    print(f"{name}{measured}{of} (page: {canonical:g} ± {within:g}{outside})")
