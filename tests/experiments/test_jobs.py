"""Several runs at once: where they run, and that none outlives what has started it.

Run as a script, this file is a parent to be stopped: see `started`.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from flowvae_tutorial import InputError
from flowvae_tutorial.experiments.jobs import at_once
from flowvae_tutorial.training import progress

PATIENCE = 120  # seconds that a process may take to start on a busy machine
LONG = 600  # seconds that nobody waits for


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended stays listed until its parent has asked.
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


# --- jobs -------------------------------------------------------------------------------------


def say(folder: Path, name: str) -> int:
    """Leave a file with what this process is."""
    line = progress._line
    (folder / f"{name}.part").write_text(f"{os.getpid()} {torch.get_num_threads()} {line}")
    (folder / f"{name}.part").rename(folder / name)
    return os.getpid()


def said(folder: Path) -> dict[str, list[str]]:
    files = sorted(file for file in folder.iterdir() if file.suffix != ".part")
    return {file.name: file.read_text().split() for file in files}


def just_say(folder: Path, name: str) -> None:
    say(folder, name)


def meet(folder: Path, name: str) -> None:
    """End when two are at work or have been."""
    say(folder, name)
    wait_until(lambda: len(said(folder)) >= 2)


def go_on(folder: Path, name: str) -> None:
    say(folder, name)
    time.sleep(LONG)


def fail(folder: Path, name: str) -> None:
    """The second of two fails while the first is at work."""
    meet(folder, name)
    if name == "1":
        raise InputError("rings has no labels: choose digits")
    time.sleep(LONG)


def rest(folder: Path, name: str) -> None:
    time.sleep(0.3)


def die(folder: Path, name: str) -> str:
    """The second is killed while the first is at work and a bar is being drawn."""
    meet(folder, name)
    if name == "1":
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    with tqdm(total=1, disable=False) as bar:
        bar.update()
    return name


# --- in this process --------------------------------------------------------------------------


@pytest.mark.parametrize(("work", "jobs"), [(3, 1), (1, 4), (0, 2)])
def test_one_job_at_a_time_runs_in_this_process_on_one_thread(
    tmp_path: Path, work: int, jobs: int
) -> None:
    torch.set_num_threads(2)
    at_once(just_say, [(tmp_path, str(i)) for i in range(work)], jobs)
    assert said(tmp_path) == {str(i): [str(os.getpid()), "1", "None"] for i in range(work)}


def test_work_is_done_in_its_order_until_a_job_fails(tmp_path: Path) -> None:
    def job(name: str) -> None:
        say(tmp_path, name)
        if name == "b":
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        at_once(job, [("a",), ("b",), ("c",)], 1)
    assert list(said(tmp_path)) == ["a", "b"]


# --- in other processes -----------------------------------------------------------------------


def test_two_jobs_run_at_once_in_processes_of_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    # Otherwise they may begin with one by themselves.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    at_once(meet, [(tmp_path, str(i)) for i in range(4)], 2)
    found = said(tmp_path)
    assert list(found) == ["0", "1", "2", "3"]
    pids, threads, lines = (
        {words[place] for words in found.values()} for place in range(3)
    )  # fmt: skip
    assert len(pids) == 2 and str(os.getpid()) not in pids
    assert threads == {"1"}
    assert lines == {"0", "1"}, "each has a line of its own for its bars"
    assert not any(alive(int(pid)) for pid in pids)
    assert torch.get_num_threads() == 2, "this process is left as it was"


def test_a_mistake_in_one_job_reaches_the_caller_at_once_and_ends_the_others(
    tmp_path: Path,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(InputError) as error:
        at_once(fail, [(tmp_path, str(i)) for i in range(5)], 2)
    assert str(error.value) == "rings has no labels: choose digits"
    found = said(tmp_path)
    # The process that failed may have begun its next job before it was ended.
    assert list(found) in (["0", "1"], ["0", "1", "2"])
    assert not any(alive(int(pid)) for pid, *_ in found.values())
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_killed_process_is_one_line_in_its_place_and_the_others_go_on(tmp_path: Path) -> None:
    answers = at_once(die, [(tmp_path, str(i)) for i in range(5)], 2)
    killed = answers.pop(1)
    assert isinstance(killed, InputError) and "killed" in str(killed) and "--jobs" in str(killed)
    assert "\n" not in str(killed)
    assert answers == ["0", "2", "3", "4"]
    found = said(tmp_path)
    assert not any(alive(int(pid)) for pid, *_ in found.values())
    assert {line for *_, line in found.values()} == {"0", "1"}, "another has its line"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bar_counts_the_runs_and_says_how_long_the_others_take(
    jobs: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    at_once(rest, [(tmp_path, str(i)) for i in range(3)], jobs)
    err = capfd.readouterr().err
    assert re.search(r"all runs: +0%.* 0/3 \[00:00<\?", err), "nothing is known yet"
    assert re.search(r"all runs: +33%.* 1/3 \[\d\d:\d\d<\d\d:\d\d", err)
    assert re.search(r"all runs: +100%.* 3/3 \[", err)
    at_once(rest, [(tmp_path, "3")], jobs)
    assert capfd.readouterr().err == "", "of one run its own bar says all"


# --- when the parent ends ---------------------------------------------------------------------


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with four jobs that do not end, two of them at work."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        wait_until(lambda: len(said(tmp_path)) == 2 or process.poll() is not None)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs process groups")


@needs_posix
def test_processes_end_within_seconds_when_their_parent_is_killed(
    tmp_path: Path, started: subprocess.Popen[str]
) -> None:
    pids = [int(pid) for pid, *_ in said(tmp_path).values()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    started.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), seconds=10)


@needs_posix
def test_ctrl_c_ends_the_parent_and_its_processes_without_a_word(
    tmp_path: Path, started: subprocess.Popen[str]
) -> None:
    pids = [int(pid) for pid, *_ in said(tmp_path).values()]
    assert all(alive(pid) for pid in pids)
    # As a terminal does.
    os.killpg(started.pid, signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out.strip()) == (130, "stopped")
    assert not re.search(r"Traceback|Error|Interrupt", err), err
    assert list(said(tmp_path)) == ["0", "1"], "what had not begun does not begin"
    assert not any(alive(pid) for pid in pids)


if __name__ == "__main__":
    # Inherited from a shell's background job, an ignored signal would stay ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        at_once(go_on, [(Path(sys.argv[1]), str(i)) for i in range(4)], 2)
    except KeyboardInterrupt:
        print("stopped")
        sys.exit(130)
