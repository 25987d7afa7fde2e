"""Other recipes for chapter 2's headline: they lack what they say, and their records are whole."""

import dataclasses
from pathlib import Path

import pytest
import torch

import ladder
import schedule
from flowvae_tutorial import build
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import (
    Interval,
    group,
    interval,
    paired_interval,
    read_records,
)

RESULTS = Path(__file__).parents[2] / "book" / "results"
RECORDS = files.find(schedule.KIND, RESULTS / "schedule")
# The priors of section 2.8's table.
SHOWN = (
    "gaussian", "mixture-k1", "vampprior-k1", "vampprior", "flow-prior", "hvae",
    "hierarchical-vampprior",
)  # fmt: skip


def minus(one: list[float], other: list[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


@pytest.fixture
def few() -> Data:
    data = load("digits")
    return dataclasses.replace(
        data, train=data.train[:128], validation=data.validation[:32], test=data.test[:32]
    )


def test_the_plain_gradient_is_that_of_the_bound(few: Data) -> None:
    torch.manual_seed(0)
    vae = build("vampprior-k9", few)
    plain = schedule.PlainGradient(vae.prior, vae.posterior, vae.likelihood)
    weights, gradients = list(vae.parameters()), []
    for loss in (plain.loss, lambda x: -vae.elbo(x).value.mean(), vae.loss):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(loss(few.test), weights))
    plain_one, of_the_bound, path = gradients
    assert all(map(torch.allclose, plain_one, of_the_bound))
    assert not all(map(torch.allclose, plain_one, path))


def test_a_recipe_lacks_something_of_the_book_s_and_nothing_else() -> None:
    assert set(RECORDS) == set(schedule.RECIPES)
    for name, record in RECORDS.items():
        assert record["settings"] == ladder.settings(schedule.EPOCHS) | schedule.RECIPES[name][1]
        found = [(run["model"], run["seed"]) for run in record["runs"]]
        assert found == [(model, seed) for model in schedule.MODELS for seed in range(5)]
        for run in record["runs"]:
            examples = run["nll"]["per_example"]
            assert sum(examples) / len(examples) == pytest.approx(run["nll"]["mean"], abs=1e-3)


def test_the_command_leaves_a_record_and_does_nothing_twice(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "load", lambda name: few)
    monkeypatch.setattr(schedule, "EPOCHS", 2)
    monkeypatch.setattr(schedule, "SAMPLES", 5)
    monkeypatch.setattr(schedule, "SEEDS", {"digits": 1})
    monkeypatch.setattr(files, "book_results", lambda: tmp_path)
    schedule.main(["constant-step"])
    [record] = files.find(schedule.KIND, tmp_path / "schedule").values()
    assert [run["model"] for run in record["runs"]] == list(schedule.MODELS)
    monkeypatch.setattr(schedule, "fit", lambda *_, **__: pytest.fail("trained again"))
    schedule.main(["constant-step"])
    with pytest.raises(SystemExit, match="no recipe 'none'"):
        schedule.main(["none"])


def test_what_section_2_8_says_is_in_the_records() -> None:
    rungs = files.find(ladder.RUNGS, RESULTS / "ladder")

    def change(model: str, start: int, end: int) -> list[float]:
        before, after = (rungs[f"digits-{model}-{epochs}"]["elbo"] for epochs in (start, end))
        return [b - a for a, b in zip(before, after, strict=True)]

    risen = {model: interval(change(model, 150, 200)) for model in SHOWN}
    assert sum(0 < step.mean < 0.12 for step in risen.values()) == 3
    assert all(step.mean > 0 for step in risen.values())
    assert sum(step.low < 0 for step in risen.values()) == 4
    lost = {model: interval(change(model, 300, 200)) for model in SHOWN}
    normal = lost.pop("gaussian")
    assert round(normal.mean, 1) == 0.2 and normal.low < 0
    assert all(loss.low > 0 for loss in lost.values())
    means = [round(loss.mean, 1) for loss in lost.values()]
    assert [min(means), max(means)] == [0.5, 1.1]
    more = {
        model
        for model in lost
        if interval(minus(change(model, 300, 200), change("gaussian", 300, 200))).low > 0
    }
    assert more == {"mixture-k1", "vampprior-k1", "flow-prior"}
    most = interval(change("vampprior-k500", 150, 200))
    assert most.low < 0 < most.high

    for model in ("mixture-k1", "vampprior-k1"):
        ahead = {
            epochs: minus(*(rungs[f"digits-{m}-{epochs}"]["elbo"] for m in (model, "gaussian")))
            for epochs in (150, 200, 300)
        }
        found = {epochs: interval(lead) for epochs, lead in ahead.items()}
        zero = {epochs for epochs, lead in found.items() if lead.low < 0 < lead.high}
        assert zero == ({200, 300} if model == "vampprior-k1" else {150, 200, 300})
        shrunk = interval(minus(ahead[150], ahead[300]))
        assert shrunk.low > 0 and round(2 * shrunk.mean) == 3

    runs = group(read_records(RESULTS, "digits"))
    new = [runs[f"digits-{model}"] for model in schedule.MODELS]
    constant, plain = (
        [
            [run | {"data": "digits", "beta": 1.0} for run in record["runs"] if run["model"] == m]
            for m in schedule.MODELS
        ]
        for record in (RECORDS["constant-step"], RECORDS["plain-gradient"])
    )
    headlines = [paired_interval(*pair).mean for pair in (constant, plain, new)]
    assert [round(value, 1) for value in headlines] == [5.5, 5.9, 4.0]
    assert min(paired_interval(constant[k], plain[k]).low for k in (0, 1)) > 0
    by_path = [paired_interval(plain[k], new[k]) for k in (0, 1)]
    assert by_path[0].low > 0 > by_path[1].low and by_path[1].high > 0
    assert round(paired_interval(constant[0], new[1]).mean) == 7
    assert round(paired_interval(new[0], constant[1]).mean, 1) == 2.5


def test_a_learned_gaussian_gains_in_nll_and_in_the_bound_nothing_that_is_seen() -> None:
    runs = group(read_records(RESULTS, "digits"))

    def in_elbo(*models: str) -> Interval:
        before, after = ([run["elbo"] for run in runs[f"digits-{model}"]] for model in models)
        return interval(minus(after, before))

    for model in ("mixture-k1", "vampprior-k1"):
        assert paired_interval(runs["digits-gaussian"], runs[f"digits-{model}"]).low > 0
        assert in_elbo("gaussian", model).low < 0 < in_elbo("gaussian", model).high
    assert in_elbo("mixture", "vampprior-k50").low < 0
    for models in (("mixture-k1", "mixture"), ("vampprior-k1", "vampprior")):
        assert in_elbo(*models).low > 0


def test_the_share_of_a_mixture_in_its_gain_differs_by_seed() -> None:
    runs = group(read_records(RESULTS, "digits"))
    spread = {}
    for model, one in {"mixture": "mixture-k1", "vampprior": "vampprior-k1"}.items():
        normal, control, many = (
            [run["nll"]["mean"] for run in runs[f"digits-{name}"]]
            for name in ("gaussian", one, model)
        )
        shares = [(c - m) / (n - m) for n, c, m in zip(normal, control, many, strict=True)]
        spread[model] = [round(min(shares), 2), round(max(shares), 2)]
    assert spread == {"mixture": [0.25, 0.77], "vampprior": [0.53, 0.91]}
