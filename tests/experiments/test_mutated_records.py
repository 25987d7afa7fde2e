"""Records that were changed, with their checksum and without: refused in one line, or true again.

`FLOWVAE_EXAMPLES=50000` tries so many of each kind in place of 300.
"""

import json
import os
import random
from pathlib import Path

import pytest

import solutions
import trials
from flowvae_tutorial import InputError
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.record_files import Kind
from flowvae_tutorial.experiments.records import RUNS
from flowvae_tutorial.experiments.refinement_records import REFINEMENTS
from flowvae_tutorial.experiments.tables import table
from test_mutations import changed_bytes, changed_said

RESULTS = Path(__file__).parents[2] / "book" / "results"
TRIES = int(os.environ.get("FLOWVAE_EXAMPLES", 300))
KINDS: dict[str, tuple[Kind, str]] = {
    "runs": (RUNS, "digits-gaussian-seed0"),
    "refinement": (REFINEMENTS, "refinement/digits-vampprior-seed0"),
    "trials": (trials.KIND, "trials/decay"),
    "solutions": (solutions.KIND, "solutions/4.5"),
}


@pytest.mark.parametrize("of", KINDS)
def test_a_changed_record_is_refused_in_one_line_or_breaks_no_rule(of: str, tmp_path: Path) -> None:
    kind, name = KINDS[of]
    original = RESULTS / f"{name}.json"
    expected, content = files.read(kind, original), original.read_bytes()
    path, refused = tmp_path / original.name, 0
    for seed in range(TRIES):
        chance = random.Random(f"{of} {seed}")
        summed = chance.random() < 0.6
        if summed or chance.random() < 0.3:
            record = changed_said(expected, chance)
            try:
                checksum = files._sum(record) if summed else json.loads(content)["sha256"]
                path.write_bytes(json.dumps(record | {"sha256": checksum}).encode())
            except ValueError:  # what JSON cannot hold
                continue
        else:
            path.write_bytes(changed_bytes(content, chance))
        try:
            found = files.find(kind, tmp_path)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 3000, seed
            str(error).encode()
            refused += 1
        else:
            # Whoever makes a sum for it may say something else that breaks no rule.
            assert summed or list(found.values()) == [expected], seed
            if kind is RUNS:
                assert table(list(found.values()))
    print(f"{of}: {TRIES} tried, {refused} refused")
    assert refused > TRIES / 3
