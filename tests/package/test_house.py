"""The plan of the house: what stands in front, what behind, and imports that run downwards only.

Each check takes the text of modules and returns what is wrong, so that it can be shown to fail.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "flowvae_tutorial"

# From the bottom up; a module imports from those before it. A wing's own name is its `__init__`.
ORDER = """
errors arguments networks splines transforms contract distributions mixtures
flows autoregressive flow_matching priors posteriors likelihoods
refinement rewards vae bounds stages evaluation comparison history
storage storage.files storage.schema storage.downloads storage.weights storage.checkpoints
data models plots
storage.trained storage.own_data
training.progress training.ranks training.loop training
pretrained
experiments experiments.record_files experiments.tables experiments.records
experiments.refinement_records experiments.runs experiments.jobs experiments.pictures
experiments.commands
notebook.numbers notebook.sliders notebook.figures notebook notebook.panel
exercises.hints exercises
""".split()
CORE = [name for name in ORDER[: ORDER.index("plots") + 1] if "." not in name and name != "storage"]
LONGEST = 250


def name_of(path: Path) -> str:
    """`storage.files` for storage/files.py; a wing's `__init__` has the wing's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {
    name_of(path): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "__pycache__" not in path.parts
}


def imported(name: str, source: str, wings: set[str]) -> set[str]:
    """The modules of the package that a module imports, wherever in its text it does."""
    found = set()
    package = name.split(".") if name in wings else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)] if name else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            target = ".".join(base)
            # `from . import x` names a module, or something of the package's own.
            found |= {target} if target in MODULES and target else set()
            found |= {
                each
                for alias in node.names
                if (each := f"{target}.{alias.name}".strip(".")) in MODULES
            }
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            found |= {n.removeprefix("flowvae_tutorial").strip(".") for n in names if n and
                      n.startswith("flowvae_tutorial")}  # fmt: skip
    return found - {name}


def upwards(modules: dict[str, str]) -> list[str]:
    """Imports of a module that stands above the one that asks for it."""
    wings = {name for name in modules if any(m.startswith(f"{name}.") for m in modules if name)}
    wings |= {"pretrained", "exercises"}
    wrong = []
    for name, source in modules.items():
        if name in ("", "__main__"):
            continue
        place = ORDER.index(name.split(".chapter")[0])
        wrong += [
            f"{name} imports {other}"
            for other in sorted(imported(name, source, wings))
            if ORDER.index(other.split(".chapter")[0]) > place
        ]
    return wrong


def test_every_module_has_its_place() -> None:
    there = {name.split(".chapter")[0] for name in MODULES} - {"", "__main__"}
    assert there == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_imports_run_downwards_only() -> None:
    assert upwards(MODULES) == []


@pytest.mark.parametrize(
    ("name", "line", "other"),
    [
        ("errors", "from .vae import VAE", "vae"),
        ("flows", "def late():\n    from . import models", "models"),
        ("storage.files", "from ..experiments.records import table", "experiments.records"),
        ("pretrained", "from ..experiments import records", "experiments.records"),
        ("storage.weights", "from .trained import Trained", "storage.trained"),
        ("plots", "import flowvae_tutorial.training.loop", "training.loop"),
    ],
)
def test_an_import_of_something_above_is_seen(name: str, line: str, other: str) -> None:
    assert f"{name} imports {other}" in upwards(MODULES | {name: f"{MODULES[name]}\n{line}\n"})


@pytest.mark.parametrize("name", CORE)
def test_what_a_reader_copies_is_short(name: str) -> None:
    assert len(MODULES[name].splitlines()) <= LONGEST, "that is two ideas"


def lines_of_checks(source: str) -> int:
    """Lines that only refuse: an `if` whose body ends in `raise`, a `try` whose handlers all do."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        refuses = (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)) or (
            isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise)
        )
        if refuses:
            assert isinstance(node, ast.If | ast.ExceptHandler) and node.body[-1].end_lineno
            lines |= set(range(node.lineno, node.body[-1].end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("name", [name for name in CORE if name != "errors"])
def test_no_more_than_half_of_it_checks(name: str) -> None:
    assert lines_of_checks(MODULES[name]) <= len(MODULES[name].splitlines()) / 2


def test_lines_that_check_are_counted() -> None:
    source = "if a:\n    raise E(\n        a\n    )\ntry:\n    b()\nexcept X:\n    raise\n"
    assert lines_of_checks(source) == 6
