"""Every figure is drawn without a screen, is labelled, and leaves nothing else open."""

from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from flowvae_tutorial import History, plots


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


HISTORY = History(
    loss=[9.0, 5.0, 4.0], reconstruction=[-6.0, -3.0, -2.0], kl=[1.0, 2.0, 4.0], best_epoch=2
)
IMAGES = torch.arange(12 * 6).reshape(12, 6) / 72


def decode(z: Tensor) -> Tensor:
    """An image of four pixels: both latents, then 0 and 1."""
    return torch.cat([z, torch.zeros(len(z), 1), torch.ones(len(z), 1)], dim=1)


def normal(z: Tensor) -> Tensor:
    return -0.5 * (z**2).sum(dim=-1)


VARIANCES = torch.tensor([0.001, 0.9, 0.02])
DRAW = {
    "history": lambda: plots.plot_history(HISTORY),
    "images": lambda: plots.plot_images(IMAGES, (2, 3)),
    "reconstructions": lambda: plots.plot_reconstructions(IMAGES[:3], IMAGES[3:6], (2, 3)),
    "latents": lambda: plots.plot_latents(torch.randn(20, 2), torch.arange(20) % 4),
    "densities": lambda: plots.plot_densities({"one": normal, "two": lambda z: normal(2 * z)}),
    "densities of data": lambda: plots.plot_densities({"one": normal}, of_data=True),
    "posteriors of an image": lambda: plots.plot_posteriors(
        IMAGES[0], {"true": torch.rand(5, 5), "fitted": torch.rand(5, 5)}, (-1, 1, -2, 2), (2, 3)
    ),
    "posteriors of a point": lambda: plots.plot_posteriors(
        torch.zeros(2), {"true": torch.rand(5, 5)}, (-1, 1, -2, 2), others=torch.rand(9, 2)
    ),
    "variances": lambda: plots.plot_unit_variances(VARIANCES),
    "rows": lambda: plots.plot_rows({"a": IMAGES[:4], "b": IMAGES[4:8]}, (2, 3), title="rows"),
    "grid": lambda: plots.plot_decoded_grid(decode, (2, 2), steps=5),
}


@pytest.mark.parametrize("name", DRAW)
def test_each_function_returns_its_one_figure_and_opens_no_other(name: str) -> None:
    figure = DRAW[name]()
    assert isinstance(figure, Figure)
    assert [plt.figure(number) for number in plt.get_fignums()] == [figure]
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    assert pixels[..., :3].std() > 1, "the picture is not blank"


def labels(figure: Figure) -> list[tuple[str, str]]:
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


def test_axes_say_what_they_show_with_units_in_brackets() -> None:
    assert labels(DRAW["history"]()) == [
        ("epoch", "validation ELBO (nats per example)"),
        ("epoch", "validation KL (nats per example)"),
    ]  # fmt: skip
    assert [y for _, y in labels(DRAW["reconstructions"]())][::3] == ["original", "reconstructed"]
    assert [y for _, y in labels(DRAW["rows"]())][::4] == ["a", "b"]
    assert labels(DRAW["densities of data"]())[0] == ("$x_1$", "$x_2$")
    assert labels(DRAW["posteriors of a point"]()) == [("$x_1$", "$x_2$"), ("$z_1$", "$z_2$")]
    assert labels(DRAW["variances"]()) == [
        ("latent unit, sorted", "variance of the posterior mean")
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "maps"), [("latents", 1), ("grid", 1), ("densities", 2)])
def test_both_axes_of_a_latent_map_are_named(name: str, maps: int) -> None:
    # A latent has no unit: with a learned prior its scale is the model's own choice.
    assert labels(DRAW[name]())[:maps] == [("$z_1$", "$z_2$")] * maps


def test_the_history_shows_both_curves_and_marks_the_best_epoch() -> None:
    elbo, kl = DRAW["history"]().axes
    assert elbo.lines[0].get_xydata().tolist() == [[1, -7], [2, -5], [3, -6]]
    assert set(elbo.lines[1].get_xdata()) == {2}
    assert [text.get_text() for text in elbo.texts] == ["best: 2"]
    assert kl.lines[0].get_ydata().tolist() == [1, 2, 4]


def test_a_history_of_one_epoch_can_be_drawn() -> None:
    plots.plot_history(History([9.0], [-6.0], [1.0], best_epoch=1)).canvas.draw()


def test_the_steep_start_of_a_long_history_does_not_flatten_the_rest() -> None:
    elbo = [-1000.0] + [-50 + i / 10 for i in range(30)]
    axis = plots.plot_history(History(elbo, elbo, [0.0] * 31, best_epoch=31)).axes[0]
    low, high = axis.get_ylim()
    assert low > -60 and high > max(elbo)


def shown(figure: Figure) -> list[list[list[float]]]:
    return [a.images[0].get_array().tolist() for a in figure.axes if a.images]


def test_images_fill_the_grid_row_by_row_and_empty_places_stay_empty() -> None:
    figure = plots.plot_images(IMAGES, (2, 3), columns=5)
    assert len(figure.axes) == 15
    assert shown(figure) == IMAGES.reshape(12, 2, 3).tolist()
    assert not any(axis.axison for axis in figure.axes)


