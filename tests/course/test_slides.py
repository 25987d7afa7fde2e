"""Each session has a deck: what it plans, whole, legible, with notes, steps and no solution."""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Browser, Page

import slide_parts
import slides
from slide_parts import LIVE
from syllabus import Session, questions, sessions
from test_browser import browser  # noqa: F401  (a fixture)
from test_exercises import CHAPTERS, HEADING
from test_site import css_addresses, is_outside, outside_fetches, parse

SESSIONS = sessions()
TAGS = {"slide", "fragment", "notes", "output"}
# Of every slide, when all its steps are shown: how far its content reaches, how small its letters
# and figures are, how much it says.
MEASURE = """() => {
  document.querySelector(".reveal").classList.add("measured");
  return [...document.querySelectorAll(".page:not(.cover)")].map(page => {
    const all = selector => [...page.querySelectorAll(selector)];
    const box = page.getBoundingClientRect();
    const seen = all("*:not(mjx-assistive-mml, mjx-assistive-mml *)");
    const places = seen.map(element => element.getBoundingClientRect()).filter(r => r.width);
    const letters = all("p, li, td, pre").map(e => parseFloat(getComputedStyle(e).fontSize));
    return {
      title: page.querySelector("h2").textContent,
      bottom: Math.max(...places.map(place => place.bottom - box.top)),
      right: Math.max(...places.map(place => place.right - box.left)),
      letters: Math.min(99, ...letters),
      cut: all("pre").filter(each => each.scrollWidth > each.clientWidth + 1).length,
      figures: all("figure img").map(image => image.clientHeight).filter(height => height),
      canvases: all(".live-figure canvas").length,
      live: all(".live-figure").length,
      undrawn: all("mjx-merror, [data-mjx-error]").length,
    };
  });
}"""

by_session = pytest.mark.parametrize("session", SESSIONS, ids=lambda each: str(each.number))


@cache
def page(number: int) -> BeautifulSoup:
    return parse(slides.deck(SESSIONS[number]))


def shown(session: Session) -> list[Tag]:
    return page(session.number).select("section:has(.body)")


def title(slide: Tag) -> str:
    return slide.select("h2")[0].get_text()


def body(slide: Tag) -> Tag:
    return slide.select(".body")[0]


def notes(slide: Tag) -> str:
    return slide.select("aside.notes")[0].get_text()


@cache
def chapter(number: int) -> NotebookNode:
    return nbformat.read(CHAPTERS[number], as_version=4)


def tagged(number: int, *wanted: str) -> list[NotebookNode]:
    found = chapter(number).cells
    return [cell for cell in found if set(wanted) <= set(cell.metadata.get("tags", []))]


def letters(text: str) -> str:
    """What is left of a text in Markdown as on a slide."""
    return re.sub(r"\\[()\[\]]|[$*`\\{}\s¶]", "", text)


# What is planned.


def test_the_syllabus_has_a_preparation_and_a_session_for_each_chapter_after_it() -> None:
    assert [each.number for each in SESSIONS] == list(range(len(CHAPTERS)))
    assert [bool(each.plan()) for each in SESSIONS] == [False] + [True] * 9


def planned_sections(session: Session) -> list[str]:
    """The sections that a plan names: `(section 1.6)`, `sections 6.8 and 6.9`."""
    found = re.findall(r"[Ss]ections? (\d\.\d+)(?: and (\d\.\d+))?", session.plan())
    return [number for pair in found for number in pair if number]


@by_session
def test_a_deck_has_every_section_question_exercise_and_equation_of_the_plan(
    session: Session,
) -> None:
    sections = {str(slide["data-section"]) for slide in shown(session)}
    assert set(planned_sections(session)) <= sections
    titles = [title(slide) for slide in shown(session)]
    for what in session.asks():
        start = f"{what} (" if what.startswith("Q") else f"Exercise {what} ("
        assert [each for each in titles if each.startswith(start)], what
    text = page(session.number).get_text()
    for number in re.findall(r"\[\((\d\.\d+)\)\]", session.plan()):
        assert rf"\tag{{{number}}}" in text, number


@by_session
def test_nothing_is_asked_twice_and_an_exercise_tells_the_speaker_how_long_it_takes(
    session: Session,
) -> None:
    asked = [slide for slide in shown(session) if re.match(r"Q\d|Exercise \d", title(slide))]
    titles = [title(slide) for slide in asked]
    assert len(set(titles)) == len(titles)
    for slide in asked:
        if title(slide).startswith("Exercise"):
            assert re.match(r"About \d+ minutes ", notes(slide).strip())
            assert ("(code)" in title(slide)) == bool(slide.select("aside.notes li"))


