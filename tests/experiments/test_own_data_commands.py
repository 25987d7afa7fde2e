"""Commands on a file of the reader's own: trained, evaluated, sampled, reproduced, reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from called import Command, Outcome
from matplotlib.image import imread

from flowvae_tutorial import build, fit, load_model, save_model
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.experiments.refinement_records import read_refinements
from flowvae_tutorial.storage.own_data import load_data
from flowvae_tutorial.training import loop


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call the command line in this process, in a folder with a file of pictures."""
    save_pictures(0)
    # EM in forty dimensions takes ten seconds.
    monkeypatch.setattr(
        "flowvae_tutorial.experiments.records.prior_gap", lambda *args: torch.zeros(1)
    )
    return command


def save_pictures(seed: int, folder: str = ".") -> None:
    """120 pictures of 5 by 4 pixels, black or white."""
    x = np.random.RandomState(seed).rand(120, 5, 4) < 0.3
    np.savez(Path(folder) / "faces.npz", x)


OPTIONS = "--data faces.npz --epochs 2 --samples 20"
RUN = "faces-gaussian-seed0"


def mistake(outcome: Outcome) -> str:
    assert outcome.code == 2, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert "Traceback" not in outcome.err
    return line


def test_train_evaluate_and_sample_a_file_of_pictures(command: Command, tmp_path: Path) -> None:
    trained = command(f"train {OPTIONS}")
    assert trained.code == 0, trained.err
    folder = tmp_path / "runs" / RUN
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.pt", "weights.safetensors", "samples.png", f"{RUN}.json"
    }  # fmt: skip
    (record,) = read_records(folder)
    data = load_data("faces.npz")
    assert (record["data"], record["num_test"]) == ("faces", 24)
    assert record["data_checksum"] == data.checksum
    for file in ("checkpoint.pt", "weights.safetensors"):
        again = command(f"evaluate runs/{RUN}/{file} --data faces.npz --samples 20")
        assert again.code == 0, again.err
        assert again.out.splitlines()[:6] == trained.out.splitlines()[:6]
        (evaluated,) = read_records(tmp_path / "evaluations")
        assert evaluated | {"date": ""} == record | {"date": ""}
    # Sampling needs no data.
    (tmp_path / "faces.npz").unlink()
    for file in ("checkpoint.pt", "weights.safetensors"):
        assert command(f"sample runs/{RUN}/{file} --count 12").code == 0
        assert imread(tmp_path / "samples.png")[..., :3].std() > 0.05


def test_a_model_of_a_file_is_evaluated_on_that_file_wherever_it_lies(
    command: Command, tmp_path: Path
) -> None:
    command(f"train {OPTIONS}")
    line = f"evaluate runs/{RUN}/checkpoint.pt --samples 20"
    assert "--data faces.npz" in mistake(command(line))
    (tmp_path / "moved").mkdir()
    (tmp_path / "faces.npz").rename(tmp_path / "moved" / "renamed.npz")
    assert command(f"{line} --data moved/renamed.npz").code == 0
    assert [r["data"] for r in read_records(tmp_path / "evaluations")] == ["faces"]
    save_pictures(1)
    for other in ("faces.npz", "digits"):
        assert f"'faces', and {other} is something else" in mistake(
            command(f"{line} --data {other}")
        )


