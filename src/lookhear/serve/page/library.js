// The view of all files: how many of each kind, and a list of any length of which only what is seen is there.

import * as api from "./api.js";
import { $, STATUS, bytes, clock, count, el, later, length } from "./dom.js";

const ROW_PIXELS = 46;
const BLOCK = 100; // rows that are asked for at one time
const MOST_PIXELS = 8_000_000; // browsers draw nothing taller; a longer list is scrolled in larger steps
const COLUMNS = [
  ["path", "File"], ["status", "What it is"], ["seconds", "Length"], ["moments", "Moments"], ["modified", "Changed"], ["size", "Size"],
];
const ORDER_OF_STATUS = ["ok", "sound_only", "picture_only", "partial", "refused", "waiting"];

let asked = { text: "", status: [], order: "path", descending: false };
let total = 0;
let blocks = new Map(); // rows by block; a promise while they are fetched
let turn = 0;
let seen = null; // the status that is shown

const isOpen = () => !$("library-view").hidden;

/** Shows the state of the index; asks for the files again if it is another one. */
export function follow(status) {
  const isNew = seen?.generation !== status.generation;
  seen = status;
  if (!isNew || !isOpen()) return;
  showStats();
  reload({ keepPlace: true });
}

export function open() {
  showStats();
  showColumns();
  reload({ keepPlace: true });
  $("library-view").focus({ preventScroll: true });
}

function showStats() {
  if (!seen) return;
  const { counts } = seen;
  const facts = [
    [count(seen.files), seen.files === 1 ? "file" : "files"],
    [length(seen.seconds), "of media"],
    [count(seen.moments), `moments of ${seen.window_seconds.toFixed(2)} s`],
    [count(counts.refused || 0), "skipped"],
  ];
  $("stats").replaceChildren(
    el("dl", {}, ...facts.map(([number, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, number)))),
    el("details", {}, el("summary", {}, "The index"), el("dl", { class: "plain" }, ...Object.entries({
      Folders: seen.libraries.join("\n") || "none",
      Model: seen.model || "a model in memory",
      Fingerprint: seen.fingerprint.slice(0, 16),
      "Moment every": `${seen.hop_seconds.toFixed(3)} s`,
      lookhear: seen.lookhear,
    }).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))));
  const chip = (status, name, number) => el("button", {
    type: "button", class: `chip ${status}`, "aria-pressed": String(asked.status[0] === status || (!status && !asked.status.length)),
    onclick: () => { asked.status = status ? [status] : []; showStats(); reload(); },
  }, name, el("span", {}, count(number)));
  $("chips").replaceChildren(chip("", "all", seen.files),
    ...ORDER_OF_STATUS.filter((status) => counts[status]).map((status) => chip(status, STATUS[status], counts[status])));
}

function showColumns() {
  $("columns").replaceChildren(...COLUMNS.map(([order, name]) => {
    const isOrder = asked.order === order;
    return el("div", { role: "columnheader", class: `cell ${order}`, "aria-sort": isOrder ? (asked.descending ? "descending" : "ascending") : "none" },
      el("button", { type: "button", onclick: () => {
        asked.descending = isOrder ? !asked.descending : !["path", "status"].includes(order);
        asked.order = order;
        showColumns();
        reload();
        $("columns").querySelector(`.${order} button`).focus();
      } }, name, isOrder ? el("span", { class: "arrow", "aria-hidden": "true" }, asked.descending ? "↓" : "↑") : null));
  }));
}

async function reload({ keepPlace = false } = {}) {
  const own = (turn += 1);
  blocks = new Map();
  if (!keepPlace) $("scroll").scrollTop = 0;
  try {
    const first = await api.files({ ...asked, offset: 0, limit: BLOCK });
    if (own !== turn) return;
    total = first.total;
    blocks.set(0, first.rows);
    $("rows").style.height = `${Math.min(total * ROW_PIXELS, MOST_PIXELS)}px`;
    $("table").setAttribute("aria-rowcount", String(total + 1));
    $("table").hidden = total === 0;
    $("library-blank").replaceChildren(...(total ? [] : [nothing()]));
    draw();
  } catch (error) {
    if (own !== turn || error.status === 401) return;
    $("table").hidden = true;
    $("library-blank").replaceChildren(el("div", { class: "empty" }, el("h2", {}, "The list cannot be shown"), el("p", {}, error.message),
      el("button", { type: "button", onclick: () => reload() }, "Try again")));
  }
}

