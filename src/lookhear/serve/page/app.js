// Starts the page: which view is shown, what the index holds, keys that work everywhere, light and dark.

import * as api from "./api.js";
import * as file from "./file.js";
import * as library from "./library.js";
import * as search from "./search.js";
import { setLimits } from "./examples.js";
import { $, el, length, say, several } from "./dom.js";
import { forgetFilesOf, player } from "./player.js";

const LOOK_MILLISECONDS = 5000;
const THEMES = ["auto", "light", "dark"];
const VIEWS = { search: "search-view", library: "library-view", file: "file-view" };
const MAINS = { ...VIEWS, search: "main" };
const TOKEN = /^#token=(.+)$/;
const KEYS = [
  ["/", "choose a file to search by; in the library, find files"],
  ["r", "record from the microphone, and stop"],
  ["1  2", "search, library"],
  ["j  k  ← → ↑ ↓", "from card to card"],
  ["Enter  Space", "play the moment, and pause"],
  ["m", "more like this"],
  ["n", "not like this: a counter-example"],
  ["h", "heat: where the sound comes from"],
  ["x", "select for export"],
  ["o", "open the file there; in a file, mark out"],
  ["i", "in a file, mark in"],
  ["e", "export"],
  ["[  ]", "page before, next page"],
  ["t", "light, dark, as the system"],
  ["Esc", "stop playing, close"],
  ["?", "this list"],
];

let view = "search";
let isLocked = false;

// ---- views

function route() {
  if (TOKEN.test(location.hash)) { tokenOfAddress().then(route); return; }
  if (isLocked) return;
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  const asked = new URLSearchParams(query);
  const id = /^\/file\/([0-9a-f]{32,64})$/.exec(path)?.[1];
  player.release();
  view = id ? "file" : path === "/library" ? "library" : "search";
  for (const [name, part] of Object.entries(VIEWS)) $(part).hidden = name !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === (view === "file" ? "library" : view)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = { search: "lookhear", library: "Library · lookhear", file: "File · lookhear" }[view];
  if (view === "file") file.open(id, asked);
  else if (view === "library") library.open();
  else search.open(asked);
}

// ---- the index, as it changes

async function look() {
  try {
    const status = await api.status();
    player.most = status.limits.preview_seconds;
    setLimits(status.limits);
    $("holdings").textContent = `${several(status.files, "file")} · ${length(status.seconds)}`;
    $("holdings").classList.remove("bad");
    forgetFilesOf(status.generation);
    library.follow(status);
    search.follow(status.generation);
    if (isLocked) unlock();
  } catch (error) {
    if (error.status === 401) return;
    $("holdings").textContent = error.message;
    $("holdings").classList.add("bad");
  }
}

// ---- the token

function lock() {
  if (isLocked) return;
  isLocked = true;
  player.release();
  for (const part of Object.values(VIEWS)) $(part).hidden = true;
  $("locked").hidden = false;
  $("holdings").textContent = "";
  $("token").focus();
}

function unlock() {
  isLocked = false;
  $("locked").hidden = true;
  route();
}

/** Begins a session, and says what is wrong where that fails. */
async function enter(token) {
  $("token-error").textContent = "";
  try {
    const isToken = await api.open(token);
    await look();
    if (!isLocked) return;
    $("token-error").textContent = isToken
      ? "The token is right, but the page stays locked: the server did not get its cookie back. Allow cookies for this address, and try again."
      : "That is not the token of this server.";
  } catch (error) { $("token-error").textContent = error.message; }
}

async function tokenOfAddress() {
  const token = TOKEN.exec(location.hash)?.[1];
  if (!token) return;
  history.replaceState(null, "", "#/"); // it must not stay where it can be read over a shoulder, or be kept as a bookmark
  let plain = token;
  try { plain = decodeURIComponent(token); } catch { /* it holds a % of its own */ }
  await enter(plain);
}

// ---- light and dark

function showTheme() {
  const theme = localStorage.getItem("theme") || "auto";
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system" : theme}`);
}

function turnTheme() {
  const now = THEMES.indexOf(localStorage.getItem("theme") || "auto");
  localStorage.setItem("theme", THEMES[(now + 1) % THEMES.length]);
  showTheme();
  say($("theme").getAttribute("aria-label"));
}

// ---- keys

const everywhere = {
  "?": () => $("keys").showModal(),
  t: turnTheme,
  1: () => { location.hash = "#/"; },
  2: () => { location.hash = "#/library"; },
  Escape: () => player.release(),
};

function press(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isLocked || $("keys").open) return;
  const { target, key } = event;
  if (target.closest("input:not([type=checkbox], [type=radio]), select, textarea")) return;
  if ((key === "Enter" || key === " ") && target.closest("a, button, summary, input, [role=slider]")) return;
  if (key.startsWith("Arrow") && target.closest("[role=slider], [type=radio], #scroll")) return;
  const act = { search: search.keys, library: library.keys, file: file.keys }[view][key] || everywhere[key];
  if (act) { event.preventDefault(); act(); return; }
  const moves = key === "j" || key === "k" || (key.startsWith("Arrow") && target.closest(".card"));
  if (view === "search" && moves && search.moveFocus(key)) event.preventDefault();
}

async function start() {
  showTheme();
  api.whenLocked(lock);
  search.setUp();
  library.setUp();
  $("theme").addEventListener("click", turnTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("keys-list").replaceChildren(...KEYS.flatMap(([keys, what]) => [
    el("dt", {}, ...keys.split("  ").map((key) => el("kbd", {}, key))), el("dd", {}, what)]));
  $("token-form").addEventListener("submit", (event) => { event.preventDefault(); enter($("token").value.trim()); });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // it would change the address, which says what is shown
    $(isLocked ? "token" : MAINS[view]).focus();
  });
  addEventListener("keydown", press);
  addEventListener("hashchange", route);
  await tokenOfAddress();
  await look();
  if (!isLocked) route();
  setInterval(() => { if (!document.hidden && !isLocked) look(); }, LOOK_MILLISECONDS);
  document.body.dataset.ready = "";
}

start();
