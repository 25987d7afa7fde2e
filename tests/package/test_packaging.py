"""What is installed: pins agree with ranges, wheel and sdist hold the package, it imports fast."""

import contextlib
import json
import re
import subprocess
import sys
import tarfile
import tomllib
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def pins(file: str = "requirements.txt") -> dict[str, str]:
    """Name and version of each line of the file; a line that is no exact pin fails."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
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


def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def runtime_ranges() -> list[str]:
    return list(project()["dependencies"])


def test_every_runtime_dependency_is_pinned_within_its_range() -> None:
    assert disagreements(pins(), runtime_ranges()) == []


def test_a_pin_outside_its_range_is_refused() -> None:
    assert disagreements({"torch": "2.5.1"}, ["torch>=2.6", "numpy"]) == ["torch>=2.6", "numpy"]


def test_no_runtime_range_has_an_upper_bound() -> None:
    operators = {s.operator for text in runtime_ranges() for s in Requirement(text).specifier}
    assert operators <= {">="}, "Colab would have to reinstall"


def test_requirements_name_no_cuda_package() -> None:
    assert [name for name in pins() if re.search(r"cuda|nvidia|cudnn|triton", name)] == []


def floors(ranges: list[str]) -> dict[str, Version]:
    """The oldest version that each range allows; a range without a floor fails."""
    found = {}
    for requirement in map(Requirement, ranges):
        (specifier,) = requirement.specifier
        assert specifier.operator == ">=", requirement
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


def test_the_oldest_versions_that_are_allowed_are_those_that_are_tested() -> None:
    oldest, newest, allowed = pins("requirements-oldest.txt"), pins(), floors(runtime_ranges())
    assert {name: Version(oldest[name]) for name in allowed} == allowed
    # What runs the tests is the same.
    tools = oldest.keys() & newest.keys() - allowed.keys()
    assert "pytest" in tools
    assert {name: oldest[name] for name in tools} == {name: newest[name] for name in tools}


@pytest.mark.parametrize("text", ["numpy", "numpy>1.26", "numpy>=1.26,!=2.0.0"])
def test_a_range_whose_oldest_version_is_not_said_is_refused(text: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        floors([text])


def test_continuous_integration_tests_the_oldest_versions_on_the_oldest_python() -> None:
    oldest, *_ = promised_pythons()
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(workflow)["jobs"]["oldest"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test-oldest"]
    assert [s["with"]["python-version"] for s in steps if "python" in s.get("uses", "")] == [oldest]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"The oldest versions need Python {oldest} and" in makefile


def promised_pythons() -> list[str]:
    """The versions that continuous integration runs the tests with."""
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    return list(yaml.safe_load(workflow)["jobs"]["test"]["strategy"]["matrix"]["python"])


def test_the_pythons_that_are_promised_are_those_that_are_tested() -> None:
    first, *_, last = promised_pythons()
    about = project()
    assert SpecifierSet(about["requires-python"]) == SpecifierSet(f">={first}")
    prefix = "Programming Language :: Python :: 3."
    minors = [c.removeprefix(prefix) for c in about["classifiers"] if c.startswith(prefix)]
    assert [f"3.{minor}" for minor in minors] == promised_pythons()
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"Python {first} or later (tested to {last})" in text, name
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"for Python {first} to {last}." in requirements.splitlines()[0]


@pytest.mark.parametrize(
    ("version", "accepted"),
    [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 99), True), ((4, 0), True)],
)
def test_make_refuses_a_python_that_is_too_old_and_none_that_is_new(
    version: tuple[int, int], accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [check] = re.findall(r"\$\(PYTHON\) -c '(import sys; [^']*>=[^']*)'", makefile)
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    refusal = contextlib.nullcontext() if accepted else pytest.raises(SystemExit, match=r"3\.11")
    with refusal:
        exec(check.replace("\\\n", ""), {})


def test_what_is_trusted_and_how_to_report_is_said_where_contributors_find_it() -> None:
    said = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*)", said, re.M) == ["What is trusted", "How to report"]
    assert "private vulnerability reports" in said
    for module in re.findall(r"`(flowvae_tutorial/\S+)`", said):
        assert (ROOT / module).is_file()
    assert "(SECURITY.md)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# What lies about in a folder that somebody works in.
RUBBISH = [
    "runs/digits-gaussian-seed0/record.json",
    "flowvae_tutorial/__pycache__/vae.cpython-311.pyc",
    "flowvae_tutorial/.ipynb_checkpoints/notes.json",
    "book/.ipynb_checkpoints/01_gaussian_vae-checkpoint.ipynb",
    "book/results/.ipynb_checkpoints/record.json",
    "tests/__pycache__/conftest.cpython-311.pyc",
    ".pytest_cache/README.md",
]
METADATA = {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"}


def tracked() -> list[str]:
    """What git tracks: a file that somebody forgot to add would be missing from it."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: what belongs to the package is not known")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def package_files() -> set[str]:
    return {
        n for n in tracked() if n.startswith(("flowvae_tutorial/", "book/results/", "book/live/"))
    }


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    # setuptools writes into the source folder, and other tests run beside this one.
    source = tmp_path_factory.mktemp("source")
    for name in [*tracked(), *RUBBISH]:
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"" if name in RUBBISH else (ROOT / name).read_bytes())
    hooks = "from setuptools.build_meta import *; build_sdist('dist'); build_wheel('dist')"
    subprocess.run([sys.executable, "-W", "error", "-c", hooks], cwd=source, check=True)
    [sdist], [wheel] = (source / "dist").glob("*.tar.gz"), (source / "dist").glob("*.whl")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    offline = ["--no-index", "--disable-pip-version-check", "--wheel-dir", "again"]
    subprocess.run([*pip_wheel, *offline, str(sdist)], cwd=source, check=True)
    [again] = (source / "again").glob("*.whl")
    return Built(sdist, wheel, again)


