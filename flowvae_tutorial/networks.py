"""The networks of the book: plain and gated multilayer perceptrons."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """A perceptron with SiLU activations, `(..., in_features)` to `(..., out_features)`."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.SiLU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


class GatedLinear(nn.Module):
    """`(W x + b) * sigmoid(V x + c)`: a linear layer with a learned gate on each output.

    The hidden layer of Tomczak and Welling (2018). Both products are one matrix product, so
    that it costs as much as a plain layer of twice the width.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        """Set up the layer: `(..., in_features)` to `(..., out_features)`."""
        super().__init__()
        self.linear = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return F.glu(self.linear(x))


def gated_mlp(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    """A perceptron of gated layers, `(..., in_features)` to `(..., out_features)`."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers.append(GatedLinear(in_features, width))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))
