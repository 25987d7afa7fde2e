"""The built pages: all there, self-contained, described in words, with every link alive.

Each check takes a parsed page and returns what is wrong with it, so that it can be shown to fail.
"""

import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
MEGABYTE = 1_000_000

# The theme repeats these on every page, beside text that says the same.
THEME_IMAGES = ("_static/images/logo_colab.png",)
# Attributes that make a browser fetch; `a href` is followed only by a reader.
FETCHED = {
    "script": ["src"],
    "img": ["src"],
    "iframe": ["src"],
    "embed": ["src"],
    "object": ["data"],
    "source": ["src"],
    "video": ["src", "poster"],
    "audio": ["src"],
    "track": ["src"],
    "input": ["src"],
    "image": ["href", "xlink:href"],
    "use": ["href", "xlink:href"],
}
FETCHED_LINKS = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "manifest"}
CSS_ADDRESS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


def toc_pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = toc.get("parts", [])
    return [toc["root"], *(chapter["file"] for part in parts for chapter in part["chapters"])]


PAGES = toc_pages()
CHAPTERS = [page for page in PAGES if re.match(r"book/\d\d_", page)]


def parse(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def is_outside(address: str) -> bool:
    return bool(urlsplit(address.strip()).netloc)


def css_addresses(css: str) -> list[str]:
    return [url or imported for url, imported in CSS_ADDRESS.findall(css)]


def fetched_addresses(page: BeautifulSoup) -> Iterable[str]:
    for name, attributes in FETCHED.items():
        for tag in page.find_all(name):
            yield from (str(tag[key]) for key in attributes if tag.get(key))
    for tag in page.find_all(srcset=True):
        yield from (candidate.split()[0] for candidate in str(tag["srcset"]).split(", "))
    for link in page.find_all("link", href=True):
        if FETCHED_LINKS & set(link.get_attribute_list("rel")):
            yield str(link["href"])
    for tag in page.find_all(style=True):
        yield from css_addresses(str(tag["style"]))
    for tag in page.find_all("style"):
        yield from css_addresses(tag.get_text())


def outside_fetches(page: BeautifulSoup) -> list[str]:
    return [address for address in fetched_addresses(page) if is_outside(address)]


def is_theme_image(source: str) -> bool:
    return source.split("?")[0].endswith(THEME_IMAGES)


def undescribed_images(page: BeautifulSoup) -> list[str]:
    images = page.find_all("img")
    return [str(image)[:200] for image in images if not str(image.get("alt", "")).strip()]


def shared_descriptions(images: Iterable[tuple[str, str]]) -> list[str]:
    """Descriptions that stand for more than one picture, among pairs of address and description."""
    seen: dict[str, str] = {}
    return [alt for source, alt in images if seen.setdefault(alt, source) != source]


def anchors(page: BeautifulSoup) -> set[str]:
    named = {str(tag["name"]) for tag in page.find_all("a", attrs={"name": True})}
    return named | {str(tag["id"]) for tag in page.find_all(id=True)}


def dead_links(
    page: BeautifulSoup, path: Path, anchors_of: Callable[[Path], set[str]]
) -> list[str]:
    """Internal links of the page at `path` with no file, or no such place in it."""
    dead = []
    for link in page.find_all("a", href=True):
        address = str(link["href"])
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or address == "#":
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file():
            dead.append(address)
        elif parts.fragment and target.suffix == ".html":
            if unquote(parts.fragment) not in anchors_of(target):
                dead.append(address)
    return dead


def missing_files(page: BeautifulSoup, path: Path) -> list[str]:
    """Files of the site that the page at `path` fetches and that are not there."""
    inside = [urlsplit(address) for address in fetched_addresses(page)]
    files = [parts.path for parts in inside if not parts.scheme and not parts.netloc and parts.path]
    return [file for file in files if not (path.parent / unquote(file)).is_file()]


def page_bytes(page: BeautifulSoup, path: Path) -> int:
    """Size of the page's HTML (which holds its embedded pictures) and of the images it shows."""
    sources = {str(image.get("src", "")) for image in page.find_all("img")}
    files = [path.parent / unquote(s) for s in sources if not s.startswith("data:")]
    return path.stat().st_size + sum(file.stat().st_size for file in files)


def opening_captions(page: BeautifulSoup) -> list[str]:
    """The captions of the drawings that chapters open with, by which links find them."""
    return [e.get_text().strip() for e in page.select('figure[id^="fig-idea-"] > figcaption')]


def has_colab_link(page: BeautifulSoup, name: str) -> bool:
    links = [str(a["href"]) for a in page.find_all("a", href=True)]
    return any("colab.research" in link and link.endswith(f"/{name}.ipynb") for link in links)


def modules_without_example(page: BeautifulSoup) -> list[str]:
    _, *parts = re.split(r'id="module-([\w.]+)"', str(page))
    sections = zip(parts[::2], parts[1::2], strict=True)
    return [module for module, section in sections if "&gt;&gt;&gt;" not in section]


def equations_by_label(page: BeautifulSoup) -> list[str]:
    """Names of equations that mean something in the sources alone."""
    return re.findall(r"\beq-[\w-]+", page.get_text())


def built() -> bool:
    return (HTML / f"{PAGES[0]}.html").is_file()


@cache
def load(path: Path) -> BeautifulSoup:
    return parse(path.read_text(encoding="utf-8"))


@cache
def anchors_in(path: Path) -> set[str]:
    return anchors(load(path))


def page_path(name: str) -> Path:
    return HTML / f"{name}.html"


def generated_pages() -> list[Path]:
    """The pages of the table of contents and those that Sphinx adds: index, search."""
    return [p for p in sorted(HTML.rglob("*.html")) if "_static" not in p.parts]


@pytest.fixture
def site() -> Path:
    if not built():
        reason = "no built book: run `make book` first"
        pytest.fail(reason) if os.environ.get("BOOK_REQUIRED") else pytest.skip(reason)
    return HTML


# The built book.


def test_hosts_that_run_jekyll_are_told_to_leave_the_pages_alone(site: Path) -> None:
    assert (site / ".nojekyll").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_of_the_contents_is_built(site: Path, name: str) -> None:
    assert page_path(name).is_file()


def test_no_page_needs_an_outside_host(site: Path) -> None:
    assert {
        str(path): bad for path in generated_pages() if (bad := outside_fetches(load(path)))
    } == {}


def test_no_style_sheet_needs_an_outside_host(site: Path) -> None:
    sheets = {path: css_addresses(path.read_text(encoding="utf-8")) for path in site.rglob("*.css")}
    assert {
        str(path): bad for path, a in sheets.items() if (bad := list(filter(is_outside, a)))
    } == {}


@pytest.mark.parametrize("name", PAGES)
def test_every_image_has_a_description(site: Path, name: str) -> None:
    assert undescribed_images(load(page_path(name))) == []


def test_no_two_figures_share_a_description(site: Path) -> None:
    images = [
        (
            f"{name}: {source}" if source.startswith("data:") else Path(source).name,
            str(image["alt"]),
        )
        for name in PAGES
        for image in load(page_path(name)).find_all("img")
        if not is_theme_image(source := str(image["src"]))
    ]
    assert shared_descriptions(images) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_internal_link_resolves(site: Path, name: str) -> None:
    path = page_path(name)
    assert dead_links(load(path), path, anchors_in) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_fetches_is_there(site: Path, name: str) -> None:
    path = page_path(name)
    assert missing_files(load(path), path) == []


def test_mathjax_is_part_of_the_site(site: Path) -> None:
    script = "_static/tex-svg-full.js"
    assert (site / script).stat().st_size > MEGABYTE
    with_math = [n for n in PAGES if load(page_path(n)).select(".math")]
    assert with_math
    assert all(load(page_path(n)).select(f'script[src*="{script}"]') for n in with_math)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_light(site: Path, name: str) -> None:
    path = page_path(name)
    assert page_bytes(load(path), path) <= 3 * MEGABYTE


@pytest.mark.parametrize(("number", "name"), [*enumerate(CHAPTERS)])
def test_the_drawing_of_a_chapter_has_the_number_that_its_author_gave_it(
    site: Path, number: int, name: str
) -> None:
    page = load(page_path(name))
    [caption] = opening_captions(page)
    assert caption.startswith(f"Figure {number}.1. ")
    assert page.select(f'#fig-idea-{number} img[src*="idea-{number}.svg"]')
    assert page.select(f'a[href="#fig-idea-{number}"]')


@pytest.mark.parametrize(("number", "name"), [*enumerate(CHAPTERS)])
def test_a_numbered_caption_is_that_of_the_picture_above_it(
    site: Path, number: int, name: str
) -> None:
    # A live figure has a number of its own kind.
    figures = load(page_path(name)).select("figure:not(.live-still):has(> figcaption)")
    captions = [figure.select_one("figcaption").get_text().strip() for figure in figures]
    wanted = [f"Figure {number}.{k + 1}" for k in range(len(figures))]
    assert len(figures) > 5
    assert [caption.partition(". ")[0] for caption in captions] == wanted
    assert [figure["id"] for figure in figures if not figure.select("img[alt]")] == []
    assert [figure["id"] for figure in figures[1:]] == [
        each.lower().replace("ure ", "-").replace(".", "-") for each in wanted[1:]
    ]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_opens_in_colab(site: Path, name: str) -> None:
    assert has_colab_link(load(page_path(name)), name)


def test_the_page_of_the_package_shows_an_example_of_every_module(site: Path) -> None:
    page = load(page_path("book/api"))
    assert page.find(id="module-flowvae_tutorial.vae")
    assert modules_without_example(page) == []


def test_the_page_of_the_package_leads_to_the_equations_that_it_names(site: Path) -> None:
    page = load(page_path("book/api"))
    [first, *_] = page.select('a[href="01_gaussian_vae.html#equation-eq-elbo"]')
    assert re.fullmatch(r"\(1\.\d+\)", first.get_text())
    assert equations_by_label(page) == []


# Each check refuses what it should; these need no built book.


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://host.example/a.js"></script>',
        '<script src="//host.example/a.js"></script>',
        '<link rel="stylesheet" href="https://host.example/a.css">',
        '<link rel="preload" href="https://host.example/a.woff2">',
        '<link rel="shortcut icon" href="https://host.example/a.ico">',
        '<img alt="a" src="https://host.example/badge.svg">',
        '<img alt="a" src="a.png" srcset="a.png 1x, https://host.example/b.png 2x">',
        '<iframe src="https://host.example/"></iframe>',
        '<video><source src="https://host.example/a.mp4"></video>',
        '<video poster="https://host.example/a.png"></video>',
        '<p style="background: url(https://host.example/a.png)">',
        '<style>@import "https://host.example/a.css";</style>',
    ],
)
def test_an_outside_fetch_is_refused(html: str) -> None:
    assert len(outside_fetches(parse(html))) == 1


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://host.example/">paper</a>',
        '<link rel="canonical" href="https://host.example/">',
        '<img alt="a" src="data:image/png;base64,AAAA">',
        '<script src="../_static/a.js?v=1"></script>',
    ],
)
def test_a_link_or_a_file_of_the_site_is_no_outside_fetch(html: str) -> None:
    assert outside_fetches(parse(html)) == []


