"""Tables and paired intervals of records of runs, as the pages read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .record_files import Record, run_name


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of independent values, one a seed.

    Example:
        >>> from flowvae_tutorial.experiments.tables import interval
        >>> print(interval([22.1, 22.3, 22.6]))
        22.33 [21.71, 22.96]
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise InputError(f"an interval needs at least 2 seeds, got {len(array)}")
    return _student(array.mean(), array.var(ddof=1) / len(array), len(array))


def paired_interval(first: Sequence[Record], second: Sequence[Record]) -> Interval:
    """95 % interval of the difference in NLL, first minus second: positive if second is better.

    Runs are paired by seed and, within a seed, by test example. Two things would come out
    differently on another day: the seeds and the test set. The variance of the mean difference
    is taken as the sum of both, variance between seeds over the number of seeds plus variance
    between examples over the number of examples. The noise that the two share is counted twice,
    so the interval is, if anything, too wide. Student's t with seeds − 1 degrees of freedom.

    Raises:
        InputError: the two do not cover the same seeds and test examples, or differ in S.
    """
    seeds, others = (sorted(r["seed"] for r in runs) for runs in (first, second))
    if seeds != others or len(set(seeds)) < len(seeds):
        raise InputError(f"runs are not paired: seeds {seeds} against {others}")
    _measured_alike([*first, *second])
    one, other = ({r["seed"]: r["nll"]["per_example"] for r in runs} for runs in (first, second))
    if len(seeds) < 2:
        raise InputError(f"an interval needs at least 2 seeds, got {len(seeds)}")
    if {len(rows) for rows in [*one.values(), *other.values()]} != {len(one[seeds[0]])}:
        raise InputError("runs are not paired: they were tested on different numbers of examples")
    difference = np.array([np.subtract(one[seed], other[seed]) for seed in seeds])
    by_seed, by_example = difference.mean(axis=1), difference.mean(axis=0)
    variance = by_seed.var(ddof=1) / len(by_seed) + by_example.var(ddof=1) / len(by_example)
    return _student(difference.mean(), variance, len(seeds))


def _student(mean: float, variance: float, count: int) -> Interval:
    # Half as long an import as that of torch, and few who train a model ask for an interval.
    from scipy import stats

    half = float(stats.t.ppf(0.975, count - 1)) * float(variance) ** 0.5
    return Interval(float(mean), float(mean) - half, float(mean) + half)


def _measured_alike(records: Sequence[Record]) -> None:
    """Fewer samples make the estimate of the NLL larger: of two S there is no mean."""
    by_samples = {r["num_samples"]: _name(r) for r in records}
    if len(by_samples) > 1:
        (s, one), (t, other) = list(by_samples.items())[:2]
        raise InputError(f"{one} has S = {s} and {other} has S = {t}: evaluate both with the same")


def _name(record: Record) -> str:
    return run_name(record["model"], record["data"], record["beta"], record["seed"])


def group(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by run name without the seed."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_name(record).rpartition("-seed")[0], []).append(record)
    return groups


def table(records: Sequence[Record]) -> str:
    """A Markdown table, one line a model: means over seeds, NLL with its 95 % interval in nats.

    Raises:
        InputError: the runs of one line differ in S.
    """
    lines = [
        "| run | seeds | NLL | ELBO | reconstruction | KL | active units | refit gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in group(records).items():
        _measured_alike(runs)
        nll = [r["nll"]["mean"] for r in runs]
        shown = str(interval(nll)) if len(runs) > 1 else f"{nll[0]:.2f} (one seed)"
        mean = {
            key: np.mean([np.sum(r[key]) for r in runs])
            for key in ("elbo", "reconstruction", "kl", "active_units", "prior_gap")
        }
        lines.append(
            f"| {name} | {len(runs)} | {shown} | {mean['elbo']:.2f} "
            f"| {mean['reconstruction']:.2f} | {mean['kl']:.2f} | {mean['active_units']:.1f} "
            f"| {mean['prior_gap']:.2f} |"
        )
    return "\n".join(lines)


def aligned(markdown: str) -> str:
    r"""The same Markdown table with columns that are as wide as their widest cell.

    Example:
        >>> from flowvae_tutorial.experiments.tables import aligned
        >>> print(aligned("| run | NLL |\n| --- | --- |\n| rings-gaussian | 1.5 |"))
        | run            | NLL |
        | -------------- | --- |
        | rings-gaussian | 1.5 |
    """
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [cell.ljust(width, "-" if set(cell) == {"-"} else " ") for cell, width in cells]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def paired_table(records: Sequence[Record]) -> str:
    """A Markdown table of paired differences in NLL between all models of each data set, β = 1.

    A model whose number of epochs has a control is not compared with one whose number has none:
    the book's records without it are of an older recipe.
    """
    groups = group([r for r in records if r["beta"] == 1])
    lines = ["| first − second | NLL difference, nats [95 % interval] |", "| --- | --- |"]
    names = list(groups)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            # Seeds that only one of them has yet are left out, amid `reproduce` for example.
            shared = {r["seed"] for r in groups[one]} & {r["seed"] for r in groups[other]}
            pair = [[r for r in groups[name] if r["seed"] in shared] for name in (one, other)]
            alike = len({(r["data"], "budget_control" in r) for each in pair for r in each}) == 1
            if alike and len(shared) > 1:
                lines.append(f"| {one} − {other} | {paired_interval(*pair)} |")
    return "\n".join(lines)
