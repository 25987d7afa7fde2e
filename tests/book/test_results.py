"""Every figure of chapter 9's tables stands in a record, and each record there is complete."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import mnist
from flowvae_tutorial.data import outline
from flowvae_tutorial.experiments.record_files import Record
from flowvae_tutorial.experiments.records import read_records
from flowvae_tutorial.models import training_settings

BOOK = Path(__file__).parents[2] / "book"
MNIST = outline("dynamic-mnist")
DYNAMIC = read_records(BOOK / "results", "dynamic-mnist")
STATIC = read_records(BOOK / "results", "static-mnist")
LONG = read_records(BOOK / "results" / "long")
TODAY = read_records(BOOK / "results" / "mnist")
[ASTRAY] = read_records(BOOK / "results" / "astray")
RECORDS = DYNAMIC + LONG + TODAY + STATIC
SHOWN = DYNAMIC, LONG, TODAY, STATIC
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")


def tables(path: Path) -> Iterator[list[list[str]]]:
    """The tables that a notebook's cells have printed, as rows of texts, without their heads."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get("text/markdown", "")
            lines = [line for line in shown.splitlines() if line.startswith("|")]
            if lines:
                yield [[text.strip() for text in line.strip("|").split("|")] for line in lines[2:]]


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text.replace("−", "-"))


def figures(record: Record) -> set[str]:
    """What a table may print of a record, as it would print it."""
    nll, elbo, hours = record["nll"]["mean"], record["elbo"], record["seconds"] / 3600
    units = record["sizes"]["latent"] * len(record["kl"])
    return {
        f"{nll:.2f}", f"{record['nll']['standard_error']:.2f}", f"{-elbo:.2f}",
        f"{-elbo - nll:.2f}", f"{-record['reconstruction']:.2f}",
        *(f"{level:.1f}" for level in record["kl"]), str(record["active_units"]), str(units),
        f"{record['parameters'] / 1e6:.2f}", str(record["best_epoch"]), str(record["epochs"]),
        f"{hours:.1f}",
    }  # fmt: skip


def missing(row: list[str], record: Record) -> list[str]:
    """The numbers of a row that its record does not hold."""
    return [text for cell in row[1:] for text in numbers(cell) if text not in figures(record)]


def record_of(row: list[str], records: list[Record]) -> Record:
    """The one record of these whose NLL the row prints in bold."""
    [nll] = re.findall(r"\*\*(.+?)\*\*", " ".join(row))
    [record] = [record for record in records if f"{record['nll']['mean']:.2f}" == nll]
    return record


@pytest.fixture(scope="module")
def printed() -> list[list[list[str]]]:
    # The first is of the trials, which have a test of their own.
    _, *found = tables(BOOK / "09_results.ipynb")
    assert len(found) == 6, "results, what they took, beside the papers, longer, today's, static"
    return found


@pytest.mark.parametrize(
    "record", RECORDS, ids=lambda record: f"{record['model']}-{record['data']}-{record['epochs']}"
)
def test_every_mnist_record_is_of_the_whole_test_set_and_5000_samples(record: Record) -> None:
    assert record["num_samples"] == 5000
    assert record["num_test"] == len(record["nll"]["per_example"]) == 10_000
    mean = sum(record["nll"]["per_example"]) / 10_000
    assert mean == pytest.approx(record["nll"]["mean"], abs=1e-3)
    assert record["elbo"] == pytest.approx(record["reconstruction"] - sum(record["kl"]), abs=1e-3)
    assert record["elbo"] < -record["nll"]["mean"], "a bound lies below"
    assert len(record["history"]["loss"]) == record["epochs"]


def test_every_record_has_a_row_and_every_row_its_figures(printed: list[list[list[str]]]) -> None:
    results, efforts, beside, longer, today, static = printed
    shown = (results, beside, longer, today, static)
    for rows, records in zip(shown, (DYNAMIC, *SHOWN), strict=True):
        assert sorted(record_of(row, records)["model"] for row in rows) == sorted(
            record["model"] for record in records
        )
    for row, effort in zip(results, efforts, strict=True):
        assert row[0] == effort[0]
        record = record_of(row, DYNAMIC)
        assert missing(row, record) == [] == missing(effort, record), row[0]


