"""Several runs at once: one process each, with one thread."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

import torch
from tqdm.auto import tqdm

from .errors import InputError
from .progress import set_line


def at_once(job: Callable[..., None], work: Sequence[tuple[Any, ...]], jobs: int) -> None:
    """Call `job(*arguments)` for each of `work`, at most `jobs` at a time.

    One thread each: models this small run fastest on one, and repeat bit for bit on it. With one
    process at a time, that process is this one.

    Raises:
        InputError: a process was killed, for want of memory for example.
    """
    jobs = min(jobs, len(work))
    if jobs <= 1:
        torch.set_num_threads(1)
        for arguments in work:
            job(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    begin = (context.Value("i", 0), context.RLock())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=begin) as pool:
        results = [pool.submit(job, *arguments) for arguments in work]
        try:
            for result in results:
                result.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a process was killed, for want of memory perhaps: run the same command again, "
                "with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(begun: Any, lock: Any) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    with begun:
        set_line(begun.value)
        begun.value += 1
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A process whose parent was killed would otherwise train to the end unseen.
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
