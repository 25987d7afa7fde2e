"""The panel of latents: what it shows is true of every model, and it works in a JupyterLab page."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page, expect
from torch import Tensor, nn

import book
from flowvae_tutorial import (
    VAE,
    BernoulliLikelihood,
    GaussianLikelihood,
    GaussianPosterior,
    InputError,
    StandardNormal,
    build,
)
from flowvae_tutorial.data import load
from flowvae_tutorial.models import Sizes
from flowvae_tutorial.networks import mlp
from flowvae_tutorial.notebook.panel import LatentPanel
from test_browser import browser  # noqa: F401

SMALL = Sizes(latent=4, hidden=(16,), components=3, pseudo_inputs=5, transforms=2, flow_hidden=(8,))
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBER = r"(−?[\d.]+)"


def words(panel: LatentPanel) -> str:
    """The panel's figure in words."""
    found = re.search(r'alt="([^"]*)"', panel._shown.value)
    assert found
    return found[1]


def nats(panel: LatentPanel) -> Tensor:
    """What it shows, `(3, 2)`: log p(x | z), log p(z), log q(z | x), at the mean and when moved."""
    pairs = re.findall(rf"(log .*?) goes from {NUMBER} to {NUMBER} nats", words(panel))
    assert [name for name, _, _ in pairs] == ["log p(x | z)", "log p(z)", "log q(z | x)"]
    return torch.tensor([[float(v.replace("−", "-")) for v in values] for _, *values in pairs])


def picture(panel: LatentPanel) -> bytes:
    found = re.search(r"base64,([^\"]*)", panel._shown.value)
    assert found
    return base64.b64decode(found[1])


def simple(scales: tuple[float, ...] = (0.1, 1.0, 0.5)) -> VAE:
    """The posterior is centred on the first pixels, with these scales."""

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            log_scale = torch.tensor(scales).log().expand(len(x), -1)
            return torch.cat([x[:, : len(scales)], log_scale], dim=-1)

    features = len(scales)
    likelihood = GaussianLikelihood(mlp(features, (), 6), 6)
    return VAE(StandardNormal(features), GaussianPosterior(Encoder()), likelihood)


# --- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", ["linear_gaussian", "two_levels"])
def test_where_the_posterior_is_exact_bayes_rule_holds_at_every_latent(
    request: pytest.FixtureRequest, oracle: str
) -> None:
    exact = request.getfixturevalue(oracle)()
    x = exact.data(3)
    panel = LatentPanel(exact.vae, x, (2, 3))
    for n, across, upwards in ((1, 1.5, 0.0), (2, -0.7, 2.1), (3, 3.0, -3.0)):
        panel.picture.value = n
        panel.moves[0].value, panel.moves[1].value = across, upwards
        log_likelihood, log_prior, log_q = nats(panel)
        log_p = log_likelihood + log_prior - log_q
        # Three numbers, each rounded to a tenth.
        torch.testing.assert_close(log_p, exact.log_p(x)[n - 1].float().expand(2), rtol=0, atol=0.2)
        assert (log_prior - log_q).diff().abs() > 0.5, "the two latents differ"


def test_a_move_of_one_unit_is_as_long_as_the_slider_says() -> None:
    vae, x = simple(), torch.tensor([[0.5, -0.2, 0.8, 0, 0, 0]])
    panel = LatentPanel(vae, x, (2, 3))
    panel.units[0].value, panel.units[1].value = 2, 0
    panel.moves[0].value, panel.moves[1].value = 0, -2
    assert nats(panel)[1].diff().item() == pytest.approx(-((0.5 - 2) ** 2 - 0.5**2) / 2, abs=0.5)
    assert nats(panel)[2].diff().item() == pytest.approx(-((2 / 0.1) ** 2) / 2, rel=0.2)
    panel.moves[0].value, panel.moves[1].value = 1, 0
    assert nats(panel)[1].diff().item() == pytest.approx(-((0.8 + 1) ** 2 - 0.8**2) / 2, abs=0.3)


def test_units_that_the_picture_settles_come_first_and_idle_ones_last() -> None:
    panel = LatentPanel(simple(), torch.rand(2, 6), (2, 3))
    names = ["unit 1 of z", "unit 3 of z", "unit 2 of z"]
    for k, unit in enumerate(panel.units):
        assert [name for name, _ in unit.options] == names
        assert unit.label == names[k]


def test_the_units_of_a_hierarchy_name_their_level(two_levels: Callable[[], Any]) -> None:
    exact = two_levels()
    panel = LatentPanel(exact.vae, exact.data(2), (2, 3))
    ordered = dict(sorted((d, name) for name, d in panel.units[0].options))
    upper = [f"unit {d} of z₂, the top level" for d in (1, 2)]
    assert list(ordered.values()) == upper + [f"unit {d} of z₁" for d in (1, 2, 3)]


