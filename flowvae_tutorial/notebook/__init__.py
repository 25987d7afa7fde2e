"""What notebooks show: checked numbers, sliders, live figures, and a panel for a live kernel.

`panel` is not imported here: it brings ipywidgets, which only a live kernel needs.
"""

from .figures import live_figure
from .numbers import expect
from .sliders import frame_slider

__all__ = ["expect", "frame_slider", "live_figure"]
