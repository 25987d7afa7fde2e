"""Rewards for refinement: small networks that say how much of something a latent promises."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError
from .networks import mlp


def fit_reward(z: Tensor, target: Tensor, hidden: tuple[int, ...] = (64,)) -> nn.Module:
    """Train a small reward on latents z `(N, D)` with a target `(N,)`.

    Booleans give the log-probability of `True`, in nats. Numbers give the predicted number, in
    standard deviations of the target. Takes a second or two for a thousand latents.

    Returns:
        A module from `(N, D)` to `(N,)`, with nothing left to learn.

    Raises:
        InputError: another shape, fewer than two latents, or a target that is always the same.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import fit_reward, refine
        >>> z = torch.randn(200, 2)
        >>> reward = fit_reward(z, z[:, 0] > 0)
        >>> refined = refine(z, lambda z: -0.5 * z.square().sum(-1), reward)
        >>> bool(reward(refined).mean() > reward(z).mean())
        True
    """
    if z.ndim != 2 or target.shape != z.shape[:1]:
        raise InputError(
            f"fit_reward needs latents (N, D) and a target (N,), got {tuple(z.shape)} and "
            f"{tuple(target.shape)}"
        )
    if len(target) < 2 or (target == target[0]).all():
        raise InputError("fit_reward needs a target with at least two different values")
    if not z.is_floating_point() or not (z.isfinite().all() and target.isfinite().all()):
        raise InputError("fit_reward needs floating-point latents, and no NaN or infinite values")
    # Latents of an encoder may carry its graph.
    z = z.detach()
    is_true = target.dtype == torch.bool
    wanted = target.detach().to(z)
    if not is_true:
        wanted = (wanted - wanted.mean()) / wanted.std()
    net = _Reward(z, hidden, is_true)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0.1)
    for _ in range(500):
        rows = torch.randint(len(z), (min(len(z), 256),), device=z.device)
        output = net.net(z[rows]).squeeze(-1)
        error = F.binary_cross_entropy_with_logits if is_true else F.mse_loss
        loss = error(output, wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.requires_grad_(False)
    return net


class _Reward(nn.Module):
    def __init__(self, z: Tensor, hidden: tuple[int, ...], is_log_probability: bool) -> None:
        super().__init__()
        self.net = mlp(z.shape[-1], hidden, 1).to(z)
        self.is_log_probability = is_log_probability

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.net(z).squeeze(-1)
        return F.logsigmoid(output) if self.is_log_probability else output
