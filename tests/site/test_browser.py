"""The built pages in Chromium: drawn without another host, legible in the dark and on a phone.

Each check takes a page that the browser shows and returns what is wrong with it, so that it can be
shown to fail. A page is opened twice, from a server in light colours and as a file in dark ones.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page, Route, sync_playwright

from test_site import CHAPTERS, HTML, PAGES, ROOT, built, load, page_path, parse

# Each request to this address is answered from the built files, and each to another is refused.
SITE = "http://localhost/"
# Pages that Sphinx adds to those of the contents.
ADDED = ["genindex", "py-modindex", "search"]
DRAWINGS = sorted((ROOT / "book" / "figures").glob("*.svg"))
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# Both sidebars are shown, and leave the text the least room.
LAPTOP = {"width": 1200, "height": 800}

CHROMIUM = ["chromium", "chromium-browser", "google-chrome"]

# Chromium gives a page opened as a file no fonts. The theme's icons are drawn by a script.
KNOWN_ERRORS_FROM_FILES = {
    r"Access to font at 'file://.*/fontawesome/": "the icon font",
    r"Failed to load resource: net::ERR_FAILED \(.*/fontawesome/": "the icon font",
}


@dataclass
class Visit:
    """A page that is shown, and what happened on the way."""

    page: Page
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def unknown_errors(self, known: dict[str, str]) -> list[str]:
        return [error for error in self.errors if not any(re.search(k, error) for k in known)]


def neighbours(page: BeautifulSoup, path: Path) -> tuple[Path | None, Path | None]:
    """The files that "previous" and "next" lead to, from the page at `path`."""
    links = (page.select_one(link) for link in ("a.left-prev", "a.right-next"))
    before, after = ((path.parent / str(a["href"])).resolve() if a else None for a in links)
    return before, after


@contextmanager
def visit(browser: Browser, address: str, scheme: str = "light") -> Iterator[Visit]:
    """Opens an address and waits for its mathematics; no other host can be reached."""
    with browser.new_context(color_scheme=scheme, viewport=DESK) as context:
        # Two cores may be busy with a test suite.
        context.set_default_timeout(120_000)
        shown = Visit(context.new_page())

        def answer(route: Route) -> None:
            url = route.request.url
            file = HTML / unquote(urlsplit(url).path).lstrip("/")
            if urlsplit(url).scheme in ("file", "data", "blob"):
                route.continue_()
            elif not url.startswith(SITE):
                shown.outside.append(url)
                route.abort()
            elif file.is_file():
                route.fulfill(path=file)
            else:
                route.fulfill(status=404)

        context.route("**/*", answer)
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on(
            "console",
            lambda message: (
                shown.errors.append(f"{message.text} ({message.location['url']})")
                if message.type == "error"
                else None
            ),
        )
        shown.page.goto(address)
        shown.page.evaluate("() => window.MathJax && MathJax.startup.promise.then(() => true)")
        # Solutions and hidden code are part of the page.
        shown.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        yield shown


def narrow(page: Page) -> None:
    """Makes the page as wide as a phone, and waits until the theme has noticed: 300 ms."""
    page.set_viewport_size(PHONE)
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 400)))")


# Checks: what is wrong with the page that is shown.


def undrawn_mathematics(page: Page) -> list[str]:
    return page.evaluate(
        r"""() => {
        const undrawn = [...document.querySelectorAll('.math')].filter(
            e => !e.querySelector('mjx-container svg'));
        // MathJax draws an unknown macro in red.
        const wrong = document.querySelectorAll('mjx-merror, [data-mjx-error], svg [fill="red"]');
        const raw = [];
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            const text = texts.currentNode;
            if (/\$\$|\\\(|\\\[/.test(text.data)
                    && !text.parentElement.closest('script, style, pre, code')) {
                raw.push(text.parentElement);
            }
        }
        return [...undrawn, ...wrong, ...raw].map(e => e.outerHTML.slice(0, 120));
        }"""
    )


def missing_images(page: Page) -> list[str]:
    return page.evaluate(
        """() => [...document.images].filter(e => !e.naturalWidth)
            .map(e => e.outerHTML.slice(0, 120))"""
    )


def stuck_sliders(page: Page) -> list[str]:
    """Sliders that the keyboard does not move from one picture to another, with its name."""
    stuck = []
    for slider in page.locator(".frame-slider").all():
        knob = slider.locator("input[type=range]")
        seen = []
        for key in ("Home", "End"):
            knob.press(key)
            seen.append(
                slider.evaluate(
                    """e => [
                    [...e.querySelectorAll('img')].filter(i => i.offsetWidth).map(i => i.src),
                    e.querySelector('output').textContent,
                    e.querySelector('input').ariaValueText]"""
                )
            )
        (first, *first_names), (last, *last_names) = seen
        one_picture = len(first) == len(last) == 1
        if not one_picture or first == last or any(map(str.__eq__, first_names, last_names)):
            stuck.append(slider.locator("label").inner_text())
    return stuck


def dimmed_figures(page: Page) -> list[str]:
    """Figures, which are drawn in black on clear or white, that have no plain white behind them."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.bd-article img')].filter(image => {
            if (getComputedStyle(image).backgroundColor != 'rgb(255, 255, 255)') return true;
            for (let e = image; e; e = e.parentElement) {
                const style = getComputedStyle(e);
                if (style.filter != 'none' || style.opacity != 1 || style.mixBlendMode != 'normal')
                    return true;
            }
        }).map(e => e.alt)"""
    )


def violations(page: Page, **options: object) -> list[str]:
    """What axe-core calls serious or critical."""
    # Code is thousands of words in few colours: in each cell a word of each colour is enough. And
    # the strokes of a formula are no words. This halves the time.
    page.evaluate(
        """() => {
        for (const cell of document.querySelectorAll('.highlight pre')) {
            const seen = new Set();
            for (const word of cell.querySelectorAll('span[class]')) {
                if (seen.has(word.className)) word.replaceWith(...word.childNodes);
                seen.add(word.className);
            }
        }
        document.querySelectorAll('mjx-container svg').forEach(e => e.replaceChildren());
        }"""
    )
    # With `preload` it would fetch style sheets anew, some from a wrong place.
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False, **options})
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found.response["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def faint_words(page: Page) -> list[str]:
    """Those of the violations that depend on colours."""
    return violations(page, runOnly=["color-contrast", "link-in-text-block"])


def unreachable_by_keyboard(page: Page) -> list[str]:
    """What scrolls, and cannot be scrolled with the keyboard."""
    return violations(page, runOnly=["scrollable-region-focusable"])


def too_wide(page: Page) -> list[str]:
    """What reaches over the right edge, but for what can be scrolled by itself to be seen."""
    return page.evaluate(
        """() => {
        const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
        const wide = [];
        for (const e of document.querySelectorAll(
                '.bd-article :is(p, li, dt, h1, h2, h3, pre, table, img, mjx-container)')) {
            const {width, right} = e.getBoundingClientRect();
            if (!width || right <= innerWidth + 1) continue;
            let box = e.parentElement;
            while (box != document.documentElement && !scrolls(box)) box = box.parentElement;
            if (box == document.documentElement) wide.push(e.outerHTML.slice(0, 120));
        }
        const page = document.scrollingElement.scrollWidth;
        return page > innerWidth ? [`the page: ${page} px`, ...wide] : wide;
        }"""
    )


def wide_formulas(page: Page) -> list[str]:
    """Formulas on their own lines that are wider than their place: one has to scroll to see all."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.bd-article div.math')].filter(
            e => [e, ...e.querySelectorAll('mjx-container')].some(
                box => box.scrollWidth > box.clientWidth + 1)
        ).map(e => e.id || e.textContent.trim().slice(0, 120))"""
    )


def crowded_words(page: Page) -> list[str]:
    """Words of the drawings on the page that leave their drawing, or touch other words."""
    return page.evaluate(
        """() => [...document.querySelectorAll('svg')].flatMap(drawing => {
        const edge = drawing.getBoundingClientRect();
        const words = [...drawing.querySelectorAll('text')].map(
            e => ({text: e.textContent, ...e.getBoundingClientRect().toJSON()}));
        const leaves = w => w.left < edge.left || w.right > edge.right
            || w.top < edge.top || w.bottom > edge.bottom;
        // Between two lines of text there is more room than their boxes say.
        const touches = (a, b) => a.left < b.right && b.left < a.right
            && a.top + 6 < b.bottom && b.top + 6 < a.bottom;
        return words.filter((w, i) => leaves(w) || words.slice(i + 1).some(o => touches(w, o)))
            .map(w => w.text);
        })"""
    )


# Notes where each canvas has its words, which no element of the page holds.
LABELS = """() => {
    const words = new Map(), proto = CanvasRenderingContext2D.prototype;
    const { fillText, clearRect } = proto;
    proto.clearRect = function (...box) {
        words.set(this.canvas, []);
        clearRect.apply(this, box);
    };
    proto.fillText = function (text, x, y) {
        const m = this.measureText(text);
        words.get(this.canvas)?.push({ text, left: x - m.actualBoundingBoxLeft,
            right: x + m.actualBoundingBoxRight, top: y - m.actualBoundingBoxAscent,
            bottom: y + m.actualBoundingBoxDescent });
        fillText.call(this, text, x, y);
    };
    globalThis.crowded = () => {
        Object.values(FlowVAE.figures || {}).forEach((figure) => figure.draw());
        FlowVAE.lab?.draw();
        const touch = (a, b) => a.left < b.right && b.left < a.right
            && a.top < b.bottom && b.top < a.bottom;
        return [...words].flatMap(([canvas, all]) => all.flatMap((word, i) => {
            const { clientWidth: width, clientHeight: height } = canvas;
            const out = word.left < 0 || word.right > width || word.top < 0 || word.bottom > height;
            const other = all.slice(i + 1).filter((each) => touch(word, each));
            return [...(out ? [`${word.text} is cut off`] : []),
                ...other.map(({ text }) => `${word.text} touches ${text}`)];
        }));
    };
}"""


def crowded_labels(page: Page) -> list[str]:
    """Words in the live figures that touch other words of their plane, or leave it."""
    page.evaluate(f"globalThis.crowded || ({LABELS})()")
    return page.evaluate("crowded()")


Check = Callable[[Page], list[str]]
DRAWN: list[Check] = [undrawn_mathematics, missing_images, stuck_sliders]


def complaints(page: Page, checks: list[Check]) -> dict[str, list[str]]:
    return {check.__name__: found for check in checks if (found := check(page))}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not chromium:
        reason = "no Chromium found: the pages are not tried in a browser"
        pytest.fail(reason) if os.environ.get("BROWSER_REQUIRED") else pytest.skip(reason)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@pytest.fixture
def site() -> None:
    if not built():
        reason = "no built book: run `make book` first"
        pytest.fail(reason) if os.environ.get("BOOK_REQUIRED") else pytest.skip(reason)


# The built book.


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", [*PAGES, *ADDED])
def test_a_page_works_at_a_desk_and_on_a_phone(browser: Browser, name: str) -> None:
    with visit(browser, f"{SITE}{name}.html") as shown:
        found = complaints(shown.page, DRAWN)
        shown.page.set_viewport_size(LAPTOP)
        found |= complaints(shown.page, [wide_formulas])
        narrow(shown.page)
        found |= complaints(shown.page, [too_wide, unreachable_by_keyboard, wide_formulas])
        shown.page.set_viewport_size(DESK)
        found |= complaints(shown.page, [violations])
        assert found == {}
        assert shown.errors == []
        assert shown.outside == []


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", [*PAGES, *ADDED])
def test_a_page_works_in_the_dark_and_as_a_file(browser: Browser, name: str) -> None:
    with visit(browser, page_path(name).as_uri(), "dark") as shown:
        assert shown.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert complaints(shown.page, [*DRAWN, dimmed_figures, faint_words]) == {}
        assert shown.unknown_errors(KNOWN_ERRORS_FROM_FILES) == []
        assert shown.outside == []


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_the_words_of_a_drawing_have_room(blank: Page, path: Path) -> None:
    blank.set_content(path.read_text(encoding="utf-8"))
    assert crowded_words(blank) == []


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", CHAPTERS[1:8])
def test_chapters_1_to_7_have_a_slider(name: str) -> None:
    assert load(page_path(name)).select(".frame-slider input[type=range]")


@pytest.mark.usefixtures("site")
def test_search_finds_the_chapter_on_pseudo_inputs(browser: Browser) -> None:
    with visit(browser, f"{SITE}{PAGES[0]}.html") as shown:
        shown.page.keyboard.press("Control+K")
        shown.page.keyboard.type("pseudo-input")
        shown.page.keyboard.press("Enter")
        # Until then each result that arrives may move the others away under the click.
        shown.page.get_by_text("Search finished").wait_for()
        shown.page.locator("#search-results a[href*='02_vampprior.html']").first.click()
        shown.page.wait_for_url(f"{SITE}book/02_vampprior.html*")
        assert shown.outside == []


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "words",
    ["constructor", "__proto__", "toString", "hasOwnProperty", "valueOf", "constructor prior"],
)
def test_a_search_for_what_every_object_of_javascript_has_ends(
    browser: Browser, words: str
) -> None:
    with visit(browser, f"{SITE}search.html?q={words}") as shown:
        shown.page.get_by_text(re.compile("Search finished|did not match any")).wait_for()
        links = shown.page.locator("#search-results li > a").all()
        assert all((HTML / str(a.get_attribute("href")).split("#")[0]).is_file() for a in links)
        assert (shown.errors, shown.outside) == ([], [])


@pytest.mark.usefixtures("site")
def test_next_and_previous_work(browser: Browser) -> None:
    first, second = (f"{SITE}{name}.html" for name in PAGES[:2])
    with visit(browser, first) as shown:
        shown.page.locator("a.right-next").click()
        shown.page.wait_for_url(second)
        shown.page.locator("a.left-prev").click()
        shown.page.wait_for_url(first)


@pytest.mark.usefixtures("site")
def test_next_and_previous_lead_through_the_whole_book() -> None:
    paths = [page_path(name) for name in PAGES]
    assert [neighbours(load(path), path) for path in paths] == [
        (before, after) for before, after in zip([None, *paths], [*paths[1:], None], strict=False)
    ]


# Each check refuses what it should; these need no built book.


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport=PHONE) as context:
        yield context.new_page()


def article(html: str) -> str:
    return (
        f'<html lang="en"><title>A</title><body style="margin: 0"><main class="bd-article">{html}'
    )


PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
OTHER_PIXEL = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"


def slider(
    shows: str = "[...d.querySelectorAll('img')].forEach((e, i) => e.hidden = i != this.value)",
    says: str = "d.querySelector('output').textContent = this.ariaValueText = this.value",
    other: str = OTHER_PIXEL,
) -> str:
    return (
        '<div class="frame-slider"><label>T: <output>0</output></label>'
        '<input type="range" min="0" max="1" value="0" aria-valuetext="0" '
        f'oninput="const d = this.parentElement; {shows}; {says}">'
        f'<img src="{PIXEL}"><img src="{other}" hidden></div>'
    )


WIDE = "width: 900px; height: 9px"


def formula(drawing: str, style: str = "") -> str:
    return (
        '<div class="math" style="overflow: hidden">'
        f'<mjx-container style="display: block; {style}">{drawing}</mjx-container></div>'
    )


@pytest.mark.parametrize(
    ("check", "html"),
    [
        (undrawn_mathematics, '<span class="math">x</span>'),
        (undrawn_mathematics, "<p>so $$x$$ is left</p>"),
        (undrawn_mathematics, r"<p>so \(x\) is left</p>"),
        (undrawn_mathematics, r"<p>so \[x\] is left</p>"),
        (undrawn_mathematics, "<mjx-container><mjx-merror>Extra }</mjx-merror></mjx-container>"),
        (undrawn_mathematics, r'<svg><g data-mml-node="mtext" fill="red"></g></svg>'),
        (missing_images, '<img alt="a" src="data:image/png;base64,AAAA">'),
        (stuck_sliders, slider(shows="")),
        (stuck_sliders, slider(shows="d.querySelectorAll('img')[1].hidden = false")),
        (stuck_sliders, slider(says="")),
        (stuck_sliders, slider(says="this.ariaValueText = this.value")),
        (stuck_sliders, slider(other=PIXEL)),
        (dimmed_figures, f'<img alt="a" src="{PIXEL}">'),
        (dimmed_figures, f'<img alt="a" src="{PIXEL}" style="background: #fff; opacity: 0.8">'),
        (
            dimmed_figures,
            f'<p style="filter: invert(1)"><img alt="a" src="{PIXEL}" style="background: #fff">',
        ),
        (violations, "<button></button>"),
        (violations, '<p style="color: #777; background: #888">grey on grey</p>'),
        (violations, '<div class="highlight"><pre><span class="k" style="color: #eee">if</span>'),
        (violations, '<input type="range">'),
        (faint_words, '<p style="color: #777; background: #888">grey on grey</p>'),
        (
            unreachable_by_keyboard,
            f'<div style="overflow: auto"><table style="{WIDE}"><td>a<td>b</table></div>',
        ),
        (crowded_words, '<svg><text x="9" y="30">one</text><text x="20" y="35">two</text></svg>'),
        (crowded_words, '<svg width="99"><text x="80" y="30">far away</text></svg>'),
        (wide_formulas, formula(f'<svg style="{WIDE}"></svg>')),
        (wide_formulas, formula(f'<svg style="{WIDE}"></svg>', "overflow: auto")),
        (too_wide, f'<p style="{WIDE}">a</p>'),
        (too_wide, f'<div style="overflow: hidden"><p style="{WIDE}">a</p></div>'),
    ],
)
def test_a_broken_page_is_refused(blank: Page, check: Check, html: str) -> None:
    blank.set_content(article(html))
    assert check(blank)


@pytest.mark.parametrize(
    "html",
    [
        '<span class="math"><mjx-container><svg></svg></mjx-container></span><code>$$</code>',
        f'<img alt="a" src="{PIXEL}" style="background: #fff">',
        f'<div style="overflow: auto" tabindex="0"><table style="{WIDE}"><td>a<td>b</table></div>',
        '<svg><text x="9" y="30">one</text><text x="50" y="30">two</text></svg>',
        formula("<svg></svg>", "overflow: auto"),
    ],
)
def test_a_sound_page_passes(blank: Page, html: str) -> None:
    blank.set_content(article(html))
    checks = [undrawn_mathematics, missing_images, dimmed_figures, too_wide, violations]
    checks += [crowded_words, wide_formulas]
    assert complaints(blank, checks) == {}


def test_links_to_the_neighbours_are_followed(tmp_path: Path) -> None:
    page = parse('<a class="right-next" href="../b.html">next</a>')
    assert neighbours(page, tmp_path / "book" / "a.html") == (None, tmp_path / "b.html")


def test_a_sound_slider_passes(blank: Page) -> None:
    blank.set_content(article(slider()))
    assert stuck_sliders(blank) == []


def test_outside_hosts_and_errors_in_the_console_are_noticed(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        '<img src="https://host.example/a.png"><script>console.error("logged")</script>'
        '<script>throw new Error("thrown")</script>'
    )
    with visit(browser, path.as_uri()) as shown:
        assert shown.outside == ["https://host.example/a.png"]
        assert len(shown.errors) == 3
        assert len(shown.unknown_errors({"logged": "", "thrown": ""})) == 1
