"""Checks a release: version, changelog, citation, chapters, wheel and tag say the same.

It publishes nothing. A tag that is pushed does: see .github/workflows/release.yml.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems(root: Path, tag: str | None, wheels: list[str]) -> list[str]:
    """What keeps the tree from being released, one line each."""

    def read(name: str) -> str:
        return (root / name).read_text(encoding="utf-8")

    project = tomllib.loads(read("pyproject.toml"))["project"]
    version, found = project["version"], []
    if "/your-name/" in project["urls"]["Repository"]:
        found.append("The repository has no address yet: make repository URL=https://…")
    if tag not in (None, f"v{version}"):
        found.append(f"The tag is {tag} and the version of pyproject.toml {version}.")
    heading, dated = re.findall(r"^## (\S+), (.*)$", read("CHANGELOG.md"), re.M)[0]
    if heading != version:
        found.append(f"CHANGELOG.md begins with {heading}, not with {version}.")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", dated):
        found.append(f"CHANGELOG.md has no date for {heading} but {dated!r}.")
    if f"version: {version}\ndate-released: {dated}\n" not in read("CITATION.cff"):
        found.append(f"CITATION.cff is not of version {version}, released on {dated}.")
    if f"{{Version {version}}}" not in read("README.md"):
        found.append(f"README.md cites another version than {version}.")
    if f'__version__ = "{version}"' not in read("flowvae_tutorial/__init__.py"):
        found.append(f"flowvae_tutorial.__version__ is not {version}.")
    if json.loads(read(".zenodo.json")).get("version") != version:
        found.append(f".zenodo.json is not of version {version}.")
    for chapter in sorted((root / "book").glob("[0-9][0-9]_*.ipynb")):
        if f"@v{version}" not in chapter.read_text(encoding="utf-8"):
            found.append(f"book/{chapter.name} installs another version than {version}.")
    if wheels != [f"{project['name']}-{version}-py3-none-any.whl"]:
        found.append(f"dist/ holds {wheels or 'no wheel'}, not the one of {version}: make wheel")
    return found


def main() -> None:
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    wheels = sorted(path.name for path in Path("dist").glob("*.whl"))
    if found := problems(ROOT, tag, wheels):
        sys.exit("\n".join(found))
    version = wheels[0].split("-")[1]
    print(
        f"All agree on {version}. This publishes it: git tag v{version}; git push origin v{version}"
    )


if __name__ == "__main__":
    main()