function nothing() {
  const isFiltered = asked.text || asked.status.length;
  return el("div", { class: "empty" }, el("h2", {}, isFiltered ? "No such file" : "The library is empty"),
    el("p", {}, isFiltered ? "No file has these words in its path and is of this kind." : "`lookhear index FOLDER` adds the media of a folder; this page follows."),
    isFiltered ? el("button", { type: "button", onclick: () => { asked = { ...asked, text: "", status: [] }; $("find").value = ""; showStats(); reload(); } }, "Show all files") : null);
}

/** Puts the rows that can be seen where they belong. */
function draw() {
  const box = $("scroll");
  const height = box.clientHeight || 600;
  const full = total * ROW_PIXELS;
  const drawn = Math.min(full, MOST_PIXELS);
  // In a list that is longer than can be drawn, the scroll bar goes through it in proportion.
  const share = drawn > height ? box.scrollTop / (drawn - height) : 0;
  const top = full > drawn ? share * (full - height) : box.scrollTop;
  const shift = box.scrollTop - top;
  const first = Math.max(0, Math.floor(top / ROW_PIXELS) - 8);
  const last = Math.min(total, Math.ceil((top + height) / ROW_PIXELS) + 8);
  const rows = [];
  for (let place = first; place < last; place += 1) {
    const block = Math.floor(place / BLOCK);
    const known = blocks.get(block);
    if (known === undefined) fetchBlock(block);
    const row = Array.isArray(known) ? known[place % BLOCK] : null;
    const made = row ? rowOf(row) : el("div", { class: "file-row pending" });
    made.setAttribute("role", "row");
    made.setAttribute("aria-rowindex", String(place + 2));
    made.style.top = `${place * ROW_PIXELS + shift}px`;
    rows.push(made);
  }
  const focused = document.activeElement?.closest?.(".file-row")?.getAttribute("aria-rowindex");
  $("rows").replaceChildren(...rows);
  if (focused) $("rows").querySelector(`[aria-rowindex="${focused}"] a`)?.focus({ preventScroll: true });
}

async function fetchBlock(block) {
  const own = turn;
  const wanted = api.files({ ...asked, offset: block * BLOCK, limit: BLOCK });
  blocks.set(block, wanted);
  try {
    const answer = await wanted;
    if (own !== turn) return;
    blocks.set(block, answer.rows);
    if (answer.total !== total) reload({ keepPlace: true });
    else draw();
  } catch { if (own === turn) setTimeout(() => blocks.delete(block), 2000); }
}

function rowOf(row) {
  const parts = row.path.split("/");
  const name = parts.pop();
  // That a sound has no picture is said by what it is.
  const why = ["sound_only", "picture_only"].includes(row.status) ? "" : row.reason;
  const day = new Date(1000 * row.modified);
  const cells = [
    el("div", { class: "cell path", role: "cell" },
      row.file_id ? el("a", { class: "name", href: `#/file/${row.file_id}`, title: `${row.library}/${row.path}` }, name) : el("span", { class: "name", title: `${row.library}/${row.path}` }, name),
      el("span", { class: "folder", title: [parts.join("/"), why].filter(Boolean).join(": ") }, parts.join("/") || (why ? "" : row.library),
        why ? el("span", { class: "reason" }, parts.length ? ` · ${why}` : why) : null)),
    el("div", { class: "cell status", role: "cell" }, el("span", { class: `badge ${row.status}` }, STATUS[row.status] || row.status)),
    el("div", { class: "cell seconds", role: "cell" }, row.seconds ? clock(row.seconds, 0) : "–"),
    el("div", { class: "cell moments", role: "cell" }, row.moments ? count(row.moments) : "–"),
    el("div", { class: "cell modified", role: "cell" }, row.modified ? day.toISOString().slice(0, 10) : "–"),
    el("div", { class: "cell size", role: "cell" }, row.size_bytes ? bytes(row.size_bytes) : "–"),
  ];
  return el("div", { class: `file-row ${row.status}` }, ...cells);
}

export function setUp() {
  $("find").addEventListener("input", later(() => { asked.text = $("find").value; reload(); }, 150));
  let due = false;
  $("scroll").addEventListener("scroll", () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  }, { passive: true });
  new ResizeObserver(() => { if (isOpen()) draw(); }).observe($("scroll"));
}

export const keys = { "/": () => $("find").focus() };