def test_beside_the_papers_stand_our_records(printed: list[list[list[str]]]) -> None:
    of_each = ((row, of) for rows, of in zip(printed[2:], SHOWN, strict=True) for row in rows)
    for (name, theirs, _, ours, difference, epochs), of in of_each:
        record = record_of([ours], of)
        assert missing([name, ours, epochs], record) == []
        if theirs == "—":
            assert difference == "—"
            continue
        [paper] = map(float, numbers(theirs))
        assert float(difference.replace("−", "-")) == pytest.approx(
            record["nll"]["mean"] - paper, abs=0.006
        )


def test_the_excursion_of_which_the_page_tells_is_in_its_record() -> None:
    [record] = [record for record in DYNAMIC if record["model"] == "flow-both"]
    first, second, *_ = record["history"]["loss"]
    text = (BOOK / "09_results.ipynb").read_text()
    assert f"first epoch is {first:,.0f} nats, and of the second {second:.0f}." in text
    # And of the other, a hundred epochs later.
    (before, astray, after), kl = record["history"]["loss"][99:102], record["history"]["kl"]
    assert f"training loss of that epoch is {astray:.0f} nats" in text
    assert [round(before), round(after)] == [86, 86] and round(kl[100] / 1e6) == 30
    reconstruction = record["history"]["reconstruction"][99:102]
    assert max(reconstruction) - min(reconstruction) < 0.1
    assert kl[101] < 24 and record["best_epoch"] != 101


def bounds(record: Record) -> tuple[list[float], list[float]]:
    """−ELBO in training, with the β of the epoch, and in validation: one entry an epoch."""
    past = record["history"]
    return past["loss"], [k - r for r, k in zip(past["reconstruction"], past["kl"], strict=True)]


def gap(record: Record) -> float:
    return float(-record["elbo"] - record["nll"]["mean"])


def test_what_the_page_says_of_the_rows_is_in_the_records() -> None:
    run = {record["model"]: record for record in DYNAMIC}
    nll = {model: record["nll"]["mean"] for model, record in run.items()}
    flexible = set(nll) - {"gaussian"}
    assert {record["epochs"] for record in DYNAMIC + STATIC} == {150}
    assert all(gap(run[model]) < gap(run["gaussian"]) for model in flexible)
    behind = [nll["gaussian"] - nll[model] for model in flexible]
    assert round(min(behind), 1) == 2.3 and round(max(behind), 1) == 3.0
    assert max(nll[model] for model in flexible) - min(nll.values()) < 0.7
    # Beside the papers' figures, and flows at both ends beside one.
    short = {"gaussian": 84.50, "vampprior": 82.38, "hierarchical-vampprior": 81.24}
    assert [round(nll[model] - paper, 1) for model, paper in short.items()] == [0.9, 0.7, 1.3]
    assert round(nll["flow-prior"] - 80.43, 1) == 2.0
    assert round(nll["vampprior"] - nll["hierarchical-vampprior"], 1) == 0.5
    both, one = run["flow-both"], run["flow-prior"]
    assert round(nll["flow-both"] - nll["flow-prior"], 1) == 0.3
    assert round(nll["hierarchical-flow-prior"] - nll["flow-prior"], 1) == 0.3
    assert round(gap(one) - gap(both), 1) == 0.2
    assert one["kl"][0] - both["kl"][0] == pytest.approx(1, abs=0.15)
    assert one["reconstruction"] - both["reconstruction"] == pytest.approx(1, abs=0.15)


def test_what_the_page_says_of_the_longer_runs_is_in_the_records() -> None:
    nll = {record["model"]: record["nll"]["mean"] for record in DYNAMIC}
    longer = {record["model"]: record for record in LONG}
    assert set(longer) == {"gaussian"}
    [vae] = longer.values()
    assert vae["data"] == "dynamic-mnist" and vae["epochs"] == vae["best_epoch"] == 400
    assert round(nll["gaussian"] - vae["nll"]["mean"], 1) == 0.9
    assert abs(vae["nll"]["mean"] - 84.50) < 0.1
    flexible = [value for model, value in nll.items() if model != "gaussian"]
    assert round(vae["nll"]["mean"] - max(flexible), 1) == 1.4


BOTH = "hierarchical-vampprior"
MATCHING = "two-stage-flow-matching-prior"


