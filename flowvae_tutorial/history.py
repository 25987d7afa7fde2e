"""What a run of `fit` saw, epoch by epoch.

Example:
    >>> from flowvae_tutorial import build, fit
    >>> from flowvae_tutorial.data import load
    >>> data = load("rings")
    >>> history = fit(build("gaussian", data), data, epochs=2)
    >>> len(history.elbo), len(history.median)
    (2, 2)
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Validation(NamedTuple):
    """What the validation images say of an epoch's weights, in nats per example."""

    reconstruction: float
    """Their mean."""
    kl: float
    """Their mean."""
    median: float
    """Of their ELBOs."""
    low: float
    """The ELBO that one image in ten falls short of."""

    @property
    def elbo(self) -> float:
        """Their mean ELBO."""
        return self.reconstruction - self.kl

    @property
    def hangs_on_few(self) -> bool:
        """Whether their mean ELBO is worse than that of nine images in ten.

        An exponential tail brings the mean a fifth of the way from the median to `low`, a
        log-normal one all the way if its σ is 2.6. The book's models stay below a fourth.
        """
        return self.elbo < self.low


@dataclass
class History:
    """What `fit` saw, one entry an epoch, in nats per example."""

    loss: list[float] = field(default_factory=list)
    """Training loss, with the β of that epoch."""
    reconstruction: list[float] = field(default_factory=list)
    """Of the validation images."""
    kl: list[float] = field(default_factory=list)
    """Of the validation images."""
    best_epoch: int = 0
    """The epoch, counted from 1, whose weights the model has now."""
    seconds: float = 0.0
    median: list[float] = field(default_factory=list)
    """Of the validation images' ELBOs; NaN for epochs of a version that did not keep it."""

    @property
    def elbo(self) -> list[float]:
        """The validation ELBO at β = 1."""
        return [r - k for r, k in zip(self.reconstruction, self.kl, strict=True)]

    def add(self, loss: float, validation: Validation) -> bool:
        """Note what an epoch gave, and tell whether it is the best so far."""
        self.loss.append(loss)
        self.reconstruction.append(validation.reconstruction)
        self.kl.append(validation.kl)
        self.median.append(validation.median)
        best = self.best_epoch == 0 or self.elbo[-1] > self.elbo[self.best_epoch - 1]
        if best:
            self.best_epoch = len(self.loss)
        return best
