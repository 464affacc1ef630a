// The view that searches: options on one side, hits on the other.

import * as api from "./api.js";
import { addMoment, asked, clear, examples, give, render, whenExamplesChange } from "./examples.js";
import { $, count, el, icon, later, length, rarity, say, several, toast } from "./dom.js";
import * as handover from "./handover.js";
import { player } from "./player.js";
import { toggleRecording } from "./recorder.js";
import { cardsOf, selected, skeletons } from "./results.js";
import { forgetUnseen, whenSeen } from "./strip.js";

const PAGE_SIZE = 24;
const START_FILES = 10;
let page = 1;
let found = null;
let running = null; // what aborts the search that is under way
let listsOf = ""; // the generation that the lists of folders and labels are of

// ---- options

const radio = () => document.querySelector("input[name=within]:checked").value;
const number = (id) => ($(id).value === "" ? null : Number($(id).value));

const folder = () => $("folder").value.trim().replace(/(.)[/\\]+$/, "$1"); // as the library names it

function filters() {
  return {
    folder: folder() || null,
    name: $("name").value.trim() || null,
    label: $("label").value || null,
    status: [...document.querySelectorAll("input[name=kind]:checked")].map((box) => box.value),
    after: $("after").value || null,
    before: $("before").value || null,
    longer_seconds: number("longer"),
    shorter_seconds: number("shorter"),
  };
}

/** Whether a label alone is asked for; its hits have probabilities, not scores. */
function byLabel() {
  const { examples: like, counter_examples: unlike } = asked();
  return !like.length && !unlike.length && $("label").value !== "";
}

function question() {
  const least = byLabel() ? 0 : Number($("at-least").value);
  return { ...asked(), within: radio(), balance: Number($("balance").value), likeness: Number($("likeness").value), at_least: least > 0 ? least : null, filters: filters(), page, page_size: PAGE_SIZE };
}

function showOptions() {
  const balance = Number($("balance").value);
  $("balance-says").textContent = balance === 0.5 ? "even" : balance > 0.5 ? `sound ${Math.round(100 * balance)} %` : `picture ${Math.round(100 * (1 - balance))} %`;
  $("balance").setAttribute("aria-valuetext", $("balance-says").textContent);
  $("balance-row").classList.toggle("off", radio() !== "both");
  $("balance").disabled = radio() !== "both";
  const likeness = Number($("likeness").value);
  $("likeness-says").textContent = likeness === 1 ? "exactly" : likeness === 0 ? "in kind" : `${Math.round(100 * likeness)} %`;
  $("likeness").setAttribute("aria-valuetext", $("likeness-says").textContent);
  $("at-least").disabled = byLabel();
  $("at-least-row").classList.toggle("off", byLabel());
  const least = Number($("at-least").value);
  $("at-least-says").textContent = least > 0 ? `${least.toFixed(1)}, ${rarity(least)}` : "anything";
  $("at-least").setAttribute("aria-valuetext", $("at-least-says").textContent);
  const set = Object.values(filters()).filter((value) => value !== null && value.length !== 0).length;
  $("filter-count").textContent = set ? `· ${several(set, "filter")}` : "";
}

// ---- searching

const soon = later(() => run(), 180);

/** Searches anew, from the first page. */
export function changed() {
  showOptions();
  page = 1;
  selected.clear();
  remember();
  soon();
}

async function run() {
  running?.abort();
  if (isOpen()) player.release(); // an upload may become ready while a file is watched
  if (!asked().examples.length && !byLabel()) { blank(); return; }
  const own = (running = new AbortController());
  $("blank").replaceChildren();
  $("results-head").hidden = false;
  if (!found) $("results").replaceChildren(...skeletons(6));
  $("results").classList.add("stale");
  try {
    const answer = await api.search(question(), own.signal);
    if (own !== running) return;
    found = answer;
    show();
  } catch (error) {
    if (error.name === "AbortError" || own !== running) return;
    found = null;
    $("pages").hidden = true;
    $("results").replaceChildren();
    headline("No answer", "");
    $("blank").replaceChildren(empty("The search failed", error.message, [["Try again", run]]));
    say(error.message);
  } finally {
    if (own === running) {
      running = null;
      $("results").classList.remove("stale");
    }
  }
}

