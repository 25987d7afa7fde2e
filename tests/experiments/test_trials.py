"""The trials of chapter 9: what each changes, and that the page prints their records."""

import dataclasses
import json
import math
from pathlib import Path

import nbformat
import pytest
import torch
from torch.distributions import Normal

import trials
from flowvae_tutorial import VAE, build
from flowvae_tutorial.data import Data, load, outline
from flowvae_tutorial.experiments import record_files
from flowvae_tutorial.experiments.record_files import find
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.models import DIGITS
from flowvae_tutorial.storage.checkpoints import load_checkpoint

BOOK = Path(__file__).parents[2] / "book"
RECORDS = find(trials.KIND, BOOK / "results" / "trials")


@pytest.fixture
def few() -> Data:
    data = load("digits-binary")
    return dataclasses.replace(data, train=data.train[:128], validation=data.validation[:64])


def test_each_trial_has_its_record_and_each_record_its_trial() -> None:
    mnist = outline("dynamic-mnist")
    assert set(RECORDS) == set(trials.TRIALS)
    for name, record in RECORDS.items():
        trial = trials.TRIALS[name]
        assert (record["model"], record["change"]) == (trial.model, trial.change)
        assert (record["data"], record["epochs"]) == ("dynamic-mnist", trial.epochs)
        assert record["num_validation"] == 10_000
        assert record["settings"] == trial.all_settings(mnist)
        assert record["sizes"] == json.loads(json.dumps(trial.all_sizes()._asdict()))
        assert record["elbo"] == pytest.approx(record["reconstruction"] - record["kl"], abs=2e-3)


def test_the_page_prints_the_bound_of_each_trial() -> None:
    cells = nbformat.read(BOOK / "09_results.ipynb", as_version=4).cells
    printed = "".join(
        output.get("data", {}).get("text/markdown", "")
        for cell in cells
        for output in cell.get("outputs", [])
    )
    for record in RECORDS.values():
        assert f"{record['change']} | {-record['elbo']:.2f} |" in printed


def test_what_the_page_says_of_the_trials_is_in_their_records() -> None:
    def gained(name: str, base: str = "gaussian", part: str = "elbo") -> float:
        return float(RECORDS[name][part] - RECORDS[base][part])

    flow = "flow-prior"
    assert {round(gained("step"), 1), round(gained("batch"), 1)} == {0.6}
    assert round(gained("constant")) == round(gained("half-step")) == -2
    assert round(gained("half-step", "constant"), 1) == -0.3
    assert round(gained("half-step-long", "constant-long"), 1) == 0.3
    assert 1 - gained("average") / gained("constant") == pytest.approx(0.8, abs=0.05)
    assert round(gained("decay"), 1) == -0.9
    assert round(gained("free-bits"), 1) == -0.6
    assert round(gained("free-bits", part="reconstruction"), 1) == 0.3
    assert round(gained("free-bits", part="kl"), 1) == 0.9
    assert (RECORDS["free-bits"]["active_units"], RECORDS["gaussian"]["active_units"]) == (40, 24)
    assert round(gained("flow-step", flow), 1) == -0.4
    assert max(gained("width", flow), gained("couplings", flow)) < 0
    assert (round(gained("path"), 1), round(gained("flow-path", flow), 1)) == (0.3, 0.4)
    assert round(gained("path-batch"), 1) == 0.9
    assert round(gained("hvae-step", "hvae"), 1) == 0.2
    assert round(gained("hvae-clip", "hvae"), 1) == -0.1
    # Section 9.3: in sixty epochs nothing flies off.
    for name in ("hvae", "hvae-step", "hvae-clip"):
        assert max(RECORDS[name]["history"]["loss"][3:]) < 100
    # Beside the long runs: the same step at 150 epochs, and the decay's share at 30.
    past = {r["model"]: r["history"] for r in read_records(BOOK / "results", "dynamic-mnist")}
    long = {
        model: [r - k for r, k in zip(curves["reconstruction"], curves["kl"], strict=True)]
        for model, curves in past.items()
    }
    assert abs(RECORDS["step-long"]["elbo"] - max(long["gaussian"])) < 0.1
    assert round(RECORDS["warmup-long"]["elbo"] - max(long["gaussian"]), 1) == -0.8
    assert RECORDS["warmup-long"]["active_units"] == 35
    assert round(RECORDS["warmup-long"]["kl"] - past["gaussian"]["kl"][-1], 1) == 2.4
    for name in ("constant-long", "half-step-long"):
        assert round(max(long["gaussian"]) - RECORDS[name]["elbo"]) == 2
    # The run of 400 epochs has a full step for its first half: the same training, done twice.
    [longer] = read_records(BOOK / "results" / "long")
    twice = RECORDS["constant-long"]["history"]["loss"]
    assert twice == longer["history"]["loss"][:150]
    assert round(RECORDS["gaussian"]["elbo"] - long["gaussian"][29], 1) == 2.1
    assert round(RECORDS[flow]["elbo"] - long[flow][29], 1) == 3.4


