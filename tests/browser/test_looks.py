"""If these fail, the page cannot be read: on a narrow screen, in the dark, or because something is cut off."""

from pathlib import Path
from typing import Any

import pytest

from page_steps import give, opened

pytestmark = [pytest.mark.ci, pytest.mark.browser]


def test_narrow_screens_have_no_sideways_scroll(page: Any, address: str, cut: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, address)
    give(page, cut)
    for view in ("", "#/library"):
        page.evaluate(f"location.hash = '{view}'")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate("location.hash = ''")
    assert not page.is_visible("#balance")  # folded away
    page.click("text=Options")
    assert page.is_visible("#balance")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(page: Any, address: str, cut: Path, scheme: str) -> None:
    """As the system says, with the contrast that WCAG 2.2 asks of small text."""
    page.emulate_media(color_scheme=scheme)
    opened(page, address)
    give(page, cut)
    looks = {}
    for view, parts in {
        "": (
            ".bar nav a",
            "#holdings",
            "a.name",
            ".folder",
            ".score span",
            "#results-note",
            ".slide .ends",
            ".example .meta",
        ),
        "#/library": (".columns button", ".file-row .name", ".file-row .folder", ".badge.refused", ".reason", ".chip"),
    }.items():
        page.evaluate(f"location.hash = '{view}'")
        page.wait_for_selector(parts[2])
        looks |= {part: page.locator(part).first.evaluate(_CONTRAST) for part in parts}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(245, 245, 242)", "dark": "rgb(19, 20, 21)"}[scheme]
    assert {part: ratio for part, ratio in looks.items() if ratio < 4.5} == {}


# The contrast of an element's text with what lies behind it, after WCAG 2.2: (lighter + 0.05) / (darker + 0.05).
_CONTRAST = """(element) => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = numbers(colour).map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const [text, ground] = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor];
    const two = [light(text), light(ground)];
    return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
}"""


def test_nothing_beside_the_results_is_cut_off(page: Any, address: str, cut: Path, tmp_path: Path) -> None:
    broken = tmp_path / "a file with a rather long name that holds nothing of use.mp4"
    broken.write_bytes(b"nothing")
    opened(page, address)
    give(page, cut)
    page.set_input_files("#file", str(broken))
    page.wait_for_selector(".example.bad")
    page.click("#filters summary")
    assert page.evaluate("(([e]) => e.scrollWidth - e.clientWidth)(document.querySelectorAll('aside'))") <= 0
    drawn, box = page.locator(".example .outline").bounding_box(), page.locator(".example .look").first.bounding_box()
    assert drawn["width"] == pytest.approx(box["width"], abs=1)  # the sound that was given, not a speck
