"""Checkpoints and weights files that were changed: refused in one line, or read as what they were.

`FLOWVAE_EXAMPLES=50000` tries so many in place of 300.
"""

import copy
import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae_tutorial import VAE, InputError, build, fit, save_model
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.storage.trained import load_trained
from flowvae_tutorial.storage.weights import read_tensors, write_tensors

TRIES = int(os.environ.get("FLOWVAE_EXAMPLES", 300))
SIZES = Sizes(2, (8,), components=3)
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1.5, 2**31, 2**63, 10**400, 1e308, math.nan,
    math.inf, -math.inf, "", "gaussian", "mixture", "mixture-k100000", "mixture-k300000000",
    "vampprior-k50000", "digits", "rings", "two\nlines", "../up", "\ud800", "\0", "x" * 5000, [],
    {}, [1], [0.5, 3], [1e9] * 3, {"a": 1}, [[[[]]]], "hvae", "two-stage-flow-prior", "9" * 5000,
]  # fmt: skip
# The one is of the rest, and the other decides which.
FIXED = ("sha256", "format")


def rings() -> Data:
    data = load("rings")
    return replace(data, train=data.train[:64], validation=data.validation[:20])


def model() -> VAE:
    torch.manual_seed(0)
    return build("mixture", rings(), SIZES)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in what JSON holds; of a long list its two ends."""
    found = [path] if path else []
    if isinstance(content, dict):
        keys: list[Any] = list(content)
    else:
        keys = sorted({0, len(content) - 1}) if isinstance(content, list) and content else []
    return found + [place for key in keys for place in places(content[key], (*path, key))]


def changed_said(about: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    about = copy.deepcopy(about)
    *way, last = chance.choice([place for place in places(about) if place[0] not in FIXED])
    inner: Any = about
    for key in way:
        inner = inner[key]
    act = chance.randrange(4)
    if act == 0:
        del inner[last]
    elif act == 1 and isinstance(inner, dict):
        inner["added"] = chance.choice(VALUES)
    elif act == 2 and isinstance(inner[last], int | float):
        inner[last] = inner[last] * chance.choice([-1, 0, 2, 10**9, 0.5, 1e300])
    else:
        inner[last] = chance.choice(VALUES)
    return about


def changed_tensors(tensors: dict[str, Tensor], chance: random.Random) -> dict[str, Tensor]:
    tensors = dict(tensors)
    name = chance.choice(sorted(tensors))
    x = tensors[name]
    other = tensors[chance.choice(sorted(tensors))]
    act = chance.randrange(9)
    if act == 0:
        del tensors[name]
    elif act == 1:
        tensors[chance.choice(["more", "best.more", "optimizer.more", "optimizer.x.step", "vae.",
                               "optimizer.99.step", f"{name}.scale", ""])] = other  # fmt: skip
    elif act == 2:
        tensors[f"{name}x"] = tensors.pop(name)
    elif act == 3:
        kinds = [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.int64]
        tensors[name] = x.to(chance.choice(kinds))
    elif act == 4:
        tensors[name] = chance.choice(
            [x[None], x.flatten(), x.flatten()[:0], x.new_zeros(3, 10**5)]
        )
    elif act == 5:
        tensors[name] = other
    elif act == 6:
        tensors[name] = torch.full_like(x, chance.choice([math.nan, math.inf, -math.inf]))
    elif act == 7:
        tensors[name] = torch.zeros(20, 1, dtype=torch.int8)
        tensors[f"{name}.scale"] = torch.ones(chance.choice([(1, 10**5), (20, 1), (3,)]))
    else:
        tensors[name] = torch.full_like(x, chance.choice([1e30, -1e30, 0.0]))
    return tensors


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    # Half of it where most is said.
    end = chance.choice([len(content), 3000])
    place, act = chance.randrange(min(end, len(content))), chance.randrange(6)
    if act == 0:
        return content[:place]
    if act == 1:
        return content[:place] + chance.randbytes(chance.choice([1, 8, 1000])) + content[place:]
    if act == 2:
        return content[:place] + content[place + chance.randrange(1, 50) :]
    if act == 3:
        return chance.randbytes(8) + content[8:]
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 5])):
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    vae = model()
    checkpoint, weights = folder / "checkpoint.pt", folder / "weights.safetensors"
    history = fit(vae, rings(), epochs=2, checkpoint=checkpoint, name="mixture")
    save_model(vae, weights, history)
    return {"checkpoint": checkpoint, "weights": weights}


def read(path: Path) -> Any:
    trained = load_trained(path)
    return trained.about, trained.vae


def resumed(path: Path) -> Any:
    vae = model()
    history = fit(vae, rings(), epochs=2, checkpoint=path, name="mixture")
    return history, vae


READERS: list[tuple[str, Callable[[Path], Any]]] = [
    ("checkpoint", read), ("checkpoint", resumed), ("weights", read)
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    a, b = one[1].state_dict(), other[1].state_dict()
    return one[0] == other[0] and all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("what", ["bytes", "said", "tensors"])
@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_changed_file_is_refused_in_one_line_or_is_what_it_was(
    kind: str, reader: Callable[[Path], Any], what: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    """What is said, and the tensors, are changed with the sum and without."""
    original = originals[kind]
    expected, content = reader(original), original.read_bytes()
    said, tensors, about = read_tensors(original)
    path, refused = tmp_path / original.name, 0
    tries = max(10, TRIES // (3 * len(READERS)))
    for seed in range(tries):
        chance = random.Random(f"{kind} {reader.__name__} {what} {seed}")
        summed = what != "bytes" and chance.random() < 0.8
        if what == "bytes":
            path.write_bytes(changed_bytes(content, chance))
        elif what == "said":
            write_tensors(path, said, tensors, changed_said(about, chance))
        else:
            write_tensors(path, said, changed_tensors(tensors, chance), about)
        if what != "bytes" and not summed:
            old, new = (json.dumps(json.dumps(each["sha256"]))[1:-1].encode() for each in
                        (about, written_about(path)))  # fmt: skip
            path.write_bytes(path.read_bytes().replace(new, old))
        try:
            found = reader(path)
        except InputError as error:
            assert "\n" not in str(error) and str(path) in str(error), seed
            assert len(str(error)) < 3000, seed
            refused += 1
        else:
            # Whoever changes the sum, too, may say something else that is as true as the first.
            assert summed or same(found, expected), seed
    print(f"{what} of a {kind}, {reader.__name__}: {tries} tried, {refused} refused")
    assert refused > tries / 3


def written_about(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["flowvae_tutorial"])
    return found