@by_session
def test_a_deck_has_the_sliders_and_the_tables_of_the_plan(session: Session) -> None:
    for line in session.plan().splitlines():
        own = [
            number for number in re.findall(r"\d\.\d+", line) if number in planned_sections(session)
        ]
        there = [slide for slide in shown(session) if slide["data-section"] in own]
        if "slider" in line and own:
            assert [slide for slide in there if slide.select("input[type=range]")], line
        if "table" in line and own and "predict the table" not in line:
            assert [slide for slide in there if slide.select("table, pre.output")], line


@by_session
def test_a_deck_begins_with_question_objectives_and_plan_and_ends_with_what_is_set(
    session: Session,
) -> None:
    first, second, *_, last = shown(session)
    assert letters(session.part("The question")) in letters(first.get_text())
    assert len(first.select("li")) == session.objectives().count("\n- ")
    rows = second.select("tbody tr")
    assert len(rows) == (len(session.plan().splitlines()) - 2 if session.plan() else 0)
    assert letters(session.part("Set"))[:40] in letters(last.get_text())


def test_tiny_vae_is_shown_line_by_line() -> None:
    [cell] = [cell for cell in tagged(1, "slide", "fragment") if "class TinyVAE" in cell.source]
    steps = [
        line.get_text().rstrip("\n")
        for slide in shown(SESSIONS[1])
        if slide["data-section"] == "1.6"
        for line in slide.select("pre.code > .fragment")
    ]
    assert [step for step in steps if step] == [line for line in cell.source.split("\n") if line]


# What a chapter tags.


@pytest.mark.parametrize("number", range(len(CHAPTERS)))
def test_tags_are_those_that_the_tool_knows_and_begin_with_a_slide(number: int) -> None:
    begun = False
    for cell in chapter(number).cells:
        found = set(cell.metadata.get("tags", []))
        begun = begun or "slide" in found
        if found & TAGS:
            assert begun, cell.source
            assert "solution" not in found
            assert not ("output" in found and not found & {"slide", "fragment"})
        for tag in found:
            if tag.startswith("ask-"):
                what = tag.removeprefix("ask-")
                assert what in (questions() if what.startswith("Q") else exercise_numbers()), tag


def exercise_numbers() -> list[str]:
    cells = [cell.source for number in range(len(CHAPTERS)) for cell in chapter(number).cells]
    return [match["number"] for match in HEADING.finditer("\n".join(cells))]


@by_session
def test_what_is_tagged_is_in_the_deck_with_all_rows_and_all_that_it_prints(
    session: Session,
) -> None:
    text = letters(page(session.number).get_text())
    for cell in [*tagged(session.number, "slide"), *tagged(session.number, "fragment")]:
        if cell.cell_type == "code":
            assert letters(slide_parts.printed(cell)) in text
        for output in cell.get("outputs", []):
            table = output.get("data", {}).get("text/markdown", "")
            for row in table.splitlines():
                for entry in row.strip("|").split("|") if row.startswith("|") else []:
                    assert letters(entry).strip("-:") in text, row
        if cell.cell_type == "markdown":
            for entry in re.findall(r"(?<=\|)[^|\n]+(?=\|)", cell.source):
                if not re.search(r"[\[$\\]|---", entry):
                    assert letters(entry) in text, entry


@by_session
def test_no_table_stops_short(session: Session) -> None:
    for slide in shown(session):
        assert "…" not in [cell.get_text().strip() for cell in slide.select("td")]


@by_session
def test_no_slide_is_empty_or_holds_one_stray_line(session: Session) -> None:
    for slide in shown(session):
        told = body(slide).get_text()
        drawn = body(slide).select("figure, table, ul, ol") or r"\[" in told
        assert drawn or len(told.split()) >= 12, title(slide)
        assert title(slide)


