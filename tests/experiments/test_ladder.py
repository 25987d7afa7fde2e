"""The ladder of epochs: it climbs to the rung that validation prefers, and its records say so."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import ladder
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import read_records

RESULTS = Path(__file__).parents[2] / "book" / "results"
RUNGS = files.find(ladder.RUNGS, RESULTS / "ladder")
CONVERGED = [run for run in read_records(RESULTS) if "budget_control" in run]


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


def test_the_book_s_converged_runs_stand_on_rungs_that_control_them() -> None:
    assert CONVERGED
    for run in CONVERGED:
        control = run["budget_control"]
        bounds = {int(epochs): bound for epochs, bound in control["validation"].items()}
        own = run["settings"]["epochs"]
        assert len(bounds) == 3 and own == sorted(bounds)[1]
        assert max(bounds.values()) <= bounds[own] + control["tolerance"]
        for epochs, bound in bounds.items():
            rung = RUNGS[f"{run['data']}-{run['model']}-{epochs}"]
            assert rung["settings"] == {**run["settings"], "epochs": epochs, "patience": epochs}
            assert sum(rung["elbo"]) / len(rung["elbo"]) == pytest.approx(bound, abs=1e-3)
