"""What `torch.distributions` lacks."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution


def rsample_and_log_prob(
    distribution: Distribution, sample_shape: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Draw a reparametrised sample together with its log-density, in one pass.

    A flow is cheap in one direction and may be costly in the other. Sampling first and asking
    for `log_prob` afterwards would invert the map just applied. This pushes base noise forward
    once and adds up the log-determinants on the way (equation `eq-change-of-variables`).

    Args:
        distribution: batch shape `(N,)`, event shape `(D,)`. Its own method
            `rsample_and_log_prob` is used if it has one.
        sample_shape: `(S,)` or `()`.

    Returns:
        The sample `(S, N, D)` and its log-density `(S, N)` in nats.
    """
    own = getattr(distribution, "rsample_and_log_prob", None)
    if own is not None:
        z, log_prob = own(torch.Size(sample_shape))
        return z, log_prob
    if isinstance(distribution, TransformedDistribution):
        return _push_forward(distribution, sample_shape)
    if isinstance(distribution, Independent):
        z, log_prob = rsample_and_log_prob(distribution.base_dist, sample_shape)
        return z, _sum_rightmost(log_prob, distribution.reinterpreted_batch_ndims)
    z = distribution.rsample(sample_shape)
    return z, distribution.log_prob(z)


def _push_forward(
    distribution: TransformedDistribution, sample_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    transforms = distribution.transforms
    # A transform may change how many dimensions form one event: reshaping does, for example.
    event_dim = len(distribution.event_shape) - sum(
        t.codomain.event_dim - t.domain.event_dim for t in transforms
    )
    z, log_prob = rsample_and_log_prob(distribution.base_dist, sample_shape)
    for transform in transforms:
        u = z
        if hasattr(transform, "call_and_ladj"):
            z, ladj = transform.call_and_ladj(u)
        else:
            z = transform(u)
            ladj = transform.log_abs_det_jacobian(u, z)
        log_prob = log_prob - _sum_rightmost(ladj, event_dim - transform.domain.event_dim)
        event_dim += transform.codomain.event_dim - transform.domain.event_dim
    return z, log_prob


def _sum_rightmost(value: Tensor, dims: int) -> Tensor:
    return value.sum(dim=tuple(range(-dims, 0))) if dims > 0 else value
