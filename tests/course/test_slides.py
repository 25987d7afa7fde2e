"""Each chapter gives a deck: titled slides with room to spare, no other host, no solutions."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag

import classroom
import slide_blocks
import slides
from test_exercises import ALL, CHAPTERS, Exercise, cells_of, name, source
from test_site import css_addresses, is_outside, outside_fetches, parse

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
# What a browser makes of each slide: the lowest and the rightmost place of anything on it, the
# sizes of letters in formulas and of figures.
MEASURE = """<script>
function measure() {
  const report = [...document.querySelectorAll(".page")].map(page => {
    const all = selector => [...page.querySelectorAll(selector)];
    const box = page.getBoundingClientRect();
    const visible = all("*:not(mjx-assistive-mml, mjx-assistive-mml *)");
    const places = visible.map(element => element.getBoundingClientRect());
    return {
      title: page.querySelector("h1, h2").textContent,
      bottom: Math.max(...places.map(place => place.bottom - box.top)),
      right: Math.max(...places.map(place => place.right - box.left)),
      formulas: all(".equation").map(e => parseFloat(getComputedStyle(e).fontSize)),
      figures: all("img").map(image => image.clientHeight),
      undrawn: all("mjx-merror, [data-mjx-error]").length,
    };
  });
  const text = document.createElement("pre");
  text.id = "report";
  text.textContent = JSON.stringify(report);
  document.body.append(text);
}
</script></head>"""


@cache
def deck(chapter: Path) -> str:
    return slides.deck(classroom.chapters()[chapter.name])


@cache
def page(chapter: Path) -> BeautifulSoup:
    return parse(deck(chapter))


def shown(chapter: Path) -> list[Tag]:
    return page(chapter).select("section > .page")


def title(slide: Tag) -> str:
    [heading] = slide.select("h1, h2")
    return heading.get_text().strip()


def spoken(slide: Tag) -> int:
    """How many words a slide has, a formula counting as one."""
    texts = [element.get_text() for element in slide.select("p:not(.book), li")]
    return len(re.sub(r"\\\(.*?\\\)", "formula", " ".join(texts)).split())


def bare(text: str) -> str:
    """A text as the same in a chapter and on a slide."""
    return re.sub(r"\\[()\[\]]|check_.*|[$*`\s]", "", text)


def tags_of(text: str) -> list[str]:
    return re.findall(r"\\tag\{[^}]*\}", text)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_every_heading_of_a_chapter_but_that_of_the_references_has_a_slide(chapter: Path) -> None:
    prose = [source(c) for c in cells_of(chapter) if c["cell_type"] == "markdown"]
    headings = re.findall(r"^#+ (.*)$", "\n".join(prose), re.MULTILINE)
    wanted = [parse(slide_blocks.inline(each)).get_text() for each in headings]
    titles = list(dict.fromkeys(map(title, shown(chapter))))
    assert [each for each in titles if each in wanted] == wanted[:-1]
    assert wanted[-1] == "References"
    # What is not a heading in the chapter stands in bold above its list of objectives.
    [objectives] = [each for each in titles if each not in wanted]
    assert objectives.endswith("you can")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_every_slide_has_a_title_and_few_words(chapter: Path) -> None:
    assert len(shown(chapter)) == len(page(chapter).select("section:not(:has(section))"))
    for slide in shown(chapter):
        limit = 100 if title(slide).startswith("Exercise ") else 60
        assert title(slide)
        assert spoken(slide) <= limit, title(slide)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_section_shows_its_drawing_its_first_numbered_equation_and_its_first_figure(
    chapter: Path,
) -> None:
    found = {}
    for slide in shown(chapter):
        parts = found.setdefault(title(slide), [[], 0])
        parts[0] += tags_of(slide.get_text())
        parts[1] += len(slide.select("img"))
    for section in slides.sections(classroom.chapters()[chapter.name]):
        numbered = [tag for block in section.all("equation") for tag in tags_of(block.source)]
        figures = [*section.all("drawing"), *section.all("figure")[:1]]
        name = parse(section.heading.html).get_text()
        assert found[name] == [numbered[:1], len(figures)], name


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_every_figure_is_in_the_deck_and_described(chapter: Path) -> None:
    images = page(chapter).select("img")
    assert images
    kinds = [str(image["src"]).partition(";base64,")[0] for image in images]
    assert set(kinds) == {"data:image/png", "data:image/svg+xml"}
    assert kinds.count("data:image/svg+xml") == 1
    assert all(str(image["alt"]).strip() for image in images)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_picture_has_its_number_below_it_and_no_caption_is_read_as_text(chapter: Path) -> None:
    for figure in page(chapter).select("figure"):
        [number] = figure.select("figcaption")
        image, caption = figure.find_all(recursive=False)
        assert (image.name, caption) == ("img", number)
        own = rf"Figure {int(chapter.stem[:2])}\.\d+|Live figure \d+[ab]?"
        assert re.fullmatch(own, number.get_text())
    texts = [element.get_text() for element in page(chapter).select("p, li")]
    assert [text for text in texts if re.match(r"(?:Figure|Live figure) [\d.ab]+\. ", text)] == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_no_cell_of_code_is_long(chapter: Path) -> None:
    cells = [code.get_text() for code in page(chapter).select("pre.code")]
    assert cells
    assert max(len(cell.strip().splitlines()) for cell in cells) <= 15


@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_a_deck_needs_no_other_file_and_no_host(chapter: Path) -> None:
    assert outside_fetches(page(chapter)) == []
    assert page(chapter).select("[src]:not(img), link, a") == []
    styles = "\n".join(style.get_text() for style in page(chapter).select("style"))
    assert [url for url in css_addresses(styles) if not url.startswith("data:")] == []
    reveal, _, mathjax = (script.get_text() for script in page(chapter).select("script"))
    assert "reveal.js" in reveal[:100]
    assert len(mathjax) > 2_000_000


def test_an_outside_address_in_a_style_sheet_of_a_deck_would_be_seen() -> None:
    assert list(filter(is_outside, css_addresses("@import url(https://host.example/a.css)")))


@pytest.mark.parametrize(("chapter", "each"), ALL, ids=name)
def test_a_deck_puts_an_exercise_and_keeps_its_solution(chapter: Path, each: Exercise) -> None:
    put = [slide for slide in shown(chapter) if title(slide).startswith(f"Exercise {each.number} ")]
    text = "\n".join(slide.get_text() for slide in put)
    assert (each.kind == "code") == ("# your answer" in text)
    [solution] = each.tagged("solution")
    answer = [source(cell) for cell in each.cells[each.cells.index(solution) :]]
    lines = [line for part in answer for line in part.splitlines() if "def " not in line]
    assert put
    assert [line for line in lines if len(bare(line)) > 15 and bare(line)[:40] in bare(text)] == []


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("It is $1. X$ here. Next.", ["It is $1. X$ here.", "Next."]),
        ("**Bold. It stays.** After.", ["**Bold. It stays.**", "After."]),
        ("*So.* Then.", ["*So.*", "Then."]),
        ("A (see B. C said so) D. E.", ["A (see B. C said so) D.", "E."]),
        ("Kingma et al. use it. Then.", ["Kingma et al. use it.", "Then."]),
        ("`a. B` is code. And so on", ["`a. B` is code.", "And so on"]),
    ],
)
def test_a_text_is_cut_between_sentences(text: str, cut: list[str]) -> None:
    assert slides.sentences(text) == cut


def test_an_opening_has_whole_sentences_within_the_limit_and_one_at_least() -> None:
    assert slides.opening("One two. Three four. Five.", 4) == "One two. Three four."
    assert slides.opening("One two three. Four.", 2) == "One two three."


def test_a_text_does_not_announce_what_the_slide_does_not_show() -> None:
    formula = slide_blocks.equation("x")
    announced = slides.paragraph("This is new. It reads:")
    assert slides.without_announcement(announced, formula).source == "This is new. It reads:"
    assert slides.without_announcement(announced, None).source == "This is new."
    assert slides.without_announcement(slides.paragraph("Here:"), None).source == "Here."


def test_a_link_leaves_its_words_and_an_index_is_no_link() -> None:
    source = "See [(1.2)](#eq-x), [chapter 1](01_a.ipynb) and `nets[0](x)`."
    [block] = slide_blocks.markdown_blocks(source)
    assert parse(block.html).get_text() == "See (1.2), chapter 1 and nets[0](x)."


def test_a_drawing_is_no_link_and_has_a_slide_to_itself() -> None:
    text, *_ = slide_blocks.markdown_blocks("Some text.")
    [drawn] = slide_blocks.markdown_blocks("![A drawing.](figures/legend.svg)")
    assert [image["alt"] for image in parse(drawn.html).select("figure img")] == ["A drawing."]
    heading = slide_blocks.Block("heading", "A heading")
    assert len(slides.pages(slides.Section(heading, [text, drawn]))) == 2


def test_a_still_of_a_live_figure_is_a_picture_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_blocks, "BOOK", tmp_path)
    (tmp_path / "still.png").write_bytes(bytes(16) + (300).to_bytes(4) + (100).to_bytes(4))
    below = "![A plane.](still.png)\n\n**Live figure 1a.** Drag it."
    picture, number = slide_blocks.markdown_blocks(below)
    assert (picture.kind, picture.ratio, number.kind) == ("figure", 3, "caption")
    [image] = parse(picture.html).select("img")
    assert str(image["src"]).startswith("data:image/png;base64,")
    assert parse(number.html).get_text() == "Live figure 1a"


def test_a_box_that_a_reader_unfolds_is_on_no_slide() -> None:
    box = "<details><summary>For the curious</summary>\n\nInside.\n\n</details>"
    shown = slide_blocks.markdown_blocks(f"Before.\n\n{box}\n\nAfter.")
    assert [block.source for block in shown] == ["Before.", "After."]


def test_a_table_that_is_too_long_says_that_it_goes_on() -> None:
    rows = ["| a | b |", "| --- | --- |", *("| 1 | 2 |" for _ in range(40))]
    short, long = slide_blocks.table(rows[:5]), slide_blocks.table(rows)
    assert "…" not in short.html
    assert "…" in long.html
    assert long.html.count("<tr>") < 20


def measured(chapter: Path, folder: Path) -> list[dict[str, object]]:
    start = 'document.querySelector(".reveal").classList.remove("measured");'
    assert start in deck(chapter)
    copy = deck(chapter).replace("</head>", MEASURE, 1).replace(start, "measure(); return;")
    path = folder / "deck.html"
    path.write_text(copy, encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=30000"]
    run = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=240)
    [report] = parse(run.stdout).select("#report")
    return list(json.loads(report.get_text()))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome to draw the slides")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=name)
def test_nothing_runs_over_the_edge_of_a_slide_or_is_too_small_to_read(
    chapter: Path, tmp_path: Path
) -> None:
    report = measured(chapter, tmp_path)
    assert len(report) == len(shown(chapter))
    for slide in report:
        assert slide["bottom"] <= 720, slide
        assert slide["right"] <= 1280, slide
        assert slide["undrawn"] == 0, slide
        assert min([*slide["formulas"], 22]) >= 22, slide
        assert min([*slide["figures"], 200]) >= 200, slide
