"""What commands print and draw of a run, and that a picture is there whole or not at all."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from flowvae_tutorial import InputError, build
from flowvae_tutorial.data import Data, load, outline
from flowvae_tutorial.experiments import pictures
from flowvae_tutorial.experiments.pictures import draw_report, draw_run, draw_samples, figures_of
from flowvae_tutorial.experiments.record_files import Record, run_name
from flowvae_tutorial.history import History
from flowvae_tutorial.storage.trained import Trained, save_trained


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    assert plt.get_fignums() == []


# --- figures in a terminal --------------------------------------------------------------------

RECORD: Record = {
    "model": "hvae", "data": "rings", "seed": 3, "beta": 1.0, "sizes": {"latent": 16},
    "epochs": 40, "best_epoch": 31, "num_samples": 5000, "num_test": 1000,
    "nll": {"mean": -1234.567, "standard_error": 0.456, "per_example": []},
    "elbo": 2.345, "reconstruction": 22.345, "kl": [12.5, 7.504], "active_units": 9,
}  # fmt: skip


def test_the_figures_of_a_record_stand_in_columns_with_their_units() -> None:
    assert figures_of(RECORD).splitlines() == [
        "hvae on rings, seed 3: best epoch 31 of 40; 1000 test examples, S = 5000",
        "  NLL             -1234.57 ± 0.46  nats per example",
        "  ELBO                       2.35  nats per example",
        "  reconstruction            22.34  nats per example",
        "  KL                        20.00  nats per example",
        "  active units            9 of 32",
    ]


@pytest.mark.parametrize(("levels", "units"), [([3.0], 16), ([2.0, 1.0], 32)])
def test_active_units_are_counted_of_every_level(levels: list[float], units: int) -> None:
    lines = figures_of(RECORD | {"kl": levels}).splitlines()
    assert lines[-1].split() == ["active", "units", "9", "of", str(units)]
    assert lines[-2].split()[:2] == ["KL", "3.00"], "of all levels together"


@pytest.mark.parametrize("model", ["gaussian", "hvae", "hierarchical-vampprior"])
def test_there_are_as_many_units_as_the_model_has_latents(model: str) -> None:
    digits = load("digits")
    vae = build(model, digits)
    latents = vae.prior().event_shape[0]
    levels = 1 if model == "gaussian" else 2
    said = figures_of(RECORD | {"kl": [1.0] * levels})
    assert said.endswith(f" 9 of {latents}")


# --- pictures ---------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, while they can still be asked."""
    figures: list[Figure] = []
    save = pictures._save

    def spy(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(pictures, "_save", spy)
    return figures


def points(axis: Axes, label: str) -> np.ndarray:
    (line,) = (line for line in axis.get_lines() if line.get_label() == label)
    return np.column_stack(line.get_data())


def shown(axis: Axes) -> np.ndarray:
    (image,) = axis.get_images()
    return np.asarray(image.get_array())


def pixels(path: Path) -> np.ndarray:
    found = imread(path)
    assert found[..., :3].std() > 0.02, "the picture is not blank"
    assert (found[0, 0, :3] == 1).all(), "on white"
    return found


def test_points_are_drawn_above_those_of_the_test_data(tmp_path: Path, drawn: list[Figure]) -> None:
    rings = load("rings")
    x = torch.rand(30, 2)
    path = tmp_path / "new" / "points.png"
    assert draw_samples(x, rings, path) == path
    pixels(path)
    (axis,) = drawn[0].axes
    assert np.allclose(points(axis, "samples"), x)
    assert np.allclose(points(axis, "test data"), rings.test)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["test data", "samples"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("$x_1$", "$x_2$")
    assert [file.name for file in path.parent.iterdir()] == ["points.png"]


@pytest.mark.parametrize(
    ("name", "count", "shape"), [("digits", 23, (3, 10)), ("dynamic-mnist", 7, (1, 10))]
)
def test_images_are_drawn_in_rows_of_ten_in_their_order(
    name: str, count: int, shape: tuple[int, int], tmp_path: Path, drawn: list[Figure]
) -> None:
    data = outline(name)
    x = torch.rand(count, data.features)
    draw_samples(x, data, tmp_path / "images.png", "a title")
    pixels(tmp_path / "images.png")
    (figure,) = drawn
    assert figure._suptitle is not None and figure._suptitle.get_text() == "a title"
    assert len(figure.axes) == shape[0] * shape[1]
    assert data.image_shape is not None
    for axis, image in zip(figure.axes[:count], x, strict=True):
        assert np.allclose(shown(axis), image.reshape(data.image_shape))
    assert not any(axis.get_images() for axis in figure.axes[count:])


def test_a_run_of_points_is_drawn_with_as_many_samples_as_test_points(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    rings = load("rings")
    torch.manual_seed(5)
    draw_run(build("gaussian", rings), rings, tmp_path / "run.png")
    (axis,) = drawn[0].axes
    assert len(points(axis, "samples")) == len(points(axis, "test data")) == 1000
    first = (tmp_path / "run.png").read_bytes()
    torch.manual_seed(5)
    vae = build("gaussian", rings)
    torch.manual_seed(6)
    draw_run(vae, rings, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes() == first, "the same picture every time"


def test_a_run_of_images_is_drawn_with_test_images_below_samples_and_above_reconstructions(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    digits = load("digits")
    vae = build("gaussian", digits)
    draw_run(vae, digits, tmp_path / "run.png")
    pixels(tmp_path / "run.png")
    (figure,) = drawn
    assert len(figure.axes) == 50
    images = torch.stack([torch.as_tensor(shown(axis)).flatten() for axis in figure.axes])
    assert torch.equal(images[30:40], digits.test[:10])
    torch.manual_seed(0)
    assert torch.allclose(images[:30], vae.sample(30, mean=True))
    assert torch.allclose(images[40:], vae.reconstruct(digits.test[:10]))


def test_a_full_disk_keeps_the_picture_that_was_there(
    tmp_path: Path, full_disk: Callable[[str | None], None]
) -> None:
    path = tmp_path / "images.png"
    path.write_bytes(b"precious")
    full_disk("images.png")
    with pytest.raises(InputError, match="No space left"):
        draw_samples(torch.rand(3, 64), load("digits"), path)
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["images.png"]


# --- the report -------------------------------------------------------------------------------


def kept_run(folder: Path, model: str, data: Data, beta: float = 1.0, seed: int = 0) -> Record:
    """A record, and in the folder what its run left: untrained weights, for a picture enough."""
    torch.manual_seed(seed)
    run = folder / run_name(model, data.name, beta, seed)
    trained = Trained(
        build(model, data), model, data.name, seed, beta, {}, History([1.0], [-1.0], [0.0], 1)
    )
    save_trained(trained, run / "weights.safetensors")
    # `draw_report` only asks whether there is one, and `load_trained` what is in it.
    (run / "checkpoint.pt").touch()
    return RECORD | {"model": model, "data": data.name, "beta": beta, "seed": seed}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are loaded, from their weights."""
    names, load_trained = [], pictures.load_trained

    def spy(path: Path) -> Trained:
        assert path.name == "checkpoint.pt"
        names.append(path.parent.name)
        return load_trained(path.with_name("weights.safetensors"))

    monkeypatch.setattr(pictures, "load_trained", spy)
    return names


def names_of_rows(figure: Figure) -> list[str]:
    return [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]


def test_the_report_draws_the_first_run_of_each_model_at_beta_1(
    tmp_path: Path, drawn: list[Figure], loaded: list[str]
) -> None:
    digits, binary = load("digits"), load("digits-binary")
    runs = tmp_path / "runs"
    records = [
        kept_run(runs, "gaussian", digits),
        kept_run(runs, "gaussian", digits, seed=1),
        kept_run(runs, "gaussian", digits, beta=0.5),
        kept_run(runs, "vampprior", digits),
        kept_run(runs, "mixture", digits),
        kept_run(runs, "gaussian", binary),
        kept_run(runs, "gaussian", load("rings")),
    ]
    (runs / "digits-mixture-seed0" / "checkpoint.pt").unlink()
    found = draw_report(records, runs, tmp_path / "pictures")
    names = [
        f"{data}-{kind}.png"
        for data in ("digits", "digits-binary")
        for kind in ("reconstructions", "samples")
    ]
    assert found == [tmp_path / "pictures" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(names)
    for path in found:
        pixels(path)
    assert [names_of_rows(figure) for figure in drawn] == [
        ["test images", "gaussian", "vampprior"], ["gaussian", "vampprior"],
        ["test images", "gaussian"], ["gaussian"],
    ]  # fmt: skip
    assert loaded == [
        "digits-gaussian-seed0", "digits-vampprior-seed0", "digits-binary-gaussian-seed0"
    ]  # fmt: skip
    assert all(len(figure.axes) % pictures.COLUMNS == 0 for figure in drawn)
    originals = [shown(axis).flatten() for axis in drawn[0].axes[: pictures.COLUMNS]]
    assert np.allclose(originals, digits.test[: pictures.COLUMNS])


@pytest.mark.parametrize("left", ["nothing", "points", "no checkpoint"])
def test_a_report_with_nothing_to_draw_says_so_and_makes_no_folder(
    left: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    records: list[dict[str, Any]] = []
    if left != "nothing":
        data = load("rings" if left == "points" else "digits")
        records = [kept_run(runs, "gaussian", data)]
    if left == "no checkpoint":
        (runs / "digits-gaussian-seed0" / "checkpoint.pt").unlink()
    with pytest.raises(InputError) as error:
        draw_report(records, runs, tmp_path / "pictures")
    assert re.fullmatch(rf"no checkpoint in {re.escape(str(runs))} [^\n]*", str(error.value))
    assert not (tmp_path / "pictures").exists()


def test_a_checkpoint_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    record = kept_run(runs, "gaussian", load("digits"))
    with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
        draw_report([record], runs, tmp_path / "pictures")
