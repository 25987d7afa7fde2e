"""Each model at its own best number of epochs: python tools/ladder.py DATA MODEL[@BETA][=EPOCHS] …

Trains a model with some number of epochs and with its two neighbours on the ladder, several seeds
each, and climbs until neither neighbour has a validation ELBO that is better by more than
`TOLERANCE`. Only then is the chosen rung judged on the test pictures. A rung's validation figures
go to book/results/ladder/, the record of a run at the chosen rung, with its control, to
book/results/; what is there is not run again. With EPOCHS it does not climb: in a sweep all but one
thing is the same. The weights lie in the git-ignored runs/ladder/.

The step decays to zero over the last half of the epochs, and the best epoch is kept.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from flowvae_tutorial import VAE, build, fit
from flowvae_tutorial.data import Data, load
from flowvae_tutorial.experiments import record_files as files
from flowvae_tutorial.experiments.records import RUNS, make_record
from flowvae_tutorial.history import History
from flowvae_tutorial.models import FIRST_STAGE, resolve

LADDER = (100, 150, 200, 300, 400, 600, 800, 1200, 1600)
START = 200
TOLERANCE = 0.15
SEEDS = {"digits": 5, "digits-binary": 5, "rings": 10}
RECIPE = {"batch_size": 64, "lr": 2e-3, "decay": 0.5, "warmup": 20}
WEIGHTS = Path("runs/ladder")
SAMPLES = 5000
_FORM = files.form(
    files.CODE | files.DAY | {
        "model": files.TEXT, "data": files.TEXT, "beta": files.NUMBER, "epochs": files.POSITIVE,
        "settings": files.OBJECT, "elbo": files.NUMBERS, "best_epochs": files.NUMBERS,
        "seconds": files.NUMBERS,
    }
)  # fmt: skip


def _rung_name(model: str, data: str, beta: float, epochs: int) -> str:
    return files.run_name(model, data, beta, 0).replace("-seed0", f"-{epochs}")


RUNGS = files.Kind(
    "rungs", "python tools/ladder.py", _FORM,
    lambda rung: _rung_name(rung["model"], rung["data"], rung["beta"], rung["epochs"]),
)  # fmt: skip


def settings(epochs: int) -> dict[str, Any]:
    return RECIPE | {"epochs": epochs, "patience": epochs}


def weights_file(model: str, data: Data, beta: float, epochs: int, seed: int) -> Path:
    name = files.run_name(model, data.name, beta, seed)
    return WEIGHTS / str(epochs) / f"{name}.safetensors"


def new(model: str, data: Data, beta: float, seed: int) -> VAE:
    """The model before its training; of two stages, after the first at its own best rung."""
    first = None
    if (name := FIRST_STAGE.get(resolve(model, data)[0])) is not None:
        epochs, _ = settle(name, data, beta)
        first, _ = trained(name, data, beta, epochs, seed)
    torch.manual_seed(seed)
    return build(model, data, first=first)


def trained(model: str, data: Data, beta: float, epochs: int, seed: int) -> tuple[VAE, History]:
    vae = new(model, data, beta, seed)
    path = weights_file(model, data, beta, epochs, seed)
    if path.exists():
        with safe_open(path, framework="pt") as file:
            vae.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
            return vae.eval(), History(**json.loads(file.metadata()["history"]))
    history = fit(vae, data, beta=beta, seed=seed, **settings(epochs))
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().clone() for name, value in vae.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(state, part, {"history": json.dumps(vars(history))})
    part.replace(path)
    return vae, history


def rung(model: str, data: Data, beta: float, epochs: int) -> files.Record:
    """All seeds at one number of epochs, from the record if there is one."""
    folder = files.book_results() / "ladder"
    path = folder / f"{_rung_name(model, data.name, beta, epochs)}.json"
    if not path.exists():
        histories = [
            trained(model, data, beta, epochs, seed)[1] for seed in range(SEEDS[data.name])
        ]
        record = files.describe(
            "cpu", files.current_commit(), model=model, data=data.name, beta=beta, epochs=epochs,
            settings=settings(epochs), elbo=[round(max(h.elbo), 4) for h in histories],
            best_epochs=[h.best_epoch for h in histories],
            seconds=[round(h.seconds, 1) for h in histories],
        )  # fmt: skip
        files.write(RUNGS, record, folder)
    record = files.read(RUNGS, path)
    print(f"{path.stem:45s} {mean(record):8.3f}  best {record['best_epochs']}", flush=True)
    return record


def mean(record: files.Record) -> float:
    return float(sum(record["elbo"]) / len(record["elbo"]))


def _known(model: str, data: Data, beta: float) -> dict[int, float]:
    folder = files.book_results() / "ladder"
    paths = {n: folder / f"{_rung_name(model, data.name, beta, n)}.json" for n in LADDER}
    return {n: mean(files.read(RUNGS, path)) for n, path in paths.items() if path.exists()}


def settle(model: str, data: Data, beta: float) -> tuple[int, dict[int, float]]:
    """The epochs that validation prefers, and the mean ELBOs of that rung and its neighbours."""
    known = _known(model, data, beta)
    best = max(known, key=lambda epochs: known[epochs]) if known else START
    while True:
        at = LADDER.index(best)
        shorter, longer = LADDER[max(0, at - 1) : at], LADDER[at + 1 : at + 2]
        for epochs in (best, *longer, *shorter):
            if epochs not in known:
                known[epochs] = mean(rung(model, data, beta, epochs))
            if known[epochs] > known[best] + TOLERANCE:
                best = epochs
                break
        else:
            near = (*shorter, best, *longer)
            return best, {epochs: round(known[epochs], 3) for epochs in near}


def chosen(model: str, data: Data, beta: float, given: int | None) -> tuple[int, dict[int, float]]:
    """As `settle`, or the given epochs with what is known of them and of their neighbours."""
    if given is None:
        return settle(model, data, beta)
    rung(model, data, beta, given)
    at, known = LADDER.index(given), _known(model, data, beta)
    return given, {n: round(known[n], 3) for n in LADDER[max(0, at - 1) : at + 2] if n in known}


def _asked(name: str) -> tuple[str, float, int | None]:
    name, _, epochs = name.partition("=")
    model, _, beta = name.partition("@")
    if epochs and epochs not in map(str, LADDER):
        sys.exit(f"{epochs} is no rung of the ladder: choose one of {', '.join(map(str, LADDER))}")
    return model, float(beta or 1), int(epochs) if epochs else None


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    data = load(arguments[0])
    folder = files.book_results()
    runs = [_asked(name) for name in arguments[1:]]
    for model, beta, epochs in runs:
        chosen(model, data, beta, epochs)
    for model, beta, given in runs:
        epochs, rungs = chosen(model, data, beta, given)
        budget = {"tolerance": TOLERANCE, "validation": {str(k): v for k, v in rungs.items()}}
        for seed in range(SEEDS[data.name]):
            path = folder / f"{files.run_name(model, data.name, beta, seed)}.json"
            record = files.read(RUNS, path) if path.exists() else {}
            # A run at another rung has another control, and is not the one that was chosen.
            if "budget_control" in record and record["settings"]["epochs"] == epochs:
                if record["budget_control"] != budget:
                    files.write(RUNS, record | {"budget_control": budget}, folder)
                continue
            vae, history = trained(model, data, beta, epochs, seed)
            record = make_record(
                model, vae, data, resolve(model, data)[1], history, seed=seed, beta=beta,
                num_samples=SAMPLES, commit=files.current_commit(), settings=settings(epochs),
            )  # fmt: skip
            files.write(RUNS, record | {"budget_control": budget}, folder)
            print(
                f"{files.run_name(model, data.name, beta, seed)}: NLL {record['nll']['mean']:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