def test_what_the_page_says_of_today_s_recipe_is_in_the_records() -> None:
    [longer], [today] = LONG, [record for record in TODAY if record["model"] == "gaussian"]
    assert today["settings"] | {"batch_size": 100, "lr": 1e-3, "patience": 50} == longer["settings"]
    assert (today["settings"]["batch_size"], today["settings"]["lr"]) == (200, 3e-3)
    assert round(min(bounds(longer)[1]) - min(bounds(today)[1]), 1) == 0.1
    assert round(longer["nll"]["mean"] - today["nll"]["mean"], 1) == 0.1
    [mixed] = [record for record in TODAY if record["model"] == "vampprior"]
    asked = {"epochs": 400, "batch_size": 250, "lr": 3e-3, "products": "bfloat16"}
    assert asked.items() <= mixed["settings"].items()
    nll = mixed["nll"]["mean"]
    assert [round(nll - 82.38, 2), round(today["nll"]["mean"] - 84.50, 2)] == [0.07, -0.16]
    before = {record["model"]: record["nll"]["mean"] for record in DYNAMIC}
    assert round(before["vampprior"] - nll, 1) == 0.6
    assert round(today["nll"]["mean"] - nll, 1) == 1.9
    assert round(before["gaussian"] - before["vampprior"], 1) == 2.3
    [flow] = [record for record in TODAY if record["model"] == "flow-prior"]
    asked = {"epochs": 400, "batch_size": 100, "lr": 1e-3, "products": "bfloat16"}
    assert asked.items() <= flow["settings"].items()
    assert round(flow["nll"]["mean"], 1) == 81.5
    assert round(flow["nll"]["mean"] - 80.43, 1) == 1.1
    assert round(nll - flow["nll"]["mean"], 1) == 0.9
    assert round(before["vampprior"] - before["flow-prior"], 2) == 0.65
    two = {record["model"]: record for record in TODAY if record["model"] in ("hvae", BOTH)}
    end = two[BOTH]["nll"]["mean"]
    assert round(end, 2) == 82.25 and round(nll - end, 1) == 0.2
    assert [round(end - 81.24, 1), round(end - 81.56, 1)] == [1.0, 0.7]
    assert round(two["hvae"]["nll"]["mean"] - 82.42, 2) == 0.20
    assert round(ASTRAY["nll"]["mean"], 1) == 102.6
    *others, _, _ = sorted(ASTRAY["nll"]["per_example"])
    pair = (two[BOTH]["nll"]["per_example"], mixed["nll"]["per_example"])
    dearest = max(a - b for a, b in zip(*pair, strict=True))
    assert round(dearest, -2) == 2400 and round(dearest / 10_000, 2) == 0.24
    assert len(others) == 9998 and round(sum(others) / 9998, 1) == 83.1
    assert ASTRAY["settings"] == two["hvae"]["settings"] | {"lr": 3e-3}
    batches = {"hvae": (200, 1e-3), BOTH: (250, 3e-3)}
    for model, record in two.items():
        settings = record["settings"]
        assert (settings["batch_size"], settings["lr"]) == batches[model]
        assert settings["products"] == "bfloat16" and settings["epochs"] == 400
    assert max(two["hvae"]["history"]["loss"][3:]) < 93
    others = [a - b for a, b in zip(*pair, strict=True) if a - b < dearest]
    assert round(sum(others) / len(others), 2) == -0.44
    for record, start in ((ASTRAY, 80), (two[BOTH], 119)):
        validation = bounds(record)[1]
        assert record["best_epoch"] == 400
        jumps = [bound > validation[start - 2] + 6 for bound in validation[start:]]
        assert sum(jumps) / len(jumps) == pytest.approx(0.1, abs=0.02)
        losses = record["history"]["loss"]
        assert max(losses[1 : start - 1]) < 100 < losses[start - 1]
        assert sum(loss > 1000 for loss in losses) > 200


