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

RECORDS = files.find(schedule.KIND, Path(__file__).parents[2] / "book" / "results" / "schedule")


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
