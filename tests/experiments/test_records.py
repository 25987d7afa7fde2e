"""Records hold to their schema, and an interval covers what it says it covers."""

import copy
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import ladder
import latent
import schedule
import solutions
import trials
from flowvae_tutorial import VAE, History, InputError, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import records
from flowvae_tutorial.experiments.record_files import LARGEST, Kind, find, read
from flowvae_tutorial.experiments.records import (
    RUNS,
    Record,
    current_commit,
    interval,
    make_record,
    paired_interval,
    paired_table,
    read_records,
    run_name,
    table,
    write_record,
)
from flowvae_tutorial.experiments.refinement_records import REFINEMENTS
from flowvae_tutorial.models import Sizes, default_sizes

RESULTS = Path(__file__).parents[2] / "book" / "results"


@pytest.fixture(scope="module")
def made() -> Record:
    """The record of a tiny run."""
    rings = load("rings")
    data = replace(
        rings, train=rings.train[:200], validation=rings.validation[:50], test=rings.test[:30],
        labels={"train": rings.labels["train"][:200]},
    )  # fmt: skip
    sizes = Sizes(latent=2, hidden=(8,), components=3, pseudo_inputs=4)
    vae = build("gaussian", data, sizes)
    history = fit(vae, data, epochs=2, seed=7)
    before = torch.get_rng_state()
    record = make_record(
        "gaussian", vae, data, sizes, history, seed=7, beta=1.0, num_samples=20, commit="abc1234"
    )
    assert torch.equal(before, torch.get_rng_state()), "the caller's random state is left"
    return record


@pytest.fixture
def record(made: Record) -> Record:
    return copy.deepcopy(made)


