"""The VAE lab in Chromium: by mouse, finger and keyboard, from its address, and without scripts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from test_browser import (
    KNOWN_ERRORS_FROM_FILES,
    PHONE,
    SITE,
    browser,  # noqa: F401  (a fixture)
    crowded_labels,
    narrow,
    site,  # noqa: F401  (a fixture)
    too_wide,
    violations,
    visit,
)
from test_site import page_path

pytestmark = pytest.mark.usefixtures("site")

LAB = "book/lab"
STEPS = "FlowVAE.lab.models.map(m => m.training.steps)"


@contextmanager
def lab(browser: Browser, settings: str = "", *, file: bool = False) -> Iterator[Page]:  # noqa: F811
    """The page with these settings, which fetches nothing from elsewhere and raises no error."""
    address = page_path(LAB).as_uri() if file else f"{SITE}{LAB}.html"
    with visit(browser, f"{address}#{settings}" if settings else address) as shown:
        yield shown.page
        assert shown.outside == []
        assert shown.unknown_errors(KNOWN_ERRORS_FROM_FILES if file else {}) == []


def settings(page: Page) -> Any:
    return page.evaluate("FlowVAE.lab.settings")


def status(page: Page) -> str:
    return page.locator(".lab-status").inner_text()


def center(page: Page, plane: str) -> tuple[float, float]:
    box = page.locator(plane).first.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("file", [False, True])
def test_the_keyboard_trains_pauses_steps_and_resets(browser: Browser, file: bool) -> None:  # noqa: F811
    with lab(browser, file=file) as page:
        assert page.locator(".lab-still").is_hidden()
        page.get_by_role("button", name="Train").press("Enter")
        page.wait_for_function(f"{STEPS}.every(steps => steps > 2)")
        assert status(page)
        page.get_by_role("button", name="Pause").press("Space")
        first, second = page.evaluate(STEPS)
        assert 0 <= first - second <= 1
        assert status(page).startswith(f"Paused. Step {first}, validation ELBO. A N(0, I): −")
        page.get_by_role("button", name="Step").press("Enter")
        assert page.evaluate(STEPS) == [first + 1, second + 1]
        page.get_by_role("button", name="Reset").press("Enter")
        assert page.evaluate(STEPS) == [0, 0]
        assert status(page) == "Reset: as at step 0."


def test_training_ends_by_itself_and_can_go_on(browser: Browser) -> None:  # noqa: F811
    with lab(browser) as page:
        page.evaluate("FlowVAE.SCHEDULE.steps = 4")
        page.get_by_role("button", name="Train").click()
        page.get_by_text("Done. Step 4,").wait_for()
        assert page.evaluate(STEPS) == [4, 4]
        page.get_by_role("button", name="Train").click()
        page.get_by_text("Done. Step 8,").wait_for()


def test_two_models_of_the_same_settings_are_the_same(browser: Browser) -> None:  # noqa: F811
    with lab(browser, "prior=vampprior&prior2=vampprior&k=5&k2=5") as page:
        for _ in range(3):
            page.get_by_role("button", name="Step").click()
        first, second = page.evaluate("FlowVAE.lab.models.map(m => m.training.history)")
        assert first == second
        assert len({point["elbo"] for point in first}) == 4
        page.get_by_role("button", name="New data and noise").click()
        assert settings(page)["seed"] == 1
        assert page.evaluate("FlowVAE.lab.models[0].training.history[0]") != first[0]


def test_settings_are_read_from_the_address_and_written_there(browser: Browser) -> None:  # noqa: F811
    given = (
        "data=moons&seed=7&prior=mixture&posterior=flow&beta=4&k=12"
        "&prior2=flow&posterior2=gaussian&beta2=0.25&k2=50"
    )
    with lab(browser, given, file=True) as page:
        assert page.evaluate("location.hash") == f"#{given}"
        assert settings(page) == {
            "data": "moons", "seed": 7, "models": [
                {"prior": "mixture", "posterior": "flow", "beta": 4, "k": 12},
                {"prior": "flow", "posterior": "gaussian", "beta": 0.25, "k": 50},
            ],
        }  # fmt: skip
        shown = "['data', 'prior-A', 'k-A', 'posterior-A', 'beta-A', 'prior-B', 'beta-B']"
        values = f"{shown}.map(n => document.querySelector(`[name=${{n}}]`).value)"
        assert page.evaluate(values) == ["moons", "mixture", "12", "flow", "4", "flow", "0.25"]
        page.locator("[name=k-A]").fill("33")
        page.locator("[name=k-A]").press("Enter")
        page.locator("[name=data]").select_option("spirals")
        page.get_by_label("compare two").uncheck()
        wanted = "#data=spirals&seed=7&prior=mixture&posterior=flow&beta=4&k=33"
        assert page.evaluate("location.hash") == wanted
        # A link to other settings, followed on the page itself.
        page.evaluate("location.hash = '#data=rings&seed=2&prior=gaussian'")
        page.wait_for_function("FlowVAE.lab.settings.seed == 2")
        assert page.evaluate("location.hash").endswith("&posterior=gaussian&beta=1&k=50")


@pytest.mark.parametrize(
    "nonsense",
    [
        "data=%3Cimg%20src%3Dx%3E&seed=-1&prior=constructor&posterior=__proto__&beta=9&k=1e9",
        "prior=&k=&beta=&seed=",
    ],
)
def test_nonsense_in_the_address_is_left_out(browser: Browser, nonsense: str) -> None:  # noqa: F811
    with lab(browser, nonsense) as page:
        model = {"prior": "gaussian", "posterior": "gaussian", "beta": 1, "k": 50}
        assert settings(page) == {"data": "rings", "seed": 0, "models": [model]}


def test_a_vampprior_has_a_gaussian_posterior(browser: Browser) -> None:  # noqa: F811
    with lab(browser, "prior=vampprior&posterior=flow") as page:
        assert settings(page)["models"][0]["posterior"] == "gaussian"
        assert page.locator("[name=posterior-A] option[value=flow]").is_disabled()
        page.locator("[name=prior-A]").select_option("flow")
        page.locator("[name=posterior-A]").select_option("flow")
        assert settings(page)["models"][0]["posterior"] == "flow"
        page.get_by_role("button", name="Step").click()
        assert page.evaluate(STEPS) == [1]


def test_the_planes_answer_to_the_mouse_and_to_the_arrow_keys_alike(browser: Browser) -> None:  # noqa: F811
    with lab(browser, "prior=vampprior") as page:
        latent = page.locator("canvas.lab-latent")
        latent.focus()
        latent.press("ArrowRight")
        latent.press("ArrowLeft")
        said = status(page)
        assert said.startswith(("A: z = (0.0, 0.0) decodes to x = (", "A: z = (−0.0"))
        latent.press("Escape")
        assert page.evaluate("FlowVAE.lab.models[0].probe") is None
        latent.press("Shift+ArrowUp")
        assert status(page) != said
        by_keyboard = page.evaluate("[...FlowVAE.lab.models[0].probe.z.data]")
        page.evaluate("document.activeElement.blur()")
        x, y = center(page, "canvas.lab-latent")
        step = 0.15 * page.locator("canvas.lab-latent").bounding_box()["width"] / 2
        page.mouse.move(x, y - step)
        by_mouse = page.evaluate("[...FlowVAE.lab.models[0].probe.z.data]")
        assert by_mouse == pytest.approx(by_keyboard, abs=0.02)
        page.mouse.move(*center(page, "canvas.lab-data"))
        probe = "FlowVAE.lab.models[0].probe.z.rows"
        assert page.evaluate(probe) > 1
        page.locator("canvas.lab-data").press("ArrowUp")
        assert "has the codes" in status(page)


def test_data_are_painted_by_mouse_keyboard_and_finger(browser: Browser) -> None:  # noqa: F811
    spots = "FlowVAE.lab.spots.map(spot => spot.map(v => +v.toFixed(1)))"
    with lab(browser, "data=painted&prior=vampprior&k=3") as page:
        assert status(page).startswith("Paint data on the data plane")
        page.get_by_role("button", name="Train").click()
        assert not page.evaluate("FlowVAE.lab.running")
        x, y = center(page, "canvas.lab-data")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 20, y, steps=4)
        page.mouse.up()
        assert len(page.evaluate(spots)) == 5
        assert status(page) == "5 spots of paint. Press Train."
        far = "Math.max(...FlowVAE.lab.data.train.data.map(Math.abs))"
        assert page.evaluate(far) < 1
        data = page.locator("canvas.lab-data")
        for _ in range(4):
            data.press("Shift+ArrowUp")
        data.press("Space")
        assert len(page.evaluate(spots)) == 6
        assert page.evaluate(far) > 1.5
        page.get_by_role("button", name="Train").click()
        page.wait_for_function(f"{STEPS}[0] > 0")
        page.get_by_role("button", name="Clear the paint").click()
        assert page.evaluate("[FlowVAE.lab.spots.length, FlowVAE.lab.running]") == [0, False]
    with browser.new_context(has_touch=True, viewport=PHONE) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{page_path(LAB).as_uri()}#data=painted")
        page.locator("canvas.lab-data").tap()
        assert page.evaluate(spots) == [[0, 0]]


def test_painted_data_stand_in_the_address(browser: Browser) -> None:  # noqa: F811
    spots = "FlowVAE.lab.spots"
    with lab(browser, "data=painted&prior=vampprior&k=3", file=True) as page:
        assert "paint=" not in page.evaluate("location.hash")
        page.evaluate(
            "for (let i = 0; i < 1000; i++) FlowVAE.lab.paint(i / 400 - 1.2, Math.sin(i));"
            "FlowVAE.lab.painted();"
        )
        drawn, address = page.evaluate(spots), page.evaluate("location.hash")
        assert len(drawn) == 1000
        assert len(address) < 2500
    with lab(browser, address.lstrip("#"), file=True) as page:
        again = page.evaluate(spots)
        # Every third of them, to the nearest of 255 places.
        assert len(again) == 334
        for found, expected in zip(again, drawn[::3], strict=True):
            assert found == pytest.approx(expected, abs=0.013)
        assert settings(page)["data"] == "painted"
        page.get_by_role("button", name="Clear the paint").click()
        assert "paint=" not in page.evaluate("location.hash")
    for nonsense in ("%3Cb%3E", "A", "AAAAA", "====", ""):
        with lab(browser, f"data=painted&prior=gaussian&paint={nonsense}") as page:
            assert page.evaluate(spots) == []


def test_where_motion_is_not_wanted_it_is_drawn_once_a_second(browser: Browser) -> None:  # noqa: F811
    seen = """async () => {
        const lab = FlowVAE.lab, [model] = lab.models, look = model.look.bind(model);
        const times = [];
        model.look = () => { times.push(performance.now()); look(); };
        lab.toggle();
        await new Promise(done => setTimeout(done, 3500));
        return times.slice(1).map((time, i) => time - times[i]);
    }"""
    with lab(browser, "prior=gaussian") as page:
        page.emulate_media(reduced_motion="reduce")
        gaps = page.evaluate(seen)
        assert gaps
        assert min(gaps) > 950


def test_a_theme_is_drawn_in_its_colours_at_once(browser: Browser) -> None:  # noqa: F811
    with lab(browser, "prior=gaussian") as page:
        names = "['prior', 'posterior', 'likelihood', 'data', 'paper']"
        colours = f"{names}.map(n => FlowVAE.lab.models[0].latents.colour(n))"
        light = page.evaluate(colours)
        assert light[:2] == ["#0072b2", "#d55e00"]
        pictures = "[...document.querySelectorAll('#vae-lab canvas')].map(c => c.toDataURL())"
        before = page.evaluate(pictures)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate("new Promise(done => requestAnimationFrame(done))")
        dark = page.evaluate(colours)
        assert not any(map(str.__eq__, light, dark))
        assert not any(map(str.__eq__, before, page.evaluate(pictures)))


def test_it_is_accessible_and_fits_a_phone_while_it_trains(browser: Browser) -> None:  # noqa: F811
    with lab(browser, "data=pinwheel&prior=mixture&prior2=vampprior") as page:
        page.get_by_role("button", name="Step").click()
        assert violations(page) == []
        labels = page.locator("canvas").evaluate_all("c => c.map(e => e.ariaLabel)")
        assert len(labels) == 6
        assert all(labels)
        assert crowded_labels(page) == []
        narrow(page)
        assert too_wide(page) == []
        assert crowded_labels(page) == []
        inside = "[...document.querySelectorAll('#vae-lab *')].every("
        inside += "e => e.getBoundingClientRect().right <= innerWidth)"
        assert page.evaluate(inside)


def test_without_scripts_a_picture_with_its_caption_stands_there(browser: Browser) -> None:  # noqa: F811
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(page_path(LAB).as_uri())
        assert page.locator(".lab-still img").is_visible()
        assert page.locator(".lab-still figcaption").is_visible()
        assert page.locator("#vae-lab").inner_html() == ""


def test_no_other_page_has_the_labs_scripts() -> None:
    for name, has in {LAB: True, "book/notation": False}.items():
        assert ("tensor.js" in page_path(name).read_text(encoding="utf-8")) == has
