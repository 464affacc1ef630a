"""What somebody does at the page, step by step."""

from pathlib import Path
from typing import Any

CARD = "#results .card:not(.skeleton)"


def opened(page: Any, address: str, view: str = "") -> Any:
    page.goto(address + view)
    page.wait_for_selector("body[data-ready]", state="attached")
    return page


def give(page: Any, *paths: Path) -> None:
    """Gives examples and waits for the hits."""
    page.set_input_files("#file", [str(path) for path in paths])
    page.wait_for_selector(".example.ready")
    page.wait_for_selector(CARD)
    settled(page)


def settled(page: Any) -> None:
    page.wait_for_timeout(250)  # a search begins when nothing more is changed
    page.wait_for_selector("#results:not(.stale)", state="attached")


def names(page: Any) -> list[str]:
    return page.locator(f"{CARD} a.name").all_inner_texts()  # type: ignore[no-any-return]


def file_id(page: Any, name: str) -> str:
    """Of the file of the library that is called so."""
    ask = "name => fetch(`/api/files?text=${name}`).then(answer => answer.json()).then(({ rows }) => rows[0].file_id)"
    return page.evaluate(ask, name)  # type: ignore[no-any-return]


def time_of(page: Any) -> float:
    return page.eval_on_selector("video.player", "video => video.currentTime")  # type: ignore[no-any-return]


def playing(page: Any, past: float = 0.0) -> None:
    video = "document.querySelector('video.player')"
    page.wait_for_function(f"() => {video} && !{video}.paused && {video}.currentTime > {past}")