def sealed(record: Any, path: Path) -> Path:
    """A file with the right checksum, worked out here, whatever is wrong with the record."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    sha256 = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(record | {"sha256": sha256}))
    return path


def refusal(record: Any, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        write_record(record, folder)
    assert not list(folder.iterdir()), "a record that breaks the schema is not written"
    assert "\n" not in str(error.value)
    return str(error.value)


# --- one record -------------------------------------------------------------------------------


def test_a_record_of_points_compares_samples_and_one_of_images_does_not(record: Record) -> None:
    assert 0 <= record["modes"] <= 8
    assert record["energy_distance"] > 0.05, "two epochs are too few"
    assert all("modes" not in r for r in read_records(RESULTS, "digits"))


def test_a_record_says_what_the_run_was(record: Record) -> None:
    said = {key: record[key] for key in ("model", "data", "seed", "beta", "epochs", "commit")}
    assert said == {
        "model": "gaussian", "data": "rings", "seed": 7, "beta": 1, "epochs": 2,
        "commit": "abc1234",
    }  # fmt: skip
    assert record["sizes"] == {
        "latent": 2, "hidden": [8], "components": 3, "pseudo_inputs": 4, "transforms": 6,
        "flow_hidden": [64, 64],
    }  # fmt: skip
    assert (record["num_test"], record["num_samples"]) == (30, 20)
    assert record["best_epoch"] in (1, 2)
    assert record["device"] and record["torch"] == torch.__version__


def test_the_summary_of_a_record_is_of_its_own_examples(record: Record) -> None:
    examples = record["nll"]["per_example"]
    assert len(examples) == record["num_test"]
    # Examples are rounded to 0.001.
    assert record["nll"]["mean"] == pytest.approx(np.mean(examples), abs=1e-3)
    assert record["nll"]["standard_error"] == pytest.approx(stats.sem(examples), abs=1e-3)
    difference = record["reconstruction"] - sum(record["kl"])
    assert record["elbo"] == pytest.approx(difference, abs=1e-3)
    assert 0 <= record["active_units"] <= 2


def test_a_record_is_read_back_as_it_was_written(record: Record, tmp_path: Path) -> None:
    path = write_record(record, tmp_path / "new" / "folder")
    assert path.name == "rings-gaussian-seed7.json"
    assert read_records(path.parent) == [record]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("key", RUNS.schema["required"])
def test_a_record_that_lacks_a_field_is_refused_by_its_name(
    record: Record, tmp_path: Path, key: str
) -> None:
    del record[key]
    # Without some of these the record has no name of a file, so it is read and not written.
    sealed(record, tmp_path / "some.json")
    with pytest.raises(InputError, match=f"'{key}' is a required") as error:
        read_records(tmp_path)
    assert "some.json" in str(error.value)


def test_the_schema_has_the_fields_of_the_design() -> None:
    assert set(RUNS.schema["required"]) >= {
        "model", "data", "seed", "sizes", "epochs", "best_epoch", "num_samples", "num_test", "nll",
        "elbo", "reconstruction", "kl", "active_units", "seconds", "device", "torch", "commit",
        "date",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [("model", 3), ("seed", -1), ("seed", 1.5), ("seed", "0"), ("beta", -1), ("epochs", 0),
     ("epochs", True), ("best_epoch", 0), ("num_samples", 0), ("num_test", 1), ("sizes", [16]),
     ("nll", 22.1), ("elbo", "22"), ("elbo", None), ("kl", 3.0), ("kl", []),
     ("active_units", 2.5), ("seconds", "3 s"), ("date", "1 May 2024"), ("date", 20240501)],
)  # fmt: skip
def test_a_field_of_the_wrong_kind_is_refused_by_its_place(
    record: Record, tmp_path: Path, place: str, value: object
) -> None:
    record[place] = value
    assert f"at {place}:" in refusal(record, tmp_path)


def test_a_place_deep_in_a_record_is_named(record: Record, tmp_path: Path) -> None:
    record["nll"]["per_example"][4] = "x"
    assert "at nll/per_example/4:" in refusal(record, tmp_path)


@pytest.mark.parametrize("inside", [None, "nll"])
def test_a_field_that_does_not_belong_is_refused_by_its_name(
    record: Record, tmp_path: Path, inside: str | None
) -> None:
    (record[inside] if inside else record)["likes"] = 5
    assert "'likes'" in refusal(record, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_refused(
    record: Record, tmp_path: Path, value: float
) -> None:
    record["nll"]["mean"] = value
    assert "nll" in refusal(record, tmp_path)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1, 2}, Path("a"), [[-math.inf]], "\ud800"], ids=repr
)
def test_settings_that_no_file_can_hold_are_refused_before_one_is_written(
    record: Record, tmp_path: Path, value: object
) -> None:
    record["settings"]["free"] = value
    with pytest.raises(InputError, match="cannot be written as JSON") as error:
        write_record(record, tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["model", "data"])
@pytest.mark.parametrize("name", ["../up", "/up", "a\\b", "..\\up", "a\0", "a/b\n", "x" * 201])
def test_a_name_that_is_a_path_reaches_none(
    record: Record, tmp_path: Path, key: str, name: str
) -> None:
    folder = tmp_path / "records"
    with pytest.raises(InputError, match=f"schema at {key}"):
        write_record(record | {key: name}, folder)
    assert not list(tmp_path.iterdir())


# --- folders of records -----------------------------------------------------------------------


def test_records_are_read_in_the_order_of_their_files_or_of_one_data_set(
    record: Record, tmp_path: Path
) -> None:
    for data, seed in (("rings", 1), ("digits", 0), ("rings", 0)):
        write_record(record | {"data": data, "seed": seed}, tmp_path)
    (tmp_path / "picture.png").write_bytes(b"not a record")
    read = [(r["data"], r["seed"]) for r in read_records(tmp_path)]
    assert read == [("digits", 0), ("rings", 0), ("rings", 1)]
    assert [r["seed"] for r in read_records(tmp_path, "rings")] == [0, 1]


@pytest.mark.parametrize("content", ["", "{", '{"model": "gauss', "\x80\x00", "[]", "null", "3"])
def test_a_damaged_record_is_named(record: Record, tmp_path: Path, content: str) -> None:
    write_record(record, tmp_path)
    (tmp_path / "half.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"half\.json") as error:
        read_records(tmp_path)
    assert "\n" not in str(error.value)


def test_no_records_are_one_line_that_names_the_folder(record: Record, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reproduce") as error:
        read_records(tmp_path / "none")
    assert str(tmp_path / "none") in str(error.value)
    write_record(record, tmp_path)
    with pytest.raises(InputError, match="no records of digits"):
        read_records(tmp_path, "digits")


KINDS = {
    "results": RUNS, "astray": RUNS, "long": RUNS, "mnist": RUNS, "refinement": REFINEMENTS,
    "trials": trials.KIND, "solutions": solutions.KIND, "ladder": ladder.RUNGS,
    "schedule": schedule.KIND, "latent": latent.KIND,
}  # fmt: skip
FILES = sorted(RESULTS.rglob("*.json"))


def test_every_committed_record_is_read_by_its_name_and_has_its_checksum() -> None:
    folders = {file.parent for file in FILES}
    assert {folder.name for folder in folders} == set(KINDS)
    for folder in folders:
        found = find(KINDS[folder.name], folder)
        assert list(found) == [file.stem for file in sorted(folder.glob("*.json"))]
        for name, record in found.items():
            # The rest of the record is in the file as it was written, and the sum after it.
            said = json.loads((folder / f"{name}.json").read_bytes())
            assert list(said)[-1] == "sha256" and list(said)[:-1] == list(record)


@pytest.mark.parametrize(
    ("beta", "name"),
    [(1, "digits-mixture-seed3"), (1.0, "digits-mixture-seed3"),
     (0.25, "digits-mixture-beta0.25-seed3"), (4.0, "digits-mixture-beta4-seed3"),
     (0, "digits-mixture-beta0-seed3")],
)  # fmt: skip
def test_the_name_of_a_run_says_beta_only_where_it_is_not_1(beta: float, name: str) -> None:
    assert run_name("mixture", "digits", beta, 3) == name


def test_the_commit_is_unknown_without_a_checkout_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flowvae_tutorial.experiments.record_files.__file__", str(tmp_path / "records.py")
    )
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert current_commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert current_commit() == "unknown"


# --- records that were changed, copied or made up ---------------------------------------------


def unread(folder: Path, kind: Kind = RUNS) -> str:
    """Why the records of a folder are refused: one line that can be printed anywhere."""
    with pytest.raises(InputError) as error:
        find(kind, folder)
    assert "\n" not in str(error.value)
    str(error.value).encode()
    return str(error.value)


def test_no_bit_of_a_record_flips_unseen(tmp_path: Path) -> None:
    path = tmp_path / "digits-gaussian-seed0.json"
    content = (RESULTS / path.name).read_bytes()
    random = np.random.default_rng(0)
    for flip in random.integers(8 * len(content), size=300).tolist():
        flipped = bytearray(content)
        flipped[flip // 8] ^= 1 << flip % 8
        path.write_bytes(flipped)
        assert f"{path} is damaged" in unread(tmp_path), flip
    path.write_bytes(content)
    assert len(read_records(tmp_path)) == 1


def test_the_advice_for_a_damaged_record_fits_whose_it_is(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(record, tmp_path / "results" / "more")
    path.write_text(path.read_text().replace("seed", "sead"))
    assert unread(path.parent).endswith("delete it and run it again")
    files = "flowvae_tutorial.experiments.record_files"
    monkeypatch.setattr(f"{files}.book_results", lambda: tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    said = unread(Path("results/more"))
    assert said.endswith("check it out, or install the package, again") and "delete" not in said


@pytest.mark.parametrize("sha256", [None, "", "0" * 64, 7, "upper"])
def test_a_record_without_its_own_checksum_is_refused(
    record: Record, tmp_path: Path, sha256: object
) -> None:
    path = write_record(record, tmp_path)
    said = json.loads(path.read_text())
    if sha256 == "upper":
        sha256 = said["sha256"].upper()
    path.write_text(json.dumps(said | {"sha256": sha256} if sha256 is not None else record))
    assert f"{path} is damaged (its checksum" in unread(tmp_path)


def test_the_checksum_is_of_the_content_and_not_of_its_layout(
    record: Record, tmp_path: Path
) -> None:
    path = write_record(record, tmp_path)
    said = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(said.items())), indent=3).replace("\n", "\r\n"))
    assert read_records(tmp_path) == [record]


def contradict(record: Record, place: str) -> None:
    nll = record["nll"]
    match place:
        case "nll/mean" | "nll/standard_error":
            nll[place.removeprefix("nll/")] += 0.01
        case "num_test":
            record[place] += 1
        case "best_epoch":
            record[place] = 3
        case "epochs":
            record[place] = 3
        case "fewer examples":
            # Mean and standard error follow: the number alone is wrong.
            nll["per_example"].pop()
            nll["mean"] = float(np.mean(nll["per_example"]))
            nll["standard_error"] = float(stats.sem(nll["per_example"]))
        case _:
            record["history"][place.removeprefix("history/")].append(1.0)


@pytest.mark.parametrize(
    ("place", "named"),
    [("nll/mean", "nll/mean"), ("nll/standard_error", "nll/standard_error"),
     ("num_test", "num_test: 31"), ("fewer examples", "num_test: 30, but nll has 29"),
     ("best_epoch", "best_epoch: 3 of 2"), ("epochs", "history/loss: 2 entries for 3"),
     ("history/loss", "history/loss"), ("history/reconstruction", "history/reconstruction"),
     ("history/kl", "history/kl: 3 entries for 2 epochs")],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_neither_written_nor_read(
    record: Record, tmp_path: Path, place: str, named: str
) -> None:
    contradict(record, place)
    assert f"this record contradicts itself at {named}" in refusal(record, tmp_path)
    path = sealed(record, tmp_path / "rings-gaussian-seed7.json")
    assert f"{path} contradicts itself at {named}" in unread(tmp_path)


def test_a_summary_may_be_rounded_and_of_single_precision(record: Record, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e6):
        values = (100 + scale * random.normal(size=10_000)).astype(np.float32)
        record["num_test"] = len(values)
        record["nll"] = {
            "mean": round(float(values.mean()), 4),
            "standard_error": round(float(values.std(ddof=1) / np.float32(100)), 4),
            "per_example": [round(value, 3) for value in values.tolist()],
        }
        write_record(record, tmp_path)


def test_a_copied_record_is_no_second_run(record: Record, tmp_path: Path) -> None:
    path = write_record(record, tmp_path)
    copied = path.with_name("rings-gaussian-seed8.json")
    copied.write_bytes(path.read_bytes())
    assert f"{copied} holds the record 'rings-gaussian-seed7'" in unread(tmp_path)
    # Whatever data set its name claims, and whichever is asked for.
    copied.replace(path.with_name("digits-gaussian-seed7.json"))
    with pytest.raises(InputError, match=r"digits-gaussian-seed7\.json holds the record 'rings"):
        read_records(tmp_path, "digits")


@pytest.mark.parametrize("kind", ["refinement", "trials"])
def test_a_copy_is_refused_of_whatever_kind(tmp_path: Path, kind: str) -> None:
    file = next(file for file in FILES if file.parent.name == kind)
    copied = tmp_path / "another.json"
    copied.write_bytes(file.read_bytes())
    assert f"{copied} holds the record {file.stem!r}" in unread(tmp_path, KINDS[kind])


def test_a_record_of_another_kind_is_refused(tmp_path: Path) -> None:
    for file in FILES:
        for kind in {id(kind): kind for kind in KINDS.values()}.values():
            if kind is not KINDS[file.parent.name] and file in (FILES[0], *FILES[-40::3]):
                with pytest.raises(InputError, match="breaks the schema"):
                    read(kind, file)


def test_a_record_has_room_for_the_control_of_its_budget(record: Record, tmp_path: Path) -> None:
    write_record(record | {"budget_control": {"epochs": [100, 200]}}, tmp_path / "room")
    (tmp_path / "none").mkdir()
    assert "at budget_control:" in refusal(record | {"budget_control": 3}, tmp_path / "none")


@pytest.mark.parametrize("place", ["elbo", "seed", "epochs", "num_samples", "nll"])
@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_without_end_is_one_line(
    record: Record, tmp_path: Path, place: str, digits: int
) -> None:
    path = tmp_path / "rings-gaussian-seed7.json"
    if place == "nll":
        record["nll"]["per_example"][4] = 10**400
    else:
        record[place] = 10**400
    text = sealed(record, path).read_text()
    path.write_text(text.replace("0" * 400, "0" * digits))
    assert str(path) in unread(tmp_path)
    path.write_text(text.replace("0" * 400, "0.5e400"))
    assert str(path) in unread(tmp_path)


@pytest.mark.parametrize("depth", [100, 450, 900, 960, 5000])
@pytest.mark.parametrize("key", ["model", "settings", "nll"])
def test_brackets_without_end_are_one_line(
    record: Record, tmp_path: Path, key: str, depth: int
) -> None:
    path = tmp_path / "rings-gaussian-seed7.json"
    nested = "[" * depth + "]" * depth
    text = json.dumps(record | {key: "HERE"}, sort_keys=True, separators=(",", ":"))
    text = text.replace('"HERE"', nested)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(f'{text[:-1]},"sha256":"{sha256}"}}')
    assert str(path) in unread(tmp_path)


@pytest.mark.parametrize("key", ["model", "data", "device", "likes"])
def test_half_a_character_is_one_line(record: Record, tmp_path: Path, key: str) -> None:
    text = json.dumps(record | {key: "\ud800"}, sort_keys=True, separators=(",", ":"))
    for canonical in (text, text.replace("\\ud800", "\ud800")):
        sha256 = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        path = tmp_path / "rings-gaussian-seed7.json"
        path.write_text(f'{text[:-1]},"sha256":"{sha256}"}}')
        assert f"{path} is damaged" in unread(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["fifo", "folder", "nowhere", "zeros", "sparse", "long"])
def test_what_is_no_file_of_reasonable_size_is_not_opened(
    record: Record, tmp_path: Path, what: str
) -> None:
    write_record(record, tmp_path)
    path = tmp_path / "some.json"
    match what:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "nowhere":
            path.symlink_to(tmp_path / "nowhere")
        case "zeros":
            path.symlink_to("/dev/zero")
        case _:
            path.touch()
            os.truncate(path, 100 * 2**30 if what == "sparse" else LARGEST + 1)
    assert f"{path} is no record: that is a file of at most 64 MiB" in unread(tmp_path)


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 30])
def test_the_interval_is_students(count: int) -> None:
    values = np.random.default_rng(0).normal(22, 3, count)
    found = interval(values.tolist())
    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(values.mean())


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(InputError, match="at least 2 seeds, got 1"):
        interval([1.0])


def runs(differences: Sequence[Sequence[float]], first_seed: int = 0) -> list[Record]:
    """What `paired_interval` needs of records: a row a seed."""
    return [
        {"model": "gaussian", "data": "rings", "beta": 1, "seed": seed, "num_samples": 20,
         "nll": {"per_example": list(row)}}
        for seed, row in enumerate(differences, start=first_seed)
    ]  # fmt: skip


def test_a_paired_interval_adds_the_variance_of_seeds_and_of_examples() -> None:
    first, second = [[1.0, 3.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]
    found = paired_interval(runs(first), runs(second))
    # Means of seeds 2 and 6: variance 8 over 2. Means of examples 3 and 5: variance 2 over 2.
    half = stats.t.ppf(0.975, 1) * math.sqrt(4 + 1)
    assert (found.mean, found.low, found.high) == pytest.approx((4, 4 - half, 4 + half))
    swapped = paired_interval(runs(second), runs(first))
    assert (swapped.mean, swapped.low) == pytest.approx((-4, -4 - half))


def test_runs_are_paired_by_seed_and_not_by_their_order() -> None:
    first, second = runs([[1, 2], [5, 6], [9, 9]]), runs([[0, 1], [4, 5], [8, 8]])
    found = paired_interval(first, second[::-1])
    assert (found.low, found.high) == (1, 1), "each run is 1 worse than its partner"


def coverage(seed_scale: float, example_scale: float, noise_scale: float) -> float:
    """How often the interval covers the true difference, 0, when seeds and examples are new."""
    random = np.random.default_rng(1)
    trials, seeds, examples, covered = 600, 5, 60, 0
    for _ in range(trials):
        shared = random.normal(0, 10, (seeds, examples))  # cancels in the pairs
        difference = (
            random.normal(0, seed_scale, (seeds, 1))
            + random.normal(0, example_scale, (1, examples))
            + random.normal(0, noise_scale, (seeds, examples))
        )
        found = paired_interval(runs(shared + difference), runs(shared))
        covered += found.low <= 0 <= found.high
    return covered / trials


@pytest.mark.parametrize(
    "scales", [(1, 0, 0), (0, 1, 0.01), (0, 0, 1), (1, 1, 1), (0.2, 1, 2), (0.13, 1, 0)]
)
def test_the_paired_interval_covers_the_truth_19_times_in_20(
    scales: tuple[float, float, float],
) -> None:
    assert coverage(*scales) >= 0.93


def test_runs_that_are_not_paired_are_refused() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(InputError, match=r"seeds \[0, 1\] against \[1, 2\]"):
        paired_interval(runs(rows), runs(rows, first_seed=1))
    with pytest.raises(InputError, match="different numbers of examples"):
        paired_interval(runs(rows), runs([[1.0, 2.0], [3.0]]))
    with pytest.raises(InputError, match="at least 2 seeds, got 1"):
        paired_interval(runs(rows[:1]), runs(rows[:1]))


def test_seeds_given_twice_are_not_paired() -> None:
    rows = [[1.0, 2.0], [3.0, 5.0]]
    with pytest.raises(InputError, match=r"seeds \[0, 0, 1, 1\] against"):
        paired_interval(2 * runs(rows), 2 * runs(rows))


@pytest.mark.parametrize("odd", [0, 1, 2, 3])
def test_runs_of_different_numbers_of_samples_are_not_paired(odd: int) -> None:
    rows = [[1.0, 2.0], [3.0, 5.0]]
    both = [*runs(rows), *runs(rows)]
    for record in both[2:]:
        record["model"] = "mixture"
    both[odd]["num_samples"] = 1
    with pytest.raises(InputError, match=r"has S = (1|20) and \S+ has S = (1|20)") as error:
        paired_interval(both[:2], both[2:])
    model = "gaussian" if odd < 2 else "mixture"
    assert f"rings-{model}-seed{odd % 2} has S = 1" in str(error.value)


# --- tables -----------------------------------------------------------------------------------


def of_run(record: Record, model: str, seed: int, nll: Sequence[float], **changes: Any) -> Record:
    summary = {"mean": float(np.mean(nll)), "standard_error": 0.1, "per_example": list(nll)}
    return record | {"model": model, "seed": seed, "nll": summary} | changes


def cells(markdown: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_the_table_has_a_line_a_model_with_means_over_seeds(record: Record) -> None:
    figures = {"elbo": -5.0, "reconstruction": -1.0, "kl": [3.0, 1.0], "prior_gap": 0.5}
    head, rule, *lines = cells(
        table(
            [
                of_run(record, "gaussian", 0, [1, 2], active_units=1, **figures),
                of_run(record, "gaussian", 1, [3, 4], active_units=2, **figures),
                of_run(record, "mixture", 0, [2, 3], active_units=2, **figures),
                of_run(record, "gaussian", 0, [9, 9], active_units=0, beta=4.0, **figures),
            ]
        )
    )
    assert head == [
        "run", "seeds", "NLL", "ELBO", "reconstruction", "KL", "active units", "refit gain"
    ]  # fmt: skip
    assert {len(line) for line in (rule, *lines)} == {len(head)}
    assert lines[0] == [
        "rings-gaussian", "2", str(interval([1.5, 3.5])), "-5.00", "-1.00", "4.00", "1.5", "0.50"
    ]  # fmt: skip
    assert lines[1][:3] == ["rings-mixture", "1", "2.50 (one seed)"]
    assert lines[2][:3] == ["rings-gaussian-beta4", "1", "9.00 (one seed)"]


def test_the_paired_table_compares_models_of_one_data_set_at_beta_1(record: Record) -> None:
    rows = {"gaussian": [[2, 3], [4, 6]], "mixture": [[1, 2], [3, 3]], "other": [[0, 1], [0, 0]]}
    records = [
        of_run(record, model, seed, nll) for model in rows for seed, nll in enumerate(rows[model])
    ]
    records += [of_run(record, "gaussian", s, [0, 0], beta=2.0) for s in (0, 1)]
    records += [of_run(record, "gaussian", s, [0, 0], data="digits") for s in (0, 1)]
    _, _, *lines = cells(paired_table(records))
    found = dict(lines)
    assert list(found) == [
        "rings-gaussian − rings-mixture", "rings-gaussian − rings-other",
        "rings-mixture − rings-other",
    ]  # fmt: skip
    expected = paired_interval(runs(rows["gaussian"]), runs(rows["mixture"]))
    assert found["rings-gaussian − rings-mixture"] == str(expected)
    assert str(expected).startswith("1.50 [")


def test_the_paired_table_does_not_compare_an_older_recipe_with_a_newer(record: Record) -> None:
    old = [of_run(record, model, s, [1, 2]) for model in ("gaussian", "mixture") for s in (0, 1)]
    new = [
        of_run(record, model, s, [1, 2]) | {"budget_control": {"200": 1.0}}
        for model in ("flow-prior", "vampprior")
        for s in (0, 1)
    ]
    _, _, *lines = cells(paired_table(old + new))
    assert [name for name, _ in lines] == [
        "rings-gaussian − rings-mixture", "rings-flow-prior − rings-vampprior"
    ]  # fmt: skip


def test_the_paired_table_compares_nothing_from_one_seed(record: Record) -> None:
    records = [of_run(record, model, 0, [1, 2]) for model in ("gaussian", "mixture")]
    assert len(paired_table(records).splitlines()) == 2


def test_the_tables_refuse_runs_of_different_numbers_of_samples(record: Record) -> None:
    mixed = [of_run(record, "gaussian", seed, [1, 2], num_samples=1 + seed) for seed in (0, 1)]
    said = "rings-gaussian-seed0 has S = 1 and rings-gaussian-seed1 has S = 2: evaluate both"
    with pytest.raises(InputError, match=said):
        table(mixed)
    # A line has one S, and another line may have another; a pair has one.
    pair = [
        of_run(record, model, seed, [1, 2], num_samples=samples)
        for model, samples in (("gaussian", 1), ("mixture", 5000))
        for seed in (0, 1)
    ]
    assert len(table(pair).splitlines()) == 4
    with pytest.raises(InputError, match=r"gaussian-seed1 has S = 1 and rings-mixture-seed1 has"):
        paired_table(pair)


# --- a long evaluation, in parts --------------------------------------------------------------


class Subject(NamedTuple):
    """A trained model, and 50 examples to test it with."""

    vae: VAE
    data: Data
    history: History


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    rings = load("rings")
    data = replace(
        rings, train=rings.train[:200], validation=rings.validation[:50], test=rings.test[:50],
        labels={"train": rings.labels["train"][:200]},
    )  # fmt: skip
    vae = build("gaussian", data)
    return Subject(vae, data, fit(vae, data, epochs=2))


@pytest.fixture
def parts_of_10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PART", 10)


def evaluated(subject: Subject, partial: Path | None = None, **changes: Any) -> Record:
    """A record, apart from the day it was made on."""
    arguments = {"seed": 0, "beta": 1.0, "num_samples": 30, "commit": "abc"} | changes
    sizes = default_sizes(subject.data)
    record = make_record(
        "gaussian", subject.vae, subject.data, sizes, subject.history, partial=partial, **arguments
    )
    return record | {"date": ""}


def stopped(monkeypatch: pytest.MonkeyPatch, subject: Subject, partial: Path, after: int) -> None:
    """An evaluation that Ctrl-C ends after so many parts."""
    log_marginal, calls = VAE.log_marginal, 0

    def interrupted(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return log_marginal(vae, x, num_samples)

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "log_marginal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(subject, partial)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each call of `log_marginal` was given."""
    log_marginal, seen = VAE.log_marginal, []

    def spy(vae: VAE, x: Tensor, num_samples: int) -> Tensor:
        seen.append(len(x))
        return log_marginal(vae, x, num_samples)

    monkeypatch.setattr(VAE, "log_marginal", spy)
    return seen


