"""Shipped weights: whole, small, quick to load, described, and models that draw digits."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

import weights
from flowvae_tutorial import VAE, InputError, load_pretrained, pretrained
from flowvae_tutorial.experiments.records import book_results
from flowvae_tutorial.pretrained import card, pretrained_models, pretrained_run

NAMES = list(pretrained_models())


def test_all_weights_together_are_at_most_12_megabytes() -> None:
    sizes = {name: (pretrained.FOLDER / f"{name}.safetensors").stat().st_size for name in NAMES}
    assert sizes == {name: entry["bytes"] for name, entry in pretrained_models().items()}
    assert sum(sizes.values()) <= 12e6


def test_every_file_of_the_folder_is_in_the_index() -> None:
    assert {path.stem for path in pretrained.FOLDER.glob("*.safetensors")} == set(NAMES)
    assert {path.stem for path in pretrained.FOLDER.glob("*.md")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_there_in_under_a_second_and_ready_for_use(name: str) -> None:
    load_pretrained(name)
    start = time.process_time()
    vae = load_pretrained(name)
    assert time.process_time() - start < 1
    assert isinstance(vae, VAE) and not vae.training
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_draws_digits_and_gives_its_draws_a_likelihood(name: str) -> None:
    vae = load_pretrained(name)
    torch.manual_seed(0)
    x = vae.sample(20)
    assert 0.05 < x.mean() < 0.25, "an eighth of MNIST's pixels is ink"
    # The same strokes five rows further down are hundreds of nats less probable.
    moved = x.roll(5 * 28, dims=1)
    assert vae.log_marginal(x, 20).mean() > vae.log_marginal(moved, 20).mean() + 100


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_weights_are_and_agrees_with_the_file(name: str) -> None:
    text, run = card(name).replace("\n  ", " "), pretrained_run(name)
    for heading in ("What it is", "Data", "Figures", "Precision", "Licence", "Intended use"):
        assert f"**{heading}.**" in text
    assert f"epoch {run.history.best_epoch} of {len(run.history.loss)}" in text
    assert f"{max(run.history.elbo):.2f} nats" in text
    of = pretrained_models()[name]["run"]
    record = json.loads((book_results() / f"{of}.json").read_text())
    assert f"`book/results/{of}.json`" in text
    assert "NLL {mean:.2f} ± {standard_error:.2f} nats".format(**record["nll"]) in text
    assert f"{record['num_test']:,} images, S = {record['num_samples']:,}" in text
    assert record["history"]["kl"][-1] == pytest.approx(run.history.kl[-1], abs=1e-3)
    loss = pretrained_models()[name]["loss"]
    assert f"{loss['mean']:.4f} ± {loss['standard_error']:.4f} nats" in text
    assert re.search(rf"# {run.model}, trained on {run.data}", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_record_that_a_card_quotes_is_of_the_training_that_the_file_is_of(name: str) -> None:
    trained = pretrained_run(name)
    assert weights.run_of(trained) == pretrained_models()[name]["run"]
    trained.history.kl[-1] += 0.01
    with pytest.raises(SystemExit, match="no record in book/results is of this training"):
        weights.run_of(trained)


@pytest.mark.parametrize("name", NAMES)
def test_packing_costs_at_most_a_tenth_of_a_nat(name: str) -> None:
    loss = pretrained_models()[name]["loss"]
    assert loss["mean"] + 2 * loss["standard_error"] < 0.1


def test_an_unknown_name_is_one_line_that_lists_the_names() -> None:
    for call in (load_pretrained, card):
        with pytest.raises(InputError) as error:
            call("vamp2")
        assert "\n" not in str(error.value)
        assert all(name in str(error.value) for name in ["'vamp2'", *NAMES])


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one model's files, in place of the package's."""
    for file in ("index.json", f"{NAMES[0]}.safetensors"):
        (tmp_path / file).write_bytes((pretrained.FOLDER / file).read_bytes())
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return tmp_path / f"{NAMES[0]}.safetensors"


def test_a_copy_loads(copy: Path) -> None:
    load_pretrained(NAMES[0])


@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "of another model"])
def test_weights_that_are_not_those_shipped_are_refused_in_one_line(
    copy: Path, damage: str
) -> None:
    content = bytearray(copy.read_bytes())
    if damage == "truncated":
        copy.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        content[-1000] ^= 1
        copy.write_bytes(content)
    elif damage == "gone":
        copy.unlink()
    else:
        index = json.loads((copy.parent / "index.json").read_text())
        index[NAMES[0]]["sha256"] = index[NAMES[-1]]["sha256"]
        (copy.parent / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as error:
        load_pretrained(NAMES[0])
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value) and "install the package again" in str(error.value)
