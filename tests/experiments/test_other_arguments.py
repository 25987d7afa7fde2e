"""The same command with other arguments: no old number stands for a new one, nothing is lost."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from called import Command, Outcome

import flowvae_tutorial.experiments.commands as command_line
from flowvae_tutorial import VAE, InputError
from flowvae_tutorial.data import DATA_SETS, Data, outline
from flowvae_tutorial.experiments.record_files import run_name
from flowvae_tutorial.experiments.records import (
    book_results,
    is_on_record,
    read_records,
)
from flowvae_tutorial.experiments.runs import settings_of
from flowvae_tutorial.models import resolve
from flowvae_tutorial.storage.checkpoints import load_checkpoint

RUN = "rings-gaussian-seed0"
ONE = "reproduce --data rings --epochs 2 --samples 20 --seeds 1 --models gaussian"
TRAIN = "train --data rings --epochs 2 --samples 20"


WHOLE_RINGS = DATA_SETS["rings"]


def few_rings() -> Data:
    rings = WHOLE_RINGS()
    labels = {part: rings.labels["train"][:n] for part, n in (("train", 100), ("test", 40))}
    return replace(
        rings, train=rings.train[:100], validation=rings.validation[:40], test=rings.test[:40],
        labels=labels,
    )  # fmt: skip


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call the command line in this process, in an empty folder, with few rings."""
    monkeypatch.setitem(DATA_SETS, "rings", few_rings)
    # EM takes longer than all the rest.
    monkeypatch.setattr(
        "flowvae_tutorial.experiments.records.prior_gap", lambda *args: torch.zeros(1)
    )
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 2))
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 30)
    return command


def mistake(outcome: Outcome) -> str:
    """The one line of a refused command."""
    assert outcome.code == 2, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    return line


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- reproduce and refine ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--samples 20/--samples 30", "num_samples = 20 and not 30"),
        ("--epochs 2/--epochs 3", "but it has epochs = 2 and not 3: "),
        ("--epochs 2/--epochs 1", "but it has epochs = 2 and not 1: "),
    ],
)
def test_reproduce_does_not_take_an_old_record_for_what_is_asked_now(
    command: Command, tmp_path: Path, change: str, says: str
) -> None:
    assert command(ONE).code == 0
    before = files(tmp_path)
    other = ONE.replace(*change.split("/"))
    said = mistake(command(other))
    assert says in said and f"results/{RUN}.json" in said and "--overwrite" in said
    assert files(tmp_path) == before
    assert command(f"{other} --overwrite").code == 0
    (record,) = read_records(tmp_path / "results")
    assert (
        f"--epochs {record['epochs']} " in other and f"--samples {record['num_samples']}" in other
    )
    assert command(other).out.count("its record is there") == 1
    assert not list(tmp_path.rglob("*.before"))
    # As if nothing had been there.
    assert command(f"{other} --results fresh --out elsewhere").code == 0
    (fresh,) = read_records(tmp_path / "fresh")
    assert fresh | {"seconds": 0} == record | {"seconds": 0}


@pytest.mark.parametrize("part", ["settings", "sizes"])
def test_reproduce_compares_settings_and_sizes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    command(ONE)
    if part == "sizes":
        sizes = resolve("gaussian", few_rings())[1]._replace(latent=3)
        monkeypatch.setattr("flowvae_tutorial.models.RINGS", sizes)
    else:
        now = settings_of(few_rings()) | {"lr": 0.5}
        monkeypatch.setattr("flowvae_tutorial.experiments.runs.training_settings", lambda data: now)
    said = mistake(command(ONE))
    assert ("latent = 2 and not 3" if part == "sizes" else "lr = 0.002 and not 0.5") in said


def test_refine_does_not_take_an_old_record_either(command: Command, tmp_path: Path) -> None:
    line = "refine --data rings --epochs 2 --seeds 1 --models gaussian"
    assert command(line).code == 0
    before = files(tmp_path)
    more = line.replace("--epochs 2", "--epochs 3")
    said = mistake(command(more))
    assert "2 epochs and not 3" in said and f"results/refinement/{RUN}.json" in said
    assert files(tmp_path) == before
    assert command(f"{more} --overwrite").code == 0
    assert command(more).out.count("its record is there") == 1


