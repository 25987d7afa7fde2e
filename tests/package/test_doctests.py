"""The examples in the docstrings: one a module at least, and each does what it shows."""

import doctest
import importlib
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[2]
API = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
MODULES = re.findall(r"^\.\. automodule:: (\S+)$", API, re.MULTILINE)


def examples_of(name: str) -> list[doctest.DocTest]:
    """The docstrings with an example, which imports for itself whatever it names."""
    found = doctest.DocTestFinder().find(importlib.import_module(name), globs={})
    return [docstring for docstring in found if docstring.examples]


def failures_of(docstring: doctest.DocTest) -> str:
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(docstring, out=report.append)
    return "".join(report)


def test_the_page_of_the_package_names_all_that_is_public() -> None:
    files = (ROOT / "flowvae_tutorial").rglob("*.py")
    names = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if not file.stem.startswith("_") and "exercises" not in file.parts
    }
    # Progress bars are no more than tqdm's, commands explain themselves, and no reader checks
    # arguments.
    internal = {
        "flowvae_tutorial.arguments",
        "flowvae_tutorial.training.progress",
        "flowvae_tutorial.experiments.commands",
    }
    assert (names | {"flowvae_tutorial.pretrained"}) - internal == set(MODULES)


@pytest.mark.parametrize("name", [*MODULES, "flowvae_tutorial.arguments"])
def test_a_module_has_an_example_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some of the examples write files.
    monkeypatch.chdir(tmp_path)
    examples = examples_of(name)
    assert examples
    assert [report for example in examples if (report := failures_of(example))] == []
    plt.close("all")


@pytest.mark.parametrize("source", [">>> 1 + 1\n3\n", ">>> VAE\n", ">>> 1 / 0\n"])
def test_an_example_that_does_something_else_is_refused(source: str) -> None:
    example = doctest.DocTestParser().get_doctest(source, {}, "example", None, None)
    assert failures_of(example) != ""
