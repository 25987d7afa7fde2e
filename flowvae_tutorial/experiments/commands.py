"""The commands: `flowvae --help`, or `python -m flowvae_tutorial --help`."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib
import torch
import typer

from ..data import DATA_SETS, Data, load
from ..errors import InputError
from ..models import BOOK_MODELS, MODELS, resolve
from ..pretrained import pretrained_models, pretrained_run
from ..storage.own_data import is_file, load_data
from ..storage.trained import Trained, load_trained, save_trained
from ..training.loop import NotFinite
from ..training.ranks import device_by_name, first_before_others, joined, rank_and_world
from .jobs import at_once
from .pictures import draw_report, draw_run, draw_samples, figures_of
from .record_files import run_name, write
from .records import (
    book_results,
    current_commit,
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
    read_refinements,
    refinement_table,
)
from .runs import (
    FIRST_STAGE_FILE,
    record_of,
    reproduce_model,
    train_run,
)

app = typer.Typer(
    help="Train the book's models, reproduce its records, report its tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Names = ", ".join
DataOption = Annotated[
    str,
    typer.Option("--data", help=f"One of {Names(DATA_SETS)}, or a .npz or .pt file of your own."),
]
EpochsOption = Annotated[
    int | None, typer.Option(help="At most so many epochs; the book's own by default.")
]
SamplesOption = Annotated[int, typer.Option(help="S of the importance-sampled NLL.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
BetaOption = Annotated[float, typer.Option(help="Weight of the KL term.")]
OutOption = Annotated[Path, typer.Option(help="Folder of checkpoints, weights and pictures.")]
SeedOption = Annotated[
    int, typer.Option(help="Of weights, batches and noise.", min=0, max=2**31 - 1)
]
TrainedArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT|NAME",
        help=f"A checkpoint.pt, a weights.safetensors, or one of {Names(pretrained_models())}.",
    ),
]


@app.command()
def train(
    model: Annotated[str, typer.Option(help=f"One of {Names(MODELS)}.")] = "gaussian",
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
) -> None:
    """Train one model, print its test figures and draw its samples.

    Example: python -m flowvae_tutorial train --model gaussian --data digits

    On several devices:

    torchrun --nproc_per_node=2 -m flowvae_tutorial train --model vampprior
    """
    # No name of the book's has a point in it, and a file's run is named as the file is.
    folder = out / run_name(model, Path(data).stem, beta, seed)
    checkpoint, first_stage = folder / "checkpoint.pt", folder / FIRST_STAGE_FILE
    with joined(device_by_name(device)) as here:
        for file in (checkpoint, first_stage):
            if file.exists() and not resume:
                raise InputError(
                    f"{file} holds a run already: add --resume to go on with it, or delete the file"
                )
        with first_before_others():
            dataset = load_data(data)
        with _stoppable(checkpoint, first_stage):
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
) -> None:
    """Evaluate a trained model on its test set, print the figures and write its record.

    An evaluation that was stopped goes on.

    Example: python -m flowvae_tutorial evaluate runs/digits-gaussian-seed0/checkpoint.pt
    """
    run = _find(trained)
    if not run.history.loss:
        raise InputError(
            f"{trained} was saved without the history of its training, which a record needs: give "
            "`save_model` what `fit` gave back, or call `evaluate` in Python"
        )
    run.vae.to(device_by_name(device))
    dataset = _data_of(run, data)
    partial = out / f"{run_name(run.model, run.data, run.beta, run.seed)}.part"
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
        int, typer.Option(help="Steps uphill under the prior before decoding.", min=0)
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
    # Of points the noise is a part of the sample; on pictures it would only hide it.
    x = run.vae.sample(count, mean=form.image_shape is not None, refine_steps=refine_steps)
    typer.echo(draw_samples(x, form, out))


@app.command()
def reproduce(
    data: DataOption = "digits",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to SEEDS − 1.", min=1)] = 5,
    models: Annotated[str, typer.Option(help="Names, with commas between.")] = ",".join(
        BOOK_MODELS
    ),
    betas: Annotated[str, typer.Option(help="KL weights, with commas between.")] = "1",
    epochs: EpochsOption = None,
    samples: SamplesOption = 5000,
    device: DeviceOption = "auto",
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results"),
    out: OutOption = Path("runs"),
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Models trained at once; by default one a processor, or one on a GPU.", min=1
        ),
    ] = None,
) -> None:
    """Train every named model with every seed and write one JSON record a run.

    Each model has a process of its own, with one thread. A run whose record is there is not done
    again; a run that was stopped goes on.

    Example: python -m flowvae_tutorial reproduce --data digits --seeds 5
    """
    dataset = load_data(data)
    names = models.split(",")
    for name in names:
        resolve(name, dataset)
    try:
        weights = [float(beta) for beta in betas.split(",")]
    except ValueError as error:
        raise InputError(f"--betas takes numbers with commas between, got {betas!r}") from error
    if device_by_name(device).type != "cpu":
        jobs = jobs or 1
    commit = current_commit()
    work = []
    for model in dict.fromkeys(names):
        runs = [(beta, seed) for beta in weights for seed in range(seeds)]
        done = [(b, s) for b, s in runs if is_on_record(results, model, dataset, b, s)]
        for beta, seed in done:
            typer.echo(f"{run_name(model, dataset.name, beta, seed)}: its record is there")
        if left := [run for run in runs if run not in done]:
            work.append((model, data, left, epochs, samples, device, results, out, commit))
    try:
        at_once(reproduce_model, work, jobs or os.cpu_count() or 1)
    except KeyboardInterrupt as stop:
        typer.echo(
            f"stopped: checkpoints in {out} keep the last finished epochs; the same command goes "
            "on from there", err=True,
        )  # fmt: skip
        raise typer.Exit(130) from stop
    typer.echo(table(read_records(results, dataset.name)))


@app.command()
def refine(
    data: DataOption = "digits",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to SEEDS − 1.", min=1)] = 5,
    models: Annotated[str, typer.Option(help="Names, with commas between.")] = (
        "gaussian,vampprior,flow-prior,spline-flow-prior"
    ),
    epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = Path(
        "results/refinement"
    ),
    out: OutOption = Path("runs"),
) -> None:
    """Refine samples of every named model and seed, and write one JSON record a run.

    Models are trained as `reproduce` trains them; its checkpoints are used. A run whose record is
    there is not done again; a run that was stopped goes on.

    Example: python -m flowvae_tutorial refine --data digits --seeds 5
    """
    dataset = load_data(data)
    names = models.split(",")
    for name in names:
        resolve(name, dataset)
    commit = current_commit()
    classifier = fit_classifier(dataset.to(device_by_name(device)))
    runs = [(model, seed) for model in names for seed in range(seeds)]
    for count, (model, seed) in enumerate(runs, start=1):
        name = run_name(model, dataset.name, 1, seed)
        if (results / f"{name}.json").exists():
            typer.echo(f"[{count}/{len(runs)}] {name}: its record is there")
            continue
        typer.echo(f"[{count}/{len(runs)}] {name}")
        checkpoint = out / name / "checkpoint.pt"
        with _stoppable(checkpoint):
            trained = train_run(
                model, dataset, seed=seed, beta=1.0, device=device_by_name(device),
                checkpoint=checkpoint, epochs=epochs,
            )  # fmt: skip
            history = trained.history
            record = measure_refinement(
                model, trained.vae, dataset, classifier, seed=seed, epochs=len(history.loss),
                best_epoch=history.best_epoch, commit=commit,
            )  # fmt: skip
        write(REFINEMENTS, record, results)
    typer.echo(refinement_table(read_refinements(results, dataset.name)))


@app.command()
def report(
    results: Annotated[
        Path | None, typer.Option(help="Folder of the records; the book's own by default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Only this data set, or that of this file.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Also draw reconstructions and samples into this folder."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints to draw from.")] = Path(
        "runs"
    ),
) -> None:
    """Print the tables and paired intervals of all records, as Markdown.

    Example: python -m flowvae_tutorial report --results results
    """
    records = read_records(results or book_results(), data and Path(data).stem)
    typer.echo(f"{table(records)}\n\n{paired_table(records)}")
    if pictures is not None:
        for picture in draw_report(records, out, pictures, data if is_file(data or "") else None):
            typer.echo(picture)


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


def main() -> None:
    """Run a command; a mistake of the user's is one line and exit code 2."""
    matplotlib.use("Agg")
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: {reason} Try --device cpu.", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: could not read or write: {error}", file=sys.stderr)
        sys.exit(2)
    except NotFinite as error:
        print(f"error: {error} (a checkpoint keeps the epoch before, if any)", file=sys.stderr)
        sys.exit(1)