@pytest.mark.parametrize(
    "name",
    [
        "gaussian",
        "mixture",
        "vampprior",
        "hvae",
        "hierarchical-vampprior",
        "hierarchical-flow-prior",
        "flow-prior",
        "spline-flow-prior",
        "flow-posterior",
        "spline-flow-both",
    ],
)
def test_every_model_of_the_book_is_shown(name: str) -> None:
    # Of a Bernoulli likelihood, whose images are not its means.
    data = load("digits-binary")
    vae, x = build(name, data, SMALL), data.test[1:2]
    panel = LatentPanel(vae, data.test[:3], data.image_shape)
    panel.picture.value, panel.moves[1].value = 2, -2.0
    z = panel._means[1].clone()
    for unit, move in zip(panel.units, panel.moves, strict=True):
        z[unit.value] += move.value * panel._prior_samples[:, unit.value].std()
    with torch.no_grad():
        log_likelihood = vae.likelihood(z.reshape(1, 1, -1)).log_prob(x).squeeze(0)
        direct = [log_likelihood, vae.prior().log_prob(z[None]), vae.posterior(x).log_prob(z[None])]
    torch.testing.assert_close(nats(panel)[:, 1], torch.cat(direct), rtol=0, atol=0.06)
    assert (nats(panel)[1:, 0] != nats(panel)[1:, 1]).all()


def test_each_control_changes_the_figure_and_takes_it_back() -> None:
    panel = LatentPanel(simple(), torch.rand(3, 6), (2, 3))
    assert words(panel).startswith("Picture 1,")
    first = picture(panel)
    seen = {first}
    for control, value in (
        (panel.picture, 3),
        (panel.moves[0], -1.0),
        (panel.moves[1], 1.0),
        (panel.units[0], 1),
        (panel.units[1], 1),
    ):
        before, control.value = control.value, value
        assert picture(panel) not in seen
        seen.add(picture(panel))
        control.value = before
        # To the last dot: the samples are not drawn again.
        assert picture(panel) == first


def test_the_button_leads_back_to_the_posteriors_mean() -> None:
    panel = LatentPanel(simple(), torch.rand(3, 6), (2, 3))
    panel.moves[1].value = 2.0
    assert (nats(panel)[:, 0] != nats(panel)[:, 1]).any()
    panel.back.click()
    assert [move.value for move in panel.moves] == [0, 0]
    assert (nats(panel)[:, 0] == nats(panel)[:, 1]).all()


def test_every_control_has_a_label_of_its_own() -> None:
    panel = LatentPanel(simple(), torch.rand(3, 6), (2, 3))
    controls = [panel.picture, *panel.units, *panel.moves, panel.back]
    labels = {control.description for control in controls}
    assert len(labels) == 6 and all(labels)


# --- what is left alone -----------------------------------------------------------------------


def test_the_callers_random_numbers_are_as_before() -> None:
    vae, x = simple(), torch.rand(3, 6)
    state = torch.get_rng_state()
    panel = LatentPanel(vae, x, (2, 3))
    assert torch.equal(torch.get_rng_state(), state)
    panel.picture.value, panel.moves[0].value = 2, 0.5
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_kept_for_a_gradient() -> None:
    images = load("digits")
    vae = build("spline-flow-both", images, SMALL)

    def kept(tensor: Tensor) -> Tensor:
        raise AssertionError("a graph was built")

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        panel = LatentPanel(vae, images.test[:2], images.image_shape)
        panel.moves[0].value = 0.5
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_no_figure_is_left_open() -> None:
    plt.close("all")
    LatentPanel(simple(), torch.rand(3, 6), (2, 3))
    assert plt.get_fignums() == []


def test_the_figure_is_drawn_anew_in_less_than_a_second() -> None:
    images = load("digits")
    panel = LatentPanel(build("spline-flow-both", images), images.test[:2], images.image_shape)
    times = []
    for value in (0.1, 0.2, 0.3):
        begin = time.process_time()
        panel.moves[0].value = value
        times.append(time.process_time() - begin)
    assert min(times) < 1


# --- what is refused --------------------------------------------------------------------------

PICTURES = torch.rand(3, 6)
BINARY = VAE(
    StandardNormal(2), GaussianPosterior(mlp(6, (), 4)), BernoulliLikelihood(mlp(2, (), 6))
)


