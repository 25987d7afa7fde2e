"""What is installed: pins agree with ranges, and the wheel holds the whole package."""

import re
import subprocess
import sys
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "book" / "results"
RECORDS = sorted(RESULTS.rglob("*.json"))


def pins() -> dict[str, str]:
    """Name and version of each line of requirements.txt; a line that is no exact pin fails."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, line
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def disagreements(pinned: dict[str, str], ranges: list[str]) -> list[str]:
    """The ranges that no pin satisfies."""
    requirements = [Requirement(text) for text in ranges]
    return [
        str(r)
        for r in requirements
        if (version := pinned.get(canonicalize_name(r.name))) is None or version not in r.specifier
    ]


def runtime_ranges() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def test_every_runtime_dependency_is_pinned_within_its_range() -> None:
    assert disagreements(pins(), runtime_ranges()) == []


def test_a_pin_outside_its_range_is_refused() -> None:
    assert disagreements({"torch": "2.3.1"}, ["torch>=2.4", "numpy"]) == ["torch>=2.4", "numpy"]


def test_no_runtime_range_has_an_upper_bound() -> None:
    operators = {s.operator for text in runtime_ranges() for s in Requirement(text).specifier}
    assert operators <= {">="}, "Colab would have to reinstall"


def test_requirements_name_no_cuda_package() -> None:
    assert [name for name in pins() if re.search(r"cuda|nvidia|cudnn|triton", name)] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # setuptools writes into the source folder, and other tests run beside this one.
    source = tmp_path_factory.mktemp("source")
    named = [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    files = [*named, *package_files(), *RECORDS]
    for file in files:
        copy = source / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip_wheel, "--wheel-dir", "dist", "."], cwd=source, check=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def package_files() -> list[Path]:
    files = (ROOT / "flowvae_tutorial").rglob("*")
    return [f for f in files if f.is_file() and "__pycache__" not in f.parts]


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    expected = {f.relative_to(ROOT).as_posix() for f in package_files()}
    assert "flowvae_tutorial/py.typed" in expected
    # A chapter opened in Colab reads the records from the package.
    expected |= {f"flowvae_tutorial/results/{f.relative_to(RESULTS).as_posix()}" for f in RECORDS}
    assert expected - set(ZipFile(wheel).namelist()) == set()


def test_the_wheel_says_licence_and_description(wheel: Path) -> None:
    archive = ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_readme_names_commands_that_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"book", "test"} <= set(named) & set(targets)
    assert set(named) <= set(targets)


def test_continuous_integration_runs_the_tests_and_the_replay_in_colab() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"\bmake\b.*", script) == ["make test", "make colab"]


@pytest.mark.parametrize("page", ["README.md", "book/intro.md"])
def test_the_example_of_the_package_runs(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