@pytest.mark.usefixtures("parts_of_10")
@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_an_evaluation_that_was_stopped_ends_as_one_that_never_was(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int], after: int
) -> None:
    whole = evaluated(subject)
    partial = tmp_path / "new" / "evaluation.json"
    stopped(monkeypatch, subject, partial, after)
    assert partial.exists() == (after > 0)
    calls.clear()
    assert evaluated(subject, partial) == whole
    assert calls == [10] * (5 - after), "what was done is not done again"
    calls.clear()
    assert evaluated(subject, partial) == whole and calls == []
    assert [file.name for file in partial.parent.iterdir()] == ["evaluation.json"]


@pytest.mark.usefixtures("parts_of_10")
def test_the_callers_random_state_decides_nothing_and_is_left(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(subject)
    stopped(monkeypatch, subject, tmp_path / "part", 3)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert evaluated(subject, tmp_path / "part") == whole
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("parts_of_10")
@pytest.mark.parametrize("other", ["weights", "num_samples", "seed", "test set", "parts"])
def test_what_is_done_of_another_evaluation_is_left_out(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int], other: str
) -> None:
    partial = tmp_path / "part"
    stopped(monkeypatch, subject, partial, 3)
    calls.clear()
    mine, changes = subject, {}
    if other == "weights":
        vae = copy.deepcopy(subject.vae)
        # The last of all numbers: every one counts.
        list(vae.parameters())[-1].data.view(-1)[-1] += 1e-6
        mine = subject._replace(vae=vae)
    elif other == "test set":
        mine = subject._replace(data=replace(subject.data, test=subject.data.test[:25]))
    elif other == "parts":
        monkeypatch.setattr(records, "PART", 12)
    else:
        changes = {other: 7}
    expected = evaluated(mine, **changes)
    done = len(calls)
    assert done == len(mine.data.test[:: records.PART])
    assert evaluated(mine, partial, **changes) == expected
    assert len(calls) == 2 * done, "everything is done anew"