def test_only_the_trials_of_the_path_gradient_have_it(few: Data) -> None:
    torch.manual_seed(0)
    vae, x = build("gaussian", few, DIGITS), few.train[:32]
    slopes = {}
    for name in ("gaussian", "path"):
        torch.manual_seed(1)
        wrapped = trials.TRIALS[name].wrap(vae)
        vae.zero_grad()
        wrapped.loss(x).backward()
        slopes[name] = [parameter.grad.clone() for parameter in vae.posterior.parameters()]
    torch.manual_seed(1)
    vae.zero_grad()
    (-vae.elbo(x).value.mean()).backward()
    whole = [parameter.grad for parameter in vae.posterior.parameters()]
    torch.testing.assert_close(slopes["gaussian"], whole)
    assert not torch.allclose(slopes["path"][0], whole[0])


def test_free_bits_pay_for_what_a_unit_costs_above_them(
    few: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    plain = build("gaussian", few).double()
    free, x = trials.free_bits(plain), few.train[:32].double()

    def loss(vae: VAE, bits: float) -> torch.Tensor:
        monkeypatch.setattr(trials, "FREE", bits)
        torch.manual_seed(1)
        return vae.loss(x)

    # With nothing free it is the model's own loss; with everything free nobody pays for a code.
    torch.testing.assert_close(loss(free, -math.inf), loss(plain, 0.0))
    torch.manual_seed(1)
    reconstruction = plain.elbo(x).reconstruction.mean()
    assert loss(free, 1e3).item() == pytest.approx(1e3 * 16 - reconstruction.item())
    # In between each unit is on its own.
    torch.manual_seed(1)
    z = plain.posterior(x).rsample((1,))
    units = []
    for d in range(16):
        q = Normal(plain.posterior(x).mean[:, d], plain.posterior(x).stddev[:, d])
        units.append((q.log_prob(z[0, :, d]) - Normal(0.0, 1.0).log_prob(z[0, :, d])).mean().item())
    middle = sorted(units)[8]
    expected = sum(max(middle, unit) for unit in units) - reconstruction.item()
    assert loss(free, middle).item() == pytest.approx(expected)


def test_the_averaged_model_is_the_mean_of_the_last_epochs(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "RUNS", tmp_path)
    monkeypatch.setattr(trials, "MNIST", DIGITS)
    states = []
    for epochs in (2, 3):
        trial = dataclasses.replace(trials.TRIALS["constant"], epochs=epochs)
        trials.train(f"{epochs}", trial, few)
        states.append(load_checkpoint(tmp_path / f"{epochs}.pt")["vae"])
    two = dataclasses.replace(trials.TRIALS["average"], average=2, epochs=3)
    averaged, _ = trials.train("average", two, few)
    for key, value in averaged.state_dict().items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 2)


def test_a_trial_leaves_a_record_of_its_kind_and_is_not_run_again(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(trials, "MNIST", DIGITS)
    monkeypatch.setattr(trials, "load", lambda name: few)
    monkeypatch.setattr(trials, "TRIALS", {"short": trials.Trial(epochs=1)})
    monkeypatch.setattr(record_files, "book_results", lambda: tmp_path)
    trials.main([])
    [(name, record)] = find(trials.KIND, tmp_path / "trials").items()
    assert (name, record["trial"], record["epochs"]) == ("short", "short", 1)
    assert record["sizes"]["hidden"] == list(DIGITS.hidden) and record["device"] == "cpu"
    monkeypatch.setattr(trials, "run", None)
    trials.main(["short"])


def test_an_unknown_trial_gets_one_line() -> None:
    with pytest.raises(SystemExit, match="no trial 'nonsense': choose from gaussian, step"):
        trials.main(["nonsense"])
