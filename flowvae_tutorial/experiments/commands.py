"""The commands: `flowvae --help`, or `python -m flowvae_tutorial --help`."""

import codecs
import contextlib
import io
import itertools
import math
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import torch
import typer
from typer.core import TyperGroup

from .. import __version__
from ..arguments import LARGEST, number, whole
from ..data import DATA_SETS, Data, load
from ..errors import InputError
from ..models import BOOK_MODELS, MODELS, assemble, resolve
from ..pretrained import pretrained_models, pretrained_run
from ..refinement import CHUNK
from ..storage.files import only_writer
from ..storage.own_data import is_file, load_data
from ..storage.trained import Trained, load_trained, save_trained
from ..training.progress import slow_bar
from ..training.ranks import device_by_name, first_before_others, joined, rank_and_world
from ..vae import VAE
from .jobs import at_once
from .pictures import draw_report, draw_run, draw_samples, figures_of
from .record_files import Record, read, run_name, write
from .records import (
    RUNS,
    book_results,
    current_commit,
    differences,
    is_on_record,
    paired_table,
    read_records,
    table,
    write_record,
)
from .refinement_records import (
    REFINEMENTS,
    fit_classifier,
    measure_refinement,
    measured,
    read_refinements,
    refinement_table,
)
from .runs import (
    FIRST_STAGE_FILE,
    aside,
    explain,
    record_of,
    reproduce_run,
    settings_of,
    train_or_again,
    train_run,
)
from .tables import aligned


