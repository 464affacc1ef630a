// Gives hits to other programs: the menu, what it is about, and the file that comes of it.

import * as api from "./api.js";
import { $, el, several, toast } from "./dom.js";

const WAYS = [
  ["csv", "Table", "CSV, for spreadsheets"],
  ["tsv", "Plain lines", "tab-separated"],
  ["json", "JSON", "for programs"],
  ["m3u", "Playlist", "M3U, for VLC"],
  ["edl", "Edit list", "EDL (CMX3600)"],
  ["otio", "Timeline", "OpenTimelineIO"],
  ["sheet", "Contact sheet", "PNG, a frame of each"],
  ["clips", "Clips", "ZIP, packets copied"],
  ["exact", "Exact clips", "ZIP, encoded anew"],
];

const reference = ({ file_id, start_seconds, end_seconds, peak_seconds, score, cosine, matched }) =>
  ({ file_id, start_seconds, end_seconds, peak_seconds, score, cosine: Math.min(1, Math.max(-1, cosine)), matched });

/** Sets the menu up. `subject()` gives the hits that it is about, and what they are called. */
export function setUp(subject) {
  const button = $("export");
  const menu = $("export-menu");
  const close = (focus = false) => {
    menu.hidden = true;
    button.setAttribute("aria-expanded", "false");
    if (focus) button.focus();
  };
  const show = () => {
    const { hits, called } = subject();
    menu.replaceChildren(el("p", { class: "faint", role: "presentation" }, hits.length ? called : "There is nothing to export."),
      ...WAYS.map(([kind, name, hint]) => el("button", { type: "button", role: "menuitem", tabIndex: -1, disabled: !hits.length, "data-kind": kind, onclick: () => { close(true); send(kind, name, hits); } },
        el("span", {}, name), el("span", { class: "faint" }, hint))));
    menu.hidden = false;
    button.setAttribute("aria-expanded", "true");
    menu.querySelector("button:not(:disabled)")?.focus();
  };
  button.addEventListener("click", () => (menu.hidden ? show() : close()));
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.querySelectorAll("button:not(:disabled)")];
    const place = items.indexOf(document.activeElement);
    const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) items[(to + items.length) % items.length]?.focus();
    else if (event.key === "Escape") close(true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".menu")) close(); });
  menu.addEventListener("focusout", (event) => { if (event.relatedTarget && !menu.parentElement.contains(event.relatedTarget)) close(); });
}

async function send(kind, name, hits) {
  const chosen = { kind: "hits", hits: hits.map(reference) };
  const [path, body] = {
    sheet: ["sheet", { chosen }],
    clips: ["cut", { chosen }],
    exact: ["cut", { chosen, exact: true }],
  }[kind] || ["export", { format: kind, chosen }];
  toast(`${name}: ${several(hits.length, "moment")} …`);
  try {
    const made = await api.handOver(path, body);
    const link = el("a", { href: URL.createObjectURL(made.blob), download: made.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    const { left_out = 0, skipped = [], notes = [] } = made.report;
    if (left_out) toast(`${several(left_out, "moment")} left out: ${skipped[0].path.split(/[/\\]/).pop()}, ${skipped[0].reason}`, { bad: true });
    else if (notes.length) toast(notes[0]);
  } catch (error) {
    toast(error.message, { bad: true });
  }
}
