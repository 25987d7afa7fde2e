"""The networks of the book: plain and gated multilayer perceptrons."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from .arguments import SIZE, whole, widths
from .errors import InputError


def dense(in_features: int, out_features: int) -> nn.Sequential:
    """A hidden layer: linear, then SiLU."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.SiLU())


class GatedLinear(nn.Module):
    """`(W x + b) * sigmoid(V x + c)`: a linear layer with a learned gate on each output.

    The hidden layer of Tomczak and Welling (2018). Both products are one matrix product, so
    that it costs as much as a plain layer of twice the width.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        """Set up the layer: `(..., in_features)` to `(..., out_features)`."""
        super().__init__()
        in_features = whole(in_features, "in_features", most=SIZE)
        self.linear = nn.Linear(in_features, 2 * whole(out_features, "out_features", most=SIZE))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return F.glu(self.linear(x))

    def extra_repr(self) -> str:
        """The sizes, for `print`."""
        features = self.linear.in_features, self.linear.out_features // 2
        return "in_features={}, out_features={}".format(*features)


Layer = Callable[[int, int], nn.Module]


def mlp(
    in_features: int, hidden: Sequence[int], out_features: int, layer: Layer = dense
) -> nn.Sequential:
    """A perceptron, `(..., in_features)` to `(..., out_features)`, with hidden layers `layer`.

    Raises:
        InputError: a size is no whole number from 1 to a million.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import mlp
        >>> from flowvae_tutorial.networks import GatedLinear
        >>> net = mlp(64, [32, 32], 2, GatedLinear)
        >>> net(torch.rand(10, 64)).shape
        torch.Size([10, 2])
    """
    in_features = whole(in_features, "in_features", most=SIZE)
    out_features = whole(out_features, "out_features", most=SIZE)
    layers: list[nn.Module] = []
    for width in widths(hidden, "hidden"):
        layers.append(layer(in_features, width))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def gated_mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """A perceptron of gated layers, `(..., in_features)` to `(..., out_features)`."""
    return mlp(in_features, hidden, out_features, GatedLinear)


# Of a posterior's log σ: variances within e⁻⁶ and e², as in the code of Tomczak and Welling (2018).
LOG_SCALE_BOUNDS = (-3.0, 1.0)
UNBOUNDED = (-math.inf, math.inf)


def soft_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Keep x within [low, high], smoothly: any shape, the same shape.

    With t the distance to the middle in half-widths this is t / (1 + t⁸)^⅛. The denominator is the
    8-norm of (1, t); the ∞-norm would clamp hard. The slope, (1 + t⁸)^(−9/8), is positive
    everywhere and falls as t⁻⁹, so that x finds its way back from far outside. That of a tanh falls
    as e^(−2t), which float32 takes for zero from t = 9 on. Inside, x is moved by t⁹/8 of a
    half-width or less: by 0.0005 within [−2, 0] and by 0.17 at the bounds themselves for
    `LOG_SCALE_BOUNDS`; a tanh would take 0.08 and 0.48.

    Example:
        >>> import torch
        >>> from flowvae_tutorial.networks import soft_clamp
        >>> soft_clamp(torch.tensor([-1e6, -2.0, -1.0, 0.5, 1e6]), -3.0, 1.0)
        tensor([-3.0000, -1.9995, -1.0000,  0.4822,  1.0000])
    """
    middle, half = (low + high) / 2, (high - low) / 2
    t = (x - middle) / half
    hard = t.clamp(-1, 1)
    # Inside this is t, outside 1 / t: the gradient is then no difference of two large numbers. At
    # the bounds themselves both clamps would pass theirs on, and relu does not.
    ratio = hard / (1 + F.relu(t.abs() - 1))
    return middle + half * hard * (1 + ratio**8) ** -0.125


def modules_of(*parts: object) -> Iterator[nn.Module]:
    """All modules of modules, or of the owners of methods."""
    for part in parts:
        owner = getattr(part, "__self__", part)
        if isinstance(owner, nn.Module):
            yield from owner.modules()


@contextmanager
def evaluating(*parts: object) -> Iterator[None]:
    """Modules, or the owners of methods, in evaluation mode; afterwards they are as they were."""
    modes = {module: module.training for module in modules_of(*parts)}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def refusing_batch_normalisation() -> Iterator[None]:
    """Raise an `InputError` where a network comes to a layer of batch normalisation."""

    def refuse(module: nn.Module, inputs: object) -> None:
        if isinstance(module, _BatchNorm):
            raise InputError(
                "the posterior uses batch normalisation, which would take pseudo-inputs for data: "
                "use layer or group normalisation"
            )

    with register_module_forward_pre_hook(refuse):
        yield


class TwoInputs(nn.Module):
    """A network of two inputs: each goes through a network of its own, then both through one.

    The second input may have more batch dimensions, samples `(S, N, B)` beside examples
    `(N, A)`. The first is then sent through its network once and not once a sample.
    """

    def __init__(self, first: nn.Module, second: nn.Module, joint: nn.Module) -> None:
        """Join `first` and `second`, whose outputs are concatenated, by `joint`."""
        super().__init__()
        self.first = first
        self.second = second
        self.joint = joint

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map `(N, A)` and `(..., N, B)` to `(..., N, out)`."""
        h, g = self.first(a), self.second(b)
        joined = torch.cat([h.expand(*g.shape[:-1], h.shape[-1]), g], dim=-1)
        output: Tensor = self.joint(joined)
        return output


class OnParts(nn.Module):
    """A network of two inputs, applied to the two parts of one vector."""

    def __init__(self, size: int, net: nn.Module) -> None:
        """Split the last dimension after `size` numbers and give both parts to `net`."""
        super().__init__()
        self.size = size
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        """Map `(..., A + B)` to `(..., out)`."""
        output: Tensor = self.net(z[..., : self.size], z[..., self.size :])
        return output

    def extra_repr(self) -> str:
        """Where the vector is split, for `print`."""
        return f"size={self.size}"


class Conditioner(nn.Module):
    """The network of a coupling: a perceptron of one part of u, and of the context if any.

    Its last layer starts at zero, so that the coupling starts as the identity.
    """

    def __init__(
        self, features: int, context: int, hidden: Sequence[int], out_features: int
    ) -> None:
        """Set up the network, `(..., features)` and `(N, context)` to `(..., out_features)`."""
        super().__init__()
        first, *rest = hidden
        self.of_u = nn.Linear(features, first)
        self.of_context = nn.Linear(context, first, bias=False) if context else None
        self.body = nn.Sequential(nn.SiLU(), mlp(first, rest, out_features))
        last_layer = list(self.body.parameters())[-2:]
        for parameter in last_layer:
            nn.init.zeros_(parameter)

    def forward(self, context: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The network of one part of u alone, for this context.

        The context goes through its layer once and not once a sample. The sum of two linear maps
        is one linear map of both inputs side by side.
        """
        # No lambdas: a distribution that holds this is pickled and copied with its network.
        if self.of_context is None:
            return self._given
        return partial(self._given, shift=self.of_context(context))

    def _given(self, a: Tensor, shift: Tensor | None = None) -> Tensor:
        h = self.of_u(a)
        theta: Tensor = self.body(h if shift is None else h + shift)
        return theta
