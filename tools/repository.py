"""Writes the repository's address into every file that names it.

It stands in pyproject.toml. All others follow it: links to Colab, install cells, _config.yml.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The .git of an address to clone from is no part of the name.
ADDRESS = re.compile(r"https://github\.com/([a-zA-Z0-9-]+/(?!\.+$)[\w.-]+)(?<!\.git)", re.ASCII)


def address() -> str:
    """The repository's address, where it stands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


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


def rewrite(text: str, old: str, new: str) -> str:
    """The text with one owner/name in place of another, on GitHub and in Colab's links to it."""
    return re.sub(rf"(github(?:\.com)?/){re.escape(old)}(?!\.?[\w-])", rf"\g<1>{new}", text)


def main(url: str) -> None:
    if not (match := ADDRESS.fullmatch(url)):
        sys.exit("Name it like this: make repository URL=https://github.com/NAME/REPO")
    [old] = ADDRESS.fullmatch(address()).groups()
    for path in files():
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or weights
        # As text, so that a notebook keeps its JSON to the letter.
        if (changed := rewrite(text, old, match[1])) != text:
            path.write_bytes(changed.encode("utf-8"))
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
