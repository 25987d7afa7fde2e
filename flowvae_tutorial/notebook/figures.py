"""The live figures of the pages, in a notebook: JavaScript, and neither kernel nor network."""

from pathlib import Path

from IPython.display import HTML

from ..errors import InputError

# In the order in which they need each other; a figure's weights and its own script come last.
SHARED = (
    "tensor random networks distributions splines flows vae refinement data models training "
    "weights figure panel way"
).split()


def live_figure(name: str) -> HTML:
    """The live figure of that name, as on the book's page, in Jupyter and in Colab.

    Everything stands in one piece of HTML, scripts and weights and all: 100 to 250 kB, which the
    notebook stores with the cell's output. Show a figure once in a notebook.

    Args:
        name: "race" (front page), "bound" and "digits" (chapter 1), "pseudo" and "pixels" (2),
            "hierarchy" (3), "layers" (4), "posteriors" (5), "walk" and "mnist" (6), "levels" (7)
            or "particles" (8).

    Raises:
        InputError: there is no such figure.

    Example:
        >>> from flowvae_tutorial.notebook import live_figure
        >>> figure = live_figure("bound")
        >>> 'id="live-bound"' in figure.data
        True
    """
    names = figure_names()
    if name not in names:
        raise InputError(f"there is no live figure {name!r}: choose one of {', '.join(names)}")
    folder = live_scripts()
    style = (folder / "live.css").read_text(encoding="utf-8")
    scripts = [
        f"<script>{(folder / f'{script}.js').read_text(encoding='utf-8')}</script>"
        for script in [*SHARED, *own_scripts(name)]
    ]
    # A notebook has a theme of its own: the figure brings its paper.
    place = f'<div id="live-{name}" class="live-figure" style="background:var(--paper)"></div>'
    return HTML("\n".join([f"<style>{style}</style>", place, *scripts]))


def live_scripts() -> Path:
    """The folder of the scripts, in a checkout or in an installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "book" / "live"
    return checkout if checkout.is_dir() else package / "live"


def figure_names() -> list[str]:
    """Those whose scripts put themselves in a place of their own."""
    paths = sorted(live_scripts().glob("*.js"))
    return [p.stem for p in paths if f'mount("{p.stem}"' in p.read_text(encoding="utf-8")]


def own_scripts(figure: str) -> list[str]:
    """A figure's weights, if anything in it was trained, and itself."""
    weights = f"weights-{figure}"
    return [weights, figure] if (live_scripts() / f"{weights}.js").exists() else [figure]
