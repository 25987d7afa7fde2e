"""What somebody new meets first: README, addresses, forms for issues, what a release checks."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import release
from test_packaging import ROOT, pins, project

README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOWS = ROOT / ".github" / "workflows"


def links(text: str) -> list[str]:
    """Where Markdown and HTML of a page lead, pictures included, code left out."""
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


def test_the_readme_leads_nowhere_that_the_package_index_does_not_have() -> None:
    assert len(links(README)) > 10
    assert [link for link in links(README) if not re.match(r"https://|#", link)] == []
    # What it leads to in the repository is there.
    address = project()["urls"]["Repository"]
    for link in links(README):
        if found := re.match(rf"{re.escape(address)}/(?:blob|raw)/main/(.*)", link):
            assert (ROOT / found[1]).is_file(), link
        if found := re.match(rf"{re.escape(address)}/actions/workflows/(\w+\.yml)", link):
            assert (WORKFLOWS / found[1]).is_file(), link


def test_a_link_within_the_checkout_is_found() -> None:
    text = 'See [this](LICENSE), <img src="a.png"> and `[not](this)`.'
    assert links(text) == ["LICENSE", "a.png"]


def test_the_quickstart_prints_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.S)
    [said] = re.findall(r"```text\ntensor\((\S+)\)\n```", README)
    assert "torch.manual_seed(" in example
    exec(example, {})
    [printed] = re.findall(r"tensor\(([^,)]+)", capsys.readouterr().out)
    # Another machine sums in another order, and 20 epochs carry that into the second digit.
    assert float(printed) == pytest.approx(float(said), abs=0.3)


def test_the_way_without_make_takes_the_steps_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [steps] = re.findall(r"```powershell\n(.*?)```", README, re.S)
    for step in (
        "install --no-deps --no-build-isolation -e .",
        "book.py mathjax",
        "jupyter-book build . -W -n --keep-going",
    ):
        assert step in steps.replace("\\", "/").replace("pip install", "install")
        assert re.search(
            re.escape(step).replace("install", r"install -qq \S+") + "|" + step, makefile
        )
    assert "-r requirements.txt" in steps
    assert "setuptools" in pins(), "an environment of Python 3.12 brings none"


def test_the_index_gets_the_addresses_that_it_shows() -> None:
    urls = project()["urls"]
    assert set(urls) == {"Repository", "Documentation", "Issues", "Changelog"}
    assert all(url.startswith("https://") for url in urls.values())


def test_forms_for_issues_ask_for_what_is_needed() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem != "config":
            assert form["name"] and form["description"]
            assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_updates_leave_out_what_must_not_move() -> None:
    text = (ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8")
    ecosystems = {each["package-ecosystem"]: each for each in yaml.safe_load(text)["updates"]}
    kept = {each["dependency-name"] for each in ecosystems["pip"]["ignore"]}
    assert {"torch", "jupyter-book", "sphinx-book-theme"} <= kept
    assert "github-actions" in ecosystems


def test_a_container_has_the_environment_of_make() -> None:
    about = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"READY := {about['postCreateCommand'].removeprefix('make ')}" in makefile
    assert about["containerEnv"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("grader", ["nbgrader", "otter-grader"])
def test_a_grader_gets_the_versions_of_the_book(grader: str) -> None:
    ours, other = pins(), pins(f"requirements-{grader.partition('-')[0]}.txt")
    assert {name: ours[name] for name in other if name in ours} == {
        name: version for name, version in other.items() if name != grader
    }


def test_a_pushed_tag_is_checked_and_published_without_a_password() -> None:
    text = (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == [
        'make release TAG="$GITHUB_REF_NAME"'
    ]
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in text


# What a release checks.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a release reads, of a repository that has an address."""
    names = ["pyproject.toml", "CHANGELOG.md", "CITATION.cff", "README.md", ".zenodo.json"]
    chapters = [f"book/{path.name}" for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb")]
    for name in [*names, "flowvae_tutorial/__init__.py", *chapters]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    replace("your-" + "name", "some-body", "pyproject.toml")(tmp_path)
    return tmp_path


def replace(old: str, new: str, name: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        text = (tree / name).read_text(encoding="utf-8")
        (tree / name).write_text(text.replace(old, new), encoding="utf-8")

    return spoil


VERSION = str(project()["version"])
WHEEL = f"flowvae_tutorial-{VERSION}-py3-none-any.whl"


def test_a_tree_that_agrees_with_itself_can_be_released(tree: Path) -> None:
    assert release.problems(tree, f"v{VERSION}", [WHEEL]) == []
    assert release.problems(tree, None, [WHEEL]) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (replace("some-body", "your-" + "name", "pyproject.toml"), "has no address yet"),
        (replace(f"## {VERSION}", "## 0.0.1", "CHANGELOG.md"), "begins with 0.0.1"),
        (replace(f"## {VERSION}, 2", f"## {VERSION}, some day 2", "CHANGELOG.md"), "has no date"),
        (replace(f"version: {VERSION}", "version: 0.0.1", "CITATION.cff"), "CITATION.cff is"),
        (replace(f"Version {VERSION}", "Version 0.0.1", "README.md"), "README.md cites"),
        (replace(VERSION, "0.0.1", "flowvae_tutorial/__init__.py"), "__version__ is not"),
        (replace(VERSION, "0.0.1", ".zenodo.json"), ".zenodo.json is not"),
        (replace(f"@v{VERSION}", "@v0.0.1", "book/01_gaussian_vae.ipynb"), "01_gaussian_vae.ipynb"),
    ],
)
def test_what_disagrees_is_named(spoil: Callable[[Path], None], words: str, tree: Path) -> None:
    spoil(tree)
    assert any(words in line for line in release.problems(tree, None, [WHEEL]))


def test_another_tag_and_another_wheel_are_named(tree: Path) -> None:
    [line] = release.problems(tree, "v0.0.1", [WHEEL])
    assert line.startswith("The tag is v0.0.1")
    for wheels in ([], ["flowvae_tutorial-0.0.1-py3-none-any.whl"], [WHEEL, "other.whl"]):
        [line] = release.problems(tree, None, wheels)
        assert line.endswith("make wheel")
