"""What the solutions of open exercises report is in their records."""

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

import solutions
from flowvae_tutorial import InputError
from flowvae_tutorial.experiments.record_files import find
from flowvae_tutorial.experiments.records import interval, read_records

BOOK = Path(__file__).parents[2] / "book"
RUNS: dict[str, list[dict[str, Any]]] = {
    name: record["runs"]
    for name, record in find(solutions.KIND, BOOK / "results" / "solutions").items()
}


def values(name: str, figure: str, **kind: object) -> list[Any]:
    """A figure of those runs that are of a kind, in the order of their seeds."""
    return [run[figure] for run in RUNS[name] if kind.items() <= run.items()]


def differences(one: list[float], other: list[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def test_each_solution_has_its_record_and_each_record_its_solution() -> None:
    assert set(RUNS) == set(solutions.ALL)


@pytest.mark.parametrize("name", [name for name, (_, made) in solutions.ALL.items() if made])
def test_the_page_prints_the_table_of_the_record(name: str) -> None:
    rows = [line for line in solutions.solution(name).splitlines() if line.startswith("|")]
    assert rows[2:] == solutions.table(name, RUNS[name])


def test_a_changed_figure_is_another_table() -> None:
    runs = json.loads(json.dumps(RUNS["2.5"]))
    runs[0]["elbo"] += 0.01
    assert solutions.table("2.5", runs) != solutions.table("2.5", RUNS["2.5"])


def test_the_code_of_a_solution_runs_after_cells_of_its_chapter() -> None:
    names = solutions.play("2.5", "c003")
    vae = names["with_learned_weights"](0)
    assert vae.prior.logits.requires_grad and names["measured"] == {}


def test_what_the_pages_say_beside_the_tables_is_in_the_records() -> None:
    # 1.5
    records = read_records(BOOK / "results", "digits")
    beside = [r for r in records if (r["model"], r["beta"]) == ("gaussian", 1)]
    nll = [run["nll"]["mean"] for run in beside]
    behind = [round(less, 1) for less in differences(values("1.5", "nll", latent=8), nll)]
    assert (behind[1], behind[3]) == (1.4, -0.8)
    assert 22 in values("1.5", "active_units", latent=32)
    # 1.10
    for beta, low, high in ((0.3, 2.7, 3.7), (0.5, 1.5, 1.9), (1, 0.2, 0.4)):
        kind = {"model": "gaussian", "beta": beta}
        looser = differences(values("1.10", "own", **kind), values("1.10", "least", **kind))
        assert low < min(looser) <= max(looser) < high
    widths = {run["width"] for run in RUNS["1.10"] if run["beta"] == 0.3}
    assert widths == {max(solutions.WIDTHS)}
    own = values("1.10", "own", model="gaussian", beta=1)
    assert max(map(abs, differences(own, nll))) < 0.1
    # 2.5
    equal, learned, held = (values("2.5", "elbo", kind=k) for k in ("equal", "learned", "held"))
    gained, lost = differences(learned, equal), differences(equal, held)
    assert [round(gain, 2) for gain in gained] == [0.45, 0.04, -0.09]
    assert [round(min(lost), 1), round(max(lost), 1)] == [1.1, 1.7]
    largest = values("2.5", "largest", kind="learned")
    assert [round(min(largest), 1), round(max(largest), 1)] == [3.1, 4.3]
    assert values("2.5", "alive", kind="learned") == [100] * 3
    # 6.4, by the runs of 6.8: how far the target can be seen to be from the prior
    a_3, thick = (
        math.log(200_000 / min(values("6.8-seeds", "effective", wish=wish, way="target")))
        for wish in ("a 3", "a thick 3")
    )
    assert (round(a_3, 1), round(thick, 1)) == (2.5, 11.8)
    # 3.5
    assert values("3.5", "active") == [1, 1, 2] + [0] * 3
    assert max(values("3.5", "top", model="hierarchical-vampprior")) < 0.01
    for model in ("hvae", "hierarchical-vampprior"):
        both = [r["elbo"] for r in records if r["model"] == model][:3]
        assert min(differences(both, values("3.5", "elbo", model=model))) > 1
    # 4.5
    [truth] = [run for run in RUNS["4.5"] if run["start"] == "truth"]
    assert round(truth["log_prob"], 2) == -0.98 and round(truth["threads"], 4) == 0.0001
    longer = values("4.5", "log_prob", steps=1200)
    assert [round(min(longer), 1), round(max(longer), 1)] == [-1.7, -1.4]
    # 5.5
    short = [values("5.5", "gap_test", kind=k, epochs=60) for k in ("mean", "mean and scale")]
    assert min(differences(short[1], short[0])) > 0
    longer = [run for run in RUNS["5.5"] if run["epochs"] == 180]
    assert max(run["gap_test"] for run in longer) < min(values("5.5", "gap_test", epochs=60))
    assert max(abs(run["gap_test"] - run["gap_train"]) for run in longer) < 0.0045
    # 6.5
    for share in (1, 0.5):
        for weight in (1, 3, 10, 30):
            kind: dict[str, Any] = {"share": share, "weight": weight}
            less = solutions.less_excess(RUNS["6.5"], **kind)
            assert (less.high < 0) == (weight in (1, 3))
            one, least, spread = (
                [statistics.mean(values("6.5", f, way=way, **kind)) for f in ("claimed", "true")]
                for way in ("one", "minimum", "mean − sd")
            )
            claimed, true = least
            assert abs(claimed - true) < 0.25 if weight < 10 else 1.7 < claimed / true < 3
            assert abs(one[1] - true) < 0.4 and claimed < spread[0] < one[0]
            if weight == 1:
                off = [round(claimed - true, 2), round(one[0] - one[1], 2)]
                assert off == ([-0.09, 0.01] if share == 1 else [-0.13, 0.06])


def test_the_flat_models_of_section_3_10_have_the_size_of_two_levels() -> None:
    [two_levels] = {
        record["parameters"]
        for record in read_records(BOOK / "results", "digits")
        if record["model"] == "hvae"
    }
    for run in RUNS["3.10"]:
        assert abs(run["parameters"] / two_levels - 1) < 0.02
        assert max(run["validation"], key=run["validation"].get) == str(run["epochs"])
    assert {run["epochs"] for run in RUNS["3.10"]} == {150}


def test_what_section_5_5_says_of_two_more_seeds_is_in_their_record() -> None:
    text = "\n".join(solutions.cells(5).values())

    def both(label: str) -> list[str]:
        return [f"{run[label]:.2f}" for run in RUNS["5.5-seeds"]]

    for run in RUNS["5.5-seeds"]:
        assert set(run) > {"Gaussian", "flow, told nothing", "flow, told μ(x)"}
    labels = "Gaussian", "flow, told nothing", "flow, told μ(x)"
    first, second = zip(*map(both, labels), strict=True)
    by_seed = [f"{g}, {nothing} and {told} nats" for g, nothing, told in (first, second)]
    assert f"they gave {', and '.join(by_seed)}. So" in text
    gain, misfit = both("gain in log p(x)"), both("best Gaussian for each")
    assert f"gave a gain in $\\log p(x)$ of {' and '.join(gain)} nats" in text
    assert f"a best Gaussian that misses by {' and '.join(misfit)}." in text

    lead = [run["flow, told nothing"] - run["flow, told μ(x)"] for run in RUNS["5.5-seeds"]]
    assert f"context is {' and '.join(f'{value:.2f}' for value in lead)} nats there" in text
    assert max(lead) < 0.14


def test_what_section_5_6_says_of_two_more_seeds_is_in_their_record() -> None:
    gaps = [f"{run['Gaussian']:.1f}" for run in RUNS["5.6-seeds"]]
    assert f"two others gave a gap of {' and '.join(gaps)} nats" in solutions.cells(5)["c030"]
    assert all(0 < run["share that the flow closes"] < 0.1 for run in RUNS["5.6-seeds"])


def test_what_section_5_12_says_of_cures_is_in_their_record() -> None:
    def by_seed(cure: str, figure: str) -> list[float]:
        found: list[float] = values("5.12", figure, cure=cure)
        assert len(found) == 5
        return found

    control, text = by_seed("elbo", "gap_test"), solutions.cells(5)["enc5"]
    for cure in ("iwae", "dreg"):
        assert min(differences(by_seed(cure, "gap_test"), control)) > 0
        tighter = differences(by_seed("elbo", "tighter_test"), by_seed(cure, "tighter_test"))
        assert interval(tighter).low > 0
    for steps in (3, 10):
        gain = interval(differences(control, by_seed(f"ascent {steps}", "gap_test")))
        assert f"{gain.mean:.1f} [{gain.low:.1f}, {gain.high:.1f}]" in text
    mended, private = by_seed("ascent 10", "gap_train"), by_seed("private", "gap_train")
    assert statistics.mean(differences(mended, private)) < 0.05
    left = by_seed("ascent 100", "gap_test")
    assert f"from {min(left):.2f} to {max(left):.2f} by seed" in text
    medians = differences(by_seed("ascent 10", "median_test"), by_seed("private", "median_test"))
    assert max(medians) < 0.02
    [text] = [cell for cell in solutions.cells(5).values() if "**Not all of it.**" in cell]
    spans = [
        f"{min(found):.2f} to {max(found):.2f}"
        for found in (by_seed(cure, "median_test") for cure in ("ascent 10", "private"))
    ]
    assert f"misses {spans[0]} nats by seed, and {spans[1]} with a private Gaussian" in text


def test_what_the_page_says_of_schedules_is_in_the_record() -> None:
    text = re.sub(r"\s+", " ", solutions.solution("7.5")).replace("−", "-")
    found = {(run["steps"], run["levels"]): run for run in RUNS["7.5"]}

    def both(steps: str, levels: int) -> tuple[float, float]:
        return found[steps, levels]["best"], found[steps, levels]["equal"]

    (few, few_equal), (many, many_equal) = both("narrow", 4), both("narrow", 16)
    assert f"about {few:.1f} in place of {few_equal:.0f}" in text
    assert f"about {many:.2f} in place of {many_equal:.1f}" in text
    (few, few_equal), (many, many_equal) = both("fitted", 4), both("fitted", 16)
    assert f"from {few_equal:.1f} to {few:.1f} at $T = 4$" in text
    assert f"from {many_equal:.1f} to {many:.1f} at $T = 16$" in text
    one = found["one level", 1]
    assert rf"$\lambda \approx {one['lam']:.1f}$, with a bound of {one['best']:.1f}" in text


def test_a_solution_leaves_a_record_that_knows_its_name_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(solutions, "book_results", lambda: tmp_path)
    rows = (lambda: [{"seed": 0, "elbo": -1.5}], lambda runs: [f"| {runs[0]['elbo']} |"])
    monkeypatch.setattr(solutions, "ALL", {"9.5": rows})
    solutions.main([])
    monkeypatch.setattr(solutions, "ALL", {"9.5": (None, rows[1])})
    solutions.main([])
    assert capsys.readouterr().out == 2 * "9.5\n| −1.5 |\n"
    file = tmp_path / "solutions" / "9.5.json"
    copied = file.with_name("9.6.json")
    copied.write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"9\.6\.json holds the record '9\.5'"):
        find(solutions.KIND, file.parent)


def test_an_unknown_solution_gets_one_line() -> None:
    with pytest.raises(SystemExit, match=r"no solution '9.9': choose from 1.5, 1.10, 2.5"):
        solutions.main(["9.9"])
