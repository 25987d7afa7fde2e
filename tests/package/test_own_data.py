"""Your own data: what is taken and how it is changed, and one line for all that is refused."""

import importlib
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae_tutorial import InputError, build, fit, own_data
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.storage import own_data as files
from flowvae_tutorial.storage.own_data import load_data

PARTS = ("train", "validation", "test")


def grey(n: int = 50, height: int = 4, width: int = 3) -> np.ndarray:
    return np.random.RandomState(1).randint(256, size=(n, height, width)).astype(np.uint8)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(data: Data) -> Tensor:
    return torch.cat([data.train, data.validation, data.test])


def in_order(x: Tensor) -> list[list[float]]:
    return sorted(x.tolist())


# --- what is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(50, 4, 3), (50, 1, 4, 3), (50, 12)])
def test_pictures_become_rows_and_their_shape_is_kept(shape: tuple[int, ...], kind: str) -> None:
    x = grey().reshape(shape)
    data = own_data(x if kind == "numpy" else torch.from_numpy(x), "grey")
    assert (data.name, data.features) == ("grey", 12)
    assert data.image_shape == (None if len(shape) == 2 else (4, 3))
    assert in_order(rows(data)) == in_order(torch.from_numpy(grey()).flatten(1) / 255)
    assert build("vampprior-k5", data).features == 12


def test_rows_that_are_pictures_are_told_their_shape() -> None:
    assert own_data(grey().reshape(50, 12), image_shape=(4, 3)).image_shape == (4, 3)
    said = refusal(lambda: own_data(grey().reshape(50, 12), image_shape=(5, 3)))
    assert "(5, 3)" in said and "12" in said


@pytest.mark.parametrize(
    ("x", "largest"),
    [
        (grey(), 1.0),
        (grey() > 127, 1.0),
        ((grey() > 127).astype(np.uint8), 1.0),
        ((grey() > 127).astype(np.int64), 1.0),
        (grey() / 510, 0.5),
        (torch.from_numpy(grey()).half() / 512, 255 / 512),
        ((grey() / 510).astype(">f8"), 0.5),
        (grey()[:, ::-1], 1.0),
    ],
)
def test_every_type_ends_in_single_precision_and_in_the_unit_interval(
    x: Any, largest: float
) -> None:
    data = own_data(x)
    assert {getattr(data, part).dtype for part in PARTS} == {torch.float32}
    assert rows(data).max().item() == pytest.approx(largest, abs=1e-3)
    assert rows(data).min() >= 0


def test_a_picture_is_not_changed_and_what_is_made_of_it_is_no_view() -> None:
    x = torch.rand(50, 12)
    before = x.clone()
    data = own_data(x, validation=torch.rand(5, 12), test=torch.rand(5, 12))
    data.train.zero_()
    assert torch.equal(x, before)


def test_points_may_lie_anywhere() -> None:
    x = 1000 * torch.randn(50, 3)
    assert in_order(rows(own_data(x))) == in_order(x)


@pytest.mark.parametrize(
    ("x", "options", "likelihood"),
    [
        (grey() > 127, {}, "bernoulli"),
        (grey(), {}, "gaussian"),
        (grey(), {"batch": torch.bernoulli}, "bernoulli"),
        (grey() > 127, {"likelihood": "gaussian"}, "gaussian"),
    ],
)
def test_the_likelihood_follows_what_a_model_will_see(
    x: Any, options: dict[str, Any], likelihood: str
) -> None:
    assert own_data(x, **options).likelihood == likelihood


def test_probabilities_are_drawn_anew_in_training_and_once_for_what_is_compared() -> None:
    torch.manual_seed(1)
    data = own_data(np.full((4000, 2, 1), 64, np.uint8), batch=torch.bernoulli)
    torch.manual_seed(2)
    again = own_data(np.full((4000, 2, 1), 64, np.uint8), batch=torch.bernoulli)
    assert torch.equal(data.validation, again.validation) and torch.equal(data.test, again.test)
    assert data.train.unique().tolist() == [np.float32(64 / 255)], "raw"
    one, other = data.batch(data.train), data.batch(data.train)
    assert not torch.equal(one, other)
    for drawn in (one, data.test):
        assert drawn.unique().tolist() == [0, 1]
        # Four standard errors of 1,600 draws.
        assert drawn.mean().item() == pytest.approx(64 / 255, abs=0.044)


# --- the split --------------------------------------------------------------------------------


