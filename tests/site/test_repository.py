"""The repository's address stands in pyproject.toml, and every link follows it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import repository

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
# In two parts, so that no file but the renamed ones holds it whole.
NEW = "https://github.com/some-body/" + "another.book_2"
COLAB = re.compile(r"https://colab\.research\.google\.com/github/([^/\s]+/[^/\s]+)/blob/")
# A hook of git's sets variables that would lead git from the copy back to the checkout; a make
# that runs these tests sets some that make its child print where it works.
ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("GIT_", "MAKE", "MFLAGS"))
}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    run = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, check=True)
    return run.stdout.decode()


def tracked(folder: Path) -> list[str]:
    return [name for name in git(folder, "ls-files", "-z").split("\0") if (folder / name).is_file()]


def project(folder: Path) -> dict[str, Any]:
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def address(folder: Path) -> str:
    return str(project(folder)["urls"]["Repository"])


def slug(url: str) -> str:
    return url.removeprefix("https://github.com/")


def pages(url: str) -> str:
    owner, name = slug(url).split("/")
    return f"https://{owner}.github.io/{name}/"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tracked(folder)}


def cells(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["cells"])


def derived(folder: Path) -> list[tuple[str, str]]:
    """Each file that leads to the repository, with the address that it leads to."""
    config = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))
    found = [("_config.yml", config["repository"]["url"])]
    for path in sorted((folder / "book").glob("[0-9][0-9]_*.ipynb")):
        text = "\n".join("".join(cell["source"]) for cell in cells(path))
        found += [(path.name, f"https://github.com/{name}") for name in COLAB.findall(text)]
        found += [(path.name, url) for url in re.findall(r"git\+([^@\s]+)@", text)]
    return found


def checkout(folder: Path) -> Path:
    """The tracked files of the checkout, in a repository of their own."""
    for name in [*tracked(ROOT), "tools/repository.py"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "--all")
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return checkout(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("unchanged"))


def name_repository(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/repository.py", url]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


def test_every_address_of_the_checkout_is_that_of_the_package() -> None:
    found = derived(ROOT)
    assert {name for name, _ in found} == {"_config.yml", *(path.name for path in CHAPTERS)}
    assert {url for _, url in found} == {address(ROOT)}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_installs_the_package_alone_at_the_tag_of_its_version(path: Path) -> None:
    [source] = [text for cell in cells(path) if "%pip" in (text := "".join(cell["source"]))]
    where = f'SOURCE = "git+{address(ROOT)}@v{project(ROOT)["version"]}"'
    assert where in source.splitlines()
    # Without its dependencies: Colab and Kaggle have them, and keep their torch and their numpy.
    assert re.findall(r"^ *%pip .*", source, re.M) == ["        %pip install -q --no-deps {SOURCE}"]


def test_a_new_address_reaches_every_file_and_nothing_else_changes(copy: Path) -> None:
    old, before = address(copy), contents(copy)
    assert name_repository(copy, NEW).returncode == 0
    after = contents(copy)
    assert address(copy) == NEW
    assert [name for name, content in after.items() if slug(old).encode() in content] == []
    assert derived(copy) == [(name, NEW) for name, _ in derived(ROOT)]
    there_and_back = {
        name: content.replace(slug(NEW).encode(), slug(old).encode()).replace(
            pages(NEW).encode(), pages(old).encode()
        )
        for name, content in after.items()
    }
    assert there_and_back == before
    changed = {name for name in before if after[name] != before[name]}
    assert {"pyproject.toml", *(name for name, _ in derived(ROOT))} <= {
        name.removeprefix("book/") for name in changed
    }


def test_the_same_address_twice_changes_nothing_more(copy: Path) -> None:
    name_repository(copy, NEW)
    once = contents(copy)
    second = name_repository(copy, NEW)
    assert (second.returncode, second.stdout) == (0, "")
    assert contents(copy) == once


def test_a_repository_whose_name_only_begins_the_same_is_left_alone(copy: Path) -> None:
    others = f"{address(copy)}-old {address(copy)}.wiki"
    (copy / "README.md").write_text(f"{others} {address(copy)}.")
    name_repository(copy, NEW)
    assert (copy / "README.md").read_text() == f"{others} {NEW}."


@pytest.mark.parametrize(
    "url",
    [
        "",
        "some-body/book",
        "github.com/some-body/book",
        "http://github.com/some-body/book",
        "git@github.com/some-body/book",
        "git@github.com:book",
        "https://book/some-body/book",
        "https://user:word@github.com/some-body/book",
        "https://github.com/some-body",
        "https://github.com/NAME/REPO",
        "https://github.com/some-body/..",
        "https://github.com/some-body/book/tree/main",
        "https://codeberg.org/some-body/book/src/branch/main",
        "https://gitlab.com/some-body/book/-/tree/main",
        "https://github.com/some-body/book\nor another",
        'https://github.com/some-body/"book"',
        "https://github.com/some-body/book;true",
        "https://github.com/some-body/$HOME",
        "https://github.com/some-body/book another",
    ],
)
def test_what_is_no_address_of_a_repository_is_refused_in_one_line(
    unchanged: Path, url: str
) -> None:
    before = contents(unchanged)
    run = name_repository(unchanged, url)
    assert run.returncode == 1
    assert run.stdout == ""
    assert re.fullmatch(r".*make repository URL=https://github\.com/.*\n", run.stderr)
    assert contents(unchanged) == before


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        (f"{NEW}/", NEW),
        (f"{NEW}.git", NEW),
        (f"git@github.com:{slug(NEW)}.git", NEW),
        (f"ssh://git@github.com/{slug(NEW)}.git", NEW),
        ("git@gitlab.com:group/part/lab.git", "https://gitlab.com/group/part/lab"),
        ("https://codeberg.org/some-body/book/", "https://codeberg.org/some-body/book"),
        ("ssh://git@git.school.example:2222/c/d", "https://git.school.example/c/d"),
        ("https://git.school.example:8443/c/d", "https://git.school.example:8443/c/d"),
    ],
)
def test_an_address_may_be_typed_as_a_host_shows_it(typed: str, url: str) -> None:
    found = repository.parse(typed)
    assert found is not None and found.url == url


@pytest.mark.parametrize(
    ("where", "file", "buttons", "documentation", "says"),
    [
        ("gitlab.com/group/part/book", "-/blob/main", True, "gitlab.io/part/book/", 2),
        ("codeberg.org/body/book", "src/branch/main", False, "codeberg.page/book/", 3),
        ("gitlab.school.example/a/b", "-/blob/main", True, "school.example/a/b", 3),
        ("git.school.example/a/b", "-/blob/main", False, "school.example/a/b", 4),
    ],
)
def test_another_host_gets_its_own_paths_and_is_told_what_it_cannot_serve(
    where: str, file: str, buttons: bool, documentation: str, says: int, copy: Path
) -> None:
    # In two parts: this file is in the copy, too.
    url = f"https://{where}"
    before, old = contents(copy), address(copy)
    (copy / "link.md").write_text(f"{old}/blob/main/LICENSE {old}/issues {old}/raw/main/a.png")
    run = name_repository(copy, url)
    assert run.returncode == 0
    issues, raw = ("-/issues", "-/raw/main") if file[0] == "-" else ("issues", "raw/branch/main")
    links = f"{url}/{file}/LICENSE {url}/{issues} {url}/{raw}/a.png"
    assert (copy / "link.md").read_text() == links
    about = project(copy)["urls"]
    assert about["Repository"] == url
    assert about["Documentation"].endswith(documentation)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == (url if buttons else "")
    assert config["launch_buttons"]["colab_url"] == ""
    assert {config["html"][f"use_{which}_button"] for which in ("repository", "issues")} == {
        buttons
    }
    told = [line for line in run.stdout.splitlines() if not (copy / line).exists()]
    assert len(told) == says and told[0].startswith("Colab opens notebooks from github.com alone")
    install = {url for _, url in derived(copy) if "github.com" not in url} - {""}
    assert install == {url}
    # And back: nothing is lost on the way.
    (copy / "link.md").unlink()
    assert name_repository(copy, old).returncode == 0
    assert contents(copy) == before


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def make_repository(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "repository", f"URL={url}", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


@needs_make
@pytest.mark.parametrize(
    "url",
    [
        'https://github.com/some-body/book"; touch pwned; "',
        "https://github.com/some-body/book'; touch pwned; '",
        "https://github.com/some-body/book; touch pwned",
        "https://github.com/some-body/`touch pwned`",
        "https://github.com/some-body/$(touch pwned)",
        "https://github.com/some-body/$$(touch pwned)",
        "https://github.com/some-body/$(shell touch pwned)",
        "https://github.com/some-body/${shell touch pwned}",
        "https://github.com/some-body/$HOME",
        "https://github.com/some-body/book\ntouch pwned",
        "",
    ],
)
def test_make_runs_no_command_that_stands_in_an_address(unchanged: Path, url: str) -> None:
    before = contents(unchanged)
    run = make_repository(unchanged, url)
    assert run.returncode != 0 and run.stdout == ""
    said, *of_make = run.stderr.splitlines()
    assert re.fullmatch(r".*make repository URL=https://github\.com/.*", said)
    assert all(line.startswith("make") for line in of_make)
    assert not (unchanged / "pwned").exists()
    assert contents(unchanged) == before


@needs_make
def test_make_hands_a_sound_address_on(copy: Path) -> None:
    assert make_repository(copy, NEW).returncode == 0
    assert address(copy) == NEW


def test_without_a_repository_it_is_one_line(copy: Path) -> None:
    before = contents(copy)
    shutil.rmtree(copy / ".git")
    # Else git would look for one in the folders above.
    environment = ENVIRONMENT | {"GIT_CEILING_DIRECTORIES": str(copy.parent), "LC_ALL": "C"}
    command = [sys.executable, "tools/repository.py", NEW]
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch(r".*not a git repository.*in a clone\n", run.stderr)
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_without_git_it_is_one_line(copy: Path) -> None:
    before = contents(copy)
    command = [sys.executable, "tools/repository.py", NEW]
    environment = ENVIRONMENT | {"PATH": str(copy / "nothing")}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch(r"git is needed.*\n", run.stderr)
    assert contents(copy) == before


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
def test_no_link_is_followed(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    text = f"see {address(copy)}"
    for name in ("file.md", "page.md"):
        (outside / name).write_text(text)
    (copy / "linked.md").symlink_to(outside / "file.md")
    # A folder that git tracks files in, and that has become a link since.
    (copy / "folder").mkdir()
    (copy / "folder" / "page.md").write_text(text)
    git(copy, "add", "--all")
    shutil.rmtree(copy / "folder")
    (copy / "folder").symlink_to(outside)
    assert name_repository(copy, NEW).returncode == 0
    assert address(copy) == NEW
    assert {file.read_text() for file in outside.iterdir()} == {text}
    assert (copy / "linked.md").is_symlink()
