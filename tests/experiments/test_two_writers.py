"""Two processes that would train into one place: the second is told so, the first never knows."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from called import Command

from flowvae_tutorial import InputError, build, fit
from flowvae_tutorial.data import DATA_SETS, Data
from flowvae_tutorial.storage.files import only_writer
from flowvae_tutorial.training import loop as training

ROOT = Path(__file__).parents[2]
RUN = "rings-gaussian-seed0"
TRAIN = "train --data rings --epochs 2 --samples 5"
REPRODUCE = "reproduce --data rings --epochs 2 --samples 5 --seeds 2 --models gaussian --jobs 1"
REFINE = "refine --data rings --epochs 2 --seeds 2 --models gaussian"
WHOLE_RINGS = DATA_SETS["rings"]


def few_rings() -> Data:
    rings = WHOLE_RINGS()
    labels = {part: rings.labels["train"][:n] for part, n in (("train", 60), ("test", 20))}
    return replace(
        rings, train=rings.train[:60], validation=rings.validation[:20], test=rings.test[:20],
        labels=labels,
    )  # fmt: skip


def elsewhere(act: Callable[[], object]) -> list[str]:
    """What it says if it is refused to another thread, for which the lock is another's."""
    said: list[str] = []

    def refused() -> None:
        try:
            act()
        except InputError as error:
            said.append(str(error))

    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
    return said


def ask(path: Path) -> None:
    with only_writer(path):
        pass


@contextmanager
def held(path: Path) -> Iterator[None]:
    """By another thread."""
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer(path):
            ready.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join()


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# --- the lock ---------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from flowvae_tutorial.storage.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends_even_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.pt"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="another process is writing") as error:
            ask(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        process.kill()
    assert everything(tmp_path) == {"new": None, "new/.run.pt.lock": b""}
    ask(path)
    assert everything(tmp_path) == {"new": None}, "folders that were there stay"


def test_who_has_it_may_ask_again_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.pt"
    with only_writer(path):
        ask(path)
        assert elsewhere(lambda: ask(path)), "it is not given back by the second"
        assert not elsewhere(lambda: ask(path.with_name("other.pt")))
    assert everything(tmp_path) == {}
    assert not elsewhere(lambda: ask(path))


def test_a_link_and_what_it_points_to_are_one_place(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tmp_path / "run.pt")
    with only_writer(tmp_path / "link.pt"):
        assert elsewhere(lambda: ask(tmp_path / "run.pt"))


def test_a_lock_that_was_thrown_away_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock = tmp_path / ".run.pt.lock"
    flock = fcntl.flock

    def late(file: object, how: int) -> None:
        lock.unlink()
        flock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="another process"):
        ask(tmp_path / "run.pt")


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    import errno
    import fcntl

    def none(*args: object) -> None:
        raise OSError(getattr(errno, code), "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    ask(tmp_path / "run.pt")


# --- fit --------------------------------------------------------------------------------------


def test_fit_is_refused_a_checkpoint_that_another_writes_and_keeps_it_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = few_rings(), tmp_path / "run.pt"
    first = fit(build("gaussian", data), data, epochs=1, decay=0.0, checkpoint=path)
    before = path.read_bytes()
    with held(path), pytest.raises(InputError, match="another process is writing"):
        fit(build("gaussian", data), data, epochs=2, decay=0.0, checkpoint=path)
    assert path.read_bytes() == before
    seen: list[list[str]] = []
    validate = training._validate

    def looked(*args: object) -> object:
        seen.append(elsewhere(lambda: ask(path)))
        return validate(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_validate", looked)
    history = fit(build("gaussian", data), data, epochs=2, decay=0.0, checkpoint=path)
    assert history.loss[:1] == first.loss
    assert len(seen) == 1 and seen[0]
    assert everything(tmp_path).keys() == {"run.pt"}


# --- commands ---------------------------------------------------------------------------------


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Call the command line in this process, in an empty folder, with few rings."""
    monkeypatch.setitem(DATA_SETS, "rings", few_rings)
    records = "flowvae_tutorial.experiments.records"
    monkeypatch.setattr(f"{records}.prior_gap", lambda *args: torch.zeros(1))
    return command


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (TRAIN, f"{RUN}/checkpoint.pt"),
        (f"{TRAIN} --overwrite", f"{RUN}/checkpoint.pt"),
        (f"{TRAIN} --resume", f"{RUN}/checkpoint.pt"),
        (REPRODUCE, "rings-gaussian"),
        (f"{REPRODUCE} --overwrite", "rings-gaussian"),
        (REFINE, "rings-gaussian"),
    ],
)
def test_a_command_is_refused_what_another_process_trains(
    command: Command, line: str, place: str, tmp_path: Path
) -> None:
    assert command(TRAIN).code == 0
    before = everything(tmp_path)
    with held(Path("runs") / place):
        refused = command(line)
    assert refused.code == 2
    (said,) = refused.err.splitlines()
    assert said.startswith(f"error: another process is writing runs/{place}: ")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("line", [REPRODUCE, REFINE])
def test_a_run_that_somebody_trains_is_named_and_the_others_are_done(
    command: Command, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.STEPS", (0, 2))
    monkeypatch.setattr("flowvae_tutorial.experiments.refinement_records.LATENTS", 20)
    with held(Path("runs") / RUN / "checkpoint.pt"):
        outcome = command(line)
    assert outcome.code == 1
    failed = [line for line in outcome.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and f"failed: {RUN}: another process is writing" in failed[0]
    assert [path.stem for path in Path("results").rglob("*.json")] == [RUN.replace("0", "1")]
    assert command(line).code == 0
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("line", [TRAIN, REPRODUCE])
def test_a_command_keeps_others_out_until_its_record_is_written(
    command: Command, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, seen = Path("runs") / RUN / "checkpoint.pt", []

    def looked(*args: object) -> None:
        seen.append(elsewhere(lambda: ask(checkpoint)))
        raise KeyboardInterrupt

    for module in ("commands", "runs"):
        monkeypatch.setattr(f"flowvae_tutorial.experiments.{module}.write_record", looked)
    assert command(line).code == 130
    assert len(seen) == 1 and seen[0]
    assert not elsewhere(lambda: ask(checkpoint))
