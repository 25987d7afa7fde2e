"""Sliders over figures drawn beforehand, which need no kernel."""

import base64
import html
import io
import json
import uuid
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from ..errors import InputError


def frame_slider(frames: Mapping[Any, Figure], label: str, alt: str, start: int = 0) -> HTML:
    """A slider over figures drawn beforehand, in plain HTML: no kernel, no library, no network.

    Args:
        frames: a figure for each value, in order; the key, a text or a number, is what the slider
            says there. The figures are closed.
        label: what the slider changes.
        alt: what is to be seen, for readers who do not see it; the value is added to it.
        start: the frame shown first.

    Raises:
        InputError: there are no frames, or `start` is not one of them.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from flowvae_tutorial.notebook import frame_slider
        >>> frames = {f"β = {beta}": Figure() for beta in (1, 4)}
        >>> slider = frame_slider(frames, "weight of the KL term", alt="samples at")
        >>> "β = 4" in slider.data
        True
    """
    if not frames or not 0 <= start < len(frames):
        raise InputError(
            f"frame_slider needs at least one frame and a start among them, got {len(frames)} "
            f"frames and start={start}"
        )
    # An id made of the label is the same at every run, which keeps stored outputs stable.
    slider = f"frames-{uuid.uuid5(uuid.NAMESPACE_OID, label + alt).hex[:8]}"
    says = [str(value) for value in frames]
    names = [html.escape(name) for name in says]
    stored = html.escape(json.dumps(says))
    style = "max-width:100%;height:auto;background:#fff;display"
    pictures = "".join(
        f'<img src="data:image/png;base64,{_png(figure)}" alt="{html.escape(alt)} {name}" '
        f'width="{80 * figure.get_figwidth():.0f}" '
        f'style="{style}:{"block" if i == start else "none"}">'
        for i, (name, figure) in enumerate(zip(names, frames.values(), strict=True))
    )
    # Each frame carries its own text in `alt`; the others are not displayed, so not read either.
    move = (
        "const b=this.closest('div');const p=b.querySelectorAll('img');"
        "p.forEach((e,i)=>{e.style.display=i==this.value?'block':'none'});"
        "const t=JSON.parse(this.dataset.names)[this.value];"
        "b.querySelector('output').textContent=t;this.setAttribute('aria-valuetext',t)"
    )
    return HTML(
        f'<div class="frame-slider" style="max-width:100%">'
        f'<label for="{slider}">{html.escape(label)}: <output>{names[start]}</output></label><br>'
        f'<input type="range" id="{slider}" min="0" max="{len(names) - 1}" value="{start}" '
        f'step="1" data-names="{stored}" aria-valuetext="{names[start]}" '
        f'style="width:min(100%,24rem)" oninput="{html.escape(move)}">'
        f"{pictures}</div>"
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Twice the pixels that its width on the page asks for, for screens that have them.
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