@by_session
def test_a_deck_has_steps_and_notes_and_the_answer_of_a_question_in_its_notes_alone(
    session: Session,
) -> None:
    assert page(session.number).select(".fragment")
    slides_of_the_chapter = [slide for slide in shown(session) if slide["data-section"]]
    with_notes = [slide for slide in slides_of_the_chapter if notes(slide).strip()]
    assert 2 * len(with_notes) >= len(slides_of_the_chapter)
    for slide in shown(session):
        if asked := re.match(r"(Q\d\.\d+) \(", title(slide)):
            lines = [letters(each) for each in questions()[asked[1]].answer.split("\n\n")]
            long = [each[:30] for each in lines if len(each) > 40 and "[" not in each[:40]]
            assert [each for each in long if each not in letters(notes(slide))] == []
            assert [each for each in long if each in letters(body(slide).get_text())] == []


@pytest.mark.parametrize("number", range(len(CHAPTERS)))
def test_every_slide_has_notes_and_no_notes_are_too_long_to_be_read_at_a_glance(
    number: int,
) -> None:
    for slide in slides.slides_of(chapter(number), number):
        if not re.match(r"Q\d|Exercise", slide.title):  # their notes are answers
            words = len(notes(parse(slide.html())).split())
            assert 0 < words <= 100, (slide.title, words)


@pytest.mark.parametrize("number", range(len(CHAPTERS)))
def test_notes_stand_behind_no_speakers_text_that_leaves_them_out_and_no_question(
    number: int,
) -> None:
    closed = False
    for cell in chapter(number).cells:
        found = cell.metadata.get("tags", [])
        closed = "speaker" in cell.metadata if "slide" in found else closed
        assert not (closed and "notes" in found), cell.source
        closed = closed or any(tag.startswith("ask-") for tag in found)


@by_session
def test_a_deck_has_no_solution(session: Session) -> None:
    text = letters(page(session.number).get_text())
    others = [
        cell
        for cell in chapter(session.number).cells
        if "solution" not in cell.metadata.get("tags", [])
    ]
    told = letters("\n".join(cell.source for cell in others))
    for cell in tagged(session.number, "solution"):
        lines = [line for line in cell.source.splitlines() if "check_" not in line]
        long = [letters(line) for line in lines if len(line) > 30 and "def " not in line]
        assert [line for line in long if line in text and line not in told] == []


@by_session
def test_every_picture_is_described_and_has_its_number(session: Session) -> None:
    for figure in page(session.number).select("figure"):
        images = figure.select("img")
        assert images and all(str(image["alt"]).strip() for image in images)
        assert re.fullmatch(
            r"Figure \d\.\d+|Live figure \d[ab]?", figure.select("figcaption")[0].get_text()
        )


@by_session
def test_a_deck_needs_no_other_file_and_no_host(session: Session) -> None:
    found = page(session.number)
    assert outside_fetches(found) == []
    assert found.select("[src]:not(img), link, a") == []
    assert [str(image["src"])[:30] for image in found.select("img:not([src^='data:'])")] == []
    styles = "\n".join(style.get_text() for style in found.select("style"))
    assert [url for url in css_addresses(styles) if not url.startswith("data:")] == []


def test_an_outside_address_in_a_style_sheet_of_a_deck_would_be_seen() -> None:
    assert list(filter(is_outside, css_addresses("@import url(https://host.example/a.css)")))


# How a cell is drawn.


def made(*cells: NotebookNode, session: int = 1) -> list[slides.Slide]:
    return slides.slides_of(new_notebook(cells=list(cells)), session)


def text_cell(source: str, *tags: str) -> NotebookNode:
    return new_markdown_cell(source, metadata={"tags": list(tags)})


def code_cell(source: str, prints: str, *tags: str) -> NotebookNode:
    outputs = [new_output("stream", name="stdout", text=prints)] if prints else []
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def test_a_slide_has_the_last_heading_as_its_title_and_steps_and_notes_behind_it() -> None:
    found = made(
        new_markdown_cell("## 1.2 A section"),
        text_cell("### Below\n\nShown.", "slide"),
        text_cell("Step.", "fragment"),
        text_cell("Said.", "notes"),
        new_markdown_cell("Read at home."),
    )
    [slide] = found
    assert (slide.title, slide.section) == ("Below", "1.2")
    drawn = parse(slide.html())
    assert [each.get_text().strip() for each in drawn.select(".part")] == ["Shown.", "Step."]
    assert [each.get_text().strip() for each in drawn.select(".fragment")] == ["Step."]
    assert notes(drawn).strip() == "Said."