@pytest.mark.usefixtures("parts_of_10")
@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", "3", "{}", "half", "\x80", {"nll": None}, {"nll": 3}, {"nll": [[1.0]]},
     {"nll": [1.0, 2.0]}, {"nll": [[1.0] * 10] * 6}, {"of": None}, {"of": {}}],
)  # fmt: skip
def test_a_damaged_file_of_what_is_done_is_left_out(
    subject: Subject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str | dict[str, Any],
) -> None:
    partial = tmp_path / "part"
    stopped(monkeypatch, subject, partial, 3)
    content = partial.read_text()
    if isinstance(damage, dict):
        damage = json.dumps(json.loads(content) | damage)
    elif damage == "half":
        damage = content[: len(content) // 2]
    partial.write_bytes(damage.encode("latin-1"))
    assert evaluated(subject, partial) == evaluated(subject)
    assert len(json.loads(partial.read_text())["nll"]) == 5, "and replaced"


def test_parts_estimate_what_the_whole_does(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examples(seed: int) -> Tensor:
        found = evaluated(subject, seed=seed, num_samples=200)["nll"]["per_example"]
        return torch.tensor(found, dtype=torch.float64)

    whole = torch.stack([examples(seed) for seed in range(20)])
    monkeypatch.setattr(records, "PART", 10)
    parts = torch.stack([examples(seed) for seed in range(20)])
    assert not torch.equal(whole, parts)
    # Of the mean over the test set and of each example: noise is that of seeds.
    for one, other in ((whole.mean(dim=1), parts.mean(dim=1)), (whole, parts)):
        noise = ((one.var(dim=0) + other.var(dim=0)) / 20).sqrt()
        assert ((one.mean(dim=0) - other.mean(dim=0)).abs() < 4.5 * noise).all()


@pytest.mark.usefixtures("parts_of_10")
def test_parts_draw_different_noise(subject: Subject) -> None:
    same = replace(subject.data, test=subject.data.test[:1].expand(30, -1))
    found = evaluated(subject._replace(data=same), num_samples=3)["nll"]["per_example"]
    assert found[:10] != found[10:20] != found[20:] != found[:10]


@pytest.mark.parametrize(("part", "count"), [(25, 1), (24, 3), (500, 1)])
def test_a_test_set_is_split_only_where_it_is_long(
    subject: Subject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[int],
    part: int,
    count: int,
) -> None:
    monkeypatch.setattr(records, "PART", part)
    evaluated(subject, tmp_path / "part")
    assert (len(calls), sum(calls)) == (count, 50)
    assert (tmp_path / "part").exists() == (count > 1)


# --- what later records say of the training ---------------------------------------------------


def test_a_record_holds_the_curves_the_settings_and_the_number_of_parameters(
    subject: Subject, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "lr": 2e-3, "decay": 0.5}
    record = evaluated(subject, settings=settings) | {"date": "2024-05-01"}
    assert record["settings"] == settings
    assert record["parameters"] == sum(p.numel() for p in subject.vae.parameters())
    assert list(record["history"]) == ["loss", "reconstruction", "kl"]
    for name, curve in record["history"].items():
        assert curve == [round(value, 3) for value in getattr(subject.history, name)]
    path = write_record(record, tmp_path)
    assert read_records(path.parent) == [record]
    assert evaluated(subject)["settings"] == {}


@pytest.mark.parametrize("later", ["parameters", "settings", "history"])
def test_a_record_from_before_a_field_was_added_is_read(
    record: Record, tmp_path: Path, later: str
) -> None:
    del record[later]
    write_record(record, tmp_path)
    assert later not in read_records(tmp_path)[0]


def test_the_books_records_are_read_with_what_they_have() -> None:
    """Those of the first version of the book have no curves."""
    for record in read_records(RESULTS):
        if "history" in record:
            assert len(record["history"]["loss"]) == record["epochs"]
            assert record["parameters"] > 0 and record["settings"]


@pytest.mark.parametrize(
    ("place", "value"),
    [("parameters", 0), ("parameters", 2.5), ("settings", []), ("history", []),
     ("history", {"loss": 3.0}), ("history", {"loss": ["x"]}), ("history", {"seconds": [1.0]})],
)  # fmt: skip
def test_a_later_field_of_the_wrong_kind_is_refused_by_its_place(
    record: Record, tmp_path: Path, place: str, value: object
) -> None:
    record[place] = value
    assert f"at {place}" in refusal(record, tmp_path)
