"""Autoregressive flows: each number is shifted and scaled as those before it say."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError
from .flows import CouplingFlow
from .networks import Conditioner
from .transforms import AffineCoupling, Bijection


class MaskedNetwork(Conditioner):
    """D shifts and D log-scales, those of number i from the numbers before it and the context.

    Number i has degree i. A unit of degree m sees numbers up to m, and the outputs for number i
    have degree i − 1 (equation `eq-autoregressive`). Germain et al. (2015).
    """

    def __init__(self, features: int, context: int, hidden: Sequence[int]) -> None:
        """Set up the network, `(..., D)` and `(N, context)` to `(..., 2D)`; it starts at zero."""
        super().__init__(features, context, hidden, 2 * features)
        # Units of degree −1 see the context alone: for number 0 there is nothing else to see.
        lowest = -1 if context else 0
        units = (torch.linspace(lowest, features - 2, width).round() for width in hidden)
        number = torch.arange(features)
        for before, own in pairwise([number, *units, number.repeat(2) - 1]):
            name = f"mask{len(list(self.buffers()))}"
            self.register_buffer(name, before <= own[:, None], persistent=False)

    def forward(self, context: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The network of u alone, for this context: the weights are masked once and not a pass."""
        linear = (part for part in (self.of_u, *self.body.modules()) if isinstance(part, nn.Linear))
        masked = zip(linear, self.buffers(), strict=True)
        layers = [(layer.weight * mask, layer.bias) for layer, mask in masked]
        shift = 0.0 if self.of_context is None else self.of_context(context)
        return partial(_through, layers, shift)


def _through(layers: Sequence[tuple[Tensor, Tensor]], shift: Tensor | float, u: Tensor) -> Tensor:
    (weight, bias), *rest = layers
    h = F.linear(u, weight, bias) + shift
    for weight, bias in rest:
        h = F.linear(F.silu(h), weight, bias)
    return h


class InverseAutoregressive(Bijection):
    """z_i = t_i(u_<i) + exp(s_i(u_<i)) u_i: one pass of the network, and D on the way back."""

    def __init__(self, net: Callable[[Tensor], Tensor]) -> None:
        """Set up the map from `net`, `(..., D)` to D shifts and D raw log-scales, `(..., 2D)`."""
        super().__init__()
        self.net = net

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """All numbers at once."""
        z, log_slope = AffineCoupling.forward(u, self.net(u))
        return z, log_slope.sum(-1)

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """One number after the other: after pass i the first i are right, whatever they were."""
        u = torch.zeros_like(z)
        for _ in range(z.shape[-1]):
            u, log_slope = AffineCoupling.backward(z, self.net(u))
        return u, log_slope.sum(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class MaskedAutoregressive(InverseAutoregressive):
    """The same map the other way round: D passes to z, and one on the way back."""

    def call_and_ladj(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One number after the other."""
        z, minus_ladj = super().inverse_and_ladj(u)
        return z, -minus_ladj

    def inverse_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """All numbers at once."""
        u, minus_ladj = super().call_and_ladj(z)
        return u, -minus_ladj


KINDS = {"masked": MaskedAutoregressive, "inverse": InverseAutoregressive}


class AutoregressiveFlow(CouplingFlow):
    """A flow of autoregressive maps in place of couplings, which are masks of two blocks.

    `kind="masked"` has a density in one pass a map and samples in D: a prior. `kind="inverse"` has
    samples in one and densities of given points in D: a posterior. Papamakarios et al. (2017),
    Kingma et al. (2016).

    Example:
        >>> import torch
        >>> from flowvae_tutorial import AutoregressiveFlow
        >>> p = AutoregressiveFlow(3)()
        >>> p.log_prob(p.sample((10,))).shape
        torch.Size([10])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        transforms: int = 4,
        hidden: Sequence[int] = (64, 64),
        kind: Literal["masked", "inverse"] = "masked",
    ) -> None:
        """Set up the flow, of sizes as in `CouplingFlow`.

        Raises:
            InputError: an unknown kind, or sizes that make no flow.
        """
        if kind not in KINDS:
            raise InputError(
                f"no autoregressive flow of kind {kind!r}: choose 'masked' or 'inverse'"
            )
        super().__init__(features, context, transforms, hidden)
        self.kind = kind

    def _network(self, hidden: tuple[int, ...]) -> Conditioner:
        return MaskedNetwork(self.features, self.context, hidden)

    def _map(self, net: Callable[[Tensor], Tensor]) -> Bijection:
        return KINDS[self.kind](net)