def test_the_split_is_70_10_20_complete_disjoint_and_the_same_every_time() -> None:
    x = torch.arange(200.0)[:, None]
    torch.manual_seed(5)
    data, drawn = own_data(x), torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3)), "nothing of the caller's was drawn"
    assert [len(getattr(data, part)) for part in PARTS] == [140, 20, 40]
    assert sorted(rows(data)[:, 0].tolist()) == list(range(200))
    assert data.train[:5, 0].tolist() != [0, 1, 2, 3, 4], "pictures may come sorted by class"
    assert torch.equal(rows(own_data(x)), rows(data))


def test_shares_of_the_split_are_the_callers() -> None:
    data = own_data(torch.rand(200, 2), validation=0.25, test=0.05)
    assert [len(getattr(data, part)) for part in PARTS] == [140, 50, 10]


def test_examples_of_their_own_are_left_in_order_and_the_rest_is_split() -> None:
    x, held = torch.rand(100, 2), torch.rand(30, 2)
    data = own_data(x, test=held)
    assert torch.equal(data.test, held)
    assert [len(getattr(data, part)) for part in PARTS] == [90, 10, 30]
    both = own_data(x, validation=held, test=held)
    assert torch.equal(both.train, x) and torch.equal(both.validation, held)


def test_labels_stay_with_their_examples() -> None:
    x = torch.arange(100.0)[:, None]
    data = own_data(x, labels=np.arange(100).astype(np.uint8))
    for part in PARTS:
        assert torch.equal(data.labels[part], getattr(data, part)[:, 0].long())
        assert data.labels[part].dtype == torch.int64
    held = own_data(x, test=x[:7], labels={"train": np.arange(100), "test": np.arange(7)})
    assert held.labels["test"].tolist() == list(range(7))
    assert torch.equal(held.labels["validation"], held.validation[:, 0].long())
    assert own_data(x).labels == {}
    assert own_data(x, test=x[:7], labels=np.arange(100)).labels.keys() == {"train", "validation"}


def test_the_sum_is_of_the_values_and_of_nothing_else() -> None:
    one = own_data(grey(), "one").checksum
    assert own_data(torch.from_numpy(grey())[:, None], "other").checksum == one
    changed = grey()
    changed[-1, -1, -1] ^= 1
    sums = {one, own_data(changed).checksum, own_data(grey(), test=0.3).checksum}
    sums |= {own_data(grey().reshape(50, 12)).checksum, load("rings").checksum}
    assert len(sums) == 5


# --- what is refused --------------------------------------------------------------------------

