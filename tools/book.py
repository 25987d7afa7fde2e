"""Steps of the book's build that Jupyter Book leaves to us: mathjax, check, execute."""

import base64
import io
import re
import shutil
import sys
import zlib
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
# The full build holds every TeX extension; the small one fetches \boldsymbol and others on use.
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"
WIDGET = "application/vnd.jupyter.widget-view+json"


def toc_pages() -> list[str]:
    """Every page that the table of contents names, without its suffix, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = toc.get("parts", [])
    return [toc["root"], *(chapter["file"] for part in parts for chapter in part["chapters"])]


def mathjax() -> None:
    """Puts MathJax where _config.yml looks for it, so that pages need no outside host."""
    target = ROOT / "_build" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    source = distribution("sphinx-mathjax-offline").locate_file(MATHJAX)
    shutil.copyfile(str(source), target / Path(MATHJAX).name)


def check() -> None:
    """Fails if a page is missing: another major version of Jupyter Book builds none and says OK."""
    pages = [HTML / f"{page}.html" for page in toc_pages()]
    missing = [str(page.relative_to(ROOT)) for page in pages if not page.is_file()]
    if missing:
        sys.exit(f"The book was built without {', '.join(missing)}.")
    print(f"{len(pages)} pages, starting at {pages[0].as_uri()}")


def picture(cell: nbformat.NotebookNode) -> bytes:
    """The figure that a cell's stored output shows."""
    [figure] = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]
    return base64.b64decode(figure)


def repacked(png: str) -> str:
    """The same pixels in fewer bytes: a figure with two pixels a place is heavy."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=9, compress_type=zlib.Z_DEFAULT_STRATEGY)
    return min(base64.b64encode(buffer.getvalue()).decode(), png.strip(), key=len)


def repack(data: dict[str, str]) -> None:
    """The figure of an output, and those of a slider."""
    if "image/png" in data:
        data["image/png"] = repacked(data["image/png"])
    if "text/html" in data:
        data["text/html"] = re.sub(
            r"(data:image/png;base64,)([^\"]+)",
            lambda found: found[1] + repacked(found[2]),
            data["text/html"],
        )


def execute(*paths: str) -> None:
    """Re-executes notebooks in place and keeps nothing that changes from run to run."""
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            resources={"metadata": {"path": str(path.parent)}},
            # Twice the pixels, for screens that have them.
            extra_arguments=["--InlineBackend.figure_formats={'retina'}"],
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
        ).execute()
        notebook.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            # A widget of a kernel that is gone: a reader would see an error in place of the still.
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(WIDGET, None)
                repack(output.get("data", {}))
                # On a narrow page the width gives way, and a height that is given would not.
                output.get("metadata", {}).get("image/png", {}).pop("height", None)
            # A figure that another page shows as well, such as the README.
            if "picture" in cell.metadata:
                (path.parent / cell.metadata["picture"]).write_bytes(picture(cell))
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path} executed")


if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    {"mathjax": mathjax, "check": check, "execute": execute}[step](*arguments)