def test_a_list_and_a_table_can_come_in_steps() -> None:
    [slide] = made(text_cell("- one\n- two\n\n| a |\n| --- |\n| b |", "slide", "fragment"))
    assert [each.get_text().strip() for each in parse(slide.html()).select(".fragment")] == ["b"]
    [slide] = made(text_cell("These:\n\n- one\n- two", "slide", "fragment"))
    assert [each.get_text() for each in parse(slide.html()).select(".fragment")] == ["one", "two"]


def test_code_prints_in_a_step_or_comes_line_by_line_or_shows_its_output_alone() -> None:
    steps = [
        [each.get_text().strip() for each in parse(slide.html()).select(".fragment")]
        for tags, prints in ((["slide", "fragment"], "3\n"), (["slide", "fragment"], ""))
        for slide in made(code_cell("a = 1\nprint(a + 2)", prints, *tags))
    ]
    assert steps == [["3"], ["a = 1", "print(a + 2)"]]
    [slide] = made(code_cell("print(1)", "1\n", "slide", "output"))
    assert [pre["class"] for pre in parse(slide.html()).select("pre")] == [["output"]]


def test_long_code_goes_on_at_an_empty_line_and_a_large_table_has_its_head_again() -> None:
    first, second = made(code_cell("\n".join(["a"] * 15 + [""] + ["b"] * 15), "", "slide"))
    assert parse(second.html()).select("pre")[0].get_text().split() == ["b"] * 15
    row = f"| {'long ' * 80}| x |"
    table = "\n".join(["| a | b |", "| --- | --- |", *[row] * 6])
    first, second = made(text_cell(table, "slide"))
    heads = [parse(slide.html()).select("th")[0].get_text() for slide in (first, second)]
    assert heads == ["a", "a"]
    assert len(parse(first.html()).select("tbody tr")) == 3
    assert len(parse(second.html()).select("tbody tr")) == 3


def test_a_class_that_fits_on_a_slide_begins_on_it() -> None:
    classes = [
        "\n\n".join([f"class {name}:", *["    def f(self):\n        return 1"] * 4])
        for name in "AB"
    ]
    first, second = made(code_cell("\n\n\n".join(classes), "", "slide"))
    starts = [parse(slide.html()).select("pre")[0].get_text()[:8] for slide in (first, second)]
    assert starts == ["class A:", "class B:"]


def test_an_interval_and_the_number_of_an_exercise_stay_on_a_line_and_formulas_as_they_are() -> (
    None
):
    drawn = slide_parts.render("exercise 2.4: 0.5 [-0.1, 1.2] over N(0, I), `[1, 2]`, $[1, 2]$")
    kept = "exercise\xa02.4: 0.5 [-0.1,\xa01.2] over N(0,\xa0I), [1, 2], "
    assert parse(drawn).get_text().startswith(kept)
    assert r"\([1, 2]\)" in drawn
    assert '<span class="whole"><em>known ' in slide_parts.render("*known $x$*. Then")


def test_a_cell_can_be_in_another_sessions_deck_too() -> None:
    notebook = new_notebook(
        cells=[
            text_cell("# A\n\nShown.", "slide", "session-4", "ask-Q1.1"),
            text_cell("Own.", "slide"),
        ]
    )
    assert len(slides.slides_of(notebook, 4, own=False)) == 1
    assert slides.slides_of(notebook, 5, own=False) == []


def test_a_link_leaves_its_words_and_a_box_is_shown_by_itself_only() -> None:
    source = "See [(1.2)](#eq-x), [chapter 1](01_a.ipynb) and `nets[0](x)`."
    assert parse(slide_parts.render(source)).get_text().strip() == (
        "See (1.2), chapter 1 and nets[0](x)."
    )
    box = "<details><summary>For the curious</summary>\n\nInside.\n\n</details>"
    assert parse(slide_parts.render(f"Before.\n\n{box}")).get_text().strip() == "Before."
    assert parse(slide_parts.render(box)).get_text().strip() == "Inside."


def test_what_a_speaker_says_stands_in_place_of_caption_and_notes_one_text_a_slide() -> None:
    long = "\n\n".join("a = 1\n" * 12 for _ in range(2))
    cell = new_code_cell(long, metadata={"tags": ["slide"], "speaker": ["*Ask* this.", "Then."]})
    behind = new_markdown_cell("Long.", metadata={"tags": ["notes"]})
    both = [parse(each.html()) for each in slides.slides_of(new_notebook(cells=[cell, behind]), 1)]
    assert [notes(each).strip() for each in both] == ["Ask this.", "Then."]
    del cell.metadata["speaker"]
    both = [parse(each.html()) for each in slides.slides_of(new_notebook(cells=[cell, behind]), 1)]
    assert [notes(each).strip() for each in both] == ["", "Long."]


