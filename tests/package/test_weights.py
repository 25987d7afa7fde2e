"""Weights files: packed small with a known error, read back as written, refused when damaged."""

import errno
import json
import math
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from flowvae_tutorial import InputError
from flowvae_tutorial.data import outline
from flowvae_tutorial.models import BOOK_MODELS, DIGITS, MNIST, MODELS
from flowvae_tutorial.storage.weights import FORMAT, pack, read_weights, unpack, write_weights

ABOUT = {"model": "gaussian", "history": {"loss": [1 / 3, 1e-30]}, "beta": 1.0, "décor": "z̃ ⊂ ℝ"}


def some_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 11, generator=generator)
    return {
        "matrix": matrix * torch.logspace(-6, 6, 7)[:, None],
        "kernel": torch.randn(3, 4, 5, generator=generator),
        "vector": torch.randn(40, generator=generator),
        "scalar": torch.tensor(0.1),
        "whole numbers": torch.arange(12).reshape(3, 4),
        "mask": torch.eye(4, dtype=torch.bool),
    }


def size(state: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in state.values())


# --- packing ----------------------------------------------------------------------------------


def assert_packed_well(state: dict[str, Tensor]) -> None:
    unpacked = unpack(pack(state))
    assert list(unpacked) == list(state)
    for name, value in state.items():
        found = unpacked[name]
        if not value.is_floating_point():
            assert found.dtype == value.dtype and torch.equal(found, value)
            continue
        assert (found.dtype, found.shape) == (torch.float32, value.shape)
        if value.ndim < 2:
            assert torch.equal(found, value.half().float())
        else:
            half_a_step = value.abs().amax(dim=-1, keepdim=True) / 254
            # The quotient and the product are rounded to single precision, too.
            assert ((found - value).abs() <= half_a_step * (1 + 1e-4)).all(), name


def test_packing_costs_half_a_step_of_each_row_and_whole_numbers_nothing() -> None:
    state = some_state()
    assert_packed_well(state)
    error = (unpack(pack(state))["matrix"] - state["matrix"]).abs().amax(dim=1)
    steps = state["matrix"].abs().amax(dim=1) / 127
    assert (error > 0.3 * steps).all(), "each row has a scale of its own"


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_packing_keeps_its_promise_for_every_model_of_the_book(name: str) -> None:
    assert_packed_well(MODELS[name](outline("digits"), DIGITS).state_dict())


def test_the_largest_number_of_a_row_and_zero_come_back() -> None:
    row = torch.tensor([[0.0, -3.7, 1.2], [5.1, 0.0, -5.1]])
    found = unpack(pack({"x": row}))["x"]
    assert found[0, 0] == 0 and found[1, 1] == 0
    # Single precision.
    torch.testing.assert_close(found[0, 1], row[0, 1], rtol=2e-7, atol=0)
    torch.testing.assert_close(found[1], row[1], rtol=2e-7, atol=0)


def test_rows_of_zeros_survive_among_others() -> None:
    matrix = torch.zeros(3, 5)
    matrix[1] = torch.linspace(-1, 1, 5)
    assert_packed_well({"x": matrix, "nothing": torch.zeros(4, 6), "empty": torch.zeros(0, 3)})
    found = unpack(pack({"x": matrix}))["x"]
    assert found.isfinite().all() and not found[[0, 2]].any() and found[1].any()


def test_weights_that_are_not_packed_are_left_alone() -> None:
    state = some_state()
    unpacked = unpack(state)
    assert all(torch.equal(unpacked[name], state[name]) for name in state)
    assert list(unpacked) == list(state)


@pytest.mark.parametrize("packed", [False, True])
def test_a_parameter_that_is_called_scale_is_not_lost(packed: bool) -> None:
    state = {
        "noise.scale": torch.rand(3, 4), "a": torch.rand(2, 3), "a.scale": torch.rand(5)
    }  # fmt: skip
    if packed:
        del state["a.scale"]  # this name is taken by the scale of `a`
    assert unpack(pack(state) if packed else state).keys() == state.keys()


