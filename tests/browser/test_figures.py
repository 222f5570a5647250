"""How plots look in JupyterLab: in both themes, in a trusted and an untrusted notebook.

Pictures of it are left in ``artifacts/``, for a person to look at.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator
from support.browser import DARK, LIGHT, JupyterServer, NotebookPage

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
    picture = Image.open(io.BytesIO(what.screenshot(animations="disabled"))).convert("L")
    return float(np.median(np.asarray(picture)))


def test_figures_follow_the_theme_and_stand_in_saved_notebooks(
    jupyter: JupyterServer, browser: Browser
) -> None:
    with NotebookPage(jupyter, browser, height=2000) as page:
        page.open(CELLS, name="figures")
        page.run_all()
        pictures = [page.output(number).locator("img") for number in range(len(CELLS))]
        for theme, dark in ((LIGHT, False), (DARK, True)):
            page.theme(theme)
            page.screenshot(f"figures-{'dark' if dark else 'light'}")
            assert [each.count() for each in pictures] == [1, 1, 1]
            assert [brightness(each) < 128 for each in pictures] == [dark, dark, True]
        assert page.save().stat().st_size < 450_000
        page.reopen(trusted=True)
        page.theme(DARK)
        page.screenshot("figures-trusted-dark")
        assert [brightness(page.output(number).locator("img")) < 128 for number in range(2)] == [True, True]
        page.reopen(trusted=False)
        page.theme(DARK)
        page.screenshot("figures-untrusted-dark")
        assert [page.output(number).locator("img").count() for number in range(3)] == [1, 1, 1]
        assert [brightness(page.output(number).locator("img")) > 128 for number in range(2)] == [True, True]
        assert not page.foreign
