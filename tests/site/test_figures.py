"""The live figures of the chapters in Chromium: their weights, their numbers, what moves them."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page

import live
from flowvae_tutorial import HierarchicalPosterior, HierarchicalPrior, Mixture
from flowvae_tutorial.data import load as rings
from flowvae_tutorial.notebook import live_figure
from flowvae_tutorial.notebook.figures import SHARED, figure_names, own_scripts
from flowvae_tutorial.refinement import refine_with_trace
from test_browser import (
    KNOWN_ERRORS_FROM_FILES,
    LAPTOP,
    PHONE,
    SITE,
    browser,  # noqa: F401  (a fixture)
    crowded_labels,
    narrow,
    too_wide,
    violations,
    visit,
)
from test_browser import site as built_site  # noqa: F401  (a fixture)
from test_live import LIVE, run, same
from test_site import load, page_path

CHAPTERS = {
    "bound": "book/01_gaussian_vae",
    "digits": "book/01_gaussian_vae",
    "hierarchy": "book/03_hierarchical_vampprior",
    "particles": "book/08_latent_diffusion",
    "pseudo": "book/02_vampprior",
    "pixels": "book/02_vampprior",
    "layers": "book/04_flow_priors",
    "levels": "book/07_towards_diffusion",
    "posteriors": "book/05_flow_posteriors",
    "race": "book/intro",
    "walk": "book/06_refinement",
    "mnist": "book/06_refinement",
}
# What a model was trained for.
TRAINED = [name for name in CHAPTERS if name in live.FIGURES]
built = pytest.mark.usefixtures("built_site")
KB = 1000


@contextmanager
def figure(browser: Browser, name: str, *, file: bool = False) -> Iterator[Page]:  # noqa: F811
    """The chapter with this figure; it fetches nothing from elsewhere and raises no error."""
    page = CHAPTERS[name]
    with visit(browser, page_path(page).as_uri() if file else f"{SITE}{page}.html") as shown:
        shown.page.locator(f"#live-{name}").scroll_into_view_if_needed()
        yield shown.page
        assert shown.outside == []
        assert shown.unknown_errors(KNOWN_ERRORS_FROM_FILES if file else {}) == []


@contextmanager
def alone(browser: Browser, name: str) -> Iterator[Page]:  # noqa: F811
    """The figure on an empty page: needs no built book."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.set_content(f'<div id="live-{name}"></div>')
    for script in [*SHARED, *own_scripts(name)]:
        page.add_script_tag(path=LIVE / f"{script}.js")
    yield page
    page.close()


@contextmanager
def phone(browser: Browser, name: str) -> Iterator[Page]:  # noqa: F811
    """The chapter with this figure on a phone, which is touched."""
    with browser.new_context(has_touch=True, viewport=PHONE) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(page_path(CHAPTERS[name]).as_uri())
        yield page


def status(page: Page, place: str = ".live-figure") -> str:
    return page.locator(f"{place} .lab-status").inner_text()


def press(page: Page, button: str, place: str = ".live-figure") -> None:
    page.locator(place).get_by_role("button", name=button).press("Enter")