NAN = np.where(grey() == grey()[3, 2, 1], np.nan, grey() / 255)


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (grey(), {"likelihood": "Bernoulli"}, "no likelihood 'Bernoulli': choose 'bernoulli'"),
        (grey(), {"likelihood": "mse"}, "no likelihood 'mse'"),
        (grey(), {"likelihood": "bernoulli"}, "batch=torch.bernoulli"),
        (grey().astype(np.int64), {}, "train holds whole numbers, torch.int64, from 0 to 255"),
        (grey().astype(np.float64), {}, "values from 0 to 255, and pixels lie in [0, 1]: divide"),
        (grey() / 127.5 - 1, {}, "values from -1 to 1"),
        (torch.randn(50, 3), {"likelihood": "bernoulli"}, "pixels lie in [0, 1]"),
        (NAN, {}, "NaN"),
        (np.full((50, 3), 1e300), {}, "single precision"),
        (np.zeros((50, 4, 3, 3), np.uint8), {}, "shape (50, 4, 3, 3)"),
        (np.zeros((50, 3, 4, 4), np.uint8), {}, "colours"),
        (np.zeros(50), {}, "shape (50,)"),
        (np.zeros((50, 0)), {}, "shape (50, 0)"),
        (np.float64(3.0), {}, "got float64"),
        ([[1.0]], {}, "got list: np.stack"),
        (np.array([["a"]]), {}, "<U1"),
        (np.array([[None]]), {}, "object"),
        (torch.zeros(3, 3, dtype=torch.complex64), {}, "complex64"),
        (torch.eye(50).to_sparse(), {}, "of numbers"),
        (torch.zeros(50, 3, device="meta"), {}, "of numbers"),
        (grey(6), {}, "validation has 1, test has 1"),
        (grey(0), {}, "train has 0"),
        (grey(50), {"validation": grey(0)}, "validation has 0"),
        (grey(), {"validation": 0}, "shares of x between 0 and 1"),
        (grey(), {"test": 0.0}, "shares of x between 0 and 1"),
        (grey(), {"validation": 0.5, "test": 0.5}, "together less than 1"),
        (grey(), {"test": float("nan")}, "between 0 and 1"),
        (grey(), {"test": grey(50, 3, 4)}, "pictures of different shapes"),
        (torch.rand(50, 3), {"test": torch.rand(9, 4)}, "test has 4 features, train 3"),
        (grey(), {"labels": np.arange(49)}, "50 whole numbers, one for each example"),
        (grey(), {"labels": np.zeros(50)}, "whole numbers"),
        (grey(), {"labels": {"test": np.zeros(50, int)}}, "the examples given are train"),
        (torch.randn(50, 3), {"batch": torch.bernoulli}, "batch does not take the examples: "),
        (grey(), {"name": "digits"}, "'digits' cannot be the name"),
        (grey(), {"name": "a/b"}, "'a/b' cannot be the name"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(x: Any, options: dict[str, Any], says: str) -> None:
    assert says in refusal(lambda: own_data(x, **options))


FEW = torch.rand(10, 12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"likelihood": "Bernoulli"}, "no likelihood 'Bernoulli'"),
        ({"train": FEW.reshape(10, 1, 4, 3)}, "train must be a floating-point tensor (N, X), got"),
        ({"test": FEW.numpy()}, "got ndarray: `own_data` takes"),
        ({"test": (255 * FEW).byte()}, "got torch.uint8 (10, 12)"),
        ({"validation": FEW[:, :5]}, "validation has 5 features, train 12"),
        ({"image_shape": (28, 28)}, "(28, 28) has 784 pixels, and the examples have 12"),
    ],
)
def test_data_are_looked_at_when_they_are_built(changes: dict[str, Any], says: str) -> None:
    data = Data("few", FEW, FEW, FEW, likelihood="gaussian")
    assert (data.labels, data.image_shape, data.checksum) == ({}, None, "")
    assert torch.equal(data.batch(FEW), FEW)
    assert says in refusal(lambda: replace(data, **changes))


def test_fit_names_what_is_wrong_with_the_data() -> None:
    data = own_data(torch.rand(50, 12), "few")
    vae = build("gaussian", data)
    assert "got Tensor: own_data(x) makes one" in refusal(lambda: fit(vae, data.train))  # type: ignore
    doubles = {part: getattr(data, part).double() for part in PARTS}
    said = refusal(lambda: fit(vae, replace(data, **doubles)))
    assert "torch.float64" in said and "torch.float32" in said
    large = replace(data, train=7 * data.train, batch=torch.bernoulli)
    assert "data.batch does not take data.train" in refusal(lambda: fit(vae, large))


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "grey.npz"
    np.savez_compressed(path, images=grey())
    return path


