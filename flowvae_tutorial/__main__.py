"""The command line: `python -m flowvae_tutorial --help`."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError
from safetensors.torch import save_file

from .data import DATA_SETS, Data, load
from .errors import InputError
from .models import (
    BOOK_MODELS,
    FIRST_STAGE,
    MODELS,
    Sizes,
    build,
    on_first_stage,
    resolve,
    training_settings,
)
from .records import (
    Record,
    book_results,
    current_commit,
    make_record,
    paired_table,
    read_records,
    run_name,
    table,
    write_record,
)
from .refinement_records import (
    fit_classifier,
    measure_refinement,
    read_refinements,
    refinement_table,
    write_refinement,
)
from .training import History, NotFinite, device_by_name, fit
from .vae import VAE

app = typer.Typer(
    help="Train the book's models, reproduce its records, report its tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Names = ", ".join
DataOption = Annotated[str, typer.Option("--data", help=f"One of {Names(DATA_SETS)}.")]
EpochsOption = Annotated[
    int | None, typer.Option(help="At most so many epochs; the book's own by default.")
]
SamplesOption = Annotated[int, typer.Option(help="S of the importance-sampled NLL.", min=1)]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
BetaOption = Annotated[float, typer.Option(help="Weight of the KL term.")]
OutOption = Annotated[Path, typer.Option(help="Folder of checkpoints, weights and pictures.")]


@app.command()
def train(
    model: Annotated[str, typer.Option(help=f"One of {Names(MODELS)}.")] = "gaussian",
    data: DataOption = "digits",
    epochs: EpochsOption = None,
    seed: Annotated[
        int, typer.Option(help="Of weights, batches and noise.", min=0, max=2**31 - 1)
    ] = 0,
    beta: BetaOption = 1.0,
    samples: SamplesOption = 5000,
    device: DeviceOption = "auto",
    out: OutOption = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
) -> None:
    """Train one model, print its test figures and draw its samples.

    Example: python -m flowvae_tutorial train --model gaussian --data digits
    """
    folder = out / run_name(model, data, beta, seed)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint} holds a run already: add --resume to go on with it, or delete the file"
        )
    vae, dataset, record = _run(
        model, load(data), epochs, seed, beta, samples, device, checkpoint, current_commit()
    )
    save_file(
        {name: value.contiguous() for name, value in vae.state_dict().items()},
        folder / "weights.safetensors",
    )
    picture = _draw(vae, dataset, folder)
    write_record(record, folder)
    typer.echo(_figures(record))
    typer.echo(f"pictures: {picture}\nweights:  {folder / 'weights.safetensors'}")


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
) -> None:
    """Train every named model with every seed and write one JSON record a run.

    A run whose record is there is not done again; a run that was stopped goes on.

    Example: python -m flowvae_tutorial reproduce --data digits --seeds 5
    """
    dataset = load(data)
    names = models.split(",")
    for name in names:
        resolve(name, dataset)
    try:
        weights = [float(beta) for beta in betas.split(",")]
    except ValueError as error:
        raise InputError(f"--betas takes numbers with commas between, got {betas!r}") from error
    commit = current_commit()
    runs = [(m, beta, seed) for m in names for beta in weights for seed in range(seeds)]
    for count, (model, beta, seed) in enumerate(runs, start=1):
        name = run_name(model, data, beta, seed)
        if (results / f"{name}.json").exists():
            typer.echo(f"[{count}/{len(runs)}] {name}: its record is there")
            continue
        typer.echo(f"[{count}/{len(runs)}] {name}")
        checkpoint = out / name / "checkpoint.pt"
        _, _, record = _run(model, dataset, epochs, seed, beta, samples, device, checkpoint, commit)
        write_record(record, results)
    typer.echo(table(read_records(results, data)))


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
    dataset = load(data)
    names = models.split(",")
    for name in names:
        resolve(name, dataset)
    commit = current_commit()
    classifier = fit_classifier(dataset.to(device_by_name(device)))
    runs = [(model, seed) for model in names for seed in range(seeds)]
    for count, (model, seed) in enumerate(runs, start=1):
        name = run_name(model, data, 1, seed)
        if (results / f"{name}.json").exists():
            typer.echo(f"[{count}/{len(runs)}] {name}: its record is there")
            continue
        typer.echo(f"[{count}/{len(runs)}] {name}")
        checkpoint = out / name / "checkpoint.pt"
        with _stoppable(checkpoint):
            vae, _, history = _trained(model, dataset, epochs, seed, 1.0, device, checkpoint)
            record = measure_refinement(
                model, vae, dataset, classifier, seed=seed, epochs=len(history.loss),
                best_epoch=history.best_epoch, commit=commit,
            )  # fmt: skip
        write_refinement(record, results)
    typer.echo(refinement_table(read_refinements(results, data)))


@app.command()
def report(
    results: Annotated[
        Path | None, typer.Option(help="Folder of the records; the book's own by default.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Only this data set.")] = None,
) -> None:
    """Print the tables and paired intervals of all records, as Markdown.

    Example: python -m flowvae_tutorial report --results results
    """
    records = read_records(results or book_results(), data)
    typer.echo(f"{table(records)}\n\n{paired_table(records)}")


def _run(
    model: str,
    data: Data,
    epochs: int | None,
    seed: int,
    beta: float,
    samples: int,
    device: str,
    checkpoint: Path,
    commit: str,
) -> tuple[VAE, Data, Record]:
    with _stoppable(checkpoint):
        vae, sizes, history = _trained(model, data, epochs, seed, beta, device, checkpoint)
        record = make_record(
            model, vae, data, sizes, history,
            seed=seed, beta=beta, num_samples=samples, commit=commit,
        )  # fmt: skip
    return vae, data.to(next(vae.parameters()).device), record


def _trained(
    model: str,
    data: Data,
    epochs: int | None,
    seed: int,
    beta: float,
    device: str,
    checkpoint: Path,
) -> tuple[VAE, Sizes, History]:
    name, sizes = resolve(model, data)
    torch.manual_seed(seed)
    vae = build(model, data, sizes)
    settings: dict[str, Any] = training_settings(data)
    if epochs is not None:
        settings["epochs"] = epochs
    settings |= {"beta": beta, "seed": seed, "device": device_by_name(device), "progress": True}
    if name in FIRST_STAGE:
        torch.manual_seed(seed)
        first = build(FIRST_STAGE[name], data)
        fit(first, data, checkpoint=checkpoint.with_name("first-stage.pt"), **settings)
        vae = on_first_stage(vae, first)
    history = fit(vae, data, checkpoint=checkpoint, **settings)
    return vae, sizes, history


@contextlib.contextmanager
def _stoppable(checkpoint: Path) -> Iterator[None]:
    """Ctrl-C ends the command with one line that says what is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        kept = (
            f"{checkpoint} keeps the last finished epoch; the same command goes on from there, "
            "`train` with --resume"
            if checkpoint.exists()
            else "no epoch was finished, so there is nothing to go on from"
        )
        typer.echo(f"stopped: {kept}", err=True)
        raise typer.Exit(130) from stop