def place(page: Page, canvas: str, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a plane shows the point (x, y)."""
    plane = page.locator(f"canvas[aria-label^='{canvas}']")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    extent = page.evaluate(
        "label => Object.values(FlowVAE.figures).flatMap(f => f.planes)"
        ".find(p => p.canvas.ariaLabel.startsWith(label)).extent",
        canvas,
    )
    assert box
    half = box["width"] / 2 / extent
    return box["x"] + half * (x + extent), box["y"] + half * (extent - y)


def drag(page: Page, canvas: str, *points: tuple[float, float]) -> None:
    page.mouse.move(*place(page, canvas, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, canvas, *point))
    page.mouse.up()


# --- of all figures -----------------------------------------------------------------------------


def test_every_figure_has_its_chapter() -> None:
    assert set(TRAINED) == set(live.FIGURES)
    assert {path.stem.removeprefix("weights-") for path in LIVE.glob("weights-*.js")} == set(
        TRAINED
    )


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_what_their_checksum_says(name: str) -> None:
    about, content = live.unpacked(live.path_of(name).read_text(encoding="utf-8"))
    assert hashlib.sha256(content).hexdigest() == about["sha256"]
    parts = about["parts"].values()
    assert len(content) == sum(part.get("bytes", 2 * part["count"]) for part in parts)


def test_a_large_module_has_eight_bits_a_weight_and_is_read_as_it_was_packed() -> None:
    about, content = live.unpacked(live.path_of("mnist").read_text(encoding="utf-8"))
    part, likelihood = about["parts"]["likelihood"], live.read("mnist")["likelihood"]
    weights = list(likelihood.parameters())
    # A step for each parameter, which is of half precision as all other numbers are.
    assert part["bytes"] == part["count"] + 2 * len(weights)
    for weight in weights:
        step = weight.abs().max() / 127
        assert step.half() == step
        torch.testing.assert_close(weight / step, (weight / step).round(), rtol=0, atol=1e-4)
    assert live.content_of(likelihood) == content[-part["bytes"] :]


def test_what_eight_bits_change_is_less_than_half_a_step() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(500, 300)
    assert live.is_large(linear) and not live.is_large(torch.nn.Linear(200, 200))
    packed = live.whole_steps(linear.weight.detach())
    step = linear.weight.abs().max().item() / 127
    found = torch.frombuffer(bytearray(packed[2:]), dtype=torch.int8).view_as(linear.weight) * step
    assert len(packed) == 2 + linear.weight.numel()
    # And the step itself is rounded to half precision: 127 of them differ by a twentieth of one.
    assert (found - linear.weight).abs().max() < 0.6 * step


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_packed_again_is_the_same_script(name: str) -> None:
    text = live.path_of(name).read_text(encoding="utf-8")
    about, _ = live.unpacked(text)
    assert live.packed(name, live.read(name), about["run"]) == text


@pytest.mark.parametrize("page", sorted(set(CHAPTERS.values())))
def test_scripts_and_weights_of_a_page_are_small(page: str) -> None:
    # A decoder of 28 by 28 pixels is large, in 8 bits a weight too.
    most = 300 if CHAPTERS["mnist"] == page else 250
    names = [name for name, chapter in CHAPTERS.items() if chapter == page]
    scripts = [*SHARED, *(script for name in names for script in own_scripts(name))]
    assert sum((LIVE / f"{script}.js").stat().st_size for script in scripts) < most * KB


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_without_scripts_a_picture_stands_there(browser: Browser, name: str) -> None:  # noqa: F811
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(page_path(CHAPTERS[name]).as_uri())
        assert page.locator(f"#fig-live-{name} > img").is_visible()
        assert page.locator(f"#fig-live-{name} figcaption").is_visible()
        assert page.locator(f"#live-{name}").inner_html() == ""


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_it_takes_the_place_of_its_picture_and_is_referred_to(browser: Browser, name: str) -> None:  # noqa: F811
    with figure(browser, name, file=True) as page:
        assert page.locator(f"#fig-live-{name} > img").is_hidden()
        assert page.locator(f"#fig-live-{name} figcaption").is_visible()
        said = page.locator(f"#live-{name} .live-weights").inner_text()
        if name in TRAINED:
            about, _ = live.unpacked(live.path_of(name).read_text(encoding="utf-8"))
            assert about["run"] in said
            assert about["sha256"][:12] in said
        else:
            assert said.startswith("Nothing is trained here")
        assert status(page, f"#live-{name}")
    assert load(page_path(CHAPTERS[name])).select(f'a[href="#fig-live-{name}"]')


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_it_is_accessible_and_fits_a_phone(browser: Browser, name: str) -> None:  # noqa: F811
    with figure(browser, name) as page:
        assert violations(page) == []
        assert all(page.locator(".live-figure canvas").evaluate_all("c => c.map(e => e.ariaLabel)"))
        assert crowded_labels(page) == []
        narrow(page)
        assert too_wide(page) == []
        assert crowded_labels(page) == []
        inside = "[...document.querySelectorAll('.live-figure *')].every("
        assert page.evaluate(f"{inside}e => e.getBoundingClientRect().right <= innerWidth)")


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_theme_is_drawn_in_its_colours_at_once(browser: Browser, name: str) -> None:  # noqa: F811
    with figure(browser, name) as page:
        pictures = "[...document.querySelectorAll('.live-figure canvas')].map(c => c.toDataURL())"
        before = page.evaluate(pictures)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate("new Promise(done => requestAnimationFrame(done))")
        assert not any(map(str.__eq__, before, page.evaluate(pictures)))


# Where a pointer drags something.
DRAGGED = {
    "bound": "Data plane with the decoder", "pseudo": "Data plane", "hierarchy": "Latent plane",
    "posteriors": "Data plane", "walk": "Latent plane.", "mnist": "Latent plane of digits",
    "particles": "Particles", "digits": "A pad", "pixels": "The chosen",
}  # fmt: skip


@built
@pytest.mark.parametrize("name", DRAGGED)
def test_words_follow_a_drag_and_are_read_out_at_its_end(browser: Browser, name: str) -> None:  # noqa: F811
    here, frame = f"#live-{name}", "new Promise(done => requestAnimationFrame(done))"
    with figure(browser, name) as page:
        said = page.locator(f"{here} .lab-status")
        box = page.locator(f"{here} canvas[aria-label^='{DRAGGED[name]}']").bounding_box()
        assert box
        before, seen = status(page, here), []
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        for share in (0.7, 0.9):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + (1 - share) * box["height"])
            for _ in range(3):
                page.evaluate(frame)
            seen.append(status(page, here))
            assert said.get_attribute("aria-live") == "off"
        assert len({before, *seen}) == 3
        page.mouse.up()
        assert said.get_attribute("aria-live") == "polite"


def test_a_number_near_zero_has_no_sign(browser: Browser) -> None:  # noqa: F811
    with alone(browser, "bound") as page:
        words = page.evaluate("[-0.04, 0, -0.06, -12.5].map(v => FlowVAE.number(v, 1))")
    assert words == ["0.0", "0.0", "−0.1", "−12.5"]


def test_a_notebook_has_the_figure_with_nothing_from_elsewhere(browser: Browser) -> None:  # noqa: F811
    assert figure_names() == sorted(CHAPTERS)
    for name in CHAPTERS:
        page, asked, errors = browser.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        html = live_figure(name).data
        page.set_content(f"<!doctype html><body><p>A cell.</p>{html}</body>")
        assert page.locator(f"#live-{name} canvas").count() >= 2
        assert status(page, f"#live-{name}")
        assert (asked, errors) == ([], [])
        assert (
            html.count("<script>") == html.count("</script>") == len([*SHARED, *own_scripts(name)])
        )
        page.close()


# --- the front page -----------------------------------------------------------------------------


@built
def test_on_the_front_page_two_models_train_when_the_reader_says_so(browser: Browser) -> None:  # noqa: F811
    runners = "FlowVAE.figures.race.state.runners.map(runner => runner.steps)"
    with figure(browser, "race", file=True) as page:
        assert page.evaluate(runners) == []
        assert status(page).startswith("Press the button")
        # The two planes of a model stand side by side, with both sidebars too.
        for size in (LAPTOP, PHONE):
            page.set_viewport_size(size)
            tops = "FlowVAE.figures.race.planes.map(p => p.canvas.getBoundingClientRect().top)"
            first, second, third, fourth = page.evaluate(tops)
            assert (first, third) == (second, fourth)
        elbos = page.locator("#live-race .live-table td")
        assert elbos.all_inner_texts()[:2] == ["–", "–"]
        press(page, "Train both")
        page.wait_for_function(f"{runners}[1] > 3")
        press(page, "Pause")
        first, second = page.evaluate(runners)
        assert 0 <= first - second <= 1
        assert status(page).startswith(f"Paused. Step {second} of 1500. ELBO N(0, I) −")
        # It goes on from there, ends by itself, and begins anew after that.
        page.evaluate(f"FlowVAE.SCHEDULE.steps = {second + 4}")
        press(page, "Train both")
        page.get_by_text(f"Done. Step {second + 4} of {second + 4}.").wait_for()
        assert page.evaluate(runners) == [second + 4] * 2
        ended = elbos.all_inner_texts()
        press(page, "New data and noise")
        assert page.evaluate(runners) == []
        assert elbos.all_inner_texts() != ended
        press(page, "Reset")
        assert elbos.all_inner_texts()[2] == ended[2]
    with phone(browser, "race") as page:
        page.locator("#live-race button").first.tap()
        page.wait_for_function(f"{runners}[1] > 0")


# --- chapter 1 ----------------------------------------------------------------------------------


def exact_elbo(x: list[float], mean: float, scale: float) -> float:
    """In closed form: averages of sines and squares of z over N(mean, scale²)."""
    shrunk, twice = math.exp(-2 * scale**2), math.exp(-8 * scale**2)
    square = (
        (x[0] - shrunk * math.sin(2 * mean)) ** 2
        + (1 - twice * math.cos(4 * mean)) / 2
        - (shrunk * math.sin(2 * mean)) ** 2
        + (x[1] - mean) ** 2
        + scale**2
    )
    reconstruction = -square / (2 * 0.3**2) - math.log(2 * math.pi * 0.3**2)
    return reconstruction - 0.5 * (mean**2 + scale**2 - 1 - 2 * math.log(scale))


def exact_evidence(x: list[float]) -> float:
    z = torch.linspace(-20, 20, 40001, dtype=torch.float64)
    normal = torch.distributions.Normal
    at = torch.stack([torch.sin(2 * z), z], dim=-1)
    log_joint = normal(at, 0.3).log_prob(torch.tensor(x)).sum(-1) + normal(0.0, 1.0).log_prob(z)
    return (log_joint.logsumexp(0) + math.log(0.001)).item()


def test_figure_1a_has_the_bound_in_closed_form_and_what_it_leaves_out(browser: Browser) -> None:  # noqa: F811
    given = [
        ([0.1, 0.8], 0.2, 0.6), ([0.1, 0.8], 2.5, 1.5), ([0.1, 0.8], -2.5, 0.05),
        ([-1.1, -2.9], -1.0, 0.3), ([3.2, -3.2], 0.7, 1.2), ([0.0, 0.0], 0.0, 1.0),
    ]  # fmt: skip
    with alone(browser, "bound") as page:
        found = page.evaluate(
            "all => all.map(([x, mean, scale]) => { const known = FlowVAE.live.truth(x);"
            "const { elbo, kl } = FlowVAE.live.terms(known, mean, scale);"
            "return [elbo, kl, known.logEvidence]; })", given,
        )  # fmt: skip
    for (x, mean, scale), (elbo, kl, evidence) in zip(given, found, strict=True):
        assert elbo == pytest.approx(exact_elbo(x, mean, scale), rel=1e-5)
        assert evidence == pytest.approx(exact_evidence(x), rel=1e-5)
        assert elbo + kl == pytest.approx(evidence, rel=1e-9)
        assert kl > 0


def test_figure_1a_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    best = """x => {
        const known = FlowVAE.live.truth(x), { mean, scale } = FlowVAE.live.best(known);
        const around = [[1, 0], [-1, 0], [0, 1], [0, -1]].map(([a, b]) =>
            FlowVAE.live.terms(known, mean + 0.01 * a, scale + 0.01 * b).kl);
        const { kl } = FlowVAE.live.terms(known, mean, scale);
        return [kl, Math.min(...around), known.logEvidence];
    }"""
    with alone(browser, "bound") as page:
        # That of section 1.1.
        kl, around, evidence = page.evaluate(best, [0.1, 0.8])
        assert (round(kl, 2), round(evidence, 2)) == (0.45, -3.27)
        assert around > kl
        kl, _, far = page.evaluate(best, [-3.0, -0.8])
        assert kl < 0.1
        assert far < evidence - 10


BOUND = (
    "(({x, mean, scale, terms, known}) => [...x, mean, scale, terms.elbo, terms.kl,"
    " known.logEvidence])(FlowVAE.figures.bound.state)"
)


@built
def test_in_figure_1a_mouse_keyboard_and_finger_move_alike(browser: Browser) -> None:  # noqa: F811
    here, data, bell = "#live-bound", "Data plane with the decoder", "Latent axis"
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with figure(browser, "bound", file=True) as page:
        start = page.evaluate(BOUND)
        # The top of q, to a mean of 1 and half of the height that is shown: 1.2.
        drag(page, bell, (0.2, 0), (0.5, 0.5), (1, 0))
        page.evaluate(frame)
        moved = page.evaluate(BOUND)
        assert moved[:2] == start[:2]
        assert moved[2:4] == pytest.approx([1, 1 / (1.2 * math.sqrt(2 * math.pi))], abs=0.02)
        assert moved[4] + moved[5] == pytest.approx(start[6])
        assert moved[6] == start[6]
        assert status(page, here).startswith("At x = (0.1, 0.8), for q with mean 1.0")
        plane = page.locator(f"{here} canvas[aria-label^='{bell}']")
        plane.press("ArrowRight")
        right = page.evaluate(BOUND)
        assert right[2:4] == pytest.approx([moved[2] + 0.03 * 3, moved[3]])
        plane.press("ArrowUp")
        assert page.evaluate(BOUND)[3] < right[3]
        said = page.locator(f"{here} .live-table td").all_inner_texts()
        elbo, kl, total, evidence = (float(text.replace("−", "-")) for text in said)
        assert elbo + kl == pytest.approx(total, abs=0.0011)
        assert total == evidence
        assert page.locator(f"{here} canvas[aria-label^='A bar']").get_attribute("aria-label")
        # The sliders say the same, and move it too.
        mean, scale = page.locator(f"{here} .live-slider input").all()
        assert float(mean.input_value()) == pytest.approx(page.evaluate(BOUND)[2], abs=0.01)
        scale.press("End")
        assert page.evaluate(BOUND)[3] == 1.5
        press(page, "The best Gaussian", here)
        assert page.evaluate(BOUND)[5] == pytest.approx(0.45, abs=0.005)
        drag(page, data, (0.1, 0.8), (-1, -1))
        assert page.evaluate(BOUND)[:2] == pytest.approx([-1, -1], abs=0.03)
        assert page.evaluate(BOUND)[6] != start[6]
        press(page, "New point", here)
        assert page.evaluate(BOUND)[:2] != pytest.approx([-1, -1], abs=0.03)
        press(page, "Reset", here)
        assert page.evaluate(BOUND) == start
    with phone(browser, "bound") as page:
        page.locator(f"canvas[aria-label^='{data}']").tap()
        assert page.evaluate(BOUND)[:2] == pytest.approx([0, 0], abs=0.05)


@built
def test_the_scale_of_figure_1a_moves_when_the_point_is_let_go(browser: Browser) -> None:  # noqa: F811
    low, frame = "FlowVAE.figures.bound.state.low", "new Promise(requestAnimationFrame)"
    with figure(browser, "bound") as page:
        start = page.evaluate(low)
        page.mouse.move(*place(page, "Data plane with the decoder", 0.1, 0.8))
        page.mouse.down()
        page.mouse.move(*place(page, "Data plane with the decoder", -3, -0.8))
        for _ in range(3):
            page.evaluate(frame)
        evidence = page.evaluate("FlowVAE.figures.bound.state.known.logEvidence")
        assert page.evaluate(low) == start
        page.mouse.up()
        assert page.evaluate(low) < evidence < start


def test_the_model_of_figure_1b_is_the_packages_and_so_are_the_terms(browser: Browser) -> None:  # noqa: F811
    modules = double("digits")
    x, z = torch.rand(1, 64, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "digits") as page:
        found = run(
            page, "const { model, terms, seen } = FlowVAE.live, x = T(X);"
            "const { reconstruction, kl } = terms(model, x, T(Z));"
            "return [rows(model.posterior.forward(x).logProb(T(Z))), [[reconstruction, kl]],"
            "  rows(model.likelihood.forward(T(Z)).logProb(x)), rows(seen([0, 0.5, 1]))]", X=x, Z=z,
        )  # fmt: skip
    q, likelihood = modules["posterior"](x), modules["likelihood"]
    same(found[0], q.log_prob(z[:, None])[:, 0])
    drawn = q.mean + q.base_dist.scale * z
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(drawn).sum(-1)
    kl = (q.log_prob(drawn[:, None])[:, 0] - log_prior).mean()
    same(found[1], torch.stack([likelihood(drawn).log_prob(x).mean(), kl]))
    same(found[2], likelihood(z).log_prob(x))
    # The middle of what dequantisation makes of an empty, a half-full and a full pixel.
    assert found[3][0][:3] == pytest.approx([0.5 / 17, 8.5 / 17, 16.5 / 17])


def test_figure_1b_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    elbos = """() => [0, 1, 2, 3, 4].map(which => {
        const f = FlowVAE.live, ink = f.example(which);
        const elbo = paint => {
            Object.assign(f.state, { ink: paint });
            f.update();
            return [f.state.terms.reconstruction - f.state.terms.kl, ...f.state.q.loc];
        };
        const blot = ink.slice();
        for (const row of [0, 3, 7]) blot[8 * row] = 1;
        return [elbo(ink), elbo(blot)];
    })"""
    with alone(browser, "digits") as page:
        found = page.evaluate(elbos)
    # Digits by hand are nearly as probable as those of the data, -ELBO about -50; a blot is not.
    assert all(own[0] > 0 for own, _ in found)
    assert all(blot[0] < own[0] - 1000 for own, blot in found)
    places = [tuple(own[1:]) for own, _ in found]
    apart = [math.dist(a, b) for i, a in enumerate(places) for b in places[:i]]
    assert min(apart) > 0.2


@built
def test_in_figure_1b_mouse_keyboard_and_finger_draw_alike(browser: Browser) -> None:  # noqa: F811
    here, pad, place_of = "#live-digits", "A pad of 8", "Map of the latent"
    state = "FlowVAE.figures.digits.state"
    ink, code = f"[...{state}.ink]", f"[...{state}.q.loc, {state}.terms.kl]"
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with figure(browser, "digits", file=True) as page:
        start = page.evaluate(code)
        press(page, "Clear", here)
        assert page.evaluate(f"Math.max(...{ink})") == 0
        empty = page.evaluate(code)
        # Down the middle of column 4, from row 2 to row 7.
        drag(page, pad, (-0.5, 2.5), (-0.5, -2.5))
        page.evaluate(frame)
        drawn = page.evaluate(ink)
        assert [drawn[8 * r + 3] for r in range(8)] == pytest.approx([0.3, *[1] * 6, 0.3], abs=0.1)
        assert max(drawn[8 * r] for r in range(8)) == 0
        assert page.evaluate(code) != empty
        assert status(page, here).startswith("Encoded at z = (")
        # The same by keyboard: space, then down by whole pixels.
        press(page, "Clear", here)
        plane = page.locator(f"{here} canvas[aria-label^='{pad}']")
        page.evaluate("FlowVAE.figures.digits.planes[0].at = [-0.5, 2.5]")
        plane.press("Space")
        for _ in range(10):
            plane.press("ArrowDown")
            plane.press("Space")
        assert page.evaluate(ink) == pytest.approx(drawn, abs=0.1)
        plane.press("ArrowDown")
        assert status(page, here) == "Pen in row 8, column 4."
        # The rubber takes it away.
        page.locator(f"{here} select").select_option("rubber")
        drag(page, pad, (-0.5, 3.5), (-0.5, -3.5))
        page.evaluate(frame)
        assert max(page.evaluate(ink)) < 0.75
        # The map decodes where one points, and where the arrow keys lead.
        probed = f"[...{state}.probed.data]"
        before = page.evaluate(probed)
        page.mouse.move(*place(page, place_of, -2, -2))
        page.evaluate(frame)
        assert page.evaluate(f"{state}.probe") == pytest.approx([-2, -2], abs=0.05)
        assert page.evaluate(probed) != before
        page.mouse.move(0, 0)
        page.locator(f"{here} canvas[aria-label^='{place_of}']").press("ArrowRight")
        assert page.evaluate(f"{state}.probe")[0] == pytest.approx(-2 + 0.03 * 3.25, abs=0.05)
        assert status(page, here).startswith("Decoded at z = (")
        press(page, "Next example", here)
        assert page.evaluate(code) != start
        kl = page.evaluate(f"{state}.terms.kl")
        press(page, "New noise", here)
        assert page.evaluate(f"{state}.terms.kl") != kl
        press(page, "Reset", here)
        assert page.evaluate(code) == start
    with phone(browser, "digits") as page:
        before = page.evaluate(f"{ink}[0]")
        page.locator(f"canvas[aria-label^='{pad}']").tap(position={"x": 12, "y": 12})
        assert page.evaluate(f"{ink}[0]") > before + 0.5


# --- chapter 4 ----------------------------------------------------------------------------------


def test_the_flows_of_figure_4_are_those_of_the_package_at_both_ends(browser: Browser) -> None:  # noqa: F811
    modules = double("layers")
    with alone(browser, "layers") as page:
        first, last, density = page.evaluate(
            "() => { const f = FlowVAE.live, rows = t => Array.from({ length: t.rows },"
            "  (_, r) => [...t.row(r)]);"
            "const ends = i => f.grids.map(seen => [seen.at(i).x, seen.at(i).ladj].map(rows));"
            "return [ends(0), ends(-1), f.grids.map((seen, i) =>"
            "  rows(f.flows[i].forward().logProb(seen.at(-1).x)))]; }"
        )  # fmt: skip
        assert page.evaluate("FlowVAE.live.grids.map(seen => seen.length)") == [6, 6]
    for i, flow in enumerate(modules.values()):
        u = torch.tensor(first[i][0], dtype=torch.float64)
        with torch.no_grad():
            z, ladj = flow.transform().call_and_ladj(u)
            same(last[i][0], z)
            same(last[i][1], ladj)
            same(density[i], flow().log_prob(z))


def test_each_coupling_of_figure_4_moves_one_direction_and_each_pair_both(
    browser: Browser,  # noqa: F811
) -> None:
    with alone(browser, "layers") as page:
        moved = page.evaluate(
            "FlowVAE.live.grids.map(seen => [1, 2, 3, 4].map(i => [0, 1].map(d => seen[i].x.data"
            ".some((v, j) => j % 2 == d && Math.abs(v - seen[i - 1].x.data[j]) > 1e-9))))"
        )  # fmt: skip
    for each in moved:
        assert all(sum(directions) == 1 for directions in each)
        assert each[0] != each[1]
        assert each[2] != each[3]


@built
def test_figure_4_goes_forwards_and_back_by_slider_and_buttons(browser: Browser) -> None:  # noqa: F811
    depth, cloud = "FlowVAE.live.state.depth", "[...FlowVAE.live.state.clouds[1].at(-1).x.data]"
    with figure(browser, "layers", file=True) as page:
        slider = page.locator(".live-slider input")
        before = status(page)
        slider.press("End")
        assert page.evaluate(depth) == 5
        assert status(page) != before
        assert slider.get_attribute("aria-valuetext") == "all, scaled"
        assert "all, scaled" in str(page.locator("canvas").first.get_attribute("aria-label"))
        slider.press("ArrowLeft")
        assert page.evaluate(depth) == pytest.approx(4.95)
        press(page, "Back")
        page.wait_for_function(f"{depth} == 0")
        assert slider.input_value() == "0"
        page.emulate_media(reduced_motion="reduce")
        press(page, "Forwards")
        assert page.evaluate(depth) == 1
        samples = page.evaluate(cloud)
        press(page, "New noise")
        assert page.evaluate(cloud) != samples
        # The ring, sent back and forth, is the ring again.
        page.locator(".live-figure select").select_option("ring")
        away = "Math.max(...FlowVAE.live.state.clouds.flatMap(seen => [...seen.at(-1).x.data].map("
        away += "(v, i, all) => Math.abs(Math.hypot(all[i - i % 2], all[i - i % 2 + 1]) - 2))))"
        assert page.evaluate(depth) == 5
        assert page.evaluate(away) < 0.7
        press(page, "Reset")
        assert page.evaluate(depth) == 0
        assert page.evaluate(cloud) == samples
    with phone(browser, "layers") as page:
        page.locator(".live-slider input").tap()
        assert 2 < page.evaluate(depth) < 3


# --- chapter 5 ----------------------------------------------------------------------------------


def divergences(modules: live.Modules, x: list[list[float]]) -> list[list[float]]:
    """By a finer sum over a larger square than the figure's: KL of the Gaussian, of the flow."""
    line = torch.linspace(-5, 5, 201, dtype=torch.float64)
    z, data = torch.cartesian_prod(line, line), torch.tensor(x, dtype=torch.float64)
    area = (10 / 200) ** 2
    with torch.no_grad():
        prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
        log_joint = modules["likelihood"](z[:, None]).log_prob(data) + prior[:, None]
        log_p = log_joint - log_joint.logsumexp(0) - math.log(area)
        each = []
        for name in ("gaussian", "flow"):
            log_q = modules[name](data).log_prob(z[:, None])
            each.append(((log_q.exp() * (log_q - log_p)).sum(0) * area).tolist())
    return torch.tensor(each).T.tolist()


def double(name: str) -> live.Modules:
    return {key: module.double() for key, module in live.read(name).items()}


def test_the_models_of_figure_5_are_those_of_the_package(browser: Browser) -> None:  # noqa: F811
    modules = double("posteriors")
    x, z = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "posteriors") as page:
        found: Any = run(
            page, "const { likelihood, gaussian, flow } = FlowVAE.live.model;"
            "return [likelihood.forward(T(Z)).logProb(T(X)), gaussian.forward(T(X)).logProb(T(Z)),"
            "  flow.forward(T(X)).logProb(T(Z))].map(rows)", X=x, Z=z,
        )  # fmt: skip
    same(found[0], modules["likelihood"](z).log_prob(x))
    same(found[1], modules["gaussian"](x).log_prob(z))
    same(found[2], modules["flow"](x).log_prob(z))


