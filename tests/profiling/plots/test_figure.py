"""`Figure`: how it shows itself, whatever the host's matplotlib does."""

from __future__ import annotations

import base64
import functools
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib.style
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from support.profiles import busy_profile

from nbruntime.errors import ArgumentValueError
from nbruntime.profiling.plots import PLOTS, plot
from nbruntime.profiling.plots.colours import COLOURS, style
from nbruntime.profiling.plots.figure import PICTURE_DPI, Figure, new_figure

LIGHT, DARK = COLOURS["light"], COLOURS["dark"]


def drawn(theme: Any = None, caption: str = "A line.") -> Figure:
    with new_figure(theme, caption=caption, height=1.5) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=figure.colours.blue, linewidth=6)
        axes.scatter([0.2, 0.8], [0.8, 0.2], c=[figure.colours.orange, "#123456"], s=400)
        axes.bar([0.5], [0.2], 0.1, color=figure.colours.green)
    return figure


@functools.cache
def picture(theme: Any = None, shown: Any = None) -> bytes:
    """Return the picture of such a figure, drawn in one theme and shown in another."""
    return drawn(theme).png(shown)


def colours(png: bytes) -> set[str]:
    """Return the colours that cover more than a few pixels."""
    shown = Image.open(io.BytesIO(png)).convert("RGBA").convert("RGB")  # without its transparency
    counted: Any = shown.getcolors(1 << 24)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for count, colour in counted if count > 300}


def near(colour: str, found: set[str]) -> bool:
    """Tell if a colour is there; a picture has few colours, so that some move a little."""
    wanted = np.array(matplotlib.colors.to_rgb(colour))
    return any(np.abs(np.array(matplotlib.colors.to_rgb(each)) - wanted).max() < 0.04 for each in found)


@pytest.fixture
def dark_host() -> Iterator[None]:
    """A host whose matplotlib draws white on black, sets formulas, and saves transparent pictures."""
    picture()  # in the default style
    with matplotlib.rc_context():
        matplotlib.style.use("dark_background")
        matplotlib.rcParams.update({"savefig.transparent": True, "font.size": 30, "axes.grid": False})
        yield


def test_one_drawing_gives_both_themes() -> None:
    light, dark = colours(picture()), colours(picture(shown="dark"))
    for name in ("background", "blue", "orange", "green"):
        assert near(getattr(LIGHT, name), light), name
        assert near(getattr(DARK, name), dark), name
        assert not near(getattr(LIGHT, name), dark) or name == "orange", name
    assert near("#123456", light)
    assert near("#123456", dark)  # a colour of the user's own stays


def test_the_dark_theme_is_the_same_drawn_or_recoloured() -> None:
    recoloured = Image.open(io.BytesIO(picture(shown="dark"))).convert("RGB")
    direct = Image.open(io.BytesIO(picture("dark"))).convert("RGB")
    difference = np.abs(np.asarray(recoloured, float) - np.asarray(direct, float))
    assert difference.max() < 20


def test_showing_it_leaves_the_figure_as_it_was() -> None:
    figure = drawn()
    before = (figure.canvas, figure.dpi, figure.get_facecolor(), figure.get_layout_engine())
    html = figure.html()
    assert (figure.canvas, figure.dpi, figure.get_facecolor(), figure.get_layout_engine()) == before
    left = figure.axes[0].get_position().x0
    figure.axes[0].set_ylabel("A label that needs room")
    assert figure.html() != html
    assert figure.axes[0].get_position().x0 > left  # the layout is computed again


def test_both_pictures_take_one_layout_and_two_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn()
    calls = []
    draw, execute = Figure.draw, type(figure.get_layout_engine()).execute
    monkeypatch.setattr(Figure, "draw", lambda *given: (calls.append("draw"), draw(*given)))
    monkeypatch.setattr(
        type(figure.get_layout_engine()), "execute", lambda *given: (calls.append("layout"), execute(*given))
    )
    figure.html()
    assert sorted(calls) == ["draw", "draw", "layout"]


def test_what_users_add_is_in_both_themes() -> None:
    figure = drawn()
    figure.axes[0].set_title("Mine")
    figure.axes[0].axhspan(0.4, 0.6, color="black")  # matplotlib's own ink
    after = figure.png("dark")
    assert after != picture(shown="dark")
    assert near(DARK.ink, colours(after))
    assert not near("#000000", colours(after))


def test_shows_html_with_a_light_and_a_dark_picture() -> None:
    figure = drawn(caption="Costs $5 & <b>more</b>.")
    figure.figures.append("all of it")
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"] == repr(figure) == "Costs $5 & <b>more</b>.\n  all of it"
    html = bundle["text/html"]
    assert html.count("<img ") == 1
    assert 'alt="Costs $5 &amp; &lt;b&gt;more&lt;/b&gt;.\n  all of it"' in html
    dark, light = map(base64.b64decode, re.findall(r"data:image/png;base64,([\w+/=]+)", html))
    assert near(LIGHT.background, colours(light))
    assert near(DARK.blue, colours(dark))
    assert "[data-jp-theme-light=" in html
    assert (
        Image.open(io.BytesIO(dark)).convert("RGBA").getpixel((0, 0))[3] == 0
    )  # any dark page shows through
    # Where styles are dropped, so is the dark picture.
    plain = re.sub(r"<style>.*</style>", "", html)
    assert len(re.findall("base64,", plain)) == 1