def _draw(vae: VAE, data: Data, folder: Path) -> Path:
    """Samples above reconstructions for images, clouds of points for points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .plots import COLOURS, plot_images

    torch.manual_seed(0)
    path = folder / "samples.png"
    if data.image_shape is None:
        figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
        axis.plot(*data.test.cpu().T, ".", ms=3, color=COLOURS[9], label="test data")
        axis.plot(*vae.sample(len(data.test)).cpu().T, ".", ms=3, color=COLOURS[0], label="samples")
        axis.set(xlabel="$x_1$", ylabel="$x_2$", title="test data and samples")
        axis.legend()
    else:
        x = data.test[:10]
        images = torch.cat([vae.sample(30, mean=True), x, vae.reconstruct(x)])
        figure = plot_images(images, data.image_shape)
        figure.suptitle("30 samples; below, 10 test images and their reconstructions")
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)
    return path


def _figures(record: Record) -> str:
    nll = record["nll"]
    # Every level of a hierarchy has as many.
    units = record["sizes"]["latent"] * len(record["kl"])
    rows = [
        ("NLL", f"{nll['mean']:.2f} ± {nll['standard_error']:.2f}", "nats per example"),
        ("ELBO", f"{record['elbo']:.2f}", "nats per example"),
        ("reconstruction", f"{record['reconstruction']:.2f}", "nats per example"),
        ("KL", f"{sum(record['kl']):.2f}", "nats per example"),
        ("active units", f"{record['active_units']} of {units}", ""),
    ]
    head = (
        f"{record['model']} on {record['data']}, seed {record['seed']}: best epoch "
        f"{record['best_epoch']} of {record['epochs']}; {record['num_test']} test examples, "
        f"S = {record['num_samples']}"
    )
    return "\n".join([head, *(f"  {n:<15}{v:>16}  {unit}".rstrip() for n, v, unit in rows)])


def main() -> None:
    """Run a command; a mistake of the user's is one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (OSError, SafetensorError) as error:
        print(f"error: could not read or write: {error}", file=sys.stderr)
        sys.exit(2)
    except NotFinite as error:
        print(f"error: {error} (a checkpoint keeps the epoch before, if any)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