def test_ink_is_dark_and_paper_white_whatever_the_range_of_the_images() -> None:
    (image,) = plots.plot_images(torch.full((1, 6), 0.5), (2, 3), columns=1).axes[0].images
    assert to_hex(image.cmap(image.norm(0.0))) == "#ffffff"
    assert to_hex(image.cmap(image.norm(1.0))) == "#000000"


def test_reconstructions_lie_below_their_originals() -> None:
    figure = DRAW["reconstructions"]()
    assert shown(figure) == IMAGES[:6].reshape(6, 2, 3).tolist()
    above, below = figure.axes[0].get_position(), figure.axes[3].get_position()
    assert above.x0 == below.x0 and above.y0 > below.y0


def test_images_that_carry_a_gradient_can_be_drawn() -> None:
    plots.plot_images(IMAGES.clone().requires_grad_(), (2, 3))


def test_latents_and_densities_that_carry_a_gradient_can_be_drawn() -> None:
    z = torch.rand(9, 2, requires_grad=True)
    plots.plot_latents(z, torch.arange(9) % 3)
    plots.plot_unit_variances(z.var(dim=0))
    density = {"q": torch.rand(5, 5, requires_grad=True)}
    plots.plot_posteriors(z[0], density, (-1, 1, -1, 1), others=z)


def test_each_latent_is_drawn_as_the_number_of_its_class() -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [7.0, 8.0]])
    (axis,) = plots.plot_latents(z, torch.tensor([3, 3, 3, 5])).axes
    drawn = {line.get_marker(): line.get_xydata().tolist() for line in axis.lines}
    assert drawn == {"$3$": z[:3].tolist(), "$5$": z[3:].tolist()}
    assert len({to_hex(line.get_color()) for line in axis.lines}) == 2
    assert axis.get_aspect() == 1


def test_the_circle_of_the_latent_map_holds_95_percent_of_a_standard_normal() -> None:
    (circle,) = DRAW["latents"]().axes[0].patches
    inside = torch.randn(100_000, 2).norm(dim=1) < circle.radius
    assert inside.float().mean().item() == pytest.approx(0.95, abs=0.004)


def test_densities_are_drawn_on_one_scale_the_right_way_up() -> None:
    figure = plots.plot_densities({"a": lambda z: normal(z - torch.tensor([1.0, 2.0])),
                                   "b": lambda z: normal(z) - 1})  # fmt: skip
    images = [axis.images[0] for axis in figure.axes[:2]]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    assert images[0].get_clim() == images[1].get_clim()
    row, column = np.unravel_index(images[0].get_array().argmax(), images[0].get_array().shape)
    left, right, bottom, top = images[0].get_extent()
    size = images[0].get_array().shape[0] - 1
    assert left + (right - left) * column / size == pytest.approx(1, abs=0.1)
    assert bottom + (top - bottom) * row / size == pytest.approx(2, abs=0.1)
    assert images[0].origin == "lower"


def test_posteriors_are_drawn_on_one_scale_with_the_first_latent_to_the_right() -> None:
    values = {"low": torch.zeros(3, 3), "high": torch.zeros(3, 3)}
    values["high"][2, 0] = 4.0  # the largest z₁, the smallest z₂
    figure = plots.plot_posteriors(IMAGES[0], values, (-1, 1, -2, 2), (2, 3))
    low, high = (axis.images[0] for axis in figure.axes[1:])
    assert low.get_clim() == high.get_clim() == (0, 4)
    assert high.get_array()[0, 2] == 4 and high.origin == "lower"
    assert tuple(high.get_extent()) == (-1, 1, -2, 2)


def test_units_are_sorted_and_those_above_the_threshold_stand_out() -> None:
    bars = plots.plot_unit_variances(VARIANCES).axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.9, 0.02, 0.001])
    colours = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colours[0] == colours[1] != colours[2]


def test_the_decoded_grid_has_the_first_latent_to_the_right_and_the_second_upwards() -> None:
    (axis,) = plots.plot_decoded_grid(decode, (2, 2), extent=2, steps=3).axes
    canvas = torch.tensor(axis.images[0].get_array())
    # The upper left pixel of each image is z1, the upper right z2; row 0 is drawn on top.
    # Around each image of 2 by 2 pixels there is a margin of one.
    assert canvas.shape == (12, 12) and not canvas[::4].any() and not canvas[:, ::4].any()
    assert canvas[1::4, 1::4].tolist() == [[-2, 0, 2]] * 3
    assert canvas[1::4, 2::4].tolist() == [[2] * 3, [0] * 3, [-2] * 3]
    # Centres of the outer images lie at the extent.
    left, right, bottom, top = axis.images[0].get_extent()
    assert (left, right, bottom, top) == (-3, 3, -3, 3)
    assert axis.images[0].origin == "upper"


def test_ten_classes_have_ten_colours() -> None:
    assert len(set(plots.COLOURS)) == 10
