"""The long runs of MNIST, tried dry: a few pictures, an epoch or two, the CPU in a GPU's place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mnist
from flowvae_tutorial import build
from flowvae_tutorial.data import Data, outline
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments import records
from flowvae_tutorial.experiments.records import RUNS, read_records


def few(name: str) -> Data:
    torch.manual_seed(0)
    # As many as a VampPrior asks for.
    pictures = torch.rand(600, 784)
    first = pictures[:4].round()
    return replace(
        outline(name), train=pictures, validation=first, test=first, batch=torch.bernoulli
    )


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnist, "load", few)
    monkeypatch.setattr(mnist, "EPOCHS", 2)
    monkeypatch.setattr(mnist, "SAMPLES", 3)
    monkeypatch.setattr(records, "GAP_IMAGES", 10)
    monkeypatch.setattr(files, "book_results", lambda: tmp_path / "results")
    monkeypatch.setattr(files, "current_commit", lambda: "abc1234")


def test_each_model_and_seed_leaves_a_record_and_the_weights_of_its_best_epoch(
    tmp_path: Path,
) -> None:
    mnist.main(["dynamic-mnist", "gaussian", "vampprior", "--seeds", "2"])
    written = read_records(tmp_path / "results" / "mnist")
    assert sorted((r["model"], r["seed"]) for r in written) == [
        ("gaussian", 0), ("gaussian", 1), ("vampprior", 0), ("vampprior", 1),
    ]  # fmt: skip
    for record in written:
        name = RUNS.name(record)
        assert record["settings"]["batch_size"] == mnist.OWN[record["model"]]["batch_size"]
        assert record["settings"]["epochs"] == record["epochs"] == 2
        assert (record["num_samples"], record["num_test"]) == (3, 4)
        vae = build(record["model"], few("dynamic-mnist"))
        vae.load_state_dict(load_file(f"runs/mnist/{name}.safetensors"))
        torch.manual_seed(0)
        bound = vae.elbo(few("dynamic-mnist").test, num_samples=100).value.mean()
        assert bound.item() == pytest.approx(record["elbo"], abs=2)


def test_a_run_on_record_is_not_done_again_and_a_stopped_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    make_record: Callable[..., files.Record] = mnist.make_record
    monkeypatch.setattr(mnist, "make_record", stop)
    with pytest.raises(KeyboardInterrupt):
        mnist.main(["static-mnist", "hvae"])
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(mnist, "make_record", make_record)
    checkpoint = tmp_path / "runs" / "mnist" / "static-mnist-hvae-seed0.pt"
    trained = checkpoint.read_bytes()
    mnist.main(["static-mnist", "hvae"])
    assert checkpoint.read_bytes() == trained, "no epoch was left to do"
    [path] = (tmp_path / "results" / "mnist").iterdir()
    written = path.stat().st_mtime_ns
    checkpoint.unlink()
    mnist.main(["static-mnist", "hvae"])
    assert path.stat().st_mtime_ns == written
    assert not checkpoint.exists()


def test_a_second_stage_holds_the_weights_of_the_first_of_its_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = "two-stage-flow-matching-prior"
    monkeypatch.setitem(mnist.OWN, model, {"batch_size": 300, "epochs": 1})
    with pytest.raises(SystemExit, match="begins with a trained 'gaussian': run that"):
        mnist.main(["static-mnist", model])
    mnist.main(["static-mnist", "gaussian", "--seeds", "2"])
    mnist.main(["static-mnist", model, "--seeds", "2"])
    for seed in range(2):
        first, second = (
            load_file(mnist.weights_file(name, "static-mnist", seed))
            for name in ("gaussian", model)
        )
        assert all(torch.equal(second[name], value) for name, value in first.items())
        assert any(value.abs().sum() for name, value in second.items() if "last" in name)


@pytest.mark.skipif(not mnist.rounds(), reason="no products in bfloat16 here")
def test_products_in_bfloat16_are_the_training_s_alone_and_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def watch(name: str) -> None:
        done: Callable[..., Any] = getattr(mnist, name)

        def watched(*given: Any, **settings: Any) -> Any:
            seen[name] = mnist.PRODUCTS.fp32_precision
            return done(*given, **settings)

        monkeypatch.setattr(mnist, name, watched)

    watch("fit")
    watch("make_record")
    before = mnist.PRODUCTS.fp32_precision
    mnist.main(["static-mnist", "gaussian", "--bf16"])
    assert seen == {"fit": "bf16", "make_record": before}
    [record] = read_records(tmp_path / "results" / "mnist")
    assert record["settings"]["products"] == "bfloat16"
    # A run in float32 does not go on from there.
    assert [each.name for each in Path("runs/mnist").glob("*.pt")] == [
        "static-mnist-gaussian-seed0-bf16.pt"
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_that_would_not_be_rounded_are_refused(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mnist, "rounds", lambda: device == "cuda")
    with pytest.raises(SystemExit):
        mnist.main(["static-mnist", "gaussian", "--bf16", "--device", device])
    assert "--bf16 is for a CPU with products in bfloat16" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_other_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mnist.main(["digits", "gaussian"])
    assert "dynamic-mnist" in capsys.readouterr().err
