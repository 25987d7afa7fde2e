"""The embedded data sets are what the book says they are, and MNIST follows the paper's protocol.

Where FLOWVAE_TEST_DATA names a folder with the real files, they are tested too.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from flowvae_tutorial import InputError
from flowvae_tutorial.data import DATA_SETS, Data, load
from flowvae_tutorial.storage import downloads

PARTS = ("train", "validation", "test")
EMBEDDED = ("digits", "digits-binary", "rings")
MNIST_FORMS = ("dynamic-mnist", "fixed-mnist", "dynamic-fashion", "fixed-fashion")

REAL = os.environ.get("FLOWVAE_TEST_DATA")
needs_real_files = pytest.mark.skipif(
    REAL is None, reason="FLOWVAE_TEST_DATA names no folder with the MNIST family's files"
)


def digit_levels(data: Data) -> np.ndarray:
    """The integer levels of all digits, in the order of the split."""
    parts = [data.train, *((17 * part).floor() for part in (data.validation, data.test))]
    return torch.cat(parts).numpy().astype(np.uint8)


# --- digits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "digits-binary"])
def test_digits_are_split_1257_180_360(name: str) -> None:
    data = load(name)
    assert [len(getattr(data, part)) for part in PARTS] == [1257, 180, 360]
    assert [len(data.labels[part]) for part in PARTS] == [1257, 180, 360]
    assert (data.features, data.image_shape) == (64, (8, 8))


def test_the_parts_of_digits_are_disjoint_and_complete() -> None:
    original = np.unique(load_digits().data.astype(np.uint8), axis=0)
    assert len(original) == 1797, "no two digits are alike, so counting rows is enough"
    assert np.array_equal(np.unique(digit_levels(load("digits")), axis=0), original)


def test_the_split_of_digits_is_frozen() -> None:
    data = load("digits")
    levels = hashlib.sha256(digit_levels(data).tobytes()).hexdigest()
    assert levels == "22ccb51d1417f8119764af32a91d6d7351b6b6f703ee31920487dcfdf6a4e72a"
    labels = [hashlib.sha256(data.labels[p].numpy().tobytes()).hexdigest()[:16] for p in PARTS]
    assert labels == ["766269dbfa2b7db2", "1e8f07ce92f7617c", "d6c86f9a7de5b7af"]


def test_both_forms_of_digits_have_the_same_split() -> None:
    data, binary = load("digits"), load("digits-binary")
    assert torch.equal((data.train > 8).float(), binary.train)
    assert torch.equal(((17 * data.test).floor() > 8).float(), binary.test)
    assert all(torch.equal(data.labels[part], binary.labels[part]) for part in PARTS)


def test_labels_of_digits_stay_with_their_images() -> None:
    digits = load_digits()
    label_of = {
        row.tobytes(): int(label)
        for row, label in zip(digits.data.astype(np.uint8), digits.target, strict=True)
    }
    data = load("digits")
    labels = torch.cat([data.labels[part] for part in PARTS])
    assert [label_of[row.tobytes()] for row in digit_levels(data)] == labels.tolist()


def test_dequantised_validation_and_test_lie_in_the_unit_interval() -> None:
    data = load("digits")
    for part in (data.validation, data.test):
        assert 0 <= part.min() and part.max() < 1
        assert len(part.unique()) > 0.9 * part.numel(), "the values are continuous"


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_load_gives_the_same_numbers_and_leaves_the_random_state(name: str) -> None:
    torch.manual_seed(5)
    first = load(name)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3)), "loading consumed the caller's random numbers"
    torch.manual_seed(6)
    second = load(name)
    assert all(torch.equal(getattr(first, part), getattr(second, part)) for part in PARTS)


def test_a_batch_of_digits_draws_fresh_noise_and_keeps_the_levels() -> None:
    data = load("digits")
    torch.manual_seed(0)
    one, other = data.batch(data.train), data.batch(data.train)
    assert not torch.equal(one, other)
    for batch in (one, other):
        assert torch.equal((17 * batch).floor(), data.train)
        noise = 17 * batch - data.train
        assert noise.mean().item() == pytest.approx(1 / 2, abs=0.01)
        assert noise.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_binary_digits_are_0_and_1_in_every_part_and_batch() -> None:
    data = load("digits-binary")
    for part in (data.train, data.validation, data.test, data.batch(data.train)):
        assert part.unique().tolist() == [0, 1]
    assert data.likelihood == "bernoulli"


# --- rings ------------------------------------------------------------------------------------


def test_rings_are_eight_gaussians_of_radius_2_and_scale_014() -> None:
    data = load("rings")
    assert [len(getattr(data, part)) for part in PARTS] == [2000, 1000, 1000]
    assert (data.features, data.image_shape, data.likelihood) == (2, None, "gaussian")
    x = torch.cat([data.train, data.validation, data.test])
    label = torch.cat([data.labels[part] for part in PARTS])
    assert label.unique().tolist() == list(range(8))
    angle = 2 * torch.pi * torch.arange(8) / 8
    centres = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    means = torch.stack([x[label == k].mean(dim=0) for k in range(8)])
    # 500 points a mode: 0.025 is four standard errors of a mean.
    torch.testing.assert_close(means, centres, rtol=0, atol=0.025)
    assert (x - centres[label]).std().item() == pytest.approx(0.14, rel=0.04)


@pytest.mark.parametrize("name", EMBEDDED)
def test_only_digits_draw_anything_anew_for_a_batch(name: str) -> None:
    data = load(name)
    assert torch.equal(data.batch(data.train), data.train) == (name != "digits")


def test_an_unknown_name_says_which_exist() -> None:
    with pytest.raises(InputError, match="cifar") as error:
        load("cifar")
    assert all(name in str(error.value) for name in DATA_SETS)
    assert "\n" not in str(error.value)


def test_data_moves_to_a_device_as_a_whole() -> None:
    moved = load("rings").to(torch.device("meta"))
    assert {getattr(moved, part).device.type for part in PARTS} == {"meta"}
    assert moved.name == "rings"


# --- the MNIST family -------------------------------------------------------------------------

PROBABILITIES = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])


@pytest.fixture
def fake_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 and 10,000 images of six pixels: five of known probability, then a mark.

    The mark is 1 in the last 10,000 training images. Labels count the images.
    """
    # Images of 784 would take seconds and half a gigabyte.
    monkeypatch.setattr(Data, "__post_init__", lambda data: None)

    def images(mark: Tensor) -> tuple[Tensor, Tensor]:
        pixels = torch.cat([PROBABILITIES.expand(len(mark), 5), mark[:, None]], dim=1)
        return pixels, torch.arange(len(mark))

    train = (torch.arange(60_000) >= 50_000).float()
    parts = [images(train), images(torch.zeros(10_000))]
    monkeypatch.setattr(downloads, "mnist", lambda kind: parts)