def test_a_picture_has_its_number_below_it_and_its_caption_for_the_speaker() -> None:
    drawing = "![A drawing.](figures/idea-1.svg)\n\n**Figure 1.1.** What it is."
    part = slide_parts.markdown(drawing)
    assert parse(part.html).select("figcaption")[0].get_text() == "Figure 1.1"
    assert "What it is." not in part.html and "What it is." in part.notes
    live = slide_parts.markdown("![A still.](figures/live-walk.png)\n\n**Live figure 6.** Walk.")
    assert parse(live.html).select("figure > #live-walk.live-figure")
    assert LIVE.search("figures/live-walk.png")


# In a browser.


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Page]:  # noqa: F811
    shown = browser.new_page(viewport={"width": 1280, "height": 720})
    shown.set_default_timeout(120_000)  # a deck has megabytes, and the machine may be busy
    yield shown
    shown.close()


def open_deck(shown: Page, session: Session, folder: Path) -> list[str]:
    errors: list[str] = []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    path = folder / "deck.html"
    path.write_text(slides.deck(session), encoding="utf-8")
    shown.goto(path.as_uri())
    shown.wait_for_function("window.Reveal && Reveal.isReady()")
    return errors


@by_session
def test_nothing_runs_over_the_edge_of_a_slide_or_is_too_small_to_read(
    session: Session, opened: Page, tmp_path: Path
) -> None:
    errors = open_deck(opened, session, tmp_path)
    report = opened.evaluate(MEASURE)
    assert errors == []
    assert len(report) == len(shown(session))
    for slide in report:
        assert slide["bottom"] <= 720.5, slide
        assert slide["right"] <= 1280.5, slide
        assert slide["cut"] == 0, slide
        assert slide["undrawn"] == 0, slide
        assert slide["letters"] >= 13, slide
        assert min([*slide["figures"], 180]) >= 180 or slide["live"], slide
        assert bool(slide["canvases"]) == bool(slide["live"]), slide


def test_the_speaker_sees_notes_and_what_comes_next_in_a_window_of_their_own(
    opened: Page, tmp_path: Path
) -> None:
    open_deck(opened, SESSIONS[1], tmp_path)
    titles = [title(slide) for slide in shown(SESSIONS[1])]
    position = titles.index("Q0.1 (recall): four shapes") + 1  # behind the cover
    opened.evaluate(f"Reveal.slide({position})")
    with opened.expect_popup() as popup:
        opened.keyboard.press("s")
    window = popup.value
    assert window.locator("h1").inner_text() == titles[position - 1]
    told = window.locator("body").inner_text()
    assert "samples, batch, event" in told and f"Next: {titles[position]}" in told
    window.keyboard.press("ArrowRight")
    assert window.locator("h1").inner_text() == titles[position]
    assert opened.evaluate("Reveal.getIndices().h") == position + 1
    window.close()


def test_a_deck_is_printed_a_slide_a_page(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    path = tmp_path / "deck.html"
    path.write_text(slides.deck(SESSIONS[9]), encoding="utf-8")
    printed = slides.print_pdf(path, browser).read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == len(shown(SESSIONS[9])) + 1


def test_without_a_browser_printing_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "find_browser", lambda: None)
    with (
        pytest.raises(SystemExit, match=r"^A PDF is printed by a browser.*install chromium"),
        slides.opened_browser(),
    ):
        pass


def test_decks_are_written_to_a_folder_that_no_target_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "DECKS", tmp_path / "decks")
    monkeypatch.setattr(slides, "sessions", lambda: SESSIONS[:1])
    monkeypatch.setattr(slides, "deck", lambda session: session.title)
    monkeypatch.setattr(sys, "argv", ["slides.py"])
    slides.main()
    assert [path.name for path in (tmp_path / "decks").iterdir()] == ["session-0.html"]
    makefile = (slides.ROOT / "Makefile").read_text(encoding="utf-8")
    removed = " ".join(re.findall(r"rm -rf (.*)", makefile)).split()
    assert {each for each in removed if each.startswith("dist")} == {"dist/*.whl"}