function headline(title, note) {
  $("results-title").textContent = title;
  $("results-note").textContent = note;
}

function show() {
  const { hits } = found;
  $("notices").replaceChildren(...found.notes.map((note) => el("p", { class: "notice" }, note)));
  const first = (page - 1) * PAGE_SIZE + 1;
  $("results").replaceChildren(...cardsOf(found, first, found.best_score || 1, acts));
  forgetUnseen();
  const took = `${found.took_seconds < 0.995 ? Math.round(1000 * found.took_seconds) + " ms" : found.took_seconds.toFixed(1) + " s"}`;
  if (hits.length) {
    headline(page === 1 && !found.has_more ? several(hits.length, "moment") : `Moments ${first} to ${first + hits.length - 1}`, `best first, found in ${took}`);
    $("blank").replaceChildren();
  } else {
    headline("Nothing here", `looked in ${took}`);
    nothing();
  }
  selectionChanged();
  $("pages").hidden = page === 1 && !found.has_more;
  $("previous").disabled = page === 1;
  $("next").disabled = !found.has_more;
  $("page-says").textContent = `Page ${page}`;
  say(hits.length ? `${several(hits.length, "moment")} on page ${page}` : "Nothing here");
}

/** Says why there are no hits, and what to do. */
function nothing() {
  const least = Number($("at-least").value);
  if (!byLabel() && found.best_score !== null && found.best_score < least) {
    $("blank").replaceChildren(empty("Nothing here",
      `No moment reaches ${least.toFixed(1)}. The best has ${found.best_score.toFixed(1)}: ${rarity(found.best_score)} random pairs matches as well.`,
      [["Show the best all the same", () => { $("at-least").value = 0; changed(); }]]));
  } else if (byLabel()) {
    $("blank").replaceChildren(empty("Nothing here", "No moment with this label passes the other filters.", [["Clear the filters", clearFilters]]));
  } else if ($("filter-count").textContent) {
    $("blank").replaceChildren(empty("Nothing here", "No file that the filters let pass has a moment that can be compared.", [["Clear the filters", clearFilters]]));
  } else {
    $("blank").replaceChildren(empty("Nothing here", "The library has no moment that can be compared with this example.", []));
  }
}

function empty(title, text, ways) {
  return el("div", { class: "empty" }, el("h2", {}, title), el("p", {}, text),
    el("div", { class: "row" }, ...ways.map(([name, act]) => el("button", { type: "button", onclick: act }, name))));
}

function turn(by) {
  if (running || (by < 0 ? page === 1 : !found?.has_more)) return;
  page += by;
  run().then(() => $("main").scrollIntoView({ block: "start" }));
}

// ---- what is done with hits

const both = (hit) => ({ picture: hit.status !== "sound_only", sound: hit.status !== "picture_only" });

const acts = {
  like(hit) {
    clear();
    addMoment({ fileId: hit.file_id, start: hit.peak_seconds, name: hit.name, ...both(hit) });
    $("main").scrollIntoView({ block: "start" });
    toast(`More like ${hit.name}`);
  },
  unlike(hit) { addMoment({ fileId: hit.file_id, start: hit.peak_seconds, name: hit.name, unlike: true, ...both(hit) }); },
  selectionChanged,
};

function selectionChanged() {
  const hits = found?.hits || [];
  $("select-says").textContent = selected.size ? `${count(selected.size)} selected` : "Select all";
  const on = document.querySelectorAll("#results .acts input:checked").length;
  $("select-all").checked = hits.length > 0 && on === hits.length;
  $("select-all").indeterminate = on > 0 && on < hits.length;
}

function subject() {
  if (selected.size) return { hits: [...selected.values()], called: `${several(selected.size, "selected moment")}` };
  const hits = found?.hits || [];
  return { hits, called: `${several(hits.length, "moment")} of this page` };
}

// ---- the address: moments and options can be kept as a bookmark; uploads end with the session