def same(one: Data, other: Data) -> bool:
    parts = all(torch.equal(getattr(one, part), getattr(other, part)) for part in PARTS)
    return parts and (one.form, one.labels.keys()) == (other.form, other.labels.keys())


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests write theirs, so that an old torch may open them."""
    monkeypatch.setattr(files, "PICKLES_HOLD", True)


def test_an_old_torch_opens_no_pt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torch.from_numpy(grey()), tmp_path / "grey.pt")
    monkeypatch.setattr(files, "PICKLES_HOLD", False)
    for module, name in ((torch, "load"), (zipfile.ZipFile, "__init__")):
        monkeypatch.setattr(module, name, never)
    said = refusal(lambda: load_data(str(tmp_path / "grey.pt")))
    assert "update torch" in said and str(tmp_path / "grey.pt") in said
    assert "no file" in refusal(lambda: load_data(str(tmp_path / "nothing.pt")))


@pytest.mark.parametrize(
    ("version", "holds"),
    [("2.6.0", False), ("2.9.1+cu128", False), ("2.10.0", True), ("2.13.0+cpu", True),
     ("3.0.0a0+git1", True)],
)  # fmt: skip
def test_which_torch_opens_them(version: str, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    try:
        assert holds == importlib.reload(files).PICKLES_HOLD
    finally:
        monkeypatch.undo()
        importlib.reload(files)


def test_one_array_alone_is_split(npz: Path, tmp_path: Path) -> None:
    expected = own_data(grey(), "grey")
    assert same(load_data(str(npz)), expected)
    x = torch.from_numpy(grey())
    for content in (x, {"anything": x}, torch.nn.Parameter(x.float() / 255)):
        torch.save(content, tmp_path / "grey.pt")
        assert same(load_data(str(tmp_path / "grey.pt")), expected)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_parts_and_labels_of_a_file_are_used(suffix: str, tmp_path: Path) -> None:
    x, test = grey(), grey(20)
    arrays = {"train": x, "test": test, "labels": np.arange(50), "test_labels": np.arange(20)}
    path = tmp_path / f"parts.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, path)
    found = load_data(str(path))
    labels = {"train": arrays["labels"], "test": arrays["test_labels"]}
    assert same(found, own_data(x, "parts", test=test, labels=labels))
    assert found.labels["test"].tolist() == list(range(20))
    assert torch.equal(found.test, torch.from_numpy(test).flatten(1) / 255)


def test_a_name_of_the_books_is_its_data_set() -> None:
    assert torch.equal(load_data("rings").train, load("rings").train)
    assert "no data set named 'cifar'" in refusal(lambda: load_data("cifar"))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "holds nothing"),
        ({"a": grey(), "b": grey()}, "holds a, b: save one array, or `train`"),
        ({"train": grey(), "val": grey()}, "holds train, val"),
        ({"labels": np.arange(3)}, "holds labels"),
        ({"train": grey().astype(float)}, "pixels lie in [0, 1]"),
        ({"train": np.array(["a"])}, "<U1"),
    ],
)
def test_a_file_with_something_else_is_one_line(
    arrays: dict[str, Any], says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    said = refusal(lambda: load_data(str(tmp_path / "x.npz")))
    assert says in said and str(tmp_path / "x.npz") in said


@pytest.mark.parametrize("content", [[torch.zeros(3)], 3, {1: torch.zeros(3)}, {"train": "pixels"}])
def test_a_pt_file_with_something_else_is_one_line(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in refusal(lambda: load_data(str(tmp_path / "x.pt")))


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_a_file_that_is_not_there_or_is_no_such_file_is_one_line(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{suffix}"
    assert f"there is no file {path}" in refusal(lambda: load_data(str(path)))
    for content in (b"", b"text", b"\x80" * 1000, pickle.dumps([1])):
        path.write_bytes(content)
        assert "is damaged" in refusal(lambda: load_data(str(path)))
    path.unlink()
    path.mkdir()
    assert "there is no file" in refusal(lambda: load_data(str(path)))


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_a_file_cut_or_changed_is_damaged(suffix: str, npz: Path, tmp_path: Path) -> None:
    path = npz
    if suffix == "pt":
        torch.save(torch.from_numpy(grey()), path := tmp_path / "grey.pt")
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:length])
        assert "is damaged" in refusal(lambda: load_data(str(path)))
    # In the middle of the numbers.
    place = content.index(grey().tobytes()[:50]) + 20 if suffix == "pt" else 300
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert "is damaged" in refusal(lambda: load_data(str(path)))


class Touch:
    """What unpickles to an act."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_nothing_in_a_file_is_executed(suffix: str, tmp_path: Path) -> None:
    path, trace = tmp_path / f"x.{suffix}", tmp_path / "executed"
    if suffix == "npz":
        np.savez(path, train=np.array([Touch(trace)], dtype=object))
    else:
        torch.save({"train": Touch(trace)}, path)
    assert "only pickle reads" in refusal(lambda: load_data(str(path)))
    assert not trace.exists()


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("it was unpacked")


def test_a_file_that_would_inflate_beyond_the_bound_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    for module, name in ((np, "load"), (torch, "load"), (zipfile.ZipFile, "testzip")):
        monkeypatch.setattr(module, name, never)
    np.savez_compressed(tmp_path / "x.npz", train=np.zeros((2**11, 2**10), np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < 2**12
    torch.save(torch.zeros(2**19), tmp_path / "x.pt")
    for name in ("x.npz", "x.pt"):
        assert "GiB of numbers" in refusal(lambda name=name: load_data(str(tmp_path / name)))  # type: ignore


def test_few_numbers_that_a_tensor_repeats_are_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    torch.save(torch.zeros(1, 1).expand(2**20, 2**20), tmp_path / "x.pt")
    assert "GiB of numbers" in refusal(lambda: load_data(str(tmp_path / "x.pt")))