def test_figure_5_has_the_divergences_of_a_finer_grid(browser: Browser) -> None:  # noqa: F811
    x = [[2.0, 0.0], [0.0, 2.0], [-1.3, 1.5], [1.0, 1.0], [0.0, 0.0]]
    with alone(browser, "posteriors") as page:
        found = page.evaluate(
            "xs => xs.map(x => { const f = FlowVAE.live; f.state.x = x; f.update();"
            "return f.state.shown.kl; })", x,
        )  # fmt: skip
    expected = divergences(double("posteriors"), x)
    assert torch.tensor(found) == pytest.approx(torch.tensor(expected), abs=0.01)
    # On the ring the flow is the better one, which is what the figure claims.
    assert all(flow < gaussian - 0.15 for gaussian, flow in expected)


def test_figure_5_rests_on_its_fine_grid_however_soon_it_is_let_go(browser: Browser) -> None:  # noqa: F811
    size, frame = (
        "FlowVAE.live.state.shown.logPosterior.length",
        "new Promise(requestAnimationFrame)",
    )
    send = """kinds => {
        const [canvas] = document.getElementsByTagName("canvas");
        canvas.setPointerCapture = () => {};
        for (const kind of kinds) canvas.dispatchEvent(new PointerEvent(kind,
            { clientX: 50, clientY: 50, buttons: Number(kind != "pointerup") }));
    }"""
    with alone(browser, "posteriors") as page:
        fine = page.evaluate(size)
        page.evaluate(send, ["pointerdown"])
        page.evaluate(frame)
        assert page.evaluate(size) < fine
        # Before the last move was drawn.
        page.evaluate(send, ["pointermove", "pointerup"])
        page.evaluate(frame)
        assert page.evaluate(size) == fine


