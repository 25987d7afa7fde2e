"""What a checkpoint must be to be read: of this format, intact, and of the run that asks for it.

What `fit` itself does with one that it cannot use is in test_training.py.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae_tutorial import VAE, InputError, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import MODELS, Sizes
from flowvae_tutorial.storage.checkpoints import (
    FORMAT,
    load_checkpoint,
    load_checkpoint_of,
    save_checkpoint,
)
from flowvae_tutorial.storage.trained import load_trained

STATE: dict[str, Any] = {
    "run": {"model": "gaussian", "seed": 3, "decay": (0.5, 10)},
    "history": {"loss": [1.5, 0.1]},
    "best": {"weight": torch.arange(600.0).reshape(20, 30)},
    "vae": {"weight": torch.randn(20, 30, generator=torch.Generator().manual_seed(0))},
    "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-3}]},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    said = str(error.value)
    assert "\n" not in said and str(path) in said
    return said


def test_a_checkpoint_is_read_as_it_was_written(checkpoint: Path) -> None:
    assert same(load_checkpoint(checkpoint), {"format": FORMAT, **STATE})


def test_a_checkpoint_of_this_run_is_given_and_one_of_another_refused(checkpoint: Path) -> None:
    run = STATE["run"]
    assert same(load_checkpoint_of(run, checkpoint)["run"], run)
    # What a later version adds to `run` does not part a checkpoint from its run.
    save_checkpoint(checkpoint, STATE | {"run": run | {"later": 1}})
    load_checkpoint_of(run, checkpoint)
    for other, differs in [({"seed": 4}, "seed"), ({"seed": 4, "decay": None}, "seed, decay")]:
        with pytest.raises(InputError, match=rf"\A[^\n]*differs in {differs}: [^\n]*\Z") as error:
            load_checkpoint_of(run | other, checkpoint)
        assert str(checkpoint) in str(error.value)


# --- of a newer version -----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [STATE, {"run": STATE["run"], "all in one": [1, 2]}, {}])
def test_a_checkpoint_of_a_newer_format_asks_for_an_update_whatever_its_parts(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    path = tmp_path / "run.pt"
    torch.save({"format": FORMAT + 1, **parts}, path)
    said = refusal(path)
    assert "update flowvae_tutorial" in said
    assert f"format {FORMAT + 1}" in said and f"up to {FORMAT}" in said
    assert "delete" not in said, "it is good, for another version"


def test_nobody_who_reads_checkpoints_takes_one_of_a_newer_format(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae_tutorial.storage.checkpoints.FORMAT", FORMAT + 1)
    save_checkpoint(checkpoint, STATE)
    monkeypatch.undo()
    with pytest.raises(InputError, match="update"):
        load_checkpoint_of(STATE["run"], checkpoint)
    with pytest.raises(InputError, match="update"):
        load_trained(checkpoint)
    with pytest.raises(InputError, match="update"):
        fit(small("gaussian"), few_rings(), checkpoint=checkpoint)


@pytest.mark.parametrize("format_", [None, "one", [1]])
def test_a_format_that_is_no_number_is_no_checkpoint(checkpoint: Path, format_: object) -> None:
    torch.save(STATE | {"format": format_}, checkpoint)
    assert "damaged or no checkpoint" in refusal(checkpoint)


# --- missing, cut short, changed --------------------------------------------------------------


def test_a_checkpoint_that_is_not_there_is_said_to_be_missing_and_not_damaged(
    tmp_path: Path,
) -> None:
    said = refusal(tmp_path / "run.pt")
    assert "there is no checkpoint" in said and "damaged" not in said


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run.pt").mkdir()
    refusal(tmp_path / "run.pt")


def test_a_checkpoint_cut_anywhere_is_damaged(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    lengths = [0, 1, len(content) - 1, *range(2, len(content), len(content) // 40)]
    for length in lengths:
        checkpoint.write_bytes(content[:length])
        assert "damaged" in refusal(checkpoint), f"{length} of {len(content)} bytes"


def test_a_checkpoint_with_one_bit_changed_is_refused_or_is_what_it_was(checkpoint: Path) -> None:
    content, expected = checkpoint.read_bytes(), load_checkpoint(checkpoint)
    randomness = random.Random(0)
    unseen = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[randomness.randrange(len(content))] ^= 1 << randomness.randrange(8)
        checkpoint.write_bytes(changed)
        try:
            found = load_checkpoint(checkpoint)
        except InputError as error:
            assert "\n" not in str(error) and str(checkpoint) in str(error)
        else:
            # Between the parts of a zip file there is room that holds nothing.
            assert same(found, expected)
            unseen += 1
    assert unseen < 150


def test_one_changed_number_is_damage(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    place = content.index(STATE["best"]["weight"].numpy().tobytes()) + 4 * 17
    checkpoint.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    assert "damaged" in refusal(checkpoint)


# --- of another model with the same parameters ------------------------------------------------

SIZES = Sizes(latent=2, hidden=(8,), components=3, transforms=2, flow_hidden=(8,))


def few_rings() -> Data:
    rings = load("rings")
    return replace(rings, train=rings.train[:100], validation=rings.validation[:50])


def small(name: str) -> VAE:
    torch.manual_seed(0)
    return MODELS[name](few_rings(), SIZES)


@pytest.mark.parametrize(
    ("name", "other"),
    [("flow-prior", "two-stage-flow-prior"), ("two-stage-flow-prior", "flow-prior"),
     ("gaussian", "vae"), ("gaussian", ""), ("", "gaussian")],
)  # fmt: skip
def test_a_checkpoint_of_a_model_of_another_name_is_refused_though_all_else_is_equal(
    tmp_path: Path, name: str, other: str
) -> None:
    path = tmp_path / "run.pt"
    vaes = [small(model or "gaussian") for model in (name, other)]
    names = [[(n, p.shape) for n, p in vae.named_parameters()] for vae in vaes]
    assert names[0] == names[1], "else the names need not be compared"
    fit(vaes[0], few_rings(), epochs=1, name=name, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(InputError, match=r"\A[^\n]*differs in model: [^\n]*\Z") as error:
        fit(vaes[1], few_rings(), epochs=2, name=other, checkpoint=path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == content
    fit(small(name or "gaussian"), few_rings(), epochs=2, name=name, checkpoint=path)
