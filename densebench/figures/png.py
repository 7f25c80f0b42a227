"""A figure as the bytes of a PNG file."""

from __future__ import annotations

import io
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from densebench.core.text import plain

LONGEST = 30_000
"""Pixels of a side; twice as many and no figure is drawn at all."""


def png(figure: Figure, dpi: float = 130) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure.

    Words are drawn as they are: a dollar sign in a name begins no formula, and what acts on a terminal is left out. A
    figure of more than LONGEST pixels is drawn coarser.
    """
    dpi = min(dpi, LONGEST / max(figure.get_size_inches()))
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        words = text.get_text()
        if "$" in words:
            text.set_parse_math(False)
        text.set_text("\n".join(plain(line) for line in words.split("\n")))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