def test_a_run_goes_on_with_its_own_file_only(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = loop._train_epoch

    def stopped(*args: Any) -> float:
        if args[-1] == 2:
            raise KeyboardInterrupt
        return train_epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_epoch", stopped)
        assert command(f"train {OPTIONS}").code == 130
    more = f"train {OPTIONS} --resume"
    save_pictures(1)
    assert "differs in data_checksum" in mistake(command(more))
    save_pictures(0)
    assert command(more).code == 0
    save_pictures(1)
    assert "differs in data_checksum" in mistake(command(more))


def test_a_refinement_is_of_its_own_file_only(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = "flowvae_tutorial.experiments.refinement_records"
    monkeypatch.setattr(f"{records}.STEPS", (0, 1))
    monkeypatch.setattr(f"{records}.LATENTS", 20)
    for seed in (0, 1):
        x = np.random.RandomState(seed).rand(120, 5, 4) < 0.3
        np.savez(tmp_path / "faces.npz", train=x, labels=np.arange(120) % 3, test=x[:24],
                 test_labels=np.arange(24) % 3)  # fmt: skip
        line = "refine --data faces.npz --epochs 2 --seeds 1 --models gaussian"
        if seed == 0:
            assert command(line).code == 0
            (record,) = read_refinements(tmp_path / "results" / "refinement")
            assert record["data_checksum"] == load_data("faces.npz").checksum
    assert "of other data that were called 'faces'" in mistake(command(line))


def test_reproduce_and_report_a_file(command: Command, tmp_path: Path) -> None:
    line = f"reproduce {OPTIONS} --seeds 2 --jobs 1 --models gaussian,vampprior-k5"
    first = command(line)
    assert first.code == 0, first.err
    assert "| faces-gaussian | 2 | " in first.out and "| faces-vampprior-k5 | 2 | " in first.out
    assert command(line).out.count("its record is there") == 4
    for data in ("faces.npz", "faces"):
        report = command(f"report --results results --data {data} --pictures drawn-{data}")
        assert "| faces-gaussian − faces-vampprior-k5 | " in report.out
    # Samples need no data, reconstructions do.
    assert {path.name for path in (tmp_path / "drawn-faces.npz").iterdir()} == {
        "faces-reconstructions.png", "faces-samples.png"
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "drawn-faces").iterdir()] == ["faces-samples.png"]
    save_pictures(1)
    assert "of other data that were called 'faces'" in mistake(command(line))


def test_points_of_a_file_are_drawn_and_measured_with_and_without_labels(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On an old torch, too: the files are our own.
    monkeypatch.setattr("flowvae_tutorial.storage.own_data.PICKLES_HOLD", True)
    x = torch.randn(120, 3)
    two = x[:, :2]
    torch.save(x, "points.pt")
    torch.save({"train": two, "labels": torch.arange(120) % 2}, "classes.pt")
    for name, keys in (("points", {"energy_distance"}), ("classes", {"energy_distance", "modes"})):
        outcome = command(f"train --data {name}.pt --epochs 2 --samples 20")
        assert outcome.code == 0, outcome.err
        (record,) = read_records(tmp_path / "runs" / f"{name}-gaussian-seed0")
        assert {"energy_distance", "modes"} & record.keys() == keys
        assert command(f"sample runs/{name}-gaussian-seed0/weights.safetensors").code == 0


def test_a_model_saved_in_python_is_evaluated_and_sampled_by_commands(
    command: Command, tmp_path: Path
) -> None:
    data = load_data("faces.npz")
    vae = build("gaussian", data)
    history = fit(vae, data, epochs=2, seed=4, beta=0.5)
    save_model(vae, "saved.safetensors", history, seed=4, beta=0.5)
    outcome = command("evaluate saved.safetensors --data faces.npz --samples 20")
    assert outcome.code == 0, outcome.err
    name = "faces-gaussian-beta0.5-seed4"
    assert json.loads((tmp_path / "evaluations" / f"{name}.json").read_text())["epochs"] == 2
    assert command("sample saved.safetensors").code == 0
    save_model(vae, "saved.safetensors")
    said = mistake(command("evaluate saved.safetensors --data faces.npz"))
    assert "without the history" in said
    assert load_model("saved.safetensors").sample(2).shape == (2, 20)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train --data nowhere.npz", "there is no file nowhere.npz"),
        ("train --data faces", "no data set named 'faces'"),
        ("train --data digits.npz", "'digits' cannot be the name of your data"),
        ("train --data faces.npz --model vampprior", "500 pseudo-inputs from 84 examples"),
        ("refine --data faces.npz --models gaussian", "no labels"),
        ("reproduce --data nowhere.pt", "there is no file nowhere.pt"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    command: Command, tmp_path: Path, line: str, says: str
) -> None:
    if "digits" in line:
        (tmp_path / "faces.npz").rename(tmp_path / "digits.npz")
    before = sorted(tmp_path.rglob("*"))
    assert says in mistake(command(line))
    assert sorted(tmp_path.rglob("*")) == before
