"""What the benchmarks share: the paper's sizes, pythae's side, and a process for each contestant.

A contestant's CPU time hangs on what its process did before: memory that the C library has given
back to the system costs page faults when it is taken again, and a neighbour in the same process
may keep it from being given back. So contestants that allocate differently run in processes of
their own, as their users run them, and take turns, so that all see the same load of the machine.

A ratio is stated with its spread over the turns. A benchmark fails only where three quarters of
the turns say that the package is slower than the other library: a limit on which a measurement
sits says nothing.
"""

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import torch
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from flowvae_tutorial import VAE

# Tomczak and Welling (2018) on MNIST.
PIXELS, HIDDEN, LATENT, COMPONENTS, BATCH, LR = 784, (300, 300), 40, 500, 100, 5e-4

Step = Callable[[], object]
Network = Callable[..., nn.Module]


def images(count: int = BATCH) -> Tensor:
    """As many pixels are on as in MNIST."""
    return torch.bernoulli(torch.full((count, PIXELS), 0.13))


class Encoder(BaseEncoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.net(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z).sigmoid())


def our_training_step(vae: VAE, x: Tensor) -> Step:
    """One step as `fit` makes it."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=True)

    def step() -> Tensor:
        loss = vae(x, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def pythae_training_step(vae: nn.Module, fused: bool | None) -> Step:
    """One step as pythae's `BaseTrainer` makes it; its optimiser is not fused unless asked."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=fused)
    inputs = {"data": images()}

    def step() -> float:
        output = vae(inputs, epoch=1, dataset_size=BATCH, uses_ddp=False)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        return float(output.loss.item())

    return step


class Seconds(NamedTuple):
    """CPU seconds of one step."""

    user: float
    system: float
    """Of the kernel on the process's behalf: here, page faults."""

    @property
    def total(self) -> float:
        return self.user + self.system


class Spread(NamedTuple):
    """The middle of a ratio's values over the turns, and what holds half of them."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of two contestants, turn by turn: what slows the machine slows both."""
    turns = np.divide(ours, theirs)
    return Spread(*(float(value) for value in np.quantile(turns, (0.25, 0.5, 0.75))))


def total(turns: Sequence[Seconds]) -> list[float]:
    return [seconds.total for seconds in turns]


def user(turns: Sequence[Seconds]) -> list[float]:
    return [seconds.user for seconds in turns]


def time_in_turns(
    makers: Mapping[str, Callable[[], Step]], rounds: int, steps: int
) -> dict[str, list[Seconds]]:
    """`rounds` turns of `steps` steps, each contestant in a process of its own.

    The makers run in the new processes: functions of a module, or `functools.partial` of them.
    """
    with contextlib.ExitStack() as stack:
        turns = {name: stack.enter_context(_contestant(make)) for name, make in makers.items()}
        for _ in range(3):  # to warm up
            for turn in turns.values():
                turn(steps)
        seconds: dict[str, list[Seconds]] = {name: [] for name in turns}
        for _ in range(rounds):
            for name, turn in turns.items():
                seconds[name].append(turn(steps))
    return seconds


@contextlib.contextmanager
def _contestant(make: Callable[[], Step]) -> Iterator[Callable[[int], Seconds]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make), daemon=True)
    process.start()
    # Left open here, it would hide from `recv` that the process has died.
    there.close()

    def turn(steps: int) -> Seconds:
        here.send(steps)
        return Seconds(*here.recv())

    try:
        yield turn
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, make: Callable[[], Step]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = make()
    with contextlib.suppress(EOFError):
        while True:
            steps = connection.recv()
            before = resource.getrusage(resource.RUSAGE_SELF)
            for _ in range(steps):
                step()
            after = resource.getrusage(resource.RUSAGE_SELF)
            user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
            connection.send((user / steps, system / steps))


def report(seconds: Mapping[str, list[Seconds]], ratios: Mapping[str, Spread]) -> None:
    print()
    for name, turns in seconds.items():
        # The median turn as a whole, so that both its parts add up to its total.
        middle = sorted(turns, key=lambda turn: turn.total)[len(turns) // 2]
        print(f"{name:46}{1e3 * middle.total:9.2f} ms CPU, of it {1e3 * middle.system:.2f} system")
    for name, spread in ratios.items():
        print(f"{name:46}{spread!s:>24}")
