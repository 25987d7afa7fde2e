"""Records of refinement: figures that can be worked out again, a schema, gains paired by seed."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import flowvae_tutorial.experiments.refinement_records as refinement_records
from flowvae_tutorial import (
    VAE,
    InputError,
    build,
    energy_distance,
    fit,
    precision_and_recall,
    refine,
)
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments.record_files import write
from flowvae_tutorial.experiments.records import Record, read_records, run_name
from flowvae_tutorial.experiments.refinement_records import (
    FIGURES,
    REFINEMENTS,
    Classifier,
    fit_classifier,
    gain,
    measure_refinement,
    read_refinements,
    refinement_table,
)

RESULTS = Path(__file__).parents[2] / "book" / "results"
Made = tuple[Record, VAE, Data, Classifier]


def few_digits() -> Data:
    digits = load("digits")
    return replace(
        digits, train=digits.train[:300], test=digits.test[:60],
        labels={"train": digits.labels["train"][:300], "test": digits.labels["test"][:60]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """The record of a tiny run, and what it was made of."""
    data = few_digits()
    torch.manual_seed(0)
    vae = build("gaussian", data)
    history = fit(vae, data, epochs=2, seed=7)
    classifier = fit_classifier(data, epochs=5)
    before = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement_records, "STEPS", (0, 1, 3))
        patch.setattr(refinement_records, "LATENTS", 100)
        record = measure_refinement(
            "gaussian", vae, data, classifier, seed=7, epochs=len(history.loss),
            best_epoch=history.best_epoch, commit="abc1234",
        )  # fmt: skip
    assert torch.equal(before, torch.get_rng_state()), "the caller's random state is left"
    yield record, vae, data, classifier


@pytest.fixture
def record(made: Made) -> Record:
    return copy.deepcopy(made[0])


# --- the classifier ---------------------------------------------------------------------------


def test_the_classifier_knows_digits_and_repeats() -> None:
    digits = load("digits")
    state = torch.get_rng_state()
    classifier = fit_classifier(digits)
    assert torch.equal(state, torch.get_rng_state())
    right = classifier(digits.test).argmax(-1) == digits.labels["test"]
    assert right.double().mean() > 0.95
    assert not any(p.requires_grad for p in classifier.parameters())
    torch.manual_seed(5)
    small = [fit_classifier(few_digits(), epochs=1, seed=seed)(digits.test) for seed in (0, 0, 1)]
    assert torch.equal(small[0], small[1]) and not torch.equal(small[0], small[2])


def test_the_features_are_what_the_last_layer_sees() -> None:
    classifier = Classifier(64, 10)
    x = torch.rand(5, 64)
    features = classifier.features(x)
    assert features.shape == (5, 64)
    assert torch.equal(classifier.head(features), classifier(x))
    assert classifier(x).shape == (5, 10)


@pytest.mark.parametrize("labels", [{}, {"train": torch.zeros(300)}])
def test_data_without_labels_are_refused(labels: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*'digits' has no labels[^\n]*\Z"):
        fit_classifier(replace(few_digits(), labels=labels))


# --- what is measured -------------------------------------------------------------------------


def test_a_record_says_what_the_run_was(record: Record) -> None:
    keys = ("model", "data", "seed", "epochs", "lr", "anchors", "steps", "commit")
    assert [record[key] for key in keys] == [
        "gaussian", "digits", 7, 2, 0.1, [0.1, 0.0], [0, 1, 3], "abc1234"
    ]  # fmt: skip
    counts = [record[key] for key in ("num_latents", "num_test", "num_compared", "neighbours")]
    assert counts == [100, 60, 60, 5]
    assert record["decoded"] == "draws" and record["torch"] == torch.__version__


def test_columns_are_of_the_same_latents_and_noise(record: Record) -> None:
    for name in FIGURES:
        assert record[name][0][0] == record[name][1][0], "no step, no anchor"
    assert record["distance"][0][0] == 0
    for row in record["log_prob"]:
        assert row == sorted(row)
    # Without an anchor they go further.
    assert record["distance"][1][2] > record["distance"][0][2] > record["distance"][0][1] > 0


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (1, 2)])
def test_every_figure_can_be_worked_out_again(made: Made, row: int, column: int) -> None:
    record, vae, data, classifier = made
    torch.manual_seed(7)
    start = vae.prior().sample((100,))
    steps, anchor = record["steps"][column], record["anchors"][row]
    z = refine(start, vae.prior().log_prob, steps=steps, lr=0.1, anchor=anchor)
    torch.manual_seed(7)
    x = vae.likelihood(z).sample()
    precision, recall = precision_and_recall(
        classifier.features(x[:60]), classifier.features(data.test), 5
    )
    expected = {
        "log_prob": vae.prior().log_prob(z).mean().item(),
        "distance": (z - start).norm(dim=-1).mean().item(),
        "confidence": classifier(x).softmax(-1).max(-1).values.mean().item(),
        "precision": precision,
        "recall": recall,
        "energy_distance": energy_distance(x, data.test),
    }
    assert {name: record[name][row][column] for name in FIGURES} == pytest.approx(
        expected, abs=1e-4
    )


@torch.no_grad()
def test_the_reference_is_of_training_images_and_the_classifier_on_test_images(made: Made) -> None:
    record, _, data, classifier = made
    reference = record["reference"]
    probabilities = classifier(data.test).softmax(-1)
    right = (probabilities.argmax(-1) == data.labels["test"]).double().mean().item()
    assert reference["accuracy"] == pytest.approx(right, abs=1e-4)
    assert reference["confidence"] == pytest.approx(
        probabilities.max(-1).values.mean().item(), abs=1e-4
    )
    torch.manual_seed(7)
    x = data.batch(data.train)
    assert reference["energy_distance"] == pytest.approx(energy_distance(x, data.test), abs=1e-4)
    assert min(reference["precision"], reference["recall"]) > 0.85
    assert abs(reference["energy_distance"]) < 0.1 < record["energy_distance"][0][0]


# --- files ------------------------------------------------------------------------------------


def refusal(record: Any, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        write(REFINEMENTS, record, folder)
    assert not list(folder.iterdir()), "a record that breaks the schema is not written"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_record_is_read_back_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path = write(REFINEMENTS, record, tmp_path / "new" / "folder")
    assert path.name == "digits-gaussian-seed7.json"
    assert read_refinements(path.parent) == read_refinements(path.parent, "digits") == [record]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("key", REFINEMENTS.schema["required"])
def test_a_record_that_lacks_a_field_is_refused_by_its_name(
    record: Record, tmp_path: Path, key: str
) -> None:
    del record[key]
    assert f"'{key}' is a required" in refusal(record, tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [("model", 3), ("seed", -1), ("epochs", 0), ("lr", 0), ("anchors", [-1]), ("steps", [0.5]),
     ("steps", []), ("decoded", "means"), ("num_latents", 0), ("log_prob", [["x"]]),
     ("log_prob", [[math.nan]]), ("precision", [[1.2]]), ("recall", [[-0.1]]),
     ("distance", [[-1.0]]), ("confidence", 0.5), ("reference", 1), ("date", "today")],
)  # fmt: skip
def test_a_field_of_the_wrong_kind_is_refused_by_its_place(
    record: Record, tmp_path: Path, place: str, value: object
) -> None:
    record[place] = value
    assert f"at {place}" in refusal(record, tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_a_column_for_every_number_of_steps_is_refused(
    record: Record, tmp_path: Path, name: str
) -> None:
    record[name][1].pop()
    assert f"at {name}: a row an anchor" in refusal(record, tmp_path)
    del record[name][1]
    assert f"at {name}: a row an anchor" in refusal(record, tmp_path)


def test_a_field_that_does_not_belong_is_refused(record: Record, tmp_path: Path) -> None:
    assert "'nll'" in refusal(record | {"nll": 3}, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x80\x00"])
def test_a_damaged_record_is_named(record: Record, tmp_path: Path, content: str) -> None:
    write(REFINEMENTS, record, tmp_path)
    (tmp_path / "half.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"\A[^\n]*half\.json[^\n]*\Z"):
        read_refinements(tmp_path)


def test_no_records_are_one_line_that_names_the_folder(record: Record, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]*none: run `refine`\Z"):
        read_refinements(tmp_path / "none")
    write(REFINEMENTS, record, tmp_path)
    with pytest.raises(InputError, match="no refinements of rings"):
        read_refinements(tmp_path, "rings")


def test_the_books_refinements_have_their_own_names_and_five_seeds_a_model() -> None:
    folder = RESULTS / "refinement"
    records = read_refinements(folder)
    names = {f"{run_name(r['model'], r['data'], 1, r['seed'])}.json" for r in records}
    assert names == {file.name for file in folder.iterdir()}
    for model in {r["model"] for r in records}:
        assert [r["seed"] for r in records if r["model"] == model] == [0, 1, 2, 3, 4]
    assert read_records(RESULTS), "and are no part of the records of training"


# --- gains and table --------------------------------------------------------------------------


def with_recall(record: Record, seed: int, rows: list[list[float]], **changes: Any) -> Record:
    return record | {"seed": seed, "recall": rows} | changes


def test_a_gain_is_students_interval_of_differences_to_no_step(record: Record) -> None:
    records = [
        with_recall(record, 0, [[0.9, 0.8, 0.5], [0.9, 0.9, 0.4]]),
        with_recall(record, 1, [[0.7, 0.6, 0.4], [0.7, 0.7, 0.1]]),
        with_recall(record, 2, [[0.8, 0.8, 0.6], [0.8, 0.7, 0.3]]),
    ]
    for anchor, changes in ((0.1, [-0.4, -0.3, -0.2]), (0, [-0.5, -0.6, -0.5])):
        found = gain(records, "recall", anchor, 3)
        low, high = stats.t.interval(
            0.95, 2, loc=sum(changes) / 3, scale=stats.sem(changes)
        )  # fmt: skip
        assert (found.mean, found.low, found.high) == pytest.approx((sum(changes) / 3, low, high))
    nothing = gain(records, "recall", 0, 0)
    assert (nothing.low, nothing.high) == (0, 0)


def test_a_gain_that_was_not_measured_is_refused(record: Record) -> None:
    records = [record, record | {"seed": 8}]
    for figure, anchor, steps in (("nll", 0, 3), ("recall", 0.5, 3), ("recall", 0, 4)):
        with pytest.raises(InputError, match=rf"\Ano {figure} at anchor {anchor} after {steps}"):
            gain(records, figure, anchor, steps)
    with pytest.raises(InputError, match="at least 2 seeds"):
        gain(records[:1], "recall", 0, 3)


def test_the_table_has_means_over_seeds_of_what_was_measured_alike(record: Record) -> None:
    first = [[0.9, 0.8, 0.5], [0.9, 0.9, 0.4]]
    second = [[0.7, 0.6, 0.4], [0.7, 0.7, 0.1]]
    table = refinement_table(
        [
            with_recall(record, 0, first),
            with_recall(record, 1, second),
            with_recall(record, 0, first, model="mixture"),
        ]
    )
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert head[:4] == ["run", "seeds", "anchor", "steps"] and head[8] == "recall"
    assert [line[:4] for line in lines[:6]] == [
        ["digits-gaussian", "2", anchor, steps] for anchor in ("0.1", "0") for steps in "013"
    ]
    assert [line[8] for line in lines[:6]] == ["0.800", "0.700", "0.450", "0.800", "0.800", "0.250"]
    assert [line[8] for line in lines[6:9]] == ["0.900", "0.800", "0.500"]
    assert len({len(line) for line in lines} | {len(head)}) == 1