def test_refine_compares_what_it_measures(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "refine --data rings --epochs 2 --seeds 1 --models gaussian"
    command(line)
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 31)
    assert "num_latents = 30 and not 31" in mistake(command(line))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_checkpoint_of_other_epochs_makes_no_record_of_these(
    command: Command, tmp_path: Path, epochs: int
) -> None:
    line = ONE.replace("--epochs 2", f"--epochs {epochs}")
    command(line)
    (tmp_path / "results" / f"{RUN}.json").unlink()
    before = files(tmp_path)
    outcome = command(ONE)
    assert outcome.code == 1
    says = f"checkpoint.pt is of another run, it differs in epochs ({epochs} there, 2 here)"
    assert says in outcome.err
    assert files(tmp_path) == before
    said = mistake(command(TRAIN + " --resume"))
    assert says in said
    assert files(tmp_path) == before
    assert command(ONE + " --overwrite").code == 0
    assert read_records(tmp_path / "results")[0]["epochs"] == 2


def test_two_weights_that_differ_in_the_seventh_digit_are_two_runs(
    command: Command, tmp_path: Path
) -> None:
    assert command(ONE + " --betas 0.5,0.50000001 --jobs 1").code == 0
    assert sorted(r["beta"] for r in read_records(tmp_path / "results")) == [0.5, 0.50000001]
    names = [run_name("gaussian", "rings", beta, 0) for beta in (0.01, 4, 8.0, 1 / 3, 0.333333)]
    assert names[:3] == [f"rings-gaussian-beta{beta}-seed0" for beta in ("0.01", "4", "8")]
    assert names[3] != names[4]


def test_the_books_records_are_what_their_commands_ask_for_today() -> None:
    for path in sorted(book_results().glob("*-seed0.json")):
        record = json.loads(path.read_text())
        data = outline(record["data"])
        sizes = resolve(record["model"], data)[1]._asdict()
        asked = {"num_samples": record["num_samples"], "sizes": sizes}
        if "settings" in record:
            assert is_on_record(path, data, settings_of(data), **asked)
        with pytest.raises(InputError, match=r"epochs (and|= \d+ and) not"):
            is_on_record(path, data, settings_of(data) | {"epochs": record["epochs"] - 1}, **asked)


# --- one failure ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reproduce", "refine"])
@pytest.mark.parametrize("error", ["NaN", "no memory", "unreadable"])
def test_a_run_that_fails_is_named_and_the_others_are_done(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: str
) -> None:
    line = f"{kind} --data rings --epochs 1 --seeds 2 --models gaussian,mixture"
    line += " --samples 5 --jobs 1" if kind == "reproduce" else ""
    forward, calls = VAE.forward, itertools.count(1)

    def spoilt(vae: VAE, x: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
        loss = forward(vae, x, beta)
        if next(calls) > 2 or error == "unreadable":
            return loss
        if error == "no memory":
            raise MemoryError
        return loss * float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "forward", spoilt)
        if error == "unreadable":
            (tmp_path / "runs" / RUN).mkdir(parents=True)
            (tmp_path / "runs" / RUN / "checkpoint.pt").write_text("precious")
        outcome = command(line)
    assert outcome.code == 1
    says = {"NaN": "nan at epoch 1", "no memory": "too little memory", "unreadable": "damaged"}
    failed = [text for text in outcome.err.splitlines() if text.startswith("failed: ")]
    names = [text.split(": ")[1] for text in failed]
    # Without memory the step before the first failure is no step, so the next run fails, too.
    assert names[0] == RUN and len(names) == (2 if error == "no memory" else 1)
    assert all(says[error] in text for text in failed)
    assert outcome.err.splitlines()[-1].startswith(f"error: {len(names)} of 4 runs failed")
    done = {path.stem for path in (tmp_path / "results").rglob("*.json")}
    every = {f"rings-{model}-seed{seed}" for model in ("gaussian", "mixture") for seed in (0, 1)}
    assert done == every - set(names)
    assert "| rings-mixture | 2 |" in outcome.out
    if error == "unreadable":
        (tmp_path / "runs" / RUN / "checkpoint.pt").unlink()
    assert command(line).code == 0


