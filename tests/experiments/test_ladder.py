"""The ladder of epochs: it climbs to the rung that validation prefers, and its records say so."""

import dataclasses
import operator
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import ladder
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import RUNS as RUN
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.experiments.refinement_records import REFINEMENTS

RESULTS = Path(__file__).parents[2] / "book" / "results"
RUNGS = files.find(ladder.RUNGS, RESULTS / "ladder")
ALL_RUNGS = ladder.LADDER
RUNS = read_records(RESULTS)
CONTROLLED = [run for run in RUNS if "budget_control" in run]


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
    return lambda: ladder.main(["digits", "two-stage-flow-prior"])


def test_the_command_leaves_records_of_rungs_and_of_runs_and_does_nothing_twice(
    tmp_path: Path, commanded: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    commanded()
    rungs = files.find(ladder.RUNGS, tmp_path / "results" / "ladder")
    runs = read_records(tmp_path / "results")
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


def test_a_given_rung_is_not_climbed_from_and_takes_the_control_of_later_neighbours(
    tmp_path: Path, commanded: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    ladder.main(["digits", "gaussian=2"])
    first = read_records(results)
    assert [set(run["budget_control"]["validation"]) for run in first] == [{"2"}, {"2"}]
    assert len(files.find(ladder.RUNGS, results / "ladder")) == 1
    ladder.rung("gaussian", ladder.load("digits"), 1.0, 3)
    monkeypatch.setattr(ladder, "fit", lambda *_, **__: pytest.fail("trained again"))
    ladder.main(["digits", "gaussian=2"])
    for before, after in zip(first, read_records(results), strict=True):
        assert set(after["budget_control"]["validation"]) == {"2", "3"}
        assert after["nll"] == before["nll"] and after["date"] == before["date"]
    with pytest.raises(
        SystemExit, match=r"\A7 is no rung of the ladder: choose one of 1, 2, 3, 4\Z"
    ):
        ladder.main(["digits", "gaussian=7"])


def test_a_run_of_another_rung_is_replaced_and_does_not_get_the_chosen_one_s_control(
    tmp_path: Path, commanded: Callable[[], None]
) -> None:
    for given in ("gaussian=2", "gaussian=3"):
        ladder.main(["digits", given])
    for run in read_records(tmp_path / "results"):
        assert run["settings"]["epochs"] == 3
        assert set(run["budget_control"]["validation"]) == {"2", "3"}


# --- the book's records ------------------------------------------------------------------------

# By the names of records: why the number of epochs is not the one that both neighbours speak for.
UNCONTROLLED = {
    "digits-gaussian-beta*": "a sweep over β, every weight at the epochs that serve β = 1",
    "digits-two-stage-flow-matching-prior-beta*": "as the sweep over β of its first stage",
    "digits-vampprior-k200-*": "a sweep over K, at the epochs that serve its other sizes",
    "digits-two-stage-flow-prior-*": "the epochs of its first stage; the shorter rung is not run",
    "digits-flow-posterior-*": "the epochs of its neighbours in the table, whose rungs are run",
    "digits-flow-both-*": "as the flow posterior",
    "digits-flow-matching-prior-*": "as the flow posterior",
    "digits-maf-prior-*": "as the flow posterior",
    "digits-hierarchical-flow-prior-*": "as the flow posterior",
    "digits-spline-flow-*": "as the flow posterior",
    "digits-binary-*": "from before the ladder: it shows that the data show nothing",
    "rings-*": "from before the ladder",
    "dynamic-mnist-*": "150 epochs each; chapter 9 says that they still fell, and shows one longer",
    "static-mnist-*": "as dynamic-mnist",
}


def is_excepted(run: files.Record) -> bool:
    return any(fnmatchcase(RUN.name(run), pattern) for pattern in UNCONTROLLED)


def neighbours(epochs: int) -> tuple[int, ...]:
    at = ALL_RUNGS.index(epochs)
    return ALL_RUNGS[max(0, at - 1) : at + 2]


def is_controlled(run: files.Record) -> bool:
    if "budget_control" not in run:
        return False
    control, own = run["budget_control"], run["settings"]["epochs"]
    bounds = {int(epochs): bound for epochs, bound in control["validation"].items()}
    best = max(bounds.values()) <= bounds[own] + control["tolerance"]
    return best and tuple(sorted(bounds)) == neighbours(own)


def test_every_record_of_the_book_s_says_what_chose_its_epochs_or_why_nothing_did() -> None:
    for run in RUNS:
        assert is_controlled(run) or is_excepted(run), RUN.name(run)
    uncontrolled = [RUN.name(run) for run in RUNS if not is_controlled(run)]
    for pattern, reason in UNCONTROLLED.items():
        assert reason and any(fnmatchcase(name, pattern) for name in uncontrolled), pattern


def test_the_book_s_runs_stand_on_rungs_that_control_them() -> None:
    assert CONTROLLED
    for run in CONTROLLED:
        name, control = RUN.name(run), run["budget_control"]
        bounds = {int(epochs): bound for epochs, bound in control["validation"].items()}
        own = run["settings"]["epochs"]
        assert own in bounds and bounds.keys() <= set(neighbours(own)), name
        for epochs, bound in bounds.items():
            rung = RUNGS[ladder._rung_name(run["model"], run["data"], run["beta"], epochs)]
            assert rung["settings"] == {**run["settings"], "epochs": epochs, "patience": epochs}
            assert sum(rung["elbo"]) / len(rung["elbo"]) == pytest.approx(bound, abs=1e-3)


def test_a_run_has_the_validation_bound_that_its_rung_has_of_its_seed() -> None:
    for run in CONTROLLED:
        own = run["settings"]["epochs"]
        rung = RUNGS[ladder._rung_name(run["model"], run["data"], run["beta"], own)]
        assert rung["best_epochs"][run["seed"]] == run["best_epoch"]
        history = run["history"]
        best = max(map(operator.sub, history["reconstruction"], history["kl"]))
        assert rung["elbo"][run["seed"]] == pytest.approx(best, abs=2e-3)


def test_the_book_refines_the_runs_whose_records_it_shows() -> None:
    refined = files.find(REFINEMENTS, RESULTS / "refinement")
    runs = {RUN.name(run): run for run in RUNS}
    for name, record in refined.items():
        same = [(each["epochs"], each["best_epoch"]) for each in (record, runs[name])]
        assert same[0] == same[1], name