@pytest.mark.parametrize("html", ['<img src="a.png">', '<img src="a.png" alt=" ">'])
def test_an_image_without_words_is_refused(html: str) -> None:
    assert len(undescribed_images(parse(html))) == 1


def test_two_figures_with_one_description_are_refused() -> None:
    assert shared_descriptions([("a.png", "loss"), ("b.png", "loss")]) == ["loss"]
    assert shared_descriptions([("a.png", "loss"), ("a.png", "loss"), ("b.png", "KL")]) == []


def test_a_dead_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        '<h1 id="here">A</h1><a href="#here">1</a><a href="page.html#here">2</a><a href="#">3</a>'
        '<a href="#gone">4</a><a href="gone.html">5</a><a href="page.html#gone">6</a>'
    )
    page = parse(path.read_text())
    dead = dead_links(page, path, lambda p: anchors(parse(p.read_text())))
    assert dead == ["#gone", "gone.html", "page.html#gone"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    page = parse('<script src="gone.js?v=1"></script><img src="data:image/png;base64,AAAA">')
    assert missing_files(page, tmp_path / "page.html") == ["gone.js"]


def test_size_counts_the_page_and_each_image_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(1000))
    path = tmp_path / "page.html"
    path.write_text('<img src="a.png"><img src="a.png">')
    assert page_bytes(parse(path.read_text()), path) == 1000 + path.stat().st_size


def test_a_colab_link_to_another_chapter_is_refused() -> None:
    page = parse(
        '<a href="https://colab.research.google.com/github/a/b/blob/main/book/01_x.ipynb">'
    )
    assert has_colab_link(page, "book/01_x")
    assert not has_colab_link(page, "book/02_y")


def test_a_module_without_an_example_and_an_equation_without_a_number_are_refused() -> None:
    page = parse(
        '<p id="module-a.one">text</p><pre>&gt;&gt;&gt; 1</pre>'
        '<p id="module-a.two">equation <code>eq-elbo</code></p>'
    )
    assert modules_without_example(page) == ["a.two"]
    assert equations_by_label(page) == ["eq-elbo"]