DATA, GAUSSIAN = "Data plane", "Latent plane with the Gaussian"
SHOWN = "(({x, hand, shown}) => ({x, hand, kl: shown.kl}))(FlowVAE.live.state)"


@built
def test_in_figure_5_mouse_keyboard_and_finger_move_alike(browser: Browser) -> None:  # noqa: F811
    with figure(browser, "posteriors", file=True) as page:
        start = page.evaluate(SHOWN)
        drag(page, DATA, (-1.4, 1.4), (0, 0), (2, 0))
        by_mouse = page.evaluate(SHOWN)
        assert by_mouse["x"] == pytest.approx([2, 0], abs=0.03)
        assert by_mouse["kl"] != start["kl"]
        assert status(page).startswith("At x = (2.0,")
        plane = page.locator(f"canvas[aria-label^='{DATA}']")
        plane.press("ArrowLeft")
        left = page.evaluate(SHOWN)
        assert left["x"][0] == pytest.approx(by_mouse["x"][0] - 0.03 * 3.2)
        plane.press("ArrowRight")
        assert page.evaluate(SHOWN)["kl"] == pytest.approx(by_mouse["kl"])
        # The Gaussian by hand: away from the encoder's mean it gets worse, and the flow stays.
        page.locator(f"canvas[aria-label^='{GAUSSIAN}']").press("Shift+ArrowUp")
        moved = page.evaluate(SHOWN)
        assert moved["kl"][0] > by_mouse["kl"][0] + 0.1
        assert moved["kl"][1] == pytest.approx(by_mouse["kl"][1])
        assert "moved by hand" in status(page)
        drag(page, GAUSSIAN, (0, 0), tuple(moved["hand"]))
        assert page.evaluate(SHOWN)["kl"][0] == pytest.approx(moved["kl"][0], rel=0.2)
        # What KL wins, the ELBO loses.
        kl, elbo, evidence = page.evaluate(
            "[...document.querySelector('.live-table tbody tr').querySelectorAll('td')]"
            ".map(e => Number(e.textContent.replace('−', '-')))"
        )
        assert kl + elbo == pytest.approx(evidence, abs=0.011)
        press(page, "The encoder's mean")
        assert page.evaluate(SHOWN)["hand"] is None
        press(page, "Next group")
        assert page.evaluate(SHOWN)["x"] == pytest.approx([-2, 0], abs=0.01)
        press(page, "Reset")
        assert page.evaluate(SHOWN) == start
    with phone(browser, "posteriors") as page:
        page.locator(f"canvas[aria-label^='{DATA}']").tap()
        assert page.evaluate(SHOWN)["x"] == pytest.approx([0, 0], abs=0.05)


# --- chapter 6 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_steps_of_refinement_are_those_of_the_package(
    browser: Browser,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
) -> None:
    modules, z = double("walk"), 1.5 * torch.randn(20, 2, dtype=torch.float64)
    noise = torch.randn(10, 20, 2, dtype=torch.float64)
    steps = iter(noise)
    monkeypatch.setattr(torch, "randn_like", lambda _: next(steps))
    net = modules["reward"]
    expected = refine_with_trace(
        z, modules["flow"].requires_grad_(False)().log_prob,
        lambda z: 3 * torch.nn.functional.logsigmoid(net(z)[:, 0]),
        steps=10, lr=0.01, anchor=0.3, temperature=temperature,
    )  # fmt: skip
    with alone(browser, "walk") as page:
        found = run(
            page,
            "const { priors, rewards } = FlowVAE.live, start = T(Z), seen = [];"
            "const goal = FlowVAE.objective("
            "  { logProb: priors.flow, reward: rewards.group, anchor: 0.3, start });"
            "let here = goal.at(start), rates = Array(start.rows).fill(0.01);"
            "for (const noise of noises) {"
            "  if (tau) here = FlowVAE.wander(goal, here, 0.01, tau, T(noise));"
            "  else ({ here, rates } = FlowVAE.climb(goal, here, rates, 0.01));"
            "  seen.push([here.logProb, here.reward].map(t => [...t.data])); }"
            "return [rows(here.z), seen.map(s => s[0]), seen.map(s => s[1])];",
            Z=z, noises=noise.tolist(), tau=temperature,
        )  # fmt: skip
    same(found[0], expected.z)
    same(found[1], expected.trace.log_prob[1:])
    same(found[2], expected.trace.reward[1:])


def walked(name: str) -> str:
    return (
        "(({start, way}) => ({start, n: way.path.length - 1, z: [...way.path.at(-1).z.data],"
        f" logP: way.path.map(p => p.logProb.data[0])}}))(FlowVAE.figures.{name}.state)"
    )


WALKED, DIGIT = walked("walk"), walked("mnist")


@built
def test_in_figure_6_mouse_keyboard_and_finger_walk_alike(browser: Browser) -> None:  # noqa: F811
    here, latent = "#live-walk", "Latent plane."
    with figure(browser, "walk", file=True) as page:
        assert status(page, here).startswith("At the start: log p(z) is −")
        drag(page, latent, (-0.6, 0.9), (0.5, -1.5))
        page.wait_for_function("FlowVAE.figures.walk.state.way.path[0].z.data[1] < -1.4")
        assert page.evaluate(WALKED)["start"] == pytest.approx([0.5, -1.5], abs=0.03)
        plane = page.locator(f"canvas[aria-label^='{latent}']")
        start = page.evaluate(WALKED)["start"]
        plane.press("ArrowUp")
        moved = page.evaluate(WALKED)["start"]
        assert moved == pytest.approx([start[0], start[1] + 0.03 * 3.2])
        press(page, "Step", here)
        assert status(page, here).startswith("After 1 step: log p(z) from −")
        page.locator(here).get_by_role("button", name="Run").press("Enter")
        page.wait_for_function("FlowVAE.figures.walk.state.way.path.length == 62")
        page.get_by_text("After 61 steps").wait_for()
        end = page.evaluate(WALKED)
        # It never falls, and the curves know.
        assert all(b >= a for a, b in zip(end["logP"], end["logP"][1:], strict=False))
        assert end["logP"][-1] > end["logP"][0] + 1
        curves = page.locator(f"{here} canvas.live-chart").evaluate_all(
            "c => c.map(e => e.ariaLabel)"
        )
        assert all("log p(z) from −" in label for label in curves)
        # An anchor holds it back.
        free = page.evaluate("FlowVAE.figures.walk.state.way.path.at(-1).z.data[0]")
        page.locator(f"{here} .live-slider input").nth(1).press("End")
        assert page.evaluate(WALKED)["n"] == 0
        for _ in range(10):
            press(page, "Step", here)
        held = page.evaluate(WALKED)
        assert abs(held["z"][0] - moved[0]) < abs(free - moved[0])
        # With a temperature the noise decides, and the seed the noise.
        page.locator(f"{here} .live-slider input").nth(2).press("End")
        ends = []
        for button in ("New noise", "New noise", "Back to the start"):
            press(page, button, here)
            press(page, "Step", here)
            ends.append(page.evaluate(WALKED)["z"])
        assert ends[0] != ends[1]
        assert ends[1] == ends[2]
        press(page, "Reset", here)
        assert page.evaluate(WALKED)["start"] == [-0.6, 0.9]
        assert page.locator(f"{here} .live-slider input").nth(2).input_value() == "0"
    with phone(browser, "walk") as page:
        page.locator(f"canvas[aria-label^='{latent}']").tap()
        page.wait_for_function("Math.abs(FlowVAE.figures.walk.state.way.path[0].z.data[0]) < 0.05")