def test_a_run_whose_process_was_killed_is_named_and_the_others_are_done(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(job: Callable[..., Any], work: list[tuple[Any, ...]], jobs: int) -> list[Any]:
        return [InputError("its process was killed"), *(job(*each) for each in work[1:])]

    monkeypatch.setattr(command_line, "at_once", killed)
    outcome = command(f"{ONE} --seeds 2 --jobs 1")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-2:] == [
        f"failed: {RUN}: its process was killed",
        "error: 1 of 2 runs failed; the same command tries them again",
    ]
    assert [run["seed"] for run in read_records(tmp_path / "results")] == [1]


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    def bug(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("flowvae_tutorial.experiments.runs.record_of", bug)
    with pytest.raises(AssertionError, match="a bug"):
        command(ONE)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--models gaussian,vamp2", "'vamp2'"), ("--models vampprior-k5000", "pseudo-inputs"),
        ("--betas nan", "nan"), ("--betas 1,-1", "-1"), ("--betas inf", "inf"),
        ("--epochs 0", "--epochs must be from 1 to 2147483647, got 0"), ("--device tpu", "'tpu'"),
        ("--out file/in", "file is"),
    ],
)  # fmt: skip
def test_no_run_begins_before_every_argument_is_right(
    command: Command, tmp_path: Path, option: str, says: str
) -> None:
    (tmp_path / "file").write_text("precious")
    before = files(tmp_path)
    assert says in mistake(command(f"reproduce --data rings --seeds 1 {option}"))
    assert files(tmp_path) == before


# --- train and evaluate -----------------------------------------------------------------------


@pytest.mark.parametrize("resume", ["", " --resume"])
def test_train_replaces_no_run_whose_checkpoint_is_gone(
    command: Command, tmp_path: Path, resume: str
) -> None:
    command(TRAIN)
    (tmp_path / "runs" / RUN / "checkpoint.pt").unlink()
    before = files(tmp_path)
    assert f"{RUN}.json is of a run that ended" in mistake(command(TRAIN + resume))
    assert files(tmp_path) == before
    assert command(TRAIN + " --overwrite").code == 0


def test_train_begins_anew_if_told_to_overwrite(command: Command, tmp_path: Path) -> None:
    command(TRAIN)
    before = files(tmp_path)
    assert "--overwrite" in mistake(command(TRAIN))
    assert mistake(command(TRAIN.replace("2", "0", 1) + " --overwrite"))
    assert {name: content for name, (_, content) in files(tmp_path).items()} == {
        name: content for name, (_, content) in before.items()
    }, "a mistake loses nothing"
    assert command(TRAIN.replace("2", "1", 1) + " --batch-size 50 --overwrite").code == 0
    assert len(load_checkpoint(tmp_path / "runs" / RUN / "checkpoint.pt")["history"]["loss"]) == 1
    assert files(tmp_path).keys() == before.keys()


def test_a_resumed_run_replaces_no_record_of_another_number_of_samples(
    command: Command, tmp_path: Path
) -> None:
    command(TRAIN)
    before = files(tmp_path)
    other = TRAIN.replace("--samples 20", "--samples 1") + " --resume"
    assert "num_samples = 20 and not 1" in mistake(command(other))
    assert files(tmp_path) == before
    assert command(other + " --overwrite").code == 0
    assert read_records(tmp_path / "runs" / RUN)[0]["num_samples"] == 1


def test_evaluate_replaces_no_record_of_something_else(command: Command, tmp_path: Path) -> None:
    command(TRAIN)
    line = f"evaluate runs/{RUN}/checkpoint.pt --samples 20"
    assert command(line).code == 0
    before = files(tmp_path)
    other = line.replace("20", "1")
    assert f"evaluations/{RUN}.json is there" in mistake(command(other))
    assert files(tmp_path) == before
    assert command(line).code == 0, "the same again is the same"
    assert command(TRAIN.replace("--epochs 2", "--epochs 3") + " --overwrite").code == 0
    assert "epochs = 2 and not 3" in mistake(command(line))
    assert command(other + " --overwrite").code == 0
    assert read_records(tmp_path / "evaluations")[0]["num_samples"] == 1
