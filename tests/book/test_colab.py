"""Each chapter runs from top to bottom as in Colab: a stock installation, an empty folder.

`make colab` runs the replay, which takes about ten minutes; what a replay is made of is tested with
the rest. Nothing is fetched: the install cell gets the wheel of `make wheel`.
"""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from zipfile import ZipFile

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))

# What the package and the chapters need and Colab has; with what these need themselves.
STOCK = [
    *("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "tqdm"),
    *("ipykernel", "ipywidgets", "platformdirs", "safetensors", "typer", "jsonschema"),
]
KEPT = ("torch", "numpy")

# In place of pip: notes what it is asked for, and installs the wheel where an address of git's is
# named, with all options as they are. The wheel is a file, and no other package can be fetched.
PIP = """\
import json, re, subprocess, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps(arguments), file=log)
arguments = [re.sub(r"git[+]\\S+", {wheel!r}, each) for each in arguments]
pip = [{python!r}, "-m", "pip", "--python", sys.executable, *arguments, "--no-index"]
sys.exit(subprocess.call(pip))
"""


class Colab(NamedTuple):
    python: Path
    folder: Path
    log: Path

    def ask(self, code: str) -> str:
        run = subprocess.run(
            [self.python, "-c", code], cwd=self.folder, capture_output=True, text=True
        )
        return run.stdout.strip() or run.stderr

    def versions(self) -> str:
        return self.ask(f"from importlib.metadata import version; print([*map(version, {KEPT})])")

    def installs(self) -> list[list[str]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


def needed(names: list[str]) -> set[str]:
    """The packages, and all that they need here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        try:
            requirements = map(Requirement, distribution(name).requires or [])
        except PackageNotFoundError:  # needed on another system only
            continue
        found.add(name)
        for each in requirements:
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(each.name))
    return found


def link_stock(folder: Path) -> None:
    """Links to the stock packages of this environment, which cost no room and no time.

    A link to its whole folder would show the package under test as well, and all that only the
    book's tools need.
    """
    folder.mkdir()
    for name in needed(STOCK):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(distribution(name).locate_file(top))


def colab(folder: Path, wheel: str) -> Colab:
    """A new Python with the stock packages, `google.colab` imported, and a pip that is watched."""
    stock, log = folder / "stock", folder / "pip.log"
    link_stock(stock)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    bare = Colab(python, folder / "content", log)
    bare.folder.mkdir()
    site = Path(bare.ask("import sysconfig; print(sysconfig.get_path('purelib'))"))
    # A path in a .pth file is searched behind the venv's own folder, and its .pth files not read.
    (site / "stock.pth").write_text(f"{stock}\nimport google.colab\n")
    (site / "google" / "colab").mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").write_text("")
    (site / "pip").mkdir()
    watched = PIP.format(log=str(log), wheel=wheel, python=sys.executable)
    (site / "pip" / "__main__.py").write_text(watched)
    return bare


def replay(
    notebook: NotebookNode, where: Colab, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Executes a notebook in the new Python, which gets none of this one's settings."""
    spec = {"argv": [str(where.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    spec |= {"display_name": "Colab", "language": "python"}
    (kernels / "kernels" / "colab").mkdir(parents=True)
    (kernels / "kernels" / "colab" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(kernels))
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment["OMP_NUM_THREADS"] = "1"
    resources = {"metadata": {"path": str(where.folder)}}
    client = NotebookClient(notebook, kernel_name="colab", timeout=600, resources=resources)
    client.execute(env=environment)


def first_cells(chapter: Path, *more: str) -> NotebookNode:
    """A chapter up to its install cell, and cells of code behind it."""
    notebook = nbformat.read(chapter, as_version=4)
    install = next(k for k, cell in enumerate(notebook.cells) if "%pip" in cell.source)
    notebook.cells = notebook.cells[: install + 1] + [new_code_cell(code) for code in more]
    return notebook


@pytest.mark.parametrize(
    ("missing", "asks", "says"),
    [
        ([], False, ""),
        (["flowvae_tutorial"], True, ""),
        (["flowvae_tutorial", "torch"], False, "Run this, then restart the kernel: %pip install "),
    ],
)
def test_the_first_cell_installs_only_what_is_missing_and_else_says_how(
    missing: list[str],
    asks: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name not in missing)
    asked: list[str] = []
    shell = SimpleNamespace(run_line_magic=lambda magic, line: asked.append(line))
    code = TransformerManager().transform_cell(first_cells(CHAPTERS[0]).cells[-1].source)
    exec(code, {"get_ipython": lambda: shell})
    assert bool(asked) is asks
    said = capsys.readouterr().out
    assert said.startswith(says) and said.count("\n") == bool(says)


@pytest.fixture
def small_wheel(tmp_path: Path) -> str:
    """A wheel of a package with nothing but its name."""
    path = tmp_path / "flowvae_tutorial-0.1.0-py3-none-any.whl"
    about = "flowvae_tutorial-0.1.0.dist-info"
    files = {
        "flowvae_tutorial/__init__.py": "here = __file__\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: flowvae_tutorial\nVersion: 0.1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in files))
    return str(path)


@pytest.fixture
def where(tmp_path: Path, small_wheel: str) -> Colab:
    return colab(tmp_path, small_wheel)


def test_a_stock_installation_has_the_stock_and_nothing_of_this_project(where: Colab) -> None:
    found = "from importlib.util import find_spec; print(bool(find_spec({!r})))"
    for name in ("torch", "numpy", "sklearn", "mpl_toolkits", "ipykernel", "google.colab"):
        assert where.ask(found.format(name)) == "True", name
    for name in ("flowvae_tutorial", "sphinx", "nbformat", "pytest", "zuko", "tools"):
        assert where.ask(found.format(name)) == "False", name
    assert where.ask("import sys; print('google.colab' in sys.modules)") == "True"
    assert where.installs() == []
    torch, numpy = (distribution(name).version for name in KEPT)
    assert where.versions() == f"['{torch}', '{numpy}']"


def test_a_replay_installs_the_wheel_where_the_chapter_names_the_repository(
    where: Colab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = "import flowvae_tutorial, os; print(flowvae_tutorial.here, os.listdir())"
    notebook = first_cells(CHAPTERS[0], check)
    replay(notebook, where, tmp_path / "jupyter", monkeypatch)
    [install] = where.installs()
    assert install[:3] == ["install", "-q", "--no-deps"]
    assert install[3].startswith("git+https://github.com/")
    # A busy machine may send one line in two pieces.
    printed = "".join(output.text for output in notebook.cells[-1].outputs)
    assert printed.startswith(str(where.python.parents[1]))
    assert printed.endswith(" []\n"), "the folder is not empty"


def test_a_replay_notices_an_error_and_each_further_install(
    where: Colab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "%pip install -q numpy==1.0"
    replay(first_cells(CHAPTERS[0], more), where, tmp_path / "1", monkeypatch)
    assert len(where.installs()) == 2
    with pytest.raises(CellExecutionError, match="No module named 'zuko'"):
        replay(first_cells(CHAPTERS[0], "import zuko"), where, tmp_path / "2", monkeypatch)


@pytest.fixture
def wheel() -> str:
    found = list((ROOT / "dist").glob("*.whl"))
    if len(found) != 1:
        pytest.fail("run `make colab`, which builds the wheel first")
    return str(found[0])


@pytest.mark.colab
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_a_chapter_runs_in_colab_from_top_to_bottom(
    chapter: Path, wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = colab(tmp_path, wheel)
    before = where.versions()
    # An error in a cell is raised here.
    replay(nbformat.read(chapter, as_version=4), where, tmp_path / "jupyter", monkeypatch)
    assert len(where.installs()) == 1
    assert where.versions() == before
    package = Path(where.ask("import flowvae_tutorial; print(flowvae_tutorial.__file__)"))
    assert package.is_relative_to(where.python.parents[1])