@pytest.mark.usefixtures("fake_mnist")
@pytest.mark.parametrize("name", MNIST_FORMS)
def test_the_last_10000_training_images_validate(name: str) -> None:
    data = load(name)
    assert data.name == name
    assert data.labels["train"].tolist() == list(range(50_000))
    assert data.labels["validation"].tolist() == list(range(50_000, 60_000))
    assert data.labels["test"].tolist() == list(range(10_000))
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.validation[:, 5].all()
    assert not data.train[:, 5].any() and not data.test[:, 5].any()
    assert (data.likelihood, data.image_shape) == ("bernoulli", (28, 28))


@pytest.mark.usefixtures("fake_mnist")
def test_validation_and_test_are_binarised_once_and_alike_in_both_forms() -> None:
    torch.manual_seed(1)
    dynamic = load("dynamic-mnist")
    torch.manual_seed(2)
    again, fixed = load("dynamic-mnist"), load("fixed-mnist")
    for part in ("validation", "test"):
        x = getattr(dynamic, part)
        assert x.unique().tolist() == [0, 1]
        assert torch.equal(x, getattr(again, part)) and torch.equal(x, getattr(fixed, part))
        # Four standard errors of 10,000 draws.
        torch.testing.assert_close(x[:, :5].mean(dim=0), PROBABILITIES, rtol=0, atol=0.02)
    assert not torch.equal(dynamic.validation[:, :5], dynamic.test[:, :5])


@pytest.mark.usefixtures("fake_mnist")
def test_dynamic_batches_are_drawn_anew_with_the_pixels_as_probabilities() -> None:
    data = load("dynamic-mnist")
    torch.manual_seed(0)
    one, other = data.batch(data.train), data.batch(data.train)
    assert not torch.equal(one, other)
    assert one.unique().tolist() == [0, 1]
    torch.testing.assert_close(one[:, :5].mean(dim=0), PROBABILITIES, rtol=0, atol=0.01)


@pytest.mark.usefixtures("fake_mnist")
def test_fixed_training_images_are_drawn_once() -> None:
    data = load("fixed-mnist")
    assert data.train.unique().tolist() == [0, 1]
    assert torch.equal(data.batch(data.train), data.train)
    assert torch.equal(data.train, load("fixed-mnist").train)
    torch.testing.assert_close(data.train[:, :5].mean(dim=0), PROBABILITIES, rtol=0, atol=0.01)


@pytest.mark.usefixtures("fake_mnist")
def test_loading_mnist_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    load("fixed-mnist")
    assert torch.equal(before, torch.get_rng_state())


# --- the real files ---------------------------------------------------------------------------


@pytest.fixture
def real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to the real files: what is unpacked beside them goes with the test."""
    assert REAL is not None
    for file in [*Path(REAL).glob("*/raw/*.gz"), *Path(REAL).glob("*/*.npz")]:
        link = tmp_path / file.relative_to(REAL)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    monkeypatch.setenv("FLOWVAE_DATA", str(tmp_path))


@needs_real_files
@pytest.mark.usefixtures("real_files")
@pytest.mark.parametrize("name", [*MNIST_FORMS, "static-mnist"])
def test_real_files_load(name: str) -> None:
    data = load(name)
    assert [len(getattr(data, part)) for part in PARTS] == [50_000, 10_000, 10_000]
    assert data.features == 784
    batch = data.batch(data.train[:1000])
    for part in (batch, data.validation, data.test):
        assert part.unique().tolist() == [0, 1]
    mean = 0.29 if "fashion" in name else 0.13
    assert batch.mean().item() == pytest.approx(mean, abs=0.02)
    assert data.test.mean().item() == pytest.approx(mean, abs=0.02)
    assert set(data.labels) == (set() if name == "static-mnist" else set(PARTS))


@needs_real_files
@pytest.mark.usefixtures("real_files")
def test_real_labels_stay_with_their_images() -> None:
    data = load("dynamic-mnist")
    assert data.labels["train"][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.labels["test"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # Ones have the least ink and noughts the most, in every part.
    for part in PARTS:
        ink = getattr(data, part).sum(dim=1)
        of = [ink[data.labels[part] == k].mean().item() for k in range(10)]
        assert (of.index(min(of)), of.index(max(of))) == (1, 0)
