"""The ladder of epochs: it climbs to the rung that validation prefers, and its records say so."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ladder
from flowvae_tutorial import (
    VAE,
    GaussianLikelihood,
    GaussianPosterior,
    StandardNormal,
    build,
    rsample_and_log_prob,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import read_records

RESULTS = Path(__file__).parents[2] / "book" / "results"
RUNGS = files.find(ladder.RUNGS, RESULTS / "ladder")
MEASURED = {(r["data"], r["model"], r["beta"], r["epochs"]): r for r in RUNGS.values()}
CONVERGED = read_records(RESULTS / "converged")

# Only at the common number of epochs: their neighbours are still to be run.
NOT_CLIMBED = {
    ("vampprior-k200", 1), ("two-stage-flow-prior", 1), ("flow-posterior", 1), ("flow-both", 1),
    ("gaussian", 0.3), ("gaussian", 0.5), ("gaussian", 2), ("gaussian", 4), ("gaussian", 8),
}  # fmt: skip
# A sweep keeps the common number where another would be better.
KEPT = {("gaussian", 0.1): 150}


@pytest.fixture
def few() -> Data:
    data = load("digits")
    return dataclasses.replace(
        data, train=data.train[:64], validation=data.validation[:32], test=data.test[:32]
    )


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "LADDER", (1, 2, 3, 4))
    monkeypatch.setattr(ladder, "START", 2)
    monkeypatch.setattr(ladder, "SEEDS", {"digits": 2})
    monkeypatch.setattr(ladder, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(files, "book_results", lambda: tmp_path / "results")


def path_of(vae: VAE) -> VAE:
    return ladder.PathVAE(vae.prior, vae.posterior, vae.likelihood)


@pytest.mark.parametrize(
    "model",
    ["gaussian", "vampprior-k9", "hierarchical-vampprior-k9", "flow-both", "spline-flow-posterior"],
)
def test_the_path_gradient_is_the_whole_gradient_without_the_score(few: Data, model: str) -> None:
    torch.manual_seed(0)
    vae = build(model, few).double()
    x = few.validation.double()
    torch.manual_seed(1)
    whole = vae.loss(x)
    weights = list(vae.parameters())
    gradient = torch.autograd.grad(whole, weights, allow_unused=True, materialize_grads=True)
    torch.manual_seed(1)
    q = vae.posterior(x)
    z, _ = rsample_and_log_prob(q, (1,))
    held = q.log_prob(z.detach()).mean()
    score = torch.autograd.grad(held, weights, allow_unused=True, materialize_grads=True)
    torch.manual_seed(1)
    path = path_of(vae).loss(x)
    assert path.item() == pytest.approx(whole.item(), abs=1e-9)
    found = torch.autograd.grad(path, weights, allow_unused=True, materialize_grads=True)
    for one, all_of_it, without in zip(found, gradient, score, strict=True):
        torch.testing.assert_close(one, all_of_it - without, rtol=1e-6, atol=1e-8)
    assert any(part.abs().max() > 1e-3 for part in score)


def test_where_the_posterior_is_exact_the_path_gradient_has_no_noise() -> None:
    # x = z + noise of variance 1: the posterior is N(x / 2, 1/2).
    encoder, decoder = torch.nn.Linear(1, 2), torch.nn.Linear(1, 1)
    posterior, likelihood = GaussianPosterior(encoder), GaussianLikelihood(decoder, features=1)
    vae = VAE(StandardNormal(1), posterior, likelihood).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias.copy_(torch.tensor([0.0, 0.5]).double().log().nan_to_num(neginf=0.0) / 2)
        decoder.weight.fill_(1.0)
        decoder.bias.fill_(0.0)
        likelihood.raw_scale.fill_(math.log(math.expm1(1 - likelihood.min_scale)))
    x = torch.randn(50, 1).double()
    weights = list(posterior.parameters())
    path = torch.autograd.grad(path_of(vae).loss(x), weights)
    plain = torch.autograd.grad(vae.loss(x), weights)
    assert max(part.abs().max() for part in path) < 1e-12
    assert max(part.abs().max() for part in plain) > 1e-2


@pytest.mark.parametrize(
    ("bounds", "chosen"),
    [
        ({1: 5.0, 2: 5.1, 3: 5.2, 4: 9.0}, 2),
        ({1: 5.0, 2: 5.1, 3: 5.3, 4: 5.4}, 3),
        ({1: 5.0, 2: 5.1, 3: 5.3, 4: 5.5}, 4),
        ({1: 5.3, 2: 5.1, 3: 5.0, 4: 9.0}, 1),
        ({1: 5.2, 2: 5.1, 3: 5.0, 4: 9.0}, 2),
    ],
)
def test_it_climbs_while_a_neighbour_is_better_by_more_than_the_tolerance(
    few: Data, bounds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(model: str, data: Data, beta: float, epochs: int) -> files.Record:
        return {"elbo": [bounds[epochs] - 1, bounds[epochs] + 1]}

    monkeypatch.setattr(ladder, "rung", known)
    epochs, near = ladder.settle("gaussian", few, 1.0)
    assert epochs == chosen
    assert near == {n: b for n, b in bounds.items() if abs(n - chosen) <= 1}


@pytest.fixture
def commanded(few: Data, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(ladder, "load", lambda name: few)
    monkeypatch.setattr(ladder, "SAMPLES", 5)
    monkeypatch.setattr(ladder.models, "SCALES", ladder.models.SCALES)
    return lambda: ladder.main(["digits", "two-stage-flow-prior"])


def test_the_command_leaves_records_of_rungs_and_of_runs_and_does_nothing_twice(
    tmp_path: Path, commanded: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commanded()
    rungs = files.find(ladder.RUNGS, tmp_path / "results" / "ladder")
    runs = read_records(tmp_path / "results" / "converged")
    assert {rung["model"] for rung in rungs.values()} == {"gaussian", "two-stage-flow-prior"}
    assert [run["seed"] for run in runs] == [0, 1]
    for run in runs:
        validation = run["budget_control"]["validation"]
        assert str(run["settings"]["epochs"]) in validation
        for epochs, bound in validation.items():
            found = rungs[f"digits-two-stage-flow-prior-{epochs}"]
            assert sum(found["elbo"]) / 2 == pytest.approx(bound, abs=1e-3)
    monkeypatch.setattr(ladder, "fit", lambda *_, **__: pytest.fail("trained again"))
    commanded()


def test_the_book_s_converged_runs_stand_on_rungs_that_control_them() -> None:
    assert CONVERGED
    for run in CONVERGED:
        control = run["budget_control"]
        bounds = {int(epochs): bound for epochs, bound in control["validation"].items()}
        own = run["settings"]["epochs"]
        which = run["model"], run["beta"]
        assert (which in NOT_CLIMBED) == (len(bounds) < 3)
        if which not in NOT_CLIMBED:
            assert own == sorted(bounds)[1]
        better = max(bounds, key=lambda epochs: bounds[epochs])
        if bounds[better] > bounds[own] + control["tolerance"]:
            assert KEPT[which] == better
        for epochs, bound in bounds.items():
            rung = MEASURED[run["data"], *which, epochs]
            assert rung["settings"] == {**run["settings"], "epochs": epochs, "patience": epochs}
            assert sum(rung["elbo"]) / len(rung["elbo"]) == pytest.approx(bound, abs=1e-3)


def test_a_given_rung_is_not_climbed_from_and_takes_the_control_of_later_neighbours(
    tmp_path: Path, commanded: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    ladder.main(["digits", "gaussian=2"])
    first = read_records(results / "converged")
    assert [set(run["budget_control"]["validation"]) for run in first] == [{"2"}, {"2"}]
    assert len(files.find(ladder.RUNGS, results / "ladder")) == 1
    ladder.rung("gaussian", ladder.load("digits"), 1.0, 3)
    monkeypatch.setattr(ladder, "fit", lambda *_, **__: pytest.fail("trained again"))
    ladder.main(["digits", "gaussian=2"])
    for before, after in zip(first, read_records(results / "converged"), strict=True):
        assert set(after["budget_control"]["validation"]) == {"2", "3"}
        assert after["nll"] == before["nll"] and after["date"] == before["date"]
    with pytest.raises(
        SystemExit, match=r"\A7 is no rung of the ladder: choose one of 1, 2, 3, 4\Z"
    ):
        ladder.main(["digits", "gaussian=7"])