@pytest.mark.parametrize("name", BOOK_MODELS)
def test_a_packed_model_takes_three_tenths_of_the_room(name: str, tmp_path: Path) -> None:
    state = MODELS[name](outline("dynamic-mnist"), MNIST).state_dict()
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    assert size(pack(floats)) <= 0.3 * size(floats)
    path = write_weights(tmp_path / "packed.safetensors", pack(state), ABOUT)
    assert path.stat().st_size <= 0.3 * size(state)


# --- files ------------------------------------------------------------------------------------


def test_a_file_gives_back_weights_and_what_is_said_of_them_bit_for_bit(tmp_path: Path) -> None:
    state = some_state()
    state["turned"] = torch.randn(3, 4).T  # not contiguous
    state["learned"] = torch.nn.Parameter(torch.randn(3))
    path = write_weights(tmp_path / "new folder" / "w.safetensors", state, ABOUT)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]
    read, about = read_weights(path)
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value), name
    assert {key: about[key] for key in ABOUT} == ABOUT
    assert about["format"] == FORMAT


def test_a_packed_file_gives_back_what_unpack_gives(tmp_path: Path) -> None:
    state = some_state()
    read, about = read_weights(write_weights(tmp_path / "w.safetensors", pack(state), ABOUT))
    expected = unpack(pack(state))
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)
    assert about["model"] == "gaussian"


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    state = some_state()
    path = write_weights(tmp_path / "w.safetensors", state, ABOUT)
    assert all(torch.equal(value, state[name]) for name, value in load_file(path).items())


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    one, other = (write_weights(tmp_path / name, some_state(), ABOUT) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


# --- files that cannot be used ----------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "w.safetensors", some_state(), ABOUT)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_weights(path)
    said = str(error.value)
    assert "\n" not in said and str(path) in said
    return said


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "w.safetensors")
    (tmp_path / "folder").mkdir()
    assert "no file" in refusal(tmp_path / "folder")


def test_a_file_cut_anywhere_is_damaged(weights: Path) -> None:
    content = weights.read_bytes()
    lengths = [0, 1, 7, 8, 9, len(content) - 1, *range(20, len(content), len(content) // 40)]
    for length in lengths:
        weights.write_bytes(content[:length])
        assert "damaged" in refusal(weights), f"{length} of {len(content)} bytes"


def test_a_file_with_something_behind_it_is_damaged(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"more")
    assert "damaged" in refusal(weights)


def test_a_file_with_one_bit_changed_is_refused_or_is_what_it_was(weights: Path) -> None:
    content, (expected, said) = weights.read_bytes(), read_weights(weights)
    randomness = random.Random(0)
    refused, tries = 0, 600
    for _ in range(tries):
        changed = bytearray(content)
        changed[randomness.randrange(len(content))] ^= 1 << randomness.randrange(8)
        weights.write_bytes(changed)
        try:
            found, about = read_weights(weights)
        except InputError as error:
            assert "\n" not in str(error) and str(weights) in str(error)
            refused += 1
        else:
            # The name of the sum itself may have changed.
            assert {key: about.get(key) for key in said if key != "sha256"} == {
                key: said[key] for key in said if key != "sha256"
            }
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert refused > 0.95 * tries


@pytest.mark.parametrize("part", ["weights", "about"])
def test_one_changed_number_is_damage(weights: Path, part: str) -> None:
    content = weights.read_bytes()
    if part == "weights":
        place = content.index(some_state()["kernel"].numpy().tobytes()) + 4 * 5
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    else:
        changed = content.replace(b"0.3333", b"0.3334")
    assert changed != content
    weights.write_bytes(changed)
    assert "damaged" in refusal(weights)


def test_a_file_from_before_there_were_sums_is_read(weights: Path) -> None:
    about = {"flowvae_tutorial": json.dumps({"format": 1, **ABOUT})}
    weights.write_bytes(save(some_state(), about))
    assert read_weights(weights)[0].keys() == some_state().keys()


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"format": "pt"}, {"flowvae_tutorial": "no JSON"}, {"flowvae_tutorial": "[1]"},
     {"flowvae_tutorial": "{}"}, {"flowvae_tutorial": "3"},
     {"flowvae_tutorial": '{"format": "one"}'}],
)  # fmt: skip
def test_a_safetensors_file_that_is_not_of_this_package_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(some_state(), path, metadata)
    assert "no checkpoint or weights file of this package" in refusal(path)