def test_a_page_of_its_own_follows_the_system() -> None:
    html = drawn().html(page="system")
    assert "prefers-color-scheme:dark" in html
    assert "data-jp-theme-light" not in html


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_given_theme_shows_one_picture(theme: Any) -> None:
    figure = drawn(theme)
    bundle, size = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"}
    assert near(COLOURS[theme].background, colours(base64.b64decode(bundle["image/png"])))
    assert size == {"image/png": {"width": 900}}
    assert "<style>" not in figure.html()


def test_an_unknown_theme_is_an_error() -> None:
    with (
        pytest.raises(ArgumentValueError, match="theme='dusk' is not a theme"),
        new_figure("dusk", caption=""),
    ):
        pass


@pytest.mark.usefixtures("dark_host")
def test_the_hosts_style_changes_nothing() -> None:
    figure = drawn()
    assert figure.png() == picture()
    saved = io.BytesIO()
    figure.savefig(saved, format="png")
    assert near(LIGHT.background, colours(saved.getvalue()))


def test_the_hosts_settings_stay() -> None:
    before = dict(matplotlib.rcParams)
    figure = drawn()
    figure.png("dark")
    figure.savefig(io.BytesIO(), format="svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_savefig_writes_the_background_of_the_theme(kind: str, tmp_path: Any) -> None:
    path = tmp_path / f"figure.{kind}"
    drawn("dark").savefig(path)
    if kind == "png":
        assert near(DARK.background, colours(path.read_bytes()))
        assert Image.open(path).width == 1800
    elif kind == "svg":
        assert f"fill: {DARK.background}" in path.read_text()
        assert "A line." in path.read_text()  # texts are texts
    else:
        assert path.read_bytes().startswith(b"%PDF")


def test_the_canvas_stays_that_of_the_host() -> None:
    figure = drawn()
    canvas = figure.canvas
    figure.png("dark")
    assert figure.canvas is canvas


def test_pickles() -> None:
    figure = drawn(caption="Kept.")
    figure.figures.append("a figure")
    copy = pickle.loads(pickle.dumps(figure))
    assert repr(copy) == "Kept.\n  a figure"
    assert copy.png() == figure.png()


def test_long_captions_break_into_lines_inside_the_figure() -> None:
    figure = drawn(caption="A word and another one, " * 20)
    [caption] = [text for text in figure.texts if text.get_text().startswith("A word")]
    assert caption.get_text().count("\n") >= 2
    figure.draw_without_rendering()
    box = caption.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0
    axes = figure.axes[0].get_tightbbox()
    assert axes is not None
    assert box.y1 <= axes.y0 + 1


def test_dollars_are_no_formulas() -> None:
    with new_figure(caption="From $5 to $6") as figure:
        text = figure.subplots().set_title("between $x$ and $y$")
    assert not text.get_parse_math()
    assert not any(each.get_parse_math() for each in figure.texts)


def test_inline_backends_show_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They print figures of matplotlib by their type, which adds a picture that the HTML precedes."""
    from IPython.core.pylabtools import print_figure

    formatter = DisplayFormatter()
    formatter.formatters["image/png"].for_type(
        matplotlib.figure.Figure, lambda figure: print_figure(figure, "png", base64=True)
    )
    shown, _ = formatter.format(drawn())
    assert shown["text/html"].count("<img ") == 1
    only, size = formatter.format(drawn("dark"))
    assert "text/html" not in only
    picture = Image.open(io.BytesIO(base64.b64decode(only["image/png"])))
    assert picture.width > PICTURE_DPI * 8
    assert size["image/png"] == {"width": 900}
    assert near(DARK.background, colours(base64.b64decode(only["image/png"])))


def test_pyplot_is_neither_loaded_nor_touched() -> None:
    code = (
        "import sys; from nbruntime.profiling.plots import PLOTS, plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from nbruntime.profiling.profile_data import ProfileData\n"
        "plot('plot_steps', ProfileData()).html()\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'IPython' not in sys.modules\n"
        "import matplotlib.pyplot as pyplot; plot('plot_steps', ProfileData()).html()\n"
        "assert pyplot.get_fignums() == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", ["plot_steps", "plot_step_time", "plot_idle"])
def test_a_figure_is_small_in_a_notebook(name: str) -> None:
    assert len(plot(name, busy_profile(1_500)).html()) < 150_000


def test_every_plot_has_a_module() -> None:
    assert all(name.startswith("plot_") for name in PLOTS)
    with style("dark") as colours_of_it:
        assert matplotlib.rcParams["text.color"] == colours_of_it.ink
