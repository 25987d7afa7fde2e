"""Training: one loop for every model, on one device or several."""

from ..history import History
from .loop import NotFinite, fit
from .ranks import device_by_name

__all__ = ["History", "NotFinite", "device_by_name", "fit"]
