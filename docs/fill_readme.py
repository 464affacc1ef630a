"""Writes the figures of a demo into README.md, and its best-known pictures into docs/images/demo.png.

    python docs/fill_readme.py [DEMO_FOLDER]

Takes report.json and report.html of the folder (default: demo). The table stands between <!-- demo:begin --> and
<!-- demo:end -->; nothing else of the README is touched.
"""

import base64
import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lookhear.demo_page import BASELINES, EVENT_ONLY, HEAD, cells, machine_line, rows

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- demo:begin -->\n).*?(<!-- demo:end -->)", re.DOTALL)


def block(report: Mapping[str, Any]) -> str:
    """The table and what one must know to read it, as Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(cells(row) for row in rows(report))]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [BASELINES]
    kind_only = report["retrieval"]["kind_only_r1"]
    if kind_only is not None:
        notes.append(f"Knowing the kind of a clip and nothing else would give R@1 {kind_only:.3f}.")
    event_only = report["sync"]["event_only_accuracy"]
    if event_only is not None:
        notes.append(f"{EVENT_ONLY} {event_only:.3f}.")
    return f"{table}\n\n{' '.join(notes)}\n\n{machine_line(report)}\n"


def fill(text: str, report: Mapping[str, Any]) -> str:
    """The README with the block filled in. Raises SystemExit where it has no block."""
    filled, count = BLOCK.subn(lambda found: found[1] + block(report) + found[2], text)
    if count != 1:
        raise SystemExit("README.md needs one <!-- demo:begin --> and one <!-- demo:end -->, each on a line")
    return filled


def picture(page: str) -> Image.Image:
    """The answers to a sound and to a sound among pictures, and the heat maps, one below the other."""
    figures = re.findall(r"<img alt='([^']*)' src='data:image/png;base64,([^']*)'>", page)
    chosen = [data for alt, data in figures if alt.startswith(("What else sounds", "What looks as if", "heat maps"))]
    parts = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in chosen]
    if not parts:
        raise SystemExit("report.html shows no answers and no heat maps")
    whole = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def main(folder: Path) -> None:
    """Fills README.md and docs/images/demo.png from the demo in `folder`."""
    path = folder / "report.json"
    if not path.exists():
        raise SystemExit(f"{path} does not exist; run `make demo` first")
    report = json.loads(path.read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), report), encoding="utf-8")
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    picture((folder / "report.html").read_text(encoding="utf-8")).save(images / "demo.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