@pytest.mark.parametrize("content", [b"text", b"\x80" * 100, random.Random(0).randbytes(5000)])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert "damaged or no checkpoint or weights file" in refusal(path)


@pytest.mark.parametrize("about", [ABOUT, {}, {"sha256": "of another kind"}])
def test_a_file_of_a_newer_format_asks_for_an_update(weights: Path, about: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT + 1, **about})
    save_file(some_state(), weights, {"flowvae_tutorial": text})
    said = refusal(weights)
    assert "update flowvae_tutorial" in said
    assert f"format {FORMAT + 1}" in said and f"up to {FORMAT}" in said


def test_the_sum_is_over_shapes_and_kinds_too(weights: Path) -> None:
    content = weights.read_bytes()
    for old, new in ((b"[7,11]", b"[11,7]"), (b'"I64"', b'"F64"')):
        assert old in content
        weights.write_bytes(content.replace(old, new))
        assert "damaged" in refusal(weights)


def test_a_file_without_its_sum_is_damaged_unless_it_is_of_the_first_format(weights: Path) -> None:
    text = json.dumps({"kind": "weights", "format": FORMAT, **ABOUT})
    weights.write_bytes(save(some_state(), {"flowvae_tutorial": text}))
    assert "damaged" in refusal(weights)


def test_all_kinds_of_numbers_and_weights_that_are_one_come_back(tmp_path: Path) -> None:
    one = torch.randn(3, 4)
    state = {
        "bf16": one.bfloat16(), "f64": one.double(), "f16": one.half(), "i32": one.int(),
        "u8": torch.arange(5, dtype=torch.uint8), "inf": torch.tensor([math.inf, math.nan]),
        "tied": one, "tied again": one, "part": one[1:], "turned": one.T, "empty": one[:0],
        "repeated": one[:1].expand(5, -1),
    }  # fmt: skip
    read, _ = read_weights(write_weights(tmp_path / "w.safetensors", state, ABOUT))
    assert read.keys() == state.keys()
    for name in state.keys() - {"f16"}:
        assert read[name].dtype == state[name].dtype, name
        assert torch.equal(read[name].nan_to_num(), state[name].nan_to_num()), name
    assert torch.equal(read["f16"], state["f16"].float()), "half precision is unpacked"


def test_a_scale_of_another_shape_is_not_multiplied_out() -> None:
    packed = {"a": torch.ones(20, 1, dtype=torch.int8), "a.scale": torch.ones(1, 30)}
    assert unpack(packed).keys() == packed.keys()
    assert unpack(packed)["a"].shape == (20, 1)


# --- what is no file, or too much of one ------------------------------------------------------


def test_only_a_file_of_some_size_is_read(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, loop, sparse = tmp_path / "pipe", tmp_path / "loop", tmp_path / "sparse"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    with sparse.open("wb") as file:
        file.truncate(100 * 2**30)
    assert "no file" in refusal(pipe) and "no file" in refusal(loop)
    assert "more than" in refusal(sparse)
    assert "no file" in refusal(Path("/dev/zero"))
    assert "could not read" in refusal(tmp_path / ("x" * 300)) or sys.version_info >= (3, 14)

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in refusal(weights)


def test_what_would_be_too_long_to_read_is_not_written(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = weights.read_bytes()
    monkeypatch.setattr("flowvae_tutorial.storage.weights.LARGEST", 1000)
    with pytest.raises(InputError, match="smaller"):
        write_weights(weights, some_state(), ABOUT)
    assert weights.read_bytes() == content


def test_a_full_disk_keeps_the_weights_that_were_there(
    weights: Path, full_disk: Callable[[str | None], None]
) -> None:
    content = weights.read_bytes()
    full_disk("w.safetensors")
    with pytest.raises(InputError, match="No space left"):
        write_weights(weights, {"other": torch.zeros(3)}, {})
    assert weights.read_bytes() == content
