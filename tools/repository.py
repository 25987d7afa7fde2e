"""Writes the repository's address into every file that names it.

It stands in pyproject.toml. All others follow it: links to Colab, install cells, _config.yml.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HOST = r"[a-z0-9-]+(?:\.[a-z0-9-]+)+"
NAME = r"(?!\.+/|\.+$|-/|-$)[\w.-]+"
FORMS = (
    re.compile(rf"https://(?P<host>{HOST}(?::\d+)?)/(?P<path>{NAME}(?:/{NAME})+)", re.ASCII),
    re.compile(rf"git@(?P<host>{HOST}):(?P<path>{NAME}(?:/{NAME})+)", re.ASCII),
    re.compile(rf"ssh://git@(?P<host>{HOST})(?::\d+)?/(?P<path>{NAME}(?:/{NAME})+)", re.ASCII),
)
# Where each kind of host has a file to look at, a file as it is, and the issues.
PATHS = {
    "github": ("blob/main", "raw/main", "issues"),
    "gitlab": ("-/blob/main", "-/raw/main", "-/issues"),
    "forgejo": ("src/branch/main", "raw/branch/main", "issues"),
}
PAGES = {"github.com": "github.io", "gitlab.com": "gitlab.io", "codeberg.org": "codeberg.page"}
COLAB = "https://colab.research.google.com"


class Address(NamedTuple):
    host: str
    path: str

    @property
    def url(self) -> str:
        return f"https://{self.host}/{self.path}"

    @property
    def kind(self) -> str:
        """Whose paths the host has. One that its name does not give away is taken for a GitLab."""
        names = {"github": "github", "codeberg": "forgejo", "forgejo": "forgejo"}
        names |= {"gitea": "forgejo"}
        return next((kind for name, kind in names.items() if name in self.host), "gitlab")

    @property
    def pages(self) -> str:
        """Where the host publishes the book, or the repository where it is not known."""
        owner, _, name = self.path.partition("/")
        domain = PAGES.get(self.host)
        return f"https://{owner.lower()}.{domain}/{name}/" if domain else self.url


def parse(url: str) -> Address | None:
    """An address as it is typed: to look at or to clone from, over https or ssh."""
    plain = url.removesuffix("/").removesuffix(".git")
    match = next((found for form in FORMS if (found := form.fullmatch(plain))), None)
    if match is None:
        return None
    found = Address(match["host"], match["path"])
    # Only a GitLab has groups within groups; elsewhere more is a page of the repository.
    return None if found.path.count("/") > 1 and found.kind != "gitlab" else found


def address() -> str:
    """The repository's address, where it stands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def colab() -> str:
    """The repository that the chapters' links to Colab name, which is always one of GitHub's."""
    chapter = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))[0].read_text(encoding="utf-8")
    return re.findall(rf"{COLAB}/github/([\w.-]+/[\w.-]+)/", chapter)[0]


def files() -> list[Path]:
    """What git tracks or would track, but for what a link leads to: it may lie elsewhere."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except FileNotFoundError:
        sys.exit("git is needed to say which files there are: install it, then make repository")
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().partition("\n")[0]
        sys.exit(f"git does not say which files there are ({reason}): make repository in a clone")
    paths = [ROOT / name for name in os.fsdecode(listed).split("\0") if name]
    return [path for path in paths if path.is_file() and path.resolve() == path]


def swap(text: str, old: str, new: str) -> str:
    """The text with one address in place of another, and of none that only begins like it."""
    return re.sub(rf"{re.escape(old)}(?!\.?[\w-])", lambda _: new, text)


def rewrite(text: str, old: Address, new: Address, in_colab: str) -> str:
    """The text with one repository in place of another, each path as the new host has it."""
    for one, other in zip(PATHS[old.kind], PATHS[new.kind], strict=True):
        text = swap(text, f"{old.url}/{one}", f"{new.url}/{other}")
    if new.host == "github.com":
        text = swap(text, f"{COLAB}/github/{in_colab}", f"{COLAB}/github/{new.path}")
    return swap(text, old.url, new.url)


def config(text: str, new: Address) -> str:
    """_config.yml with the buttons that the theme has for the host: an unknown one stops it."""
    known = any(name in new.host for name in ("github", "gitlab"))
    settings = {
        "url": new.url if known else '""',
        "colab_url": COLAB if new.host == "github.com" else '""',
        "use_repository_button": str(known).lower(),
        "use_issues_button": str(known).lower(),
    }
    for key, value in settings.items():
        text = re.sub(rf"^(  {key}:).*$", rf"\g<1> {value}", text, flags=re.M)
    return text


def unserved(new: Address) -> list[str]:
    """What of the book's links this host cannot serve, a line each."""
    if new.host == "github.com":
        return []
    lines = [
        "Colab opens notebooks from github.com alone: the chapters' links to it lead nowhere.",
        f"The badge of the tests and the workflows in .github are GitHub's: {new.host} runs none.",
    ]
    if not any(name in new.host for name in ("github", "gitlab")):
        lines.append(f"The theme has no buttons for {new.host}: pages are built without them.")
    if new.host not in PAGES:
        lines.append("Where it publishes pages is not known: Documentation names the repository.")
    return lines


def main(url: str) -> None:
    if not (new := parse(url)) or url.rstrip("/").endswith("/NAME/REPO"):
        sys.exit("Name yours like this: make repository URL=https://github.com/you/your-repository")
    old, in_colab = parse(address()), colab()
    assert old is not None, "pyproject.toml holds what an earlier call has written"
    for path in files():
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or weights
        # As text, so that a notebook keeps its JSON to the letter.
        changed = rewrite(text, old, new, in_colab)
        if path == ROOT / "_config.yml":
            changed = config(changed, new)
        if path == ROOT / "pyproject.toml":
            changed = re.sub(r"(?m)^Documentation = .*", f'Documentation = "{new.pages}"', changed)
        if changed != text:
            path.write_bytes(changed.encode("utf-8"))
            print(path.relative_to(ROOT))
    for line in unserved(new):
        print(line)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
