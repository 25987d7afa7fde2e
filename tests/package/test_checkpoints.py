"""What a checkpoint must be to be read: of this format, intact, and of the run that asks for it.

What `fit` itself does with one that it cannot use is in test_training.py.
"""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from flowvae_tutorial import VAE, InputError, build, fit, save_model
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import MODELS, Sizes
from flowvae_tutorial.storage.checkpoints import (
    load_checkpoint,
    load_checkpoint_of,
    save_checkpoint,
)
from flowvae_tutorial.storage.trained import load_trained
from flowvae_tutorial.storage.weights import (
    FORMAT,
    read_tensors,
    read_weights,
    write_tensors,
    write_weights,
)

RUN: dict[str, Any] = {
    "model": "gaussian", "data": "rings", "batch_size": 64, "lr": 0.1 + 0.2, "clip": math.inf,
    "beta": 1e-300, "warmup": 0, "patience": 50, "seed": 3, "decay": (1 / 3, 10),
    "data_checksum": "", "parameters": ["weight (20, 30)", "bias (4,)"],
}  # fmt: skip


def some_state() -> dict[str, Any]:
    """Of a run of two steps, one parameter in another precision."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "weight": torch.randn(20, 30, generator=generator),
        "bias": torch.randn(4, generator=generator).bfloat16(),
    }
    parameters = [torch.nn.Parameter(x) for x in state.values()]
    adam = torch.optim.Adam(parameters, lr=1 / 3, betas=(0.9, 1 - 1 / 7), eps=1e-8 / 3)
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        adam.step()
    buffers = {
        "order": torch.arange(5),
        "mask": torch.tensor([-math.inf, 0]),
        "on": torch.eye(2) > 0,
    }
    return {
        "run": RUN, "epochs": 10, "built_from": None, "optimizer": adam.state_dict(),
        "history": {
            "loss": [1.5, 0.1], "reconstruction": [-1.0, 1 / 3], "kl": [5e-324, 2.0],
            "median": [0.0, -0.0], "best_epoch": 2, "seconds": 0.1,
        },
        "best": {"weight": torch.arange(600.0).reshape(20, 30), "bias": state["bias"]} | buffers,
        "vae": state | buffers,
    }  # fmt: skip


STATE = some_state()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        alike = type(one) is type(other) and len(one) == len(other)
        return alike and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and repr(one) == repr(other)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    said = str(error.value)
    assert "\n" not in said and str(path) in said
    return said


def test_a_checkpoint_is_read_as_it_was_written(checkpoint: Path) -> None:
    assert same(load_checkpoint(checkpoint), STATE)


def test_adam_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(checkpoint: Path) -> None:
    ends = []
    for held in (STATE["optimizer"], load_checkpoint(checkpoint)["optimizer"]):
        parameters = [torch.nn.Parameter(STATE["vae"][name].clone()) for name in ("weight", "bias")]
        adam = torch.optim.Adam(parameters)
        adam.load_state_dict(held)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        adam.step()
        ends.append([parameters, adam.state_dict()])
    assert same(*ends)


def test_a_checkpoint_of_this_run_is_given_and_one_of_another_refused(checkpoint: Path) -> None:
    like = STATE["vae"]
    assert same(load_checkpoint_of(RUN, checkpoint, like)["run"], RUN)
    # What a later version adds to `run` does not part a checkpoint from its run.
    save_checkpoint(checkpoint, STATE | {"run": RUN | {"later": 1}})
    load_checkpoint_of(RUN, checkpoint, like)
    for other, differs in [
        ({"seed": 4}, "seed"),
        ({"seed": 4, "decay": None}, "seed, decay"),
        ({"decay": (0.5, 20)}, "decay"),
        ({"decay": (1 / 3, 20)}, r"epochs \(10 there, 20 here\), on which [^:]*"),
    ]:
        with pytest.raises(InputError, match=rf"\A[^\n]*differs in {differs}: [^\n]*\Z") as error:
            load_checkpoint_of(RUN | other, checkpoint, like)
        assert str(checkpoint) in str(error.value)
    for wrong in (like | {"order": torch.arange(6)}, like | {"more": torch.zeros(1)}):
        with pytest.raises(InputError, match=r"\A[^\n]*differs in the model's state: [^\n]*\Z"):
            load_checkpoint_of(RUN, checkpoint, wrong)


def test_what_could_not_be_read_again_is_not_written(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    for change in ({"seed": 0.5}, {"lr": math.nan}, {"model": "x" * 201}):
        with pytest.raises(InputError, match=r"\A[^\n]*was not written[^\n]*\Z"):
            save_checkpoint(checkpoint, STATE | {"run": RUN | change})
    assert checkpoint.read_bytes() == content


# --- of an older version ----------------------------------------------------------------------


def test_what_torch_saved_is_not_unpickled_and_the_line_says_what_to_do(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"format": 1, **STATE}, checkpoint)
    monkeypatch.setattr(torch, "load", None)
    said = refusal(checkpoint)
    assert "earlier version" in said and "train again" in said and "delete" not in said
    with pytest.raises(InputError, match="earlier version"):
        load_trained(checkpoint)


# --- of a newer version -----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [STATE, {"run": STATE["run"], "all in one": [1, 2]}, {}])
def test_a_checkpoint_of_a_newer_format_asks_for_an_update_whatever_its_parts(
    checkpoint: Path, parts: dict[str, Any]
) -> None:
    about = {"kind": "checkpoint", "format": FORMAT + 1, "parts": sorted(parts)}
    checkpoint.write_bytes(save({}, {"flowvae_tutorial": json.dumps(about)}))
    said = refusal(checkpoint)
    assert "update flowvae_tutorial" in said
    assert f"format {FORMAT + 1}" in said and f"up to {FORMAT}" in said
    assert "delete" not in said, "it is good, for another version"


def test_nobody_who_reads_checkpoints_takes_one_of_a_newer_format(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae_tutorial.storage.weights.FORMAT", FORMAT + 1)
    save_checkpoint(checkpoint, STATE)
    monkeypatch.undo()
    with pytest.raises(InputError, match="update"):
        load_checkpoint_of(RUN, checkpoint, STATE["vae"])
    with pytest.raises(InputError, match="update"):
        load_trained(checkpoint)
    with pytest.raises(InputError, match="update"):
        fit(small("gaussian"), few_rings(), checkpoint=checkpoint)


@pytest.mark.parametrize("format_", [None, "one", [1], True, 0, 2.0])
def test_a_format_that_is_no_number_is_no_checkpoint(checkpoint: Path, format_: object) -> None:
    _, tensors, about = read_tensors(checkpoint)
    text = json.dumps(about | {"format": format_})
    checkpoint.write_bytes(save(tensors, {"flowvae_tutorial": text}))
    assert "damaged" in refusal(checkpoint)


# --- missing, cut short, changed --------------------------------------------------------------


def test_a_checkpoint_that_is_not_there_is_said_to_be_missing_and_not_damaged(
    tmp_path: Path,
) -> None:
    said = refusal(tmp_path / "run.pt")
    assert "there is no file" in said and "damaged" not in said


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
            assert same(found, expected)
            unseen += 1
    assert unseen < 15


def test_one_changed_number_is_damage(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    place = content.index(STATE["best"]["weight"].numpy().tobytes()) + 4 * 17
    checkpoint.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    assert "damaged" in refusal(checkpoint)


# --- whole, and wrong -------------------------------------------------------------------------


def crafted(path: Path, *place: str | int, value: Any = None) -> str:
    """What is said of a checkpoint with a right sum that says something else there."""
    kind, tensors, about = read_tensors(path)
    inner: Any = about
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    content = path.read_bytes()
    write_tensors(path, kind, tensors, about)
    said = refusal(path)
    with pytest.raises(InputError, match=re.escape(said)):
        load_trained(path)
    path.write_bytes(content)
    return said


def test_each_field_has_its_kind_and_its_range(checkpoint: Path) -> None:
    wrong: dict[tuple[str | int, ...], list[Any]] = {
        ("run",): [None, [], {}],
        ("run", "seed"): ["3", 3.5, 2**63, None],
        ("run", "clip"): [0, -1, -math.inf, math.nan, "inf", None],
        ("run", "decay"): [[0.5], [0.5, 3, 1], [2, 3], [0.5, 0], 0.5, False],
        ("run", "lr"): [0, -1, math.inf, math.nan, 10**400],
        ("run", "beta"): [-1, math.inf],
        ("run", "batch_size"): [0, 1.5, 64.0, True],
        ("run", "parameters"): [["weight (20, 30)"], ["weight (20, 31)", "bias (4,)"], [1]],
        ("epochs",): [0, 1, -3, 2.5, None],
        ("history", "best_epoch"): [0, 3, -1, 10**30],
        ("history", "loss"): [
            [1.5],
            [1.5, 0.1, 2],
            [1.5, math.nan],
            [1.5, "x"],
            None,
            [10**400, 1],
        ],
        ("history", "median"): [[1.0], [[1], [2]]],
        ("history", "seconds"): [-1, math.inf],
        ("built_from",): [[], {}, {"model": "gaussian"}, 3],
        ("param_groups",): [[], None, STATE["optimizer"]["param_groups"] * 2],
        ("param_groups", 0, "betas"): [[0.9], [0.9, 1.0], None],
        ("param_groups", 0, "params"): [[0], [1, 0], [0, 2], [0, 1, 2]],
        ("param_groups", 0, "capturable"): [True, 1],
    }
    for place, values in wrong.items():
        for value in values:
            assert "train again" in crafted(checkpoint, *place, value=value), (place, value)


@pytest.mark.parametrize(
    "change",
    [{"best.weight": None}, {"vae.order": None}, {"more": torch.zeros(1)},
     {"optimizer.0.step": None}, {"optimizer.2.step": torch.zeros(())},
     {"optimizer.0.exp_avg": torch.zeros(30, 20)}, {"vae.weight": torch.zeros(20, 30).double()},
     {"optimizer.1.exp_avg_sq": torch.zeros(4)}, {"optimizer.0.step": torch.zeros(1)}],
)  # fmt: skip
def test_tensors_that_do_not_fit_each_other_are_refused(
    checkpoint: Path, change: dict[str, Tensor | None]
) -> None:
    kind, tensors, about = read_tensors(checkpoint)
    changed = {name: x for name, x in (tensors | change).items() if x is not None}
    write_tensors(checkpoint, kind, changed, about)
    assert "do not fit" in refusal(checkpoint)


def test_only_a_checkpoint_of_ours_is_to_be_deleted(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1])
    assert "delete it to start again" in refusal(checkpoint)
    write_weights(checkpoint, STATE["vae"], {"model": "gaussian"})
    ours = checkpoint.read_bytes()
    for other in (ours, ours[:-1], b"", b"a thesis", save({"x": torch.zeros(3)})):
        checkpoint.write_bytes(other)
        assert "delete" not in refusal(checkpoint)


def test_the_content_decides_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    vae, path = build("gaussian", few_rings(), SIZES), tmp_path / "run.safetensors"
    fit(vae, few_rings(), epochs=1, checkpoint=path, name="gaussian")
    weights = save_model(vae, tmp_path / "w.safetensors").rename(tmp_path / "w.pt")
    states = [load_trained(each).vae.state_dict() for each in (path, weights)]
    assert same(*states)
    with pytest.raises(InputError, match="is a checkpoint"):
        read_weights(path)


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
    fit(vaes[0], few_rings(), epochs=1, decay=0.0, name=name, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(InputError, match=r"\A[^\n]*differs in model: [^\n]*\Z") as error:
        fit(vaes[1], few_rings(), epochs=2, decay=0.0, name=other, checkpoint=path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == content
    again = small(name or "gaussian")
    fit(again, few_rings(), epochs=2, decay=0.0, name=name, checkpoint=path)
