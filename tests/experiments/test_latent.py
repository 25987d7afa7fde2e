"""Samples of priors that came after their VAE: measured, and as chapter 8 says."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import latent
from flowvae_tutorial import FlowMatchingPrior, build
from flowvae_tutorial.data import load
from flowvae_tutorial.experiments.record_files import Record, find, read
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.experiments.refinement_records import fit_classifier
from flowvae_tutorial.experiments.tables import Interval, group, interval, paired_interval
from solutions import FAR, KIND

RESULTS = Path(__file__).parents[2] / "book" / "results"
FOUND = list(find(latent.KIND, RESULTS / "latent").values())
RUNS = read_records(RESULTS, "digits")


def mean(beta: float, figure: Callable[[Record], Any]) -> float:
    return statistics.mean(figure(run) for run in FOUND if run["beta"] == beta)


def apart(prior: str) -> Callable[[Record], Any]:
    return lambda run: run[prior]["energy_distance"]


def of_runs(beta: float, figure: Callable[[Record], Any]) -> float:
    return statistics.mean(
        figure(run) for run in RUNS if (run["model"], run["beta"]) == (latent.MODEL, beta)
    )


def test_each_weight_of_the_kl_term_has_five_vaes() -> None:
    assert sorted((run["beta"], run["seed"]) for run in FOUND) == [
        (beta, seed) for beta in latent.BETAS for seed in range(5)
    ]


def test_what_chapter_8_says_is_in_the_records() -> None:
    weak, full = (
        {prior: mean(beta, apart(prior)) for prior in ("standard_normal", "matching")}
        for beta in latent.BETAS
    )
    assert 18 < weak["standard_normal"] / weak["matching"] < 23  # to a twentieth
    assert [round(1000 * at["matching"], 1) for at in (weak, full)] == [4.2, 2.1]
    nll = {beta: of_runs(beta, lambda run: run["nll"]["mean"]) for beta in latent.BETAS}
    before = {beta: mean(beta, lambda run: run["nll_standard_normal"]) for beta in latent.BETAS}
    assert [round(before[beta] - nll[beta]) for beta in latent.BETAS] == [6, 1]
    assert round(nll[0.1] - nll[1.0]) == 9
    held = [of_runs(beta, lambda run: run["reconstruction"]) for beta in latent.BETAS]
    assert round(held[0] - held[1]) == 12
    kl = [of_runs(beta, lambda run: sum(run["kl"])) for beta in latent.BETAS]
    assert round(kl[0] - kl[1]) == 24
    bound = [of_runs(beta, lambda run: run["elbo"]) for beta in latent.BETAS]
    assert round(bound[1] - bound[0]) == 12
    floor = mean(1.0, lambda run: run["training_pictures"])
    assert round(1000 * floor, 1) == -1.9
    # Few steps are worse than none, for each of the five.
    for run in FOUND:
        if run["beta"] == 1:
            assert min(run["steps"]["4"], run["steps"]["8"]) > apart("standard_normal")(run)
    behind = mean(1.0, lambda run: run["steps"]["8"] - apart("standard_normal")(run))
    assert round(1000 * behind, 1) == 2.8
    steps = {n: mean(1.0, lambda run, n=n: run["steps"][str(n)]) for n in latent.STEPS}
    assert steps[8] > full["standard_normal"] > steps[16]
    falls = [steps[n] / steps[2 * n] for n in latent.STEPS[:-1]]
    assert falls == sorted(falls, reverse=True) and falls[-1] > 1
    assert full["matching"] < steps[64] < 1.3 * full["matching"]


def test_the_intervals_that_chapter_8_quotes_are_those_of_the_records() -> None:
    runs = group(run for run in RUNS if run["beta"] == 1)
    [text] = [path.read_text(encoding="utf-8") for path in RESULTS.parent.glob("08_*.ipynb")]
    ours = runs[f"digits-{latent.MODEL}"]
    for other in ("gaussian", "two-stage-flow-prior"):
        assert said(paired_interval(runs[f"digits-{other}"], ours)) in text
    for other in ("mixture-k1", "vampprior"):
        assert said(paired_interval(ours, runs[f"digits-{other}"])) in text
    jointly, late = runs["digits-flow-matching-prior"], runs["digits-two-stage-flow-prior"]
    couplings, gaussian = runs["digits-flow-prior"], runs["digits-mixture-k1"]
    for pair in ((ours, jointly), (late, couplings), (couplings, jointly), (gaussian, jointly)):
        assert said(paired_interval(*pair)) in text
    bounds = [[run["elbo"] for run in each] for each in (ours, late)]
    assert said(interval([a - b for a, b in zip(*bounds, strict=True)])) in text
    assert said(paired_interval(jointly, runs["digits-vampprior"])) in text
    for name, then in (("flow-matching-prior", " seconds"), ("flow-prior", ", in either case")):
        seconds = [round(run["seconds"]) for run in runs[f"digits-{name}"]]
        assert f"{min(seconds)} to {max(seconds)}{then}" in text
    refit = statistics.mean(run["prior_gap"] for run in runs["digits-gaussian"])
    assert f"is {refit:.1f} nats for these VAEs" in text
    prior = [runs[f"digits-{m}"][0]["parameters"] for m in ("two-stage-flow-prior", "gaussian")]
    assert round((prior[0] - prior[1]) / (ours[0]["parameters"] - prior[1])) == 5


def test_what_section_8_8_says_of_wider_draws_is_in_their_record() -> None:
    runs = read(KIND, RESULTS / "solutions" / "8.8.json")["runs"]
    [text] = [path.read_text(encoding="utf-8") for path in RESULTS.parent.glob("08_*.ipynb")]

    def of(model: str, beta: float, figure: str) -> list[float]:
        found = [run[figure] for run in runs if (run["model"], run["beta"]) == (model, beta)]
        assert len(found) == 5
        return found

    def less(ones: list[float], others: list[float]) -> Interval:
        return interval([one - other for one, other in zip(ones, others, strict=True)])

    looser = {
        beta: less(of(latent.MODEL, beta, "own"), of(latent.MODEL, beta, "least"))
        for beta in latent.BETAS
    }
    assert f"lower it by {one_digit(looser[0.1])} nats, and at" in text
    assert f"= 1$ by {looser[1.0].mean:.2f}." in text
    left = less(of(latent.MODEL, 0.1, "least"), of(latent.MODEL, 1.0, "least"))
    assert f"What is left is {one_digit(left)} nats" in text
    for beta, width, gain in ((0.1, 4, 6), (1.0, 1.5, 1)):
        for model in (latent.MODEL, "gaussian"):
            assert set(of(model, beta, "width")) == {width}
        for figure in ("own", "least"):
            fallen = less(of("gaussian", beta, figure), of(latent.MODEL, beta, figure))
            assert round(fallen.mean) == gain
    # No width at an end of those that were tried.
    assert {4, 1.5} <= set(FAR[1:-1])


def one_digit(found: Interval) -> str:
    return f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]"


def said(interval: Interval) -> str:
    return str(interval).replace("-", "−")


def test_plain_steps_lead_to_where_the_flow_does() -> None:
    torch.manual_seed(0)
    prior = FlowMatchingPrior(2, (8, 8), steps=64).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    u = torch.randn(20, 2).double()
    with torch.no_grad():
        exact = prior().transform(u)
        errors = [(latent.euler(prior, u, n) - exact).abs().mean().item() for n in (100, 200)]
    assert errors[1] < 0.01 and 1.8 < errors[0] / errors[1] < 2.2


def test_a_measurement_is_the_same_again_and_training_pictures_are_at_no_distance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(latent, "SAMPLES", 400)
    data = load("digits")
    torch.manual_seed(0)
    vae = build(latent.MODEL, data, first=build("gaussian", data))
    classifier = fit_classifier(data, epochs=1)
    one, again = (latent.measure(vae, data, classifier, 1.0, 3) for _ in range(2))
    assert one == again
    assert abs(one["training_pictures"]) < 0.01 < one["matching"]["energy_distance"]
