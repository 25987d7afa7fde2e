"""Priors p(z): modules whose call, `prior()`, returns a distribution over one latent `(D,)`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .arguments import SIZE, interval, number, whole
from .distributions import Chain
from .errors import InputError, check_data
from .mixtures import Mixture
from .networks import LOG_SCALE_BOUNDS, evaluating, modules_of, refusing_batch_normalisation


def _refuse(context: object) -> None:
    # A density that depends on x is another model's: to ignore x would hide that it was meant.
    if context is not None:
        raise InputError("this prior takes no context: call it without one, as prior()")


class StandardNormal(nn.Module):
    """N(0, I): the prior with nothing to learn."""

    zero: Tensor

    def __init__(self, features: int) -> None:
        """Set up the prior for latents of `features` = D dimensions."""
        super().__init__()
        features = whole(features, "features", most=SIZE)
        # A buffer follows the module to its device and dtype; it is no part of the weights.
        self.register_buffer("zero", torch.zeros(features), persistent=False)

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D,)`."""
        _refuse(context)
        normal = Normal(self.zero, torch.ones_like(self.zero), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def extra_repr(self) -> str:
        """The size, for `print`."""
        return f"features={len(self.zero)}"


class GaussianMixture(nn.Module):
    """A mixture of K diagonal Gaussians with learned weights, means and scales.

    `Mixture` says what its log-density costs.
    """

    def __init__(self, features: int, components: int) -> None:
        """Set up `components` = K Gaussians over latents of `features` = D dimensions."""
        super().__init__()
        features = whole(features, "features", most=SIZE)
        components = whole(components, "components", most=SIZE)
        self.loc = nn.Parameter(torch.randn(components, features))
        self.log_scale = nn.Parameter(torch.zeros(components, features))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D,)`."""
        _refuse(context)
        normal = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        components = Independent(normal, 1, validate_args=False)
        return Mixture(components, self.logits, validate_args=False)

    def extra_repr(self) -> str:
        """The sizes, for `print`."""
        return f"features={self.loc.shape[1]}, components={len(self.loc)}"


class VampPrior(nn.Module):
    """The variational mixture of posteriors: p(z) = Σₖ πₖ q(z | x̃ₖ) (equation `eq-vampprior`).

    The components are the posteriors of K learned pseudo-inputs x̃ₖ, so the prior moves with the
    encoder. Tomczak and Welling (2018). Each call encodes the K pseudo-inputs once.

    The pseudo-inputs live in the data's own space. A sigmoid keeps them within `bounds`: its
    slope is never zero, whereas clipping gives no gradient to a pseudo-input beyond a bound.

    Far from all of few pseudo-inputs the scale of q(z | x) can run away: one picture then costs as
    much as all others. So sharing a `GaussianPosterior` or `FlowPosterior` that names no
    `log_scale_bounds` sets `networks.LOG_SCALE_BOUNDS`; put `soft_clamp` into one of your own.

    Batch normalisation in the posterior is refused: in training it would normalise pseudo-inputs
    by themselves, as it does no data, and count them in the statistics that evaluation uses.

    Example:
        >>> import torch
        >>> from flowvae_tutorial import GaussianPosterior, VampPrior, mlp, pseudo_inputs_from
        >>> posterior = GaussianPosterior(mlp(64, [32], 2 * 2))
        >>> prior = VampPrior(posterior, pseudo_inputs_from(torch.rand(100, 64), components=5))
        >>> prior().sample((10,)).shape
        torch.Size([10, 2])
    """

    logits: Tensor

    def __init__(
        self,
        posterior: Callable[[Tensor], Distribution],
        pseudo_inputs: Tensor,
        logits: Tensor | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        """Set up the prior.

        Args:
            posterior: the VAE's own, a module or any other callable that gives q(z | x) for x
                `(K, X)`; it is shared, not registered here a second time.
            pseudo_inputs: `(K, X)`, where they start; `pseudo_inputs_from` takes them from data.
            logits: `(K,)`, where learned log-weights start; equal, fixed weights by default.
            bounds: of the data, or None for data in ℝⁿ.

        Raises:
            InputError: pseudo-inputs that the posterior does not take, not finite or out of bounds;
                logits unlike them; a posterior without densities or with batch normalisation.
        """
        super().__init__()
        weights = (weight for module in modules_of(posterior) for weight in module.parameters())
        check_data(pseudo_inputs, None, like=next(weights, None), name="pseudo_inputs")
        if logits is not None:
            wanted, given = (
                f"{tuple(x.shape)}, {x.dtype}, {x.device}"
                if isinstance(x, Tensor)
                else type(x).__name__
                for x in (pseudo_inputs[:, 0], logits)
            )
            if given != wanted or not logits.isfinite().all():
                raise InputError(
                    f"logits must be finite numbers, one a pseudo-input: {wanted}; got {given}"
                )
        # In a tuple, where a module does not look for submodules. VAE makes sure that it has them.
        self.shares = (posterior,)
        self.bounds = None if bounds is None else interval(bounds, "bounds")
        self.raw = nn.Parameter(self._unsquash(pseudo_inputs.detach().clone()))
        if logits is None:
            self.register_buffer("logits", pseudo_inputs.new_zeros(len(pseudo_inputs)))
        else:
            self.logits = nn.Parameter(logits.detach().clone())
        self._probe()
        # Of a method nobody knows which modules it uses.
        for part in posterior.modules() if isinstance(posterior, nn.Module) else ():
            if getattr(part, "log_scale_bounds", "none") is None:
                vars(part)["log_scale_bounds"] = LOG_SCALE_BOUNDS

    @torch.no_grad()
    def _probe(self) -> None:
        try:
            with refusing_batch_normalisation(), evaluating(*self.shares):
                prior = self()
                prior.log_prob(prior.sample((1,)))
        except (NotImplementedError, AttributeError) as error:
            raise InputError("the posterior has no density (log_prob) to mix") from error
        except RuntimeError as error:
            raise InputError(
                f"the posterior does not take pseudo_inputs of width {self.raw.shape[1]}: {error}"
            ) from error

    def _unsquash(self, inputs: Tensor) -> Tensor:
        if self.bounds is None:
            return inputs
        low, high = self.bounds
        if inputs.min() < low or inputs.max() > high:
            raise InputError(
                f"pseudo_inputs must lie within bounds {self.bounds}, got "
                f"[{inputs.min():.3g}, {inputs.max():.3g}]; bounds=None takes any"
            )
        # On a bound the sigmoid is flat: start a little inside.
        return ((inputs - low) / (high - low)).clamp(0.02, 0.98).logit()

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs in the data's space, `(K, X)`."""
        if self.bounds is None:
            return self.raw
        low, high = self.bounds
        return low + (high - low) * self.raw.sigmoid()

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D,)`."""
        _refuse(context)
        return Mixture(self.shares[0](self.pseudo_inputs), self.logits, validate_args=False)

    def extra_repr(self) -> str:
        """The sizes, for `print`."""
        components, inputs = self.raw.shape
        weights = "learned" if isinstance(self.logits, nn.Parameter) else "fixed"
        return f"components={components}, inputs={inputs}, bounds={self.bounds}, weights={weights}"


def pseudo_inputs_from(
    x: Tensor, components: int, noise: float = 0.05, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> Tensor:
    """K different examples of x `(N, X)`, drawn at random, with Gaussian noise: `(K, X)`.

    What the noise moves out of `bounds` is moved back to them.

    Raises:
        InputError: x is no floating-point tensor of this shape, has fewer than `components`
            examples, or values that are not finite or out of bounds.
    """
    check_data(x, None)
    bounds = None if bounds is None else interval(bounds, "bounds")
    noise, components = number(noise, "noise"), whole(components, "components", least=0)
    if not 1 <= components <= len(x):
        raise InputError(
            f"cannot start {components} pseudo-inputs from {len(x)} examples: take 1 to {len(x)}"
        )
    chosen = x[torch.randperm(len(x), device=x.device)[:components]]
    if bounds is not None and not bounds[0] <= chosen.min() <= chosen.max() <= bounds[1]:
        raise InputError(
            f"x must lie within bounds {bounds}, got [{chosen.min():.3g}, {chosen.max():.3g}]; "
            "bounds=None takes any"
        )
    chosen = chosen + noise * torch.randn_like(chosen)
    return chosen if bounds is None else chosen.clamp(*bounds)


class HierarchicalPrior(nn.Module):
    """p(z₂) p(z₁ | z₂) over the concatenation [z₂, z₁] (equation `eq-hierarchical-prior`)."""

    def __init__(self, top: nn.Module, conditional: nn.Module) -> None:
        """Chain any prior `top` over z₂ and a `conditional` p(z₁ | z₂), best with bounds on log σ.

        Raises:
            InputError: `conditional` does not take the latents of `top`.
        """
        super().__init__()
        self.top = top
        self.conditional = conditional
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            z2 = top().sample((1,))
            try:
                below = conditional(z2)
            except RuntimeError as error:
                raise InputError(
                    f"the conditional does not take the top's latents of size {z2.shape[-1]}: "
                    f"{error}"
                ) from error
            self.event_size = z2.shape[-1] + below.event_shape[0]

    def forward(self, context: None = None) -> Distribution:
        """Return p(z): batch shape `()`, event shape `(D₂ + D₁,)`."""
        _refuse(context)
        return Chain(self.top(), self.conditional, self.event_size, validate_args=False)

    def extra_repr(self) -> str:
        """The size, for `print`."""
        return f"features={self.event_size}"