function address() {
  if (examples.some((example) => !example.fileId)) return "#/";
  const query = new URLSearchParams();
  for (const { fileId, start, end, unlike } of examples) {
    // exact, for another time may be nearer to the window beside it
    query.append(unlike ? "unlike" : "like", `${fileId}@${+start.toFixed(6)}${end === null ? "" : `-${+end.toFixed(6)}`}`);
  }
  if (radio() !== "both" && query.size) query.set("within", radio());
  return query.size ? `#/?${query}` : "#/";
}

/** What an entry of the history says besides its address: that the question was empty there. */
const stateOfAddress = () => (examples.length ? null : { isStart: true });

function remember() {
  if (isOpen() && address() !== (location.hash || "#/")) history.pushState(stateOfAddress(), "", address());
}

const isOpen = () => !$("search-view").hidden;

/** Shows the view as its address says. */
export function open(query) {
  const given = [...query.getAll("like").map((text) => [text, false]), ...query.getAll("unlike").map((text) => [text, true])];
  const isAsGiven = (query.size ? `#/?${query}` : "#/") === address();
  const hasUploads = examples.some((example) => !example.fileId);
  // The way back to an empty start empties it. A link to the search, which says nothing of it, leaves it as it is.
  const isKept = !given.length && (hasUploads || (examples.length > 0 && !history.state?.isStart));
  if (isAsGiven || isKept) {
    history.replaceState(stateOfAddress(), "", address());
    if (!found && !running) run();
    return;
  }
  clear();
  selected.clear();
  selectionChanged();
  const within = document.querySelector(`input[name=within][value="${query.get("within") || "both"}"]`);
  if (within) within.checked = true;
  for (const [text, unlike] of given) addGiven(text, unlike);
  showOptions();
  page = 1;
  run();
}

function addGiven(text, unlike) {
  const [fileId, times] = text.split("@");
  const [, start, end = null] = /^(-?[\d.]+)(?:-(-?[\d.]+))?$/.exec(times ?? "0") || [];
  if (!/^[0-9a-f]{32,64}$/.test(fileId) || !Number.isFinite(Number(start))) return;
  addMoment({ fileId, start: Number(start), end: end !== null && Number.isFinite(Number(end)) ? Number(end) : null, name: "a moment of the library", unlike, quiet: true });
  api.about(fileId).then(({ row }) => {
    for (const example of examples) {
      if (example.fileId === fileId) Object.assign(example, { name: row.path.split("/").pop(), has_picture: row.status !== "sound_only", has_sound: row.status !== "picture_only" });
    }
    render();
  }).catch(() => {});
}

// ---- before anything is asked

async function blank() {
  found = null;
  running?.abort();
  running = null;
  $("results-head").hidden = true;
  $("pages").hidden = true;
  $("notices").replaceChildren();
  $("results").replaceChildren();
  $("results").classList.remove("stale");
  const unlike = examples.some((example) => example.unlike && example.state === "ready");
  const start = el("div", { class: "grid small" });
  $("blank").replaceChildren(
    el("div", { class: "hero" },
      el("h1", {}, unlike ? "And what is it like?" : "What are you looking for?"),
      el("p", {}, unlike
        ? "Counter-examples alone find nothing: give an example of what you want, too."
        : "Give an example: a sound, a picture or a clip. Every moment of the library that sounds or looks like it is found, or that sounds as it looks.")),
    start);
  try {
    const list = await api.files({ status: ["ok", "partial", "sound_only", "picture_only"], order: "modified", descending: true, limit: START_FILES });
    if (found || !start.isConnected) return;
    if (!list.total) {
      start.replaceWith(el("p", { class: "faint" }, "The library has no file that can be searched yet. `lookhear index FOLDER` adds some; this page follows."));
      return;
    }
    start.before(el("h2", { class: "small-title" }, "Or start from a moment of the library"));
    start.append(...list.rows.map(startCard));
  } catch (error) {
    if (error.status !== 401) start.replaceWith(el("p", { class: "error" }, error.message));
  }
}

function startCard(row) {
  const stage = el("div", { class: "stage" });
  if (row.status === "sound_only") { stage.classList.add("sound"); stage.append(icon("sound")); }
  else {
    const picture = el("img", { alt: "" });
    picture.addEventListener("error", () => { picture.hidden = true; });
    whenSeen(stage, () => { picture.src = api.frameUrl(row.file_id, row.seconds / 2, 180); });
    stage.append(picture);
  }
  stage.append(el("span", { class: "tag times" }, length(row.seconds)));
  return el("a", { class: "card start", href: `#/file/${row.file_id}?at=${(row.seconds / 2).toFixed(2)}` }, stage,
    el("div", { class: "facts" }, el("span", { class: "name", title: row.path }, row.path.split("/").pop())));
}