def test_what_section_8_10_says_of_flow_matching_on_mnist_is_in_the_records() -> None:
    today = {record["model"]: record for record in TODAY}
    ours = today[MATCHING]
    assert (ours["epochs"], ours["settings"]["batch_size"], ours["settings"]["lr"]) == (
        100,
        200,
        1e-3,
    )
    [text] = [path.read_text(encoding="utf-8") for path in BOOK.glob("08_*.ipynb")]

    def apart(one: Record, other: Record) -> float:
        return float(one["nll"]["mean"] - other["nll"]["mean"])

    assert f"gains {apart(today['gaussian'], ours):.2f} nats over" in text
    assert f"the VampPrior by {apart(ours, today['vampprior']):.2f} nats" in text
    assert f"the coupling flow by {apart(ours, today['flow-prior']):.2f}" in text
    field = ours["parameters"] - today["gaussian"]["parameters"]
    assert f"a field of {round(field, -3):,} numbers" in text
    # The first stage is a second training by the recipe of the row of N(0, I).
    begin, end = min(bounds(ours)[1]), max(bounds(ours)[1])
    assert round(end - begin, 1) == 1.4
    # The shares: two thirds of the VampPrior's gain, and not quite half of the coupling flow's.
    late = apart(today["gaussian"], ours)
    assert late / apart(today["gaussian"], today["vampprior"]) == pytest.approx(2 / 3, abs=0.02)
    assert 0.4 < late / apart(today["gaussian"], today["flow-prior"]) < 0.5
    assert round(ours["seconds"] / 60) == 40
    assert abs(end - min(bounds(today["gaussian"])[1])) < 0.05


def test_the_rows_of_today_have_the_settings_of_the_tool_but_for_one() -> None:
    other = {
        record["model"]: {
            name: record["settings"][name]
            for name, value in (
                training_settings(MNIST) | mnist.OWN.get(record["model"], {})
            ).items()
            if name not in ("epochs", "patience") and record["settings"][name] != value
        }
        for record in TODAY
    }
    assert {model: found for model, found in other.items() if found} == {BOTH: {"lr": 3e-3}}


def test_what_the_page_says_of_the_way_there_is_in_the_records() -> None:
    past = {record["model"]: bounds(record)[1] for record in DYNAMIC}

    def order(epoch: int) -> list[str]:
        return sorted(past, key=lambda model: past[model][epoch - 1])

    def gained(model: str, start: int, end: int) -> float:
        return past[model][start - 1] - past[model][end - 1]

    assert order(30)[0] == order(75)[0] == "hierarchical-vampprior"
    assert order(150)[:2] == ["flow-prior", "flow-both"]
    for model in past:
        more = gained(model, 75, 100) - gained(model, 50, 75)
        assert 0.4 < more < 0.9 and gained(model, 130, 150) > 0.5
        if "flow" in model:
            assert 3.65 < gained(model, 75, 150) < 3.95
        elif "vampprior" in model:
            assert gained(model, 75, 150) == pytest.approx(3.2, abs=0.06)


def test_what_the_page_says_of_learning_by_heart_is_in_the_records() -> None:
    static = {record["model"]: record for record in STATIC}
    dynamic = {r["model"]: r for r in DYNAMIC if r["model"] in static}
    assert len(static) == len(dynamic) == 3

    def ahead(record: Record) -> float:
        training, validation = bounds(record)
        return validation[-1] - training[-1]

    def arrived(record: Record) -> float:
        training, validation = (
            sum(curve[45:55]) / 10 - sum(curve[65:75]) / 10 for curve in bounds(record)
        )
        assert training == pytest.approx(1, abs=0.2)
        return validation / training

    for model, record in static.items():
        assert 8 < ahead(record) < 9.5 and ahead(dynamic[model]) == pytest.approx(2, abs=0.3)
        assert arrived(record) < 0.26 and arrived(dynamic[model]) == pytest.approx(0.75, abs=0.06)
        assert gap(record) - gap(dynamic[model]) == pytest.approx(2, abs=0.2)
        assert record["best_epoch"] == dynamic[model]["best_epoch"] == 150
    step = static["gaussian"]["nll"]["mean"] - static["vampprior"]["nll"]["mean"]
    assert round(step, 1) == 2.3


def test_a_figure_that_is_in_no_record_is_found() -> None:
    record = RECORDS[0]
    row = [record["model"], f"**{record['nll']['mean']:.2f}**", f"{-record['elbo'] + 0.01:.2f}"]
    assert missing(row, record) == [f"{-record['elbo'] + 0.01:.2f}"]
