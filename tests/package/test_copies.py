"""Copies and pickles of models and of the distributions that they give."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_functional import DATA, OURS, book_model, pair
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowvae_tutorial import VAE, BernoulliLikelihood, VampPrior, rsample_and_log_prob
from flowvae_tutorial.models import BOOK_MODELS


def saved_and_loaded(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved_and_loaded,
}
MODELS: dict[str, Callable[[], VAE]] = {
    **{f"{p} and {q}": lambda p=p, q=q: pair(p, q).float() for p, q in OURS},
    **{name: lambda name=name: book_model(name, DATA["digits"]) for name in BOOK_MODELS},
}


def told(distribution: Distribution, z: Tensor) -> list[Tensor]:
    """What a distribution says of z, and what it draws."""
    torch.manual_seed(2)
    return [distribution.log_prob(z), distribution.sample((2,))]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()  # torch copies no tensor with a history
def test_a_copied_distribution_says_what_the_first_one_said(name: str) -> None:
    vae = MODELS[name]()
    p, q = vae.prior(), vae.posterior(torch.rand(3, vae.features))
    z = q.sample()
    before = [*told(p, z), *told(q, z), *rsample_and_log_prob(q)]
    copies = [(make_copy(p), make_copy(q)) for make_copy in COPIES.values()]
    # A copy has networks of its own.
    for parameter in vae.parameters():
        parameter.fill_(torch.nan)
    for p, q in copies:
        after = [*told(p, z), *told(q, z), *rsample_and_log_prob(q)]
        assert all(map(torch.equal, after, before))


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_pickled_distribution_keeps_its_density_in_training_too(name: str) -> None:
    vae = MODELS[name]()
    q = vae.posterior(torch.rand(3, vae.features))
    z = q.sample()
    for distribution in (vae.prior(), q):
        again = pickle.loads(pickle.dumps(distribution))
        assert torch.equal(again.log_prob(z), distribution.log_prob(z))


def borrowed(vae: VAE) -> list[nn.Module]:
    return [m.shares[0] for m in vae.prior.modules() if isinstance(m, VampPrior)]


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_copied_model_is_whole_and_leaves_the_first_alone(
    name: str, make_copy: Callable[[Any], Any]
) -> None:
    vae = book_model(name, DATA["digits"])
    x, state = torch.rand(3, 64), copy.deepcopy(vae.state_dict())
    torch.manual_seed(2)
    loss, again = vae.loss(x), make_copy(vae)
    torch.manual_seed(2)
    assert torch.equal(again.loss(x), loss)
    # Its VampPrior mixes the copy's posterior and no other.
    assert len(borrowed(again)) == len(borrowed(vae)) == ("vampprior" in name)
    assert set(borrowed(again)) <= set(again.posterior.modules())
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again.loss(x).backward()
    optimizer.step()
    assert all(p.grad is not None for p in again.parameters())
    assert all(torch.equal(value, state[key]) for key, value in vae.state_dict().items())
    assert not any(map(torch.equal, again.parameters(), vae.parameters()))


def test_a_copied_model_checks_its_data_as_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = book_model("gaussian", DATA["rings"])
    vae = VAE(vae.prior, vae.posterior, BernoulliLikelihood(vae.likelihood.net))

    def slow(support: constraints.Constraint, x: Tensor) -> Tensor:
        raise AssertionError("torch's own check takes several times as long")

    monkeypatch.setattr(type(constraints.boolean), "check", slow)
    for make_copy in COPIES.values():
        make_copy(vae).loss(torch.ones(3, 2))
