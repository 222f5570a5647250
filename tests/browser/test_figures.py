"""How plots look in JupyterLab: in both themes, in a trusted and an untrusted notebook.

Pictures of it are left in ``artifacts/``, for a person to look at.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, expect
from support.browser import DARK, LIGHT, JupyterServer, NotebookPage
from support.fake_engine import await_true

pytestmark = pytest.mark.browser

PROFILE = "from support.profiles import busy_profile; from nbruntime.profiling.plots import plot"
CELLS = (
    f"{PROFILE}\nplot('plot_steps', busy_profile(300))",
    # A host with a style of its own, and with the inline backend, which shows figures of pyplot.
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.style.use('dark_background')\n"
    "plot('plot_step_time', busy_profile(300))",
    "plot('plot_steps', busy_profile(300), theme='dark')",
)


def brightness(what: Locator) -> float:
    """Return the brightness that most of a picture has, from 0 to 255."""
    what.evaluate("picture => picture.decode()")
    picture = Image.open(io.BytesIO(what.screenshot(animations="disabled"))).convert("L")
    return float(np.median(np.asarray(picture)))


def are_there(pictures: Sequence[Locator]) -> None:
    """Each output shows one picture."""
    for each in pictures:
        expect(each).to_have_count(1)


def are_dark(pictures: Sequence[Locator], *dark: bool) -> None:
    """Pictures are dark or light; what they hold may come later than their frames."""
    for each, expected in zip(pictures, dark, strict=False):
        await_true(lambda each=each, expected=expected: (brightness(each) < 128) is expected, 20)


def test_figures_follow_the_theme_and_stand_in_saved_notebooks(
    jupyter: JupyterServer, browser: Browser
) -> None:
    with NotebookPage(jupyter, browser, height=2000) as page:
        page.open(CELLS, name="figures")
        page.run_all()
        pictures = [page.output(number).locator("img") for number in range(len(CELLS))]
        for theme, dark in ((LIGHT, False), (DARK, True)):
            page.theme(theme)
            are_there(pictures)
            page.screenshot(f"figures-{'dark' if dark else 'light'}")
            are_dark(pictures, dark, dark, True)
        assert page.save().stat().st_size < 450_000
        page.reopen(trusted=True)
        page.theme(DARK)
        are_there(pictures)
        page.screenshot("figures-trusted-dark")
        are_dark(pictures, True, True)
        page.reopen(trusted=False)
        page.theme(DARK)
        are_there(pictures)
        page.screenshot("figures-untrusted-dark")
        are_dark(pictures, False, False)
        assert not page.foreign