class _Stoppable(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C where there is nothing yet to go on from."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from stop


app = typer.Typer(
    cls=_Stoppable,
    help="Train the book's models, reproduce its records, report its tables.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _whole(text: str) -> str:
    """A help text whose lines break between names and not in them."""
    return "\b\n" + textwrap.fill(text, 42, break_on_hyphens=False, break_long_words=False)


Names = ", ".join
ALL = ",".join(BOOK_MODELS)
WITH_A_PRIOR = "gaussian,vampprior,flow-prior,spline-flow-prior"
DataOption = Annotated[
    str,
    typer.Option(
        "--data", help=_whole(f"One of {Names(DATA_SETS)}, or a .npz or .pt file of your own.")
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(help="Epochs, over the last half of which the step falls; the book's by default."),
]
SamplesOption = Annotated[
    int, typer.Option(help="S of the importance-sampled NLL.", min=1, max=LARGEST)
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
BetaOption = Annotated[float, typer.Option(help="Weight of the KL term.")]
OutOption = Annotated[Path, typer.Option(help="Folder of checkpoints, weights and pictures.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, batches and noise.", min=0, max=LARGEST)]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there and was made otherwise.")
]
ResultsOption = Annotated[Path, typer.Option(help="Folder of the records.")]
ModelsOption = Annotated[
    str, typer.Option(help="Names, with commas between.", show_default="all of the book's")
]
SeedsOption = Annotated[int, typer.Option(help="Seeds 0 to SEEDS − 1.", min=1, max=10_000)]
TrainedArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT|NAME",
        help=_whole(
            f"A checkpoint.pt, a weights.safetensors, or one of {Names(pretrained_models())}."
        ),
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flowvae_tutorial {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def train(
    context: typer.Context,
    model: Annotated[str, typer.Option(help=_whole(f"One of {Names(MODELS)}."))] = "gaussian",
    data: DataOption = "digits",
    epochs: EpochsOption = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples a step; the book's own by default.")
    ] = None,
    seed: SeedOption = 0,
    beta: BetaOption = 1.0,
    samples: SamplesOption = 5000,
    device: DeviceOption = "auto",
    out: OutOption = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a stopped run to its epochs.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run; with --resume, its record alone.")
    ] = False,
) -> None:
    """Train one model, print its test figures and draw its samples.

    Example: python -m flowvae_tutorial train --model gaussian --data digits

    On several devices:

    torchrun --nproc_per_node=2 -m flowvae_tutorial train --model vampprior
    """
    # No name of the book's has a point in it, and a file's run is named as the file is.
    name = run_name(model, Path(data).stem, beta, seed)
    folder = out / name
    checkpoint, first_stage = folder / "checkpoint.pt", folder / FIRST_STAGE_FILE
    finished = [folder / f"{name}.json", folder / "weights.safetensors"]
    with joined(device_by_name(device)) as here:
        if rank_and_world()[0] == 0:
            context.with_resource(only_writer(checkpoint))
        begun = [file for file in (checkpoint, first_stage) if file.exists()]
        ended = [file for file in finished if file.exists()]
        if begun and not resume and not overwrite:
            raise InputError(
                f"{begun[0]} holds a run already: add --resume to go on with it, or --overwrite to "
                "replace it"
            )
        if ended and not begun and not overwrite:
            raise InputError(
                f"{ended[0]} is of a run that ended and whose checkpoint is gone: add --overwrite "
                "to replace it, or take another --out"
            )
        if not overwrite:
            _keep_other(finished[0], num_samples=samples)
        old = contextlib.ExitStack()
        with first_before_others():
            dataset = load_data(data)
            if overwrite and not resume and rank_and_world()[0] == 0:
                old.enter_context(aside(checkpoint, first_stage))
        with old, _stoppable(checkpoint, first_stage):
            trained = train_run(
                model, dataset, seed=seed, beta=beta, device=here, checkpoint=checkpoint,
                epochs=epochs, batch_size=batch_size,
            )  # fmt: skip
        rank, _ = rank_and_world()
    # The other processes have done their part.
    if rank > 0:
        return
    partial = checkpoint.with_name("evaluation.part")
    with _stoppable(checkpoint):
        record = record_of(
            trained, dataset, num_samples=samples, commit=current_commit(), partial=partial
        )
    weights = save_trained(trained, folder / "weights.safetensors")
    picture = draw_run(trained.vae, dataset.to(here), folder / "samples.png")
    write_record(record, folder)
    partial.unlink(missing_ok=True)
    typer.echo(figures_of(record))
    typer.echo(f"pictures: {picture}\nweights:  {weights}")


@app.command()
def evaluate(
    trained: TrainedArgument,
    data: Annotated[
        str | None, typer.Option(help="The file that it was trained on, if that is your own.")
    ] = None,
    samples: SamplesOption = 5000,
    device: DeviceOption = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the record.")] = Path("evaluations"),
    overwrite: OverwriteOption = False,
) -> None:
    """Evaluate a trained model on its test set, print the figures and write its record.

    An evaluation that was stopped goes on.

    Example: python -m flowvae_tutorial evaluate runs/mine/checkpoint.pt
    """
    run = _find(trained)
    if not run.history.loss:
        raise InputError(
            f"{trained} was saved without the history of its training, which a record needs: give "
            "`save_model` what `fit` gave back, or call `evaluate` in Python"
        )
    run.vae.to(device_by_name(device))
    dataset = _data_of(run, data)
    name = run_name(run.model, run.data, run.beta, run.seed)
    if not overwrite:
        _keep_other(
            out / f"{name}.json", num_samples=samples, epochs=len(run.history.loss),
            settings=run.settings, data_checksum=dataset.checksum,
        )  # fmt: skip
    partial = out / f"{name}.part"
    with _stoppable(partial, keeps="the test examples that are done"):
        record = record_of(
            run, dataset, num_samples=samples, commit=current_commit(), partial=partial
        )
    path = write_record(record, out)
    partial.unlink(missing_ok=True)
    typer.echo(f"{figures_of(record)}\nrecord: {path}")


@app.command()
def sample(
    trained: TrainedArgument,
    out: Annotated[Path, typer.Option(help="The picture, a .png file.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(help="How many samples.", min=1, max=10_000)] = 100,
    refine_steps: Annotated[
        int, typer.Option(help="Steps uphill under the prior before decoding.", min=0, max=LARGEST)
    ] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Draw samples of a trained model. Needs no data.

    Example: python -m flowvae_tutorial sample vampprior --out grid.png
    """
    if out.suffix != ".png":
        raise InputError(f"--out takes the name of a .png file, got {out}")
    run = _find(trained)
    run.vae.to(device_by_name(device))
    torch.manual_seed(seed)
    form = run.outline
    with _refinement_bar(run.vae, count, refine_steps):
        # Of points the noise is a part of the sample; on pictures it would only hide it.
        x = run.vae.sample(count, mean=form.image_shape is not None, refine_steps=refine_steps)
    typer.echo(draw_samples(x, form, out))


@contextlib.contextmanager
def _refinement_bar(vae: VAE, count: int, steps: int) -> Iterator[None]:
    """Show the steps of a refinement: each asks once for a gradient of the prior's log-density."""
    total = (1 + steps) * math.ceil(count / CHUNK) if steps else 0

    def watch(_module: Any, _context: Any, prior: Any) -> None:
        log_prob = prior.log_prob

        def counted(z: torch.Tensor) -> torch.Tensor:
            bar.update(int(z.requires_grad))
            density: torch.Tensor = log_prob(z)
            return density

        prior.log_prob = counted

    watched = vae.prior.register_forward_hook(watch)
    try:
        with slow_bar(desc="refinement", total=total, unit="step", disable=not steps) as bar:
            yield
    finally:
        watched.remove()


@app.command()
def reproduce(
    context: typer.Context,
    data: DataOption = "digits",
    seeds: SeedsOption = 5,
    models: ModelsOption = ALL,
    betas: Annotated[str, typer.Option(help="KL weights, with commas between.")] = "1",
    epochs: EpochsOption = None,
    samples: SamplesOption = 5000,
    device: DeviceOption = "auto",
    results: ResultsOption = Path("results"),
    out: OutOption = Path("runs"),
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at once; by default one a processor, or one on a GPU.", min=1),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Train every named model with every seed and write one JSON record a run.

    Runs at once have a process each, with one thread. A run whose record is there is not done
    again; a run that was stopped goes on. If one fails, the others are done all the same.

    Example: python -m flowvae_tutorial reproduce --data digits --seeds 5
    """
    try:
        given = [float(beta) for beta in betas.split(",")]
    except ValueError as error:
        raise InputError(f"--betas takes numbers with commas between, got {betas!r}") from error
    weights = list(dict.fromkeys(number(beta, "each of --betas") for beta in given))
    if device_by_name(device).type != "cpu":
        jobs = jobs or 1
    jobs = jobs or os.cpu_count() or 1
    dataset, names, settings = _asked(data, models, epochs, results, out)
    commit = current_commit()
    _only_writer(context, out, dataset, names)
    work = {}
    for model, beta, seed in itertools.product(names, weights, range(seeds)):
        name = run_name(model, dataset.name, beta, seed)
        if is_on_record(
            results / f"{name}.json", dataset, settings, overwrite=overwrite,
            num_samples=samples, sizes=resolve(model, dataset)[1]._asdict(),
        ):  # fmt: skip
            typer.echo(f"{name}: its record is there")
        else:
            what = model, data, beta, seed, epochs, samples, device
            work[name] = (*what, results, out, commit, overwrite)
    count = len(work)
    if count:
        typer.echo(
            f"runs to do: {count}, of up to {settings['epochs']} epochs each, {min(jobs, count)} "
            "at once; the bars show the time that is left, of each and, after the first, of all"
        )
    try:
        came = zip(work, at_once(reproduce_run, list(work.values()), jobs), strict=True)
        failed = {name: str(reason) for name, reason in came if reason}
    except KeyboardInterrupt as stop:
        typer.echo(
            f"stopped: checkpoints in {out} keep the last finished epochs; the same command goes "
            "on from there", err=True,
        )  # fmt: skip
        raise typer.Exit(130) from stop
    if len(failed) < count or not work:
        _show(table(read_records(results, dataset.name)))
    _failures(failed, count)


@app.command()
def refine(
    context: typer.Context,
    data: DataOption = "digits",
    seeds: SeedsOption = 5,
    models: Annotated[
        str,
        typer.Option(
            help=_whole(
                f"Names, with commas between; by default {WITH_A_PRIOR.replace(',', ', ')}."
            ),
            show_default=False,
        ),
    ] = WITH_A_PRIOR,
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    results: ResultsOption = Path("results/refinement"),
    out: OutOption = Path("runs"),
    overwrite: OverwriteOption = False,
) -> None:
    """Refine samples of every named model and seed, and write one JSON record a run.

    Models are trained as `reproduce` trains them; its checkpoints are used. A run whose record is
    there is not done again; a run that was stopped goes on. If one fails, the others are done all
    the same.

    Example: python -m flowvae_tutorial refine --data digits --seeds 5
    """
    here = device_by_name(device)
    dataset, names, settings = _asked(data, models, epochs, results, out)
    commit = current_commit()
    _only_writer(context, out, dataset, names)
    classifier = fit_classifier(dataset.to(here), progress=True)
    runs = list(itertools.product(names, range(seeds)))
    # Before the first is trained: a record of something else is a mistake in the arguments.
    done = {
        run: is_on_record(
            results / f"{run_name(run[0], dataset.name, 1, run[1])}.json", dataset, settings,
            kind=REFINEMENTS, overwrite=overwrite, **measured(),
        )
        for run in runs
    }  # fmt: skip
    failed = {}
    for count, (model, seed) in enumerate(runs, start=1):
        name = run_name(model, dataset.name, 1, seed)
        if done[model, seed]:
            typer.echo(f"[{count}/{len(runs)}] {name}: its record is there")
            continue
        typer.echo(f"[{count}/{len(runs)}] {name}")
        checkpoint = out / name / "checkpoint.pt"
        try:
            with _stoppable(checkpoint), only_writer(checkpoint):
                trained = train_or_again(
                    model, dataset, seed=seed, beta=1.0, device=here, checkpoint=checkpoint,
                    epochs=epochs, overwrite=overwrite,
                )  # fmt: skip
                history = trained.history
                record = measure_refinement(
                    model, trained.vae, dataset, classifier, seed=seed,
                    epochs=len(history.loss), best_epoch=history.best_epoch, commit=commit,
                    progress=True,
                )  # fmt: skip
            write(REFINEMENTS, record, results)
        except Exception as error:
            if (explained := explain(error)) is None:
                raise
            failed[name] = explained[0]
    if len(failed) < len(runs):
        _show(refinement_table(read_refinements(results, dataset.name)))
    _failures(failed, len(runs))


def _asked(
    data: str, models: str, epochs: int | None, *folders: Path
) -> tuple[Data, list[str], dict[str, Any]]:
    """The data, the models and the settings of many runs, looked at before the first begins."""
    if epochs is not None:
        whole(epochs, "--epochs")
    for folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file where a folder must be: name another place")
    dataset = load_data(data)
    names = list(dict.fromkeys(name.strip() for name in models.split(",")))
    for name in names:
        # What the data are too few for, too.
        assemble(name, dataset, resolve(name, dataset)[1])
    return dataset, names, settings_of(dataset, epochs)


def _only_writer(context: typer.Context, out: Path, data: Data, models: list[str]) -> None:
    """To the end of the command, no other may train these models on these data there."""
    for model in models:
        context.with_resource(only_writer(out / f"{data.name}-{model}"))


def _failures(failed: dict[str, str], count: int) -> None:
    """List the runs that failed and why, and end with the exit code that says so."""
    if not failed:
        return
    for name, reason in failed.items():
        typer.echo(f"failed: {name}: {reason}", err=True)
    typer.echo(
        f"error: {len(failed)} of {count} runs failed; the same command tries them again", err=True
    )
    raise typer.Exit(1)


def _keep_other(path: Path, **asked: Any) -> None:
    """Refuse to replace a record of something else."""
    if differs := path.is_file() and differences(read(RUNS, path), **asked):
        raise InputError(
            f"{path} is there already, but {', '.join(differs)}: ask for the same, or add "
            "--overwrite to replace it"
        )


@app.command()
def report(
    results: Annotated[
        Path | None, typer.Option(help="Folder of the records; the book's own by default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Only this data set, or that of this file.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Only these models, with commas between.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Also draw reconstructions and samples into this folder."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints to draw from.")] = Path(
        "runs"
    ),
) -> None:
    """Print the tables and paired intervals of all records, the newest first, as Markdown.

    The folder is one that `reproduce` wrote, or the one where `train` put its runs.

    Example: python -m flowvae_tutorial report --results results
    """
    name = Path(data).stem if data and is_file(data) else data
    records = _records_in(results or book_results(), name)
    if models is not None:
        names = [name.strip() for name in models.split(",")]
        there = {record["model"] for record in records}
        if unknown := [name for name in names if name not in there]:
            raise InputError(
                f"no record of {', '.join(map(repr, unknown))}: there are some of "
                f"{Names(sorted(there))}"
            )
        records = [record for record in records if record["model"] in names]
    _show(table(records))
    typer.echo()
    _show(paired_table(records))
    if pictures is not None:
        for picture in draw_report(records, out, pictures, data if is_file(data or "") else None):
            typer.echo(picture)


def _records_in(folder: Path, data: str | None) -> list[Record]:
    """Those that `reproduce` wrote into a folder, or `train` below it, the newest first."""
    runs = [path.parent for path in folder.glob("*/*.json") if path.stem == path.parent.name]
    if not runs or any(folder.glob("*.json")):
        records = read_records(folder, data)
    else:
        records = [record for run in sorted(runs) for record in read_records(run)]
        records = [record for record in records if data in (None, record["data"])]
        if not records:
            raise InputError(f"no records of {data} in {folder}: run `train`")
    return sorted(records, key=lambda record: record["date"], reverse=True)


def _show(markdown: str) -> None:
    """Print a table, on a terminal with its columns below each other."""
    typer.echo(aligned(markdown) if sys.stdout.isatty() else markdown)


@contextlib.contextmanager
def _stoppable(*files: Path, keeps: str = "the last finished epoch") -> Iterator[None]:
    """Ctrl-C ends the command with one line that says what is kept in the first file there is."""
    try:
        yield
    except KeyboardInterrupt as stop:
        there = [file for file in files if file.exists()]
        kept = (
            f"{there[0]} keeps {keeps}; the same command goes on from there"
            if there
            else "nothing was finished, so there is nothing to go on from"
        )
        how = ", `train` with --resume" if there and there[0].suffix == ".pt" else ""
        typer.echo(f"stopped: {kept}{how}", err=True)
        raise typer.Exit(130) from stop


def _find(trained: str) -> Trained:
    if trained in pretrained_models():
        return pretrained_run(trained)
    path = Path(trained)
    if not path.is_file():
        names = ", ".join(pretrained_models())
        raise InputError(f"no file {trained!r}, and no pretrained model: those are {names}")
    return load_trained(path)


def _data_of(run: Trained, data: str | None) -> Data:
    """What a model was trained on: known by its name, or by the sum of its values."""
    if data is None and run.data in DATA_SETS:
        return load(run.data)
    if data is None:
        raise InputError(
            f"{run.data!r} is no data set of the book's: name the file that the model was trained "
            f"on, --data {run.data}.npz"
        )
    dataset, checksum = load_data(data), run.outline.checksum
    if dataset.checksum != checksum if checksum else dataset.name != run.data:
        raise InputError(
            f"the model was trained on {run.data!r}, and {data} is something else, so its record "
            "would mislead: name the file of its training, or call `evaluate` in Python"
        )
    return replace(dataset, name=run.data)


# What stands for a character that the encoding of a pipe or a file does not have.
_PLAIN = {"−": "-", "→": "->", "±": "+/-", "β": "beta", "’": "'", "…": "..."}


def _speak_anywhere() -> None:
    """Let no encoding and no closed stream stop a command from what it does."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        missing = error.object[error.start : error.end]
        return "".join(_PLAIN.get(character, "?") for character in missing), error.end

    codecs.register_error("plain", plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def main() -> None:
    """Run a command; a mistake of the user's is one line and exit code 2."""
    matplotlib.use("Agg")
    _speak_anywhere()
    # The main thread alone may say what a signal does.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        if (explained := explain(error)) is None:
            raise
        print(f"error: {explained[0]}", file=sys.stderr)
        sys.exit(explained[1])
