"""`expect` holds every run to the page, and a slider needs nothing but a browser."""

import base64
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from flowvae_tutorial import InputError
from flowvae_tutorial.notebook import expect, frame_slider, live_figure


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


# --- expect -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "within", "line"),
    [
        (22.1, 0.3, "22.10 (page: 22.1 ± 0.3)"),
        (22.399, 0.3, "22.40 (page: 22.1 ± 0.3)"),
        (22.44, 0.3, "22.44 (page: 22.1 ± 0.3, this is outside by 0.04)"),
        (-22.1, 2, "-22.1 (page: 22.1 ± 2, this is outside by 42.2)"),
        (31.7, 15, "32 (page: 22.1 ± 15)"),
        (-0.04, 30, "0 (page: 22.1 ± 30)"),
        (22.1004, 5e-3, "22.1004 (page: 22.1 ± 0.005)"),
        (math.nan, 0.3, "nan (page: 22.1 ± 0.3, this is outside by nan)"),
        (-math.inf, 0.3, "-inf (page: 22.1 ± 0.3, this is outside by inf)"),
    ],
)
def test_expect_prints_what_was_measured_and_the_band(
    value: float, within: float, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(value, 22.1, within=within)
    assert capsys.readouterr().out == f"{line}\n"


def test_expect_prints_label_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    expect(-3, -3.02, within=0.1, label="gap", unit="nats")
    assert capsys.readouterr().out == "gap: -3.00 nats (page: -3.02 ± 0.1)\n"


@pytest.mark.parametrize(
    ("canonical", "within"), [(math.nan, 1), (1, math.nan), (1, -0.1), (1, 0), (1, math.inf)]
)
def test_a_check_that_could_not_fail_is_no_check(canonical: float, within: float) -> None:
    with pytest.raises(InputError, match="is no band"):
        expect(1, canonical, within)


# --- frame_slider -----------------------------------------------------------------------------


class Tags(HTMLParser):
    """All tags of a page with their attributes, unescaped, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def frames(*names: str) -> dict[str, Figure]:
    drawn = {}
    for height, name in enumerate(names):
        drawn[name], axis = plt.subplots(figsize=(1, 1))
        axis.plot([0, height])
    return drawn


def page(start: int = 0, label: str = "β", alt: str = "digits at β =", names: str = "abc") -> str:
    return str(frame_slider(frames(*names), label, alt, start).data)


def test_a_slider_is_one_range_over_a_picture_for_each_frame() -> None:
    tags = Tags(page())
    (control,) = tags.of("input")
    assert (control["type"], control["min"], control["max"], control["step"]) == (
        "range", "0", "2", "1"
    )  # fmt: skip
    sources = [image["src"] for image in tags.of("img")]
    assert len(set(sources)) == 3, "the frames differ"
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")


def test_a_frame_has_twice_the_pixels_of_its_place() -> None:
    drawn = {"a": plt.subplots(figsize=(3, 1))[0]}
    [image] = Tags(str(frame_slider(drawn, "β", "digits at").data)).of("img")
    png = base64.b64decode(image["src"].partition(",")[2])
    assert int(image["width"]) == 240
    assert int.from_bytes(png[16:20], "big") == 480


@pytest.mark.parametrize("start", [0, 1, 2])
def test_only_the_starting_frame_is_displayed(start: int) -> None:
    tags = Tags(page(start))
    displayed = ["display:block" in image["style"] for image in tags.of("img")]
    assert displayed == [i == start for i in range(3)]
    hidden = ["display:none" in image["style"] for image in tags.of("img")]
    assert hidden == [not shown for shown in displayed]
    (control,) = tags.of("input")
    assert (control["value"], control["aria-valuetext"]) == (str(start), "abc"[start])
    assert tags.text == f"β: {'abc'[start]}"


def test_each_picture_has_its_own_text_for_those_who_do_not_see_it() -> None:
    texts = [image["alt"] for image in Tags(page()).of("img")]
    assert texts == ["digits at β = a", "digits at β = b", "digits at β = c"]


def test_the_label_belongs_to_the_control() -> None:
    tags = Tags(page())
    assert tags.of("label")[0]["for"] == tags.of("input")[0]["id"]


def test_markup_in_names_label_and_text_is_shown_and_not_run() -> None:
    nasty = """<script>alert("1")</script> & 'x'"""
    drawn = frames(nasty, "b")
    tags = Tags(str(frame_slider(drawn, nasty, nasty).data))
    assert tags.of("script") == []
    assert tags.text == f"{nasty}: {nasty}"
    assert [image["alt"] for image in tags.of("img")] == [f"{nasty} {nasty}", f"{nasty} b"]
    assert tags.of("input")[0]["aria-valuetext"] == nasty


def names_in_script(tags: Tags) -> list[str]:
    """The names as the control's script reads them, whichever way they are written."""
    stored = tags.of("input")[0]["data-names"]
    return json.loads(stored) if stored.startswith("[") else stored.split("|")


@pytest.mark.parametrize("values", [(1, 2, 4), (0.5, 1.0), (np.int64(1), np.float32(0.5))])
def test_numbers_name_frames_as_they_are_printed(values: tuple[Any, ...]) -> None:
    names = [str(value) for value in values]
    by_number = dict(zip(values, frames(*names).values(), strict=True))
    by_text = frame_slider(frames(*names), "β", "digits at β =")
    assert frame_slider(by_number, "β", "digits at β =").data == by_text.data


def test_the_script_knows_every_name_whatever_stands_in_it() -> None:
    names = ["p(x | z)", 'a "b"', "c"]
    tags = Tags(str(frame_slider(frames(*names), "density", "a density").data))
    assert names_in_script(tags) == names


def test_a_slider_names_no_outside_address() -> None:
    assert "http" not in re.sub(r"base64,[^\"]*", "", page())


def test_the_id_is_the_same_at_every_run_and_differs_between_sliders() -> None:
    ids = [Tags(page(label=label)).of("input")[0]["id"] for label in ("β", "β", "depth")]
    assert ids[0] == ids[1] != ids[2]
    assert page() == page()


def test_the_figures_are_closed() -> None:
    page()
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("names", "start"), [("", 0), ("abc", 3), ("abc", -1)])
def test_no_frames_or_a_start_that_is_none_of_them_is_refused(names: str, start: int) -> None:
    with pytest.raises(InputError, match="at least one frame") as error:
        page(start, names=names)
    assert "\n" not in str(error.value)


# --- live figures ------------------------------------------------------------------------------


def test_a_live_figure_brings_its_scripts_and_its_weights() -> None:
    figure = live_figure("walk").data
    assert 'id="live-walk"' in figure
    assert 'FlowVAE.weights["walk"]' in figure
    assert "src=" not in figure


def test_a_live_figure_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"no live figure 'ring': choose one of bound, digits, "):
        live_figure("ring")