@pytest.mark.parametrize(
    ("vae", "images", "shape", "message"),
    [
        (simple(), PICTURES, (3, 3), r"image_shape \(3, 3\) does not fit images of 6 pixels"),
        (simple((0.5,)), PICTURES, (2, 3), "two units of the latent and this model has one"),
        (simple(), PICTURES.reshape(3, 2, 3), (2, 3), "flatten each example"),
        (simple(), PICTURES[:0], (2, 3), "x is empty"),
        (simple(), PICTURES.tolist(), (2, 3), "x must be a tensor"),
        (BINARY, PICTURES, (2, 3), "binarise the images"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    vae: VAE, images: Tensor, shape: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        LatentPanel(vae, images, shape)
    assert "\n" not in str(error.value)


# --- in a notebook ----------------------------------------------------------------------------


def test_a_cell_shows_controls_and_a_still_for_where_there_is_no_kernel() -> None:
    panel = LatentPanel(simple(), torch.rand(3, 6), (2, 3))
    data, told = DisplayFormatter().format(panel)
    assert told == {"image/png": {"width": 700}}
    assert int.from_bytes(picture(panel)[16:20], "big") == 1400
    assert set(data) == {"text/plain", "image/png", WIDGET}
    assert data[WIDGET]["model_id"] == panel._box.model_id
    assert base64.b64decode(data["image/png"]) == picture(panel)
    assert "0x" not in data["text/plain"], "the text is compared from run to run"


@pytest.mark.parametrize(
    "path", sorted(book.ROOT.glob("book/0[1-7]_*.ipynb")), ids=lambda p: p.stem
)
def test_chapters_1_to_7_have_a_panel_with_a_still(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    [cell] = [c for c in cells if c.cell_type == "code" and "LatentPanel(" in c.source]
    shown = [set(output.data) for output in cell.outputs if "data" in output]
    assert shown == [{"text/plain", "image/png"}]


CELL = """\
import torch
from flowvae_tutorial import VAE, GaussianLikelihood, GaussianPosterior
from flowvae_tutorial import StandardNormal
from flowvae_tutorial.networks import mlp
from flowvae_tutorial.notebook.panel import LatentPanel

torch.manual_seed(0)
posterior = GaussianPosterior(mlp(16, (), 6))
likelihood = GaussianLikelihood(mlp(3, (), 16), 16)
LatentPanel(VAE(StandardNormal(3), posterior, likelihood), torch.rand(5, 16), (4, 4))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with a panel, as the book stores it."""
    path = tmp_path_factory.mktemp("notebooks") / "panel.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CELL)]), path)
    book.execute(str(path))
    return path


def test_the_book_stores_the_still_and_no_widget(notebook: Path) -> None:
    stored = nbformat.read(notebook, as_version=4)
    assert [set(output.data) for output in stored.cells[0].outputs] == [{"text/plain", "image/png"}]
    assert "widgets" not in stored.metadata


@contextmanager
def jupyterlab(folder: Path, home: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves a folder and keeps its own files in `home`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    # JupyterLab would ask whether to fetch news.
    settings = home / own[0] / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    quiet = {"@jupyterlab/apputils-extension:announcements": True}
    settings.write_text(json.dumps({"disabledExtensions": quiet}))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {**os.environ, **{name: str(home / name) for name in own}}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=60).close()
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        # It ends its kernels with it, if it is given the time.
        server.terminate()
        try:
            server.wait(30)
        finally:
            server.kill()
            server.wait()


@dataclass
class Shown:
    """The panel in the page that the browser shows."""

    page: Page

    @property
    def figure(self) -> Locator:
        return self.page.locator(".jp-OutputArea-output .widget-html img")

    def after(self, act: Callable[[], Any]) -> str:
        """The figure in words, once something has been done that should change it."""
        before = self.figure.get_attribute("src")
        act()
        expect(self.figure).not_to_have_attribute("src", str(before))
        assert self.figure.evaluate("e => e.decode().then(() => e.naturalWidth)") > 400
        return str(self.figure.get_attribute("alt"))


def test_in_jupyterlab_the_keyboard_moves_the_latent_and_chooses_the_picture(
    request: pytest.FixtureRequest, notebook: Path, tmp_path: Path
) -> None:
    chromium = request.getfixturevalue("browser")
    outside: list[str] = []
    with jupyterlab(notebook.parent, tmp_path) as address, chromium.new_context() as context:
        context.set_default_timeout(120_000)
        expect.set_options(timeout=60_000)
        page = context.new_page()
        page.on("request", lambda request: outside.append(request.url))
        page.goto(f"{address}/lab/tree/{notebook.name}")
        output = page.locator(".jp-OutputArea-output")
        # What is stored: the still, and no complaint about a widget that is gone.
        output.locator("img").wait_for()
        assert output.inner_text().strip() == ""
        assert output.get_by_role("slider").count() == 0

        # A cell that is run before the kernel answers loses its output and is not run.
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
        page.locator(".jp-CodeCell .cm-content").click()
        page.keyboard.press("Control+Enter")
        panel = Shown(page)
        panel.figure.wait_for()
        assert str(panel.figure.get_attribute("alt")).startswith("Picture 1,")
        chosen, across, upwards = output.get_by_role("slider").all()
        assert panel.after(lambda: across.press("ArrowRight")).startswith("Picture 1,")
        expect(output.get_by_text("+1.6")).to_be_visible()
        panel.after(lambda: upwards.press("ArrowLeft"))
        assert panel.after(lambda: chosen.press("ArrowRight")).startswith("Picture 2,")
        unit = output.get_by_label("unit drawn across")
        panel.after(lambda: unit.select_option(index=2))

        output.get_by_role("button").press("Enter")
        for slider in (across, upwards):
            expect(slider).to_have_attribute("aria-valuetext", "0")
        at_rest = re.compile(rf"goes from {NUMBER} to \1 nats.*goes from {NUMBER} to \2 nats")
        expect(panel.figure).to_have_attribute("alt", at_rest)
    assert [url for url in outside if not url.startswith((address, "data:", "blob:"))] == []
