"""What notebooks show: numbers that are checked, sliders, and a panel for a live kernel.

`panel` is not imported here: it brings ipywidgets, which only a live kernel needs.
"""

from .numbers import expect
from .sliders import frame_slider

__all__ = ["expect", "frame_slider"]
