"""Draws a figure of the light theme in the colours of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from numpy.typing import ArrayLike, NDArray

from nbruntime.profiling.plots.colours import COLOURS, Theme


class RecolouringCanvas(FigureCanvasAgg):
    """Draws a figure and replaces the colours of one theme by those of another.

    It changes colours, not artists: what users add to a figure is shown in both themes. Other colours stay.
    """

    themes: tuple[Theme, Theme] = ("light", "dark")

    def get_renderer(self) -> Any:
        """Return Agg's renderer, with other colours."""
        inner = super().get_renderer()  # type: ignore[no-untyped-call]
        return _RecolouringRenderer(inner, _table(*self.themes))


class _RecolouringRenderer:
    """A renderer of matplotlib that replaces colours, and has another one draw."""

    def __init__(self, renderer: Any, replaced: _Table) -> None:
        self._inner = renderer
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # while it is copied
            raise AttributeError(name)
        return getattr(self._inner, name)

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:
        self._inner.draw_path(self._recoloured(gc), path, transform, self._face(rgbFace))

    def draw_markers(
        self, gc: Any, marker: Any, marker_transform: Any, path: Any, transform: Any, rgbFace: Any = None
    ) -> None:
        face = self._face(rgbFace)
        self._inner.draw_markers(self._recoloured(gc), marker, marker_transform, path, transform, face)

    def draw_path_collection(
        self,
        gc: Any,
        master_transform: Any,
        paths: Any,
        all_transforms: Any,
        offsets: Any,
        offset_transform: Any,
        facecolors: ArrayLike,
        edgecolors: ArrayLike,
        *rest: Any,
        **named: Any,
    ) -> None:
        self._inner.draw_path_collection(
            self._recoloured(gc),
            master_transform,
            paths,
            all_transforms,
            offsets,
            offset_transform,
            self._replaced(facecolors),
            self._replaced(edgecolors),
            *rest,
            **named,
        )

    def draw_text(self, gc: Any, *rest: Any, **named: Any) -> None:
        self._inner.draw_text(self._recoloured(gc), *rest, **named)

    def _recoloured(self, gc: Any) -> Any:
        copy = self._inner.new_gc()
        copy.copy_properties(gc)
        copy.set_foreground(tuple(self._replaced([gc.get_rgb()])[0]), isRGBA=True)
        if (hatch := gc.get_hatch_color()) is not None:
            copy.set_hatch_color(tuple(self._replaced([to_rgba(hatch)])[0]))
        return copy

    def _face(self, face: Any) -> Any:
        return None if face is None else tuple(self._replaced([face])[0])


_Table = Callable[[ArrayLike], NDArray[np.float64]]


def _table(source: Theme, target: Theme) -> _Table:
    """Return a function that replaces the colours of one theme in rows of RGB or RGBA."""
    pairs = dict(zip(astuple(COLOURS[source]), astuple(COLOURS[target]), strict=True))
    # What users add in matplotlib's own black and white is ink and page.
    pairs = {"#000000": COLOURS[target].ink, "#ffffff": COLOURS[target].background} | pairs
    known = np.array([_key(np.array([to_rgb(colour)]))[0] for colour in pairs])
    others = np.array([to_rgb(colour) for colour in pairs.values()])
    order = np.argsort(known)
    known, others = known[order], others[order]

    def replaced(colours: ArrayLike) -> NDArray[np.float64]:
        rows = np.array(colours, dtype=float)
        if not rows.size:
            return rows
        keys = _key(rows)
        places = np.searchsorted(known, keys).clip(max=len(known) - 1)
        found = known[places] == keys
        rows[found, :3] = others[places[found]]
        return rows

    return replaced


def _key(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return one number for each colour, of its 24 bits."""
    red, green, blue = np.rint(rows[:, :3] * 255).astype(np.int64).T
    keys: NDArray[np.int64] = red << 16 | green << 8 | blue
    return keys