@built
@pytest.mark.parametrize("name", ["walk", "mnist"])
def test_the_axis_in_nats_holds_while_a_start_is_dragged(browser: Browser, name: str) -> None:  # noqa: F811
    scale, frame = f"FlowVAE.figures.{name}.charts[0].range", "new Promise(requestAnimationFrame)"
    with figure(browser, name) as page:
        start, seen = page.evaluate(scale), []
        page.mouse.move(*place(page, DRAGGED[name], 0, 0))
        page.mouse.down()
        extent = page.evaluate(f"FlowVAE.figures.{name}.planes[0].extent")
        for share in (0.4, 0.9):
            page.mouse.move(*place(page, DRAGGED[name], share * extent, share * extent))
            for _ in range(3):
                page.evaluate(frame)
            seen += page.evaluate(walked(name))["logP"]
            assert page.evaluate(scale) == start
        assert abs(seen[1] - seen[0]) > 1
        page.mouse.up()
        low, high = page.evaluate(scale)
        assert low < seen[1] < high
        assert [low, high] != start


def test_figure_6_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    wish = """prior => {
        FlowVAE.live.restart({ prior, reward: 'group', start: [1.4, 1.4] });
        for (let i = 0; i < 60; i++) FlowVAE.live.step();
        const { z, logProb } = FlowVAE.live.state.way.path.at(-1);
        return [...z.data, logProb.data[0]];
    }"""
    with alone(browser, "walk") as page:
        x, y, log_p = page.evaluate(wish, "mixture")
        assert (x > 1) & (log_p < -2), "off its spot and no further"
        x, y, log_p = page.evaluate(wish, "flow")
        assert (abs(x) < 0.3) & (y > 1.8) & (log_p > -1), "at the top"


def test_a_painted_reward_of_figure_6_has_the_gradient_of_its_formula(browser: Browser) -> None:  # noqa: F811
    spots = 2 * torch.randn(7, 2, dtype=torch.float64)
    z = (2 * torch.randn(9, 2, dtype=torch.float64)).requires_grad_()
    with alone(browser, "walk") as page:
        found = run(
            page, "const f = FlowVAE.live; f.paint(spots); const z = P(Z);"
            "return [rows(f.rewards.painted(z)), gradientOf([z], () => f.rewards.painted(z))]",
            spots=spots, Z=z,
        )  # fmt: skip
    distance = (z[:, None] - spots).square().sum(-1)
    reward = 2 * (1 + (-distance / (2 * 0.35**2)).exp().sum(-1)).log()
    same(found[0], reward)
    same(found[1], torch.autograd.grad(reward.mean(), z)[0])


@built
def test_in_figure_6_a_reward_is_painted_by_mouse_and_keyboard(browser: Browser) -> None:  # noqa: F811
    here, latent = "#live-walk", "Latent plane."
    spots = "FlowVAE.figures.walk.state.spots"
    with figure(browser, "walk", file=True) as page:
        reward = page.locator(f"{here} select").nth(1)
        brush = page.locator(f"{here} select").nth(2)
        assert brush.is_hidden()
        reward.select_option("painted")
        assert status(page, here) == "Drag over the plane to paint a reward."
        drag(page, latent, (-2, -0.4), (-2, 0), (-2, 0.4))
        painted = page.evaluate(spots)
        assert painted[-1] == pytest.approx([-2, 0.4], abs=0.03)
        assert page.evaluate(WALKED)["start"] == [-0.6, 0.9]
        plane = page.locator(f"canvas[aria-label^='{latent}']")
        plane.press("ArrowDown")
        assert page.evaluate(spots) == painted
        plane.press("Space")
        assert page.evaluate(spots)[-1] == pytest.approx([-2, 0.4 - 0.03 * 3.2], abs=0.03)
        # What was painted holds the latent, which N(0, I) alone would draw to the middle.
        page.locator(f"{here} select").first.select_option("normal")
        page.evaluate(
            "FlowVAE.figures.walk.restart({ start: [-1.8, 0.3] });"
            "for (let i = 0; i < 60; i++) FlowVAE.figures.walk.step();"
        )
        assert page.evaluate(WALKED)["z"][0] < -1.2
        brush.select_option("start")
        drag(page, latent, (1, 1), (1.5, 1.5))
        page.wait_for_function("FlowVAE.figures.walk.state.way.path[0].z.data[1] > 1.4")
        press(page, "Clear the paint", here)
        assert page.evaluate(spots) == []
        press(page, "Reset", here)
        assert brush.is_hidden()


@built
def test_a_step_that_leads_far_away_is_not_taken_and_told(browser: Browser) -> None:  # noqa: F811
    here = "#live-walk"
    with figure(browser, "walk") as page:
        page.locator(f"{here} select").first.select_option("mixture")
        for knob in (0, 2):
            page.locator(f"{here} .live-slider input").nth(knob).press("End")
        page.locator(here).get_by_role("button", name="Run").press("Enter")
        page.get_by_text("The next step leads far away: choose a smaller η.").wait_for()
        end = page.evaluate(WALKED)
        assert max(map(abs, end["z"])) < 30
        press(page, "Step", here)
        assert page.evaluate(WALKED) == end


def test_the_model_of_figure_6b_is_the_packages_and_so_are_its_steps(browser: Browser) -> None:  # noqa: F811
    modules = double("mnist")
    prior, likelihood = modules["prior"].requires_grad_(False), modules["likelihood"]
    z = (2 * torch.randn(9, 2, dtype=torch.float64)).requires_grad_()
    start = torch.tensor([[0.7, -1.2]], dtype=torch.float64)
    with alone(browser, "mnist") as page:
        found = run(
            page, "const f = FlowVAE.live, z = P(Z);"
            "const p = f.model.prior.forward(), decoded = f.decode(T(Z));"
            "f.restart({ start: [...S[0]], anchor: 0.3 });"
            "for (let i = 0; i < 10; i++) f.step();"
            "const { path } = f.state.way;"
            "return [rows(p.logProb(T(Z))), gradientOf([z], () => p.logProb(z)),"
            "  [...decoded], rows(path.at(-1).z), path.map(point => point.logProb.data[0]),"
            "  [...f.decode(path.at(-1).z)]]", Z=z, S=start,
        )  # fmt: skip
    log_p = prior().log_prob(z)
    expected = refine_with_trace(start, prior().log_prob, steps=10, lr=0.3, anchor=0.3)
    same(found[0], log_p)
    same(found[1], torch.autograd.grad(log_p.mean(), z)[0])
    same(found[2], likelihood(z).mean)
    same(found[3], expected.z)
    same(found[4], expected.trace.log_prob)
    same(found[5], likelihood(expected.z).mean)


def test_figure_6b_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    walked = """([start, anchor, steps]) => {
        FlowVAE.live.restart({ start, anchor });
        for (let i = 0; i < steps; i++) FlowVAE.live.step();
        const { z, logProb } = FlowVAE.live.state.way.path.at(-1);
        return [...z.data, logProb.data[0], ...FlowVAE.live.decode(z)];
    }"""
    starts = [[x, y] for x in range(-12, 13, 4) for y in range(-12, 13, 4)]
    with alone(browser, "mnist") as page:
        *_, log_p = page.evaluate(walked, [[0, 0], 0, 10])[:3]
        *_, at_rest = page.evaluate(walked, [[0, 0], 0, 100])[:3]
        assert log_p == pytest.approx(at_rest, abs=0.05)
        smudge, six = (
            torch.tensor(page.evaluate(walked, [[0, 0], 0, steps])[3:]) for steps in (0, 10)
        )
        assert ((six > 0.7).sum() > 40) & ((smudge > 0.7).sum() < 10)
        free, held = (page.evaluate(walked, [[0, 0], anchor, 100])[:2] for anchor in (0, 1))
        assert 0.2 < math.hypot(*held) / math.hypot(*free) < 0.5
        ends = [page.evaluate(walked, [start, 0, 300])[:2] for start in starts]
    hills: list[list[float]] = []
    for end in ends:
        if all(math.dist(end, hill) > 0.6 for hill in hills):
            hills.append(end)
    assert 10 <= len(hills) <= 22
    assert max(map(math.dist, starts, ends)) > 5


@built
def test_in_figure_6b_each_step_changes_the_digit_beside_it(browser: Browser) -> None:  # noqa: F811
    here, latent = "#live-mnist", "Latent plane of digits"
    way = "FlowVAE.figures.mnist.state.way"
    digits = f"document.querySelector('{here} canvas[aria-label^=Decoded]').toDataURL()"
    with figure(browser, "mnist", file=True) as page:
        opening = page.evaluate(DIGIT)
        extent = page.evaluate("FlowVAE.figures.mnist.planes[0].extent")
        assert status(page, here).startswith("At the start: log p(z) is −")
        drag(page, latent, (0, 0), (1, -1))
        page.wait_for_function(f"{way}.start[1] < -0.9")
        assert page.evaluate(DIGIT)["start"] == pytest.approx([1, -1], abs=0.05)
        plane = page.locator(f"{here} canvas[aria-label^='{latent}']")
        plane.press("ArrowUp")
        start = page.evaluate(DIGIT)["start"]
        assert start == pytest.approx([1, -1 + extent * 0.03], abs=0.05)
        seen = [page.evaluate(digits)]
        for _ in range(3):
            press(page, "Step", here)
            seen.append(page.evaluate(digits))
        assert len(set(seen)) == 4
        assert status(page, here).startswith("After 3 steps: log p(z) from −")
        label = page.locator(f"{here} canvas[aria-label^='Decoded']").get_attribute("aria-label")
        assert label == "Decoded digits: at the start, after 3 steps, and 12 on the way."
        page.locator(here).get_by_role("button", name="Run").press("Enter")
        page.wait_for_function(f"{way}.path.length == 64")
        page.get_by_text("After 63 steps").wait_for()
        end = page.evaluate(DIGIT)
        assert all(b >= a for a, b in zip(end["logP"], end["logP"][1:], strict=False))
        # An anchor holds it back; with a temperature the seed decides.
        page.locator(f"{here} .live-slider input").nth(1).press("End")
        assert page.evaluate(DIGIT)["n"] == 0
        for _ in range(10):
            press(page, "Step", here)
        held = page.evaluate(DIGIT)
        assert math.dist(held["z"], start) < math.dist(end["z"], start)
        page.locator(f"{here} .live-slider input").nth(2).press("End")
        ends = []
        for button in ("New noise", "Back to the start"):
            press(page, button, here)
            press(page, "Step", here)
            ends.append(page.evaluate(DIGIT)["z"])
        assert ends[0] == ends[1] != held["z"]
        press(page, "Reset", here)
        assert page.evaluate(DIGIT) == opening
    with phone(browser, "mnist") as page:
        page.locator(f"canvas[aria-label^='{latent}']").tap()
        page.wait_for_function(
            f"Math.abs({way}.start[0]) < 0.05 && Math.abs({way}.start[1]) < 0.05"
        )