def test_twine_finds_nothing_to_complain_of(built: Built) -> None:
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, built)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == len(built)


def test_the_wheel_holds_the_package_its_records_and_figures_and_nothing_else(built: Built) -> None:
    # A chapter opened in Colab reads the records and the live figures from the package.
    expected = {
        re.sub("^book/(results|live)/", r"flowvae_tutorial/\1/", n) for n in package_files()
    }
    folder = ROOT / "flowvae_tutorial" / "pretrained"
    models = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    weights = [f"flowvae_tutorial/pretrained/{name}.safetensors" for name in models]
    assert weights
    assert {"flowvae_tutorial/py.typed", "flowvae_tutorial/vae.py", *weights} < expected
    names = ZipFile(built.wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {file.name.partition("/")[2] for file in archive if file.isfile()}
    assert {name for name in names if ".egg-info/" not in name} == package_files() | METADATA


def test_the_wheel_of_the_unpacked_sdist_is_that_of_the_tree(built: Built) -> None:
    tree, sdist = (
        {file.filename: file.CRC for file in ZipFile(wheel).infolist()} for wheel in built[1:]
    )
    assert sdist == tree


def test_the_wheel_says_licence_and_description(built: Built) -> None:
    archive = ZipFile(built.wheel)
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"


# What a model does not need, and what an import of the package would wait for.
IMPORTED_LATE = {
    "IPython", "ipywidgets", "jsonschema", "matplotlib", "scipy", "sklearn", "typer",
}  # fmt: skip


def in_a_fresh_process(statement: str) -> str:
    command = [sys.executable, "-c", f"import flowvae_tutorial; {statement}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_package_imports_in_three_seconds() -> None:
    # Of processor time, and the best of three: a wait for other processes or for the disk says
    # nothing about the package.
    show = "import time; print(time.process_time())"
    seconds = (float(in_a_fresh_process(show)) for _ in range(3))
    assert any(taken < 3 for taken in seconds), "`python -X importtime` says what takes so long"


def test_slow_imports_wait_until_they_are_needed() -> None:
    loaded = in_a_fresh_process("import sys; print(*sys.modules)").split()
    assert "torch" in loaded
    assert IMPORTED_LATE & set(loaded) == set()


def test_the_readme_names_commands_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"book", "test"} <= set(named) & set(targets)
    assert set(named) <= set(targets)


def test_make_test_leaves_out_no_folder_of_tests() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    [command] = re.findall(r"^\tBOOK_REQUIRED=1 .*/pytest (.*)$", makefile, re.MULTILINE)
    named = [word for word in command.split() if (ROOT / word).is_dir()]
    folders = {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/test_*.py")}
    assert sorted(named) == ["book", *sorted(folders - {"tests/benchmarks"})]
    assert list((ROOT / "tests").glob("test_*.py")) == []


def test_continuous_integration_runs_the_tests_and_the_replay_in_colab() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"\bmake\b.*", script) == ["make test", "make colab"]


@pytest.mark.parametrize("page", ["README.md", "book/intro.md"])
def test_the_example_of_the_package_runs(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