// ---- setting up

function clearFilters() {
  for (const id of ["folder", "name", "label", "after", "before", "longer", "shorter"]) $(id).value = "";
  for (const box of document.querySelectorAll("input[name=kind]")) box.checked = false;
  changed();
}

/** Fills the lists of folders and labels when the index has changed. */
export async function follow(generation) {
  if (listsOf === generation) return;
  listsOf = generation;
  try {
    const [folders, labels] = await Promise.all([api.folders(), api.labels()]);
    $("folders").replaceChildren(...folders.slice(0, 2000).map((folder) => el("option", { value: folder.path }, several(folder.files, "file"))));
    offer(labels);
  } catch { listsOf = ""; }
}

/** Whether the folder is none or one of the list. A part of its name is no folder, and waits for the end of the typing. */
const isFolder = () => !folder() || [...$("folders").options].some((option) => option.value === folder());

/** The labels that can be chosen; without any, nothing of them is seen. */
function offer(labels) {
  const list = $("label");
  const chosen = list.value;
  $("label-row").hidden = !labels.length;
  list.replaceChildren(list.options[0], ...labels.map(({ name, moments }) => el("option", { value: name }, `${name} (${count(moments)})`)));
  list.value = labels.some(({ name }) => name === chosen) ? chosen : "";
  if (list.value !== chosen) changed(); // no moment has it any more
}

export function setUp() {
  whenExamplesChange(changed);
  handover.setUp(subject);
  const drop = $("drop");
  const takes = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  let depth = 0;
  addEventListener("dragenter", (event) => { if (takes(event)) { depth += 1; document.body.classList.add("dragging"); event.preventDefault(); } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) document.body.classList.remove("dragging"); });
  addEventListener("dragover", (event) => { if (takes(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!takes(event)) return;
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("dragging");
    if (location.hash.startsWith("#/file") || location.hash.startsWith("#/library")) location.hash = "#/";
    give(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => { if (event.clipboardData?.files.length) give(event.clipboardData.files); });
  drop.addEventListener("click", (event) => { if (!event.target.closest("button")) $("file").click(); });
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { give($("file").files); $("file").value = ""; });
  $("record").addEventListener("click", () => toggleRecording((file) => give([file])));
  $("options").addEventListener("submit", (event) => event.preventDefault());
  $("options").addEventListener("input", (event) => { if (event.target !== $("folder") || isFolder()) changed(); });
  $("folder").addEventListener("change", () => { if (!isFolder()) changed(); });
  $("clear-filters").addEventListener("click", clearFilters);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("select-all").addEventListener("change", () => {
    const on = $("select-all").checked;
    if (!on) selected.clear(); // those of other pages, too
    for (const box of document.querySelectorAll("#results .acts input")) if (box.checked !== on) { box.checked = on; box.dispatchEvent(new Event("change")); }
    selectionChanged();
  });
  const narrow = matchMedia("(max-width: 900px)");
  const fold = () => { $("settings").open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
  showOptions();
}

/** Keys of this view that belong to no card. */
export const keys = {
  "/": () => $("file").click(),
  r: () => $("record").click(),
  e: () => { if (!$("results-head").hidden) $("export").click(); },
  "[": () => turn(-1),
  "]": () => turn(1),
};

/** Moves the focus between cards, as they lie. */
export function moveFocus(key) {
  const cards = [...document.querySelectorAll("#results .card:not(.skeleton)")];
  if (!cards.length) return false;
  const place = cards.indexOf(document.activeElement?.closest?.(".card"));
  if (place < 0) { cards[0].focus(); return true; }
  const top = cards[0].offsetTop;
  const columns = Math.max(1, cards.filter((card) => card.offsetTop === top).length);
  const to = place + { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  const next = cards[Math.min(Math.max(to, 0), cards.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  return true;
}
