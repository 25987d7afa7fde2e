"""A panel for a live kernel: move the latent of a picture and see what a VAE makes of it."""

import base64
import html
import io
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from ..distributions import Chain
from ..errors import InputError
from ..plots import COLOURS
from ..vae import VAE

# Samples of the prior, and of each picture's posterior, that are drawn.
SAMPLES = 400
# A first move, so that the still picture shows what a move does.
FIRST_MOVE = 1.5
# Of the figure, in pixels of the page.
WIDTH = 700


class LatentPanel:
    """Sliders that move a picture's latent, and a figure of what becomes of it.

    The figure shows samples of p(z) and q(z | x) in two units of the latent with the moved point,
    the picture, the decoder's means at the posterior's mean and at the moved latent, and for both
    latents log p(x | z), log p(z) and log q(z | x), in nats. A move is measured in standard
    deviations that p(z) has in that unit. The other units stay at the posterior's mean, those of
    the other level of a hierarchy too. Means and deviations are those of the samples.

    It needs a kernel. Where there is none, the cell shows the figure as it was first drawn.

    Example:
        >>> from flowvae_tutorial import build
        >>> from flowvae_tutorial.data import load
        >>> from flowvae_tutorial.notebook.panel import LatentPanel
        >>> data = load("digits")
        >>> vae = build("gaussian", data)
        >>> panel = LatentPanel(vae, data.test[:20], data.image_shape)
        >>> panel.picture.value = 3  # as its slider would
    """

    def __init__(self, vae: VAE, images: Tensor, image_shape: tuple[int, int]) -> None:
        """Draw all samples, with no effect on the caller's random numbers, and set up the controls.

        Args:
            vae: any prior and posterior over two latent units or more.
            images: `(N, X)`, the pictures to choose from.
            image_shape: their height and width.

        Raises:
            InputError: the model does not take these images, `image_shape` does not fit them, or
                the latent has one unit only.
        """
        self.vae, self.images, self.image_shape = vae, images, image_shape
        cuda = [images.device] if getattr(images, "is_cuda", False) else []
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            vae.elbo(images)  # refuses what is no batch of examples
            prior = vae.prior()
            self._prior_samples = prior.sample((SAMPLES,))
            self._posterior_samples = vae.posterior(images).sample((SAMPLES,))
        if image_shape[0] * image_shape[1] != vae.features:
            raise InputError(
                f"image_shape {image_shape} does not fit images of {vae.features} pixels: "
                "give height and width"
            )
        if prior.event_shape[0] < 2:
            raise InputError(
                "a panel draws two units of the latent and this model has one: make it larger"
            )
        self._names = _unit_names(prior)
        self._means = self._posterior_samples.mean(0)
        self._unit = self._prior_samples.std(0)
        # The units that the pictures settle best come first, and idle ones last.
        width = (self._posterior_samples.std(0) / self._unit).mean(0)
        options = [(self._names[d], d) for d in width.argsort().tolist()]

        self.picture = _control(
            ipywidgets.IntSlider, "picture", "the picture x", min=1, max=len(images)
        )
        self.units = [
            _control(
                ipywidgets.Dropdown, f"unit drawn {way}", "idle units come last",
                options=options, value=options[k][1],
            )
            for k, way in enumerate(("across", "upwards"))
        ]  # fmt: skip
        self.moves = [
            _control(
                ipywidgets.FloatSlider, f"move {way}, in sd", "sd: that of p(z) in this unit",
                min=-3, max=3, step=0.1, value=value, readout_format="+.1f",
            )
            for way, value in (("across", FIRST_MOVE), ("upwards", 0))
        ]  # fmt: skip
        self.back = ipywidgets.Button(
            description="back to the posterior's mean", layout={"width": "auto"}
        )
        self._shown = ipywidgets.HTML()
        self._redraw()
        for control in (self.picture, *self.units, *self.moves):
            control.observe(self._redraw, "value")
        self.back.on_click(self._back)
        rows = [[self.picture, self.back], *zip(self.units, self.moves, strict=True)]
        wrap = {"flex_flow": "row wrap"}
        self._box = ipywidgets.VBox(
            [*(ipywidgets.HBox(list(row), layout=wrap) for row in rows), self._shown]
        )

    def _back(self, _: object) -> None:
        for move in self.moves:
            move.value = 0.0

    def _redraw(self, _: object = None) -> None:
        buffer = io.BytesIO()
        figure, text = self._draw()
        # Twice the pixels that the page is told of, for screens that have them.
        figure.savefig(buffer, format="png", dpi=200, facecolor="white")
        self._png = base64.b64encode(buffer.getvalue()).decode()
        self._shown.value = (
            f'<img src="data:image/png;base64,{self._png}" alt="{html.escape(text)}" '
            f'width="{WIDTH}" '
            'style="max-width:100%;height:auto;background:#fff">'
        )

    @torch.no_grad()
    def _draw(self) -> tuple[Figure, str]:
        """The figure, and what it says in words."""
        n = self.picture.value - 1
        x, across = self.images[n : n + 1], [unit.value for unit in self.units]
        mean = self._means[n]
        moved = mean.clone()
        for d, move in zip(across, self.moves, strict=True):
            moved[d] += move.value * self._unit[d]
        z = torch.stack([mean, moved]).unsqueeze(1)
        p_x = self.vae.likelihood(z)
        nats = {
            "log p(x | z)": p_x.log_prob(x),
            "log p(z)": self.vae.prior().log_prob(z),
            "log q(z | x)": self.vae.posterior(x).log_prob(z),
        }

        figure = Figure(figsize=(WIDTH / 100, 3.6))
        left = figure.add_axes((0.095, 0.15, 0.36, 0.72))
        clouds = {
            "p(z)": (self._prior_samples, COLOURS[0]),
            "q(z | x)": (self._posterior_samples[:, n], COLOURS[3]),
        }
        for name, (samples, colour) in clouds.items():
            left.plot(*samples[:, across].cpu().T, ".", color=colour, markersize=3, label=name)
        way = torch.stack([mean, moved])[:, across].cpu()
        left.plot(*way.T, "-", color="black", linewidth=1)
        left.plot(*way[1], "D", color=COLOURS[1], markeredgecolor="black", label="moved z")
        limits = [self._limits(d, moved[d]) for d in across]
        left.set(xlim=limits[0], ylim=limits[1])
        left.set(xlabel=self._names[across[0]], ylabel=self._names[across[1]])
        left.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, markerscale=1.5,
            handletextpad=0.1, columnspacing=1,
        )  # fmt: skip

        pictures = torch.cat([x, *p_x.mean])
        titles = ("picture x", "posterior's mean", "moved z")
        for k, (title, pixels) in enumerate(zip(titles, pictures, strict=True)):
            axis = figure.add_axes((0.495 + 0.168 * k, 0.45, 0.16, 0.311))
            axis.imshow(
                pixels.reshape(self.image_shape).cpu().numpy(), cmap="gray_r", vmin=0, vmax=1,
                interpolation="nearest",
            )  # fmt: skip
            axis.set_title(title, fontsize="medium")
            axis.set(xticks=[], yticks=[])
        for row, (name, values) in enumerate(nats.items()):
            height = 0.345 - 0.085 * row
            figure.text(0.655, height, f"{name} (nats)", ha="right")
            for k, value in enumerate(values.flatten().tolist()):
                figure.text(0.785 + 0.168 * k, height, _nats(value), ha="right")
        words = (
            f"{name} goes from {_nats(start)} to {_nats(end)} nats"
            for name, (start, end) in ((k, v.flatten().tolist()) for k, v in nats.items())
        )
        return figure, f"Picture {n + 1}, its latent moved: {', '.join(words)}."

    def _limits(self, d: int, point: Tensor) -> tuple[float, float]:
        """Around the prior in unit d, and further if the point is outside."""
        centre, reach = self._prior_samples[:, d].mean(), 3.5 * self._unit[d]
        low, high = torch.minimum(centre - reach, point), torch.maximum(centre + reach, point)
        margin = 0.05 * (high - low)
        return float(low - margin), float(high + margin)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Where no kernel answers, a page or GitHub falls back on the picture.
        view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
        data = {
            "text/plain": "a panel to move a latent with, and its figure",
            "image/png": self._png,
            "application/vnd.jupyter.widget-view+json": view,
        }
        return data, {"image/png": {"width": WIDTH}}


def _unit_names(prior: Distribution) -> list[str]:
    if not isinstance(prior, Chain):
        return [f"unit {d + 1} of z" for d in range(prior.event_shape[0])]
    top = prior.first.event_shape[0]
    upper = [f"unit {d + 1} of z₂, the top level" for d in range(top)]
    return [*upper, *(f"unit {d + 1} of z₁" for d in range(prior.event_shape[0] - top))]


def _control(kind: Any, description: str, tip: str, **settings: Any) -> Any:
    control = kind(
        description=description, style={"description_width": "11em"}, layout={"width": "28em"},
        **settings,
    )  # fmt: skip
    # Unset, a mouse over the label brings up the word "null".
    control.tooltip = tip
    return control


def _nats(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")