# --- chapter 7 ----------------------------------------------------------------------------------


def noised(x: torch.Tensor, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and scales of q(z | x) at log SNRs."""
    return lam.sigmoid().sqrt() * x, (-lam).sigmoid().sqrt().expand_as(x)


def log_normal(x: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Normal(loc, scale).log_prob(x).sum(-1)


def sampled_elbo(
    denoise: torch.nn.Module, x: torch.Tensor, count: int, fitted: bool
) -> torch.Tensor:
    """The ELBO of points by one chain each, from densities of all levels and no closed form."""
    lam = torch.linspace(4, -4, count, dtype=torch.float64)
    table = denoise.errors[:: 64 // (count - 1)]
    r = (lam[:-1].exp() - lam[1:].exp()) * table[1:] / 2
    loc, scale = noised(x, lam[-1])
    z = loc + scale * torch.randn_like(x)
    value = log_normal(z, torch.zeros_like(z), torch.ones_like(z)) - log_normal(z, loc, scale)
    for t in range(count - 1, 0, -1):
        upper, lower = lam[t], lam[t - 1]
        g = -torch.expm1(upper - lower)
        scale = (g * (-lower).sigmoid()).sqrt()

        def mean(clean: torch.Tensor, z=z, g=g, upper=upper, lower=lower) -> torch.Tensor:
            return lower.sigmoid().sqrt() * ((1 - g) * z / upper.sigmoid().sqrt() + g * clean)

        below = mean(x) + scale * torch.randn_like(x)
        guess = mean(denoise(z, upper.expand(len(z), 1)))
        wider = scale * (1 + r[t - 1] * fitted).sqrt()
        value = value + log_normal(below, guess, wider) - log_normal(below, mean(x), scale)
        z = below
    guess = denoise(z, lam[:1].expand(len(z), 1))
    return value + log_normal(x, guess, (table[0] / 2).sqrt().expand_as(x))


def test_the_bounds_of_figure_7_are_those_of_sampled_chains(browser: Browser) -> None:  # noqa: F811
    denoise, x = double("levels")["denoiser"], rings("rings").train.double().repeat(5, 1)
    with alone(browser, "levels") as page, torch.no_grad():
        for count in (5, 9):
            for steps in ("narrow", "fitted"):
                found = page.evaluate(
                    f"FlowVAE.live.bound(FlowVAE.live.denoise, {count}, '{steps}')"
                )
                values = sampled_elbo(denoise, x, count, steps == "fitted")
                error = values.std() / len(x) ** 0.5
                assert abs(values.mean() - found) < 4 * error + 0.01, (count, steps)


def test_a_step_back_of_figure_7_is_the_chapters(browser: Browser) -> None:  # noqa: F811
    denoise, z = double("levels")["denoiser"], 1.5 * torch.randn(20, 2, dtype=torch.float64)
    noise, upper, lower = torch.randn_like(z), torch.tensor(-0.5).double(), torch.tensor(1).double()
    with alone(browser, "levels") as page:
        found = run(
            page, "const { denoise, stepBack } = FlowVAE.live;"
            "return [denoise.forward(T(Z), -0.5), stepBack(denoise, T(Z), -0.5, 1, 0.3, T(noise))]"
            ".map(rows)", Z=z, noise=noise,
        )  # fmt: skip
    guess, g = denoise(z, upper.expand(20, 1)), -torch.expm1(upper - lower)
    mean = lower.sigmoid().sqrt() * ((1 - g) * z / upper.sigmoid().sqrt() + g * guess)
    same(found[0], guess)
    same(found[1], mean + (1.3 * g * (-lower).sigmoid()).sqrt() * noise)


@built
def test_figure_7_goes_through_levels_by_sliders_buttons_and_clicks(browser: Browser) -> None:  # noqa: F811
    level = "FlowVAE.live.state.level"
    with figure(browser, "levels", file=True) as page:
        counts, depth = page.locator(".live-slider input").all()
        depth.press("End")
        assert page.evaluate(level) == 8
        assert "Level 8 of 8, log SNR −4.0" in status(page)
        depth.press("ArrowLeft")
        assert page.evaluate(level) == 7
        # Another T at the same part of the way, with its own bound.
        said = status(page)
        counts.press("ArrowLeft")
        assert page.evaluate("[FlowVAE.live.state.count, FlowVAE.live.state.level]") == [4, 4]
        assert depth.get_attribute("max") == "4"
        assert status(page) != said
        press(page, "Take it away")
        page.wait_for_function(f"{level} == 0")
        page.get_by_text("of the samples are astray").wait_for()
        page.emulate_media(reduced_motion="reduce")
        press(page, "Add noise")
        assert page.evaluate(level) == 1
        samples = "[...FlowVAE.live.state.chains[1][0].data]"
        before = page.evaluate(samples)
        press(page, "New noise")
        assert page.evaluate(samples) != before
        press(page, "Reset")
        assert page.evaluate("[FlowVAE.live.state.count, FlowVAE.live.state.seed]") == [8, 0]
        # The point that is nearest to where one clicks, or to where the arrow keys lead.
        chosen = "(i => FlowVAE.live.state.chains[i][0].row(FlowVAE.live.state.particle))"
        drag(page, "Forwards", (-1.4, -1.4))
        near = page.evaluate(f"[...{chosen}(0)]")
        assert near == pytest.approx([-1.4, -1.4], abs=0.15)
        for _ in range(4):
            page.locator("canvas[aria-label^='Forwards']").press("Shift+ArrowRight")
        assert page.evaluate(f"[...{chosen}(0)]")[0] > near[0] + 1
    with phone(browser, "levels") as page:
        box = page.locator("canvas[aria-label^='Back']").bounding_box()
        assert box
        page.locator("canvas[aria-label^='Back']").tap(
            position={"x": 0.5 * box["width"], "y": (0.5 - 1 / 3.2) * box["height"]}
        )
        x, y = page.evaluate(f"[...{chosen}(1)]")
        assert (abs(x) < 0.7) & (y > 1.3)


def test_figure_7_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    with alone(browser, "levels") as page:
        narrow, fitted = page.evaluate(
            "['narrow', 'fitted'].map(steps => [1, 2, 4, 8, 16, 32, 64].map(count =>"
            "  FlowVAE.live.bound(FlowVAE.live.denoise, count, steps)))"
        )
    assert fitted == sorted(fitted)
    assert narrow[1] < narrow[0] - 50
    assert narrow[1:] == sorted(narrow[1:])


# --- chapter 2 ----------------------------------------------------------------------------------


def test_the_model_of_figure_2_is_the_packages_with_its_pseudo_inputs(browser: Browser) -> None:  # noqa: F811
    modules = double("pseudo")
    x, z = torch.randn(9, 2, dtype=torch.float64), 8 * torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "pseudo") as page:
        found = run(
            page, "const { prior, posterior, likelihood } = FlowVAE.live.vae;"
            "return [prior.pseudoInputs, prior.forward().logProb(T(Z)),"
            "  posterior.forward(T(X)).logProb(T(Z)), likelihood.forward(T(Z)).logProb(T(X))]"
            ".map(rows)", X=x, Z=z,
        )  # fmt: skip
    same(found[0], modules["prior"].pseudo_inputs)
    same(found[1], modules["prior"]().log_prob(z))
    same(found[2], modules["posterior"](x).log_prob(z))
    same(found[3], modules["likelihood"](z).log_prob(x))


def test_figure_2_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    moved = """k => {
        const f = FlowVAE.live, row = f.vae.prior.pseudoInputs.row(k), at = [...row];
        row.set(at.map(v => -v));
        f.update();
        const gain = f.state.now.map((v, i) => v - f.state.asTrained[i]);
        row.set(at);
        return gain;
    }"""
    with alone(browser, "pseudo") as page:
        alone_there = page.evaluate(moved, page.evaluate("FlowVAE.live.state.chosen"))
        assert max(alone_there) < -1
        inputs = page.evaluate("[...FlowVAE.live.vae.prior.pseudoInputs.data]")
        rows = [(inputs[2 * k], inputs[2 * k + 1]) for k in range(16)]
        groups = [round(math.atan2(y, x) / (math.pi / 4)) % 8 for x, y in rows]
        several = [k for k in range(16) if groups.count(groups[k]) >= 3]
        assert several
        assert all(max(map(abs, page.evaluate(moved, k))) < 0.15 for k in several)


@built
def test_in_figure_2_mouse_keyboard_and_finger_move_alike(browser: Browser) -> None:  # noqa: F811
    here, data = "#live-pseudo", "Data plane"
    at = "(k => [...FlowVAE.figures.pseudo.vae.prior.pseudoInputs.row(k)])"
    shown = "(({chosen, now, drawn}) => [chosen, ...now, ...drawn.x.data])"
    shown += "(FlowVAE.figures.pseudo.state)"
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with figure(browser, "pseudo", file=True) as page:
        start, place_5 = page.evaluate(shown), page.evaluate(f"{at}(5)")
        drag(page, data, tuple(place_5), (0, 0), (0.5, 0.5))
        page.evaluate(frame)
        assert page.evaluate(f"{at}(5)") == pytest.approx([0.5, 0.5], abs=0.03)
        moved = page.evaluate(shown)
        assert moved[2] < start[2] - 1
        assert "as trained" in status(page, here)
        plane = page.locator(f"canvas[aria-label^='{data}']")
        before = page.evaluate(f"{at}(5)")
        plane.press("Shift+ArrowLeft")
        after = page.evaluate(f"{at}(5)")
        assert after == pytest.approx([before[0] - 0.15 * 3.2, before[1]])
        # The row of the table, and the words, follow.
        said = page.locator(f"{here} .live-table tbody td").all_inner_texts()
        assert said[1] != said[3]
        press(page, "Put this pseudo-input back", here)
        assert page.evaluate(shown) == start
        page.locator(f"{here} select").select_option("one")
        own = page.evaluate(shown)
        assert own != start
        assert own[:3] == start[:3]
        press(page, "Next pseudo-input", here)
        assert page.evaluate(shown)[0] == 6
        press(page, "New data and noise", here)
        assert page.evaluate(shown) != own
        press(page, "Reset", here)
        assert page.evaluate(shown) == start
    with phone(browser, "pseudo") as page:
        page.locator(f"canvas[aria-label^='{data}']").tap()
        chosen = page.evaluate("FlowVAE.figures.pseudo.state.chosen")
        assert page.evaluate(f"{at}({chosen})") == pytest.approx([0, 0], abs=0.05)


def test_the_model_of_figure_2b_is_the_packages_with_its_pseudo_inputs(browser: Browser) -> None:  # noqa: F811
    modules = double("pixels")
    x, z = torch.rand(9, 64, dtype=torch.float64), 3 * torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "pixels") as page:
        found = run(
            page, "const { prior, posterior, likelihood, codes } = FlowVAE.live.model;"
            "return [prior.pseudoInputs, prior.forward().logProb(T(Z)),"
            "  posterior.forward(T(X)).logProb(T(Z)), likelihood.forward(T(Z)).logProb(T(X)),"
            "  codes.loc, codes.logScale].map(rows)", X=x, Z=z,
        )  # fmt: skip
    codes = modules["codes"]
    same(found[0], modules["prior"].pseudo_inputs)
    same(found[1], modules["prior"]().log_prob(z))
    same(found[2], modules["posterior"](x).log_prob(z))
    same(found[3], modules["likelihood"](z).log_prob(x))
    same(found[4], codes.loc)
    same(found[5], codes.log_scale)


def test_the_codes_of_figure_2b_are_those_of_real_digits() -> None:
    modules = live.read("pixels")
    with torch.no_grad():
        q = modules["posterior"](rings("digits").validation).base_dist
    # The weights were packed, too.
    assert (modules["codes"].loc - q.loc).abs().max() < 0.05
    assert (modules["codes"].log_scale - q.scale.log()).abs().max() < 0.05


def test_figure_2b_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    with_pixels = """([k, pixels, value]) => {
        const f = FlowVAE.live, row = f.model.prior.pseudoInputs.row(k), was = row.slice();
        f.state.chosen = k;
        pixels.forEach(i => { row[i] = value; });
        f.update();
        const gain = f.state.now - f.state.asTrained, scales = [...f.state.own.logScale.data];
        row.set(was);
        return [gain, ...scales.map(Math.exp)];
    }"""
    hole, ink, paper = [27, 28, 35, 36], 16.5 / 17, 0.5 / 17
    with alone(browser, "pixels") as page:
        zero = page.evaluate("FlowVAE.live.state.chosen")
        gains = [page.evaluate(with_pixels, [zero, hole[:n], ink])[0] for n in range(5)]
        assert gains[0] == 0
        assert gains == sorted(gains, reverse=True)
        assert gains[-1] < -1
        # e is as wide as a scale may be.
        _, *scales = page.evaluate(with_pixels, [zero, [24], ink])
        assert all(2.6 < scale < math.e for scale in scales)
        others = [
            page.evaluate(with_pixels, [k, [*range(64)], paper])[0] for k in range(8) if k != zero
        ]
        assert min(others) > -0.5
    modules, data = live.read("pixels"), rings("digits")
    with torch.no_grad():
        component = modules["posterior"](modules["prior"].pseudo_inputs[zero : zero + 1])
        near = component.log_prob(modules["codes"].loc) > -5
    assert (data.labels["validation"][near] == 0).double().mean() > 0.9


PIXELS = (
    "(({chosen, pixel, now, heights, drawn}) => ({chosen, at: pixel.index, now,"
    " heights: heights.prior.reduce((a, b) => a + b), drawn: [...drawn.x.data]}))"
    "(FlowVAE.figures.pixels.state)"
)


def test_a_pixel_of_figure_2b_changes_what_the_package_says_it_does(browser: Browser) -> None:  # noqa: F811
    modules = double("pixels")
    inputs, codes = modules["prior"].pseudo_inputs.detach().clone(), modules["codes"]
    with alone(browser, "pixels") as page:
        canvas = page.locator("canvas[aria-label^='The chosen']")
        chosen, index = page.evaluate("[FlowVAE.live.state.chosen, FlowVAE.live.state.pixel.index]")
        drawn = page.evaluate("[...FlowVAE.live.state.codes.data]")
        before = page.evaluate("[FlowVAE.live.state.now, FlowVAE.live.state.asTrained]")
        was = inputs[chosen, index].item()
        canvas.press("Space")
        now = page.evaluate("FlowVAE.live.state.now")
        loc = page.evaluate("[...FlowVAE.live.state.own.loc.data]")
    z = torch.tensor(drawn, dtype=torch.float64).view(-1, 2)
    assert len(z) == len(codes.loc)
    same(before, modules["prior"]().log_prob(z).mean().expand(2))
    # From ink to paper, or from paper to ink: the middles of the end levels.
    inputs[chosen, index] = (0.5 if was > 0.5 else 16.5) / 17
    changed = Mixture(modules["posterior"](inputs), torch.zeros(len(inputs)).double())
    same(now, changed.log_prob(z).mean())
    same(loc, modules["posterior"](inputs).base_dist.loc[chosen])


@built
def test_in_figure_2b_mouse_keyboard_and_finger_change_pixels_alike(browser: Browser) -> None:  # noqa: F811
    here, pad, prior = "#live-pixels", "The chosen pseudo-input", "Map of the components"
    row = "(k => [...FlowVAE.figures.pixels.model.prior.pseudoInputs.row(k)])"
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    ink = pytest.approx(16.5 / 17)
    with figure(browser, "pixels", file=True) as page:
        start = page.evaluate(PIXELS)
        chosen = start["chosen"]
        press(page, "Empty its pixels", here)
        assert page.evaluate(f"{row}({chosen})") == pytest.approx([0.5 / 17] * 64)
        empty = page.evaluate(PIXELS)
        assert empty["now"] != start["now"]
        assert empty["heights"] != start["heights"]
        # Down the middle of column 4, from row 2 to row 4.
        drag(page, pad, (-0.5, 2.5), (-0.5, 1.5), (-0.5, 0.5))
        page.evaluate(frame)
        drawn = page.evaluate(f"{row}({chosen})")
        assert [i for i, v in enumerate(drawn) if v > 0.5] == [11, 19, 27]
        assert drawn[11] == ink
        by_mouse = page.evaluate(PIXELS)
        said = status(page, here)
        assert "as trained" in said
        # What is ink becomes paper, also where the drag goes on over paper.
        drag(page, pad, (-0.5, 1.5), (1.5, 1.5))
        assert [i for i, v in enumerate(page.evaluate(f"{row}({chosen})")) if v > 0.5] == [11, 27]
        # The same by keyboard.
        press(page, "Empty its pixels", here)
        plane = page.locator(f"{here} canvas[aria-label^='{pad}']")
        page.evaluate("FlowVAE.figures.pixels.planes[0].at = [-0.5, 3.5]")
        for _ in range(3):
            plane.press("ArrowDown")
            plane.press("Space")
        assert page.evaluate(PIXELS) == by_mouse
        assert status(page, here) == said
        # At the edge the keys stay inside.
        for _ in range(12):
            plane.press("ArrowRight")
        assert status(page, here) == "Row 4, column 8: paper."
        plane.press("ArrowLeft")
        assert status(page, here) == "Row 4, column 7: paper."
        gained = page.locator(f"{here} .live-table td").all_inner_texts()
        trained, now, gain = (float(text.replace("−", "-")) for text in gained)
        assert now - trained == pytest.approx(gain, abs=0.011)
        press(page, "Restore its pixels", here)
        assert page.evaluate(PIXELS)["now"] == start["now"]
        page.locator(f"{here} select").select_option("one")
        own = page.evaluate(PIXELS)
        assert own["drawn"] != start["drawn"]
        press(page, "Next pseudo-input", here)
        assert page.evaluate(PIXELS)["chosen"] == (chosen + 1) % 8
        # A click on the map chooses the nearest component, and so do its keys.
        place_of = "(k => [...FlowVAE.figures.pixels.state.locs.row(k)])"
        drag(page, prior, tuple(page.evaluate(f"{place_of}({chosen})")))
        assert page.evaluate(PIXELS)["chosen"] == chosen
        for _ in range(30):
            page.locator(f"{here} canvas[aria-label^='{prior}']").press("Shift+ArrowUp")
        assert page.evaluate(PIXELS)["chosen"] != chosen
        press(page, "New noise", here)
        assert page.evaluate(PIXELS)["now"] != start["now"]
        press(page, "Reset", here)
        assert page.evaluate(PIXELS) == start
    with phone(browser, "pixels") as page:
        was = page.evaluate(f"{row}({chosen})[0]") > 0.5
        page.locator(f"canvas[aria-label^='{pad}']").tap(position={"x": 12, "y": 12})
        assert (page.evaluate(f"{row}({chosen})[0]") > 0.5) != was


# --- chapter 3 ----------------------------------------------------------------------------------


def test_the_levels_of_figure_3_are_those_of_the_package(browser: Browser) -> None:  # noqa: F811
    modules = double("hierarchy")
    prior = HierarchicalPrior(modules["prior"], modules["conditional"])
    posterior = HierarchicalPosterior(modules["top"], modules["below"])
    x, z = 2 * torch.randn(9, 2, dtype=torch.float64), 4 * torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "hierarchy") as page:
        found = run(
            page, "const { top, below, likelihood, logProbParts } = FlowVAE.live.model;"
            "const z = T(Z), z2 = FlowVAE.columns(z, [0]), z1 = FlowVAE.columns(z, [1]), x = T(X);"
            "return [...logProbParts(z), top.forward(x).logProb(z2),"
            "  below.forward([x, z2]).logProb(z1), likelihood.forward(z).logProb(x)].map(rows)",
            X=x, Z=z,
        )  # fmt: skip
    for part, expected in zip(found[:2], prior().log_prob_parts(z), strict=True):
        same(part, expected)
    for part, expected in zip(found[2:4], posterior(x).log_prob_parts(z), strict=True):
        same(part, expected)
    same(found[4], modules["likelihood"](z).log_prob(x))


def test_figure_3_draws_a_level_given_the_other(browser: Browser) -> None:  # noqa: F811
    modules = double("hierarchy")
    z2, z1 = 4.0, -0.5
    with alone(browser, "hierarchy") as page:
        drawn = page.evaluate(
            "() => { const f = FlowVAE.live; const seen = [[], []];"
            "for (let seed = 0; seed < 40; seed++) { f.state.seed = seed; f.update();"
            "  f.rows.forEach(({ z }, i) => { for (let n = 0; n < z.rows; n++)"
            "    seen[i].push([...z.row(n)]); }); } return seen; }"
        )
    held_top, held_lower = (torch.tensor(z, dtype=torch.float64) for z in drawn)
    assert (held_top[:, 0] == z2).all()
    assert (held_lower[:, 1] == z1).all()
    p1 = modules["conditional"](torch.tensor([[z2]], dtype=torch.float64))
    error = p1.base_dist.scale.item() / len(held_top) ** 0.5
    assert abs(held_top[:, 1].mean() - p1.mean.item()) < 4 * error + 0.01
    assert held_top[:, 1].std() == pytest.approx(p1.base_dist.scale.item(), rel=0.05)
    # p(z₂ | z₁) by Bayes' rule, on a grid.
    free = torch.linspace(-13, 13, 5201, dtype=torch.float64)[:, None]
    z = torch.cat([free, torch.full_like(free, z1)], dim=-1)
    prior = HierarchicalPrior(modules["prior"], modules["conditional"])
    share = prior().log_prob(z).softmax(0)
    mean = (share * free[:, 0]).sum()
    scale = (share * (free[:, 0] - mean) ** 2).sum().sqrt()
    assert abs(held_lower[:, 0].mean() - mean) < 4 * scale / len(held_lower) ** 0.5 + 0.01
    assert held_lower[:, 0].std() == pytest.approx(scale.item(), rel=0.05)


def test_figure_3_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    with alone(browser, "hierarchy") as page:
        top, lower = page.evaluate("FlowVAE.live.rows.map(row => row.spread)")
        assert (top["blades"] == 1) & (top["most"] > 0.95)
        assert (lower["blades"] >= 3) & (lower["most"] < 0.7)
        # Elsewhere the top level leaves it open which blade it is.
        page.evaluate("FlowVAE.live.state.z = [-4, 0]; FlowVAE.live.update();")
        assert page.evaluate("FlowVAE.live.rows[0].spread.most") < 0.75


@built
def test_in_figure_3_mouse_keyboard_and_finger_move_alike(browser: Browser) -> None:  # noqa: F811
    latent, data, at = "Latent plane", "Data plane", "FlowVAE.live.state.z"
    shown = "(({z, hold, drawn}) => [hold, ...z, ...drawn.x.data])(FlowVAE.live.state)"
    frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    with figure(browser, "hierarchy", file=True) as page:
        start = page.evaluate(shown)
        drag(page, latent, (-0.5, 4), (0, 0), (-3, 4.5))
        page.evaluate(frame)
        assert page.evaluate(at) == pytest.approx([4.5, -3], abs=0.1)
        said = status(page)
        assert said.startswith("With z₂ held at 4.")
        plane = page.locator(f"canvas[aria-label^='{latent}']")
        before = page.evaluate(at)
        plane.press("ArrowUp")
        assert page.evaluate(at) == pytest.approx([before[0] + 0.03 * 9, before[1]])
        page.locator(".live-figure select").select_option("lower")
        assert status(page).startswith("With z₁ held at −3")
        held = page.evaluate("[...FlowVAE.live.state.drawn.z.data].filter((_, i) => i % 2)")
        assert set(held) == {page.evaluate(at)[1]}
        before = page.evaluate(shown)
        press(page, "New noise")
        assert page.evaluate(shown) != before
        # A point of the data is encoded, and its code decodes to a place nearby.
        drag(page, data, (1.1, 1.4), (1.1, 1.4))
        page.evaluate(frame)
        assert page.evaluate("FlowVAE.live.state.x") == pytest.approx([1.1, 1.4], abs=0.4)
        press(page, "Reset")
        assert page.evaluate(shown) == start
        assert page.locator(".live-figure select").input_value() == "top"
    with phone(browser, "hierarchy") as page:
        page.locator(f"canvas[aria-label^='{latent}']").tap()
        assert page.evaluate(at) == pytest.approx([0, 0], abs=0.1)


# --- chapter 8 ----------------------------------------------------------------------------------


def euler(prior: Any, u: torch.Tensor, steps: int) -> torch.Tensor:
    for step in range(steps):
        u = u + prior.velocity(u, u.new_tensor(step / steps)) / steps
    return u


def test_the_field_of_figure_8_is_the_packages_with_its_density(browser: Browser) -> None:  # noqa: F811
    prior = double("particles")["prior"]
    h = 1.5 * torch.randn(9, 2, dtype=torch.float64)
    with alone(browser, "particles") as page:
        found = run(
            page, "const { prior, follow, logProb } = FlowVAE.live, h = T(H);"
            "return [...prior.withDivergence(h, 0.3), prior.forward(h, 0.3), logProb(prior, h),"
            "  follow(prior, h, 8, 'rk4').at(-1), follow(prior, h, 5, 'euler').at(-1)].map(rows)",
            H=h,
        )  # fmt: skip
    with torch.no_grad():
        velocity, divergence = prior.velocity.with_divergence(
            h, torch.tensor(0.3, dtype=torch.float64)
        )
        same(found[0], velocity)
        same(found[1], divergence)
        same(found[2], velocity)
        same(found[3], prior().log_prob(h))
        same(found[4], prior().transform(h))
        same(found[5], euler(prior, h, 5))


def test_figure_8_shows_what_its_caption_says(browser: Browser) -> None:  # noqa: F811
    with alone(browser, "particles") as page:
        plain, classical = page.evaluate(
            "['euler', 'rk4'].map(solver => [1, 8, 32].map(steps => {"
            "  FlowVAE.live.set({ steps, solver }); return FlowVAE.live.measures(solver); }))"
        )
    # One plain step ends in the middle, on a straight path.
    assert plain[0]["astray"] > 95
    assert plain[0]["detour"] == pytest.approx(1)
    # Eight of the solver, 32 calls, are better than 32 plain steps, of as many calls.
    assert classical[1]["calls"] == plain[2]["calls"] == 32
    assert classical[1]["off"] < 0.2 * plain[2]["off"]
    assert classical[1]["detour"] > 1.3


@built
def test_figure_8_goes_through_time_by_sliders_buttons_and_drags(browser: Browser) -> None:  # noqa: F811
    state = "(({steps, solver, time, seed, start}) => [steps, solver, time, seed, ...start])"
    state += "(FlowVAE.live.state)"
    with figure(browser, "particles", file=True) as page:
        start = page.evaluate(state)
        counts, when = page.locator(".live-slider input").all()
        counts.press("Home")
        assert page.evaluate("FlowVAE.live.state.own.length") == 2
        assert status(page).startswith("Time 1.00. With 1 Runge–Kutta step the")
        said = status(page)
        page.locator(".live-figure select").select_option("euler")
        assert status(page) != said
        when.press("ArrowLeft")
        assert page.evaluate("FlowVAE.live.state.time") == pytest.approx(0.99)
        press(page, "Back to noise")
        page.wait_for_function("FlowVAE.live.state.time == 0")
        page.emulate_media(reduced_motion="reduce")
        press(page, "To the codes")
        assert page.evaluate("FlowVAE.live.state.time") == 1
        drag(page, "Particles", (0, 0), (1, -1))
        assert page.evaluate(state)[4:] == pytest.approx([1, -1], abs=0.03)
        cloud = page.locator("canvas[aria-label^='Particles']")
        before = page.evaluate(state)
        cloud.press("ArrowRight")
        assert page.evaluate(state)[4] == pytest.approx(before[4] + 0.03 * 3.2)
        calls = page.locator(".live-table tbody tr td:first-of-type").all_inner_texts()
        assert calls == ["1", "4"]
        press(page, "New noise")
        assert page.evaluate(state)[3] == 1
        press(page, "Reset")
        assert page.evaluate(state) == start
        assert when.input_value() == "1"
    with phone(browser, "particles") as page:
        page.locator("canvas[aria-label^='Particles']").tap()
        assert page.evaluate(state)[4:] == pytest.approx([0, 0], abs=0.05)
