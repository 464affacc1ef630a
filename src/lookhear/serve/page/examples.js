// What is looked for: files that were given, sounds that were recorded, moments of the library; like these or unlike.

import * as api from "./api.js";
import { $, clock, el, icon, iconButton, length, outline, say } from "./dom.js";

export const examples = [];
let changed = () => {};
let limits = { max_upload_bytes: Infinity };

/** Calls `then` whenever the examples have changed so that the hits may. */
export function whenExamplesChange(then) { changed = then; }
export function setLimits(given) { limits = given; }

/** The examples as POST /api/search takes them. */
export function asked() {
  const ready = examples.filter((example) => example.state === "ready");
  const value = (example) => example.fileId
    ? { kind: "moment", file_id: example.fileId, start_seconds: example.start, end_seconds: example.end, use: example.use }
    : { kind: "upload", id: example.id, use: example.use };
  return {
    examples: ready.filter((example) => !example.unlike).map(value),
    counter_examples: ready.filter((example) => example.unlike).map(value),
  };
}

let sent = Promise.resolve(); // one after the other: the server reads few at one time and sends others away

/** Files that were dropped or chosen, or a recording: each is uploaded and becomes an example. */
export function give(files) {
  for (const file of files) {
    const example = { name: file.name || "recording", state: "reading", progress: 0, use: "both", unlike: false, blob: file };
    examples.push(example);
    sent = sent.then(() => send(example));
  }
  render();
}

async function send(example) {
  if (!examples.includes(example)) return; // taken away while it waited
  const file = example.blob;
  example.sending = new AbortController();
  try {
    if (file.size > limits.max_upload_bytes) {
      throw new api.Problem(`'${example.name}' is larger than ${(limits.max_upload_bytes / 2 ** 20).toFixed(0)} MiB; cut out the part that matters.`, 413);
    }
    if (file.size === 0) throw new api.Problem(`'${example.name}' is empty.`, 422);
    const read = await api.upload(file, example.name, (share) => { example.progress = share; showProgress(example); }, example.sending.signal);
    if (!examples.includes(example)) { api.forget(read.id); return; } // taken away in the meantime
    Object.assign(example, read, { state: "ready" });
    say(`${example.name} is read`);
  } catch (error) {
    if (!examples.includes(example)) return;
    example.state = "bad";
    example.error = error.message;
    say(error.message);
  }
  render();
  if (example.state === "ready") changed();
}

/** A moment of the library as an example. */
export function addMoment({ fileId, start, end = null, name, picture = true, sound = true, unlike = false, quiet = false }) {
  const same = examples.find((each) => each.fileId === fileId && each.start === start && each.end === end);
  if (same) same.unlike = unlike;
  else examples.push({ fileId, start, end, name, has_picture: picture, has_sound: sound, use: "both", unlike, state: "ready" });
  render();
  if (!quiet) changed();
}

/** Takes all examples away. */
export function clear() {
  for (const example of examples.splice(0)) release(example);
  render();
}

function release(example) {
  example.sending?.abort();
  if (hearing?.example === example) hearing.pause();
  if (example.url) URL.revokeObjectURL(example.url);
  if (example.id) api.forget(example.id);
}

function remove(example) {
  const place = examples.indexOf(example);
  if (place >= 0) examples.splice(place, 1);
  release(example);
  render();
  const items = $("examples").querySelectorAll(".drop-it");
  (items[Math.min(place, items.length - 1)] || $("choose")).focus();
  if (example.state === "ready") changed();
}

export function render() {
  $("examples").replaceChildren(...examples.map(item));
  document.body.classList.toggle("asking", examples.length > 0);
}

const progressOf = (example) => (example.progress < 1 ? `sending ${Math.round(100 * example.progress)} %` : "listening and looking …");

/** Only what has changed: the button beside it may have the focus. */
function showProgress(example) {
  const shown = $("examples").children[examples.indexOf(example)];
  if (!shown || example.state !== "reading") return;
  shown.querySelector(".meta").textContent = progressOf(example);
  shown.querySelector("progress").value = example.progress;
}

function item(example) {
  const meta = {
    reading: progressOf(example),
    bad: example.error,
    ready: example.fileId
      ? example.end === null ? `at ${clock(example.start)}` : `${clock(example.start)} – ${clock(example.end)}`
      : example.kind === "picture" ? "picture" : `${example.kind}, ${length(example.seconds)}`,
  }[example.state];
  return el("li", { class: `example ${example.state}${example.unlike ? " unlike" : ""}` },
    el("div", { class: "look" }, look(example)),
    el("div", { class: "what" },
      el("span", { class: "name", title: example.name }, example.name),
      el("span", { class: "meta" }, meta),
      example.note ? el("span", { class: "meta" }, example.note) : null,
      example.state === "ready" ? controls(example) : null),
    example.state === "reading" ? el("progress", { max: 1, value: example.progress, "aria-label": `Sending ${example.name}` }) : null,
    el("button", { type: "button", class: "icon drop-it", "aria-label": `Remove ${example.name}`, title: "Remove", onclick: () => remove(example) }, icon("close")));
}

function look(example) {
  if (example.state !== "ready") return icon(example.state === "bad" ? "close" : "both");
  if (example.fileId) {
    if (!example.has_picture) return icon("sound");
    const picture = el("img", { alt: "", src: api.frameUrl(example.fileId, example.end === null ? example.start : (example.start + example.end) / 2, 96) });
    picture.addEventListener("error", () => picture.replaceWith(icon("sound")));
    return picture;
  }
  if (example.has_picture) return el("img", { alt: "", src: api.exampleUrl(example.id) });
  return outline(example.peaks);
}

function controls(example) {
  const made = el("div", { class: "ways" });
  if (example.has_sound && example.has_picture) {
    made.append(el("select", { "aria-label": `Which of ${example.name}`, onchange: (event) => { example.use = event.target.value; changed(); } },
      ...[["both", "sound and picture"], ["sound", "its sound"], ["picture", "its picture"]].map(([value, text]) =>
        el("option", { value, selected: example.use === value }, text))));
  }
  made.append(el("button", { type: "button", class: "quiet", "aria-pressed": String(example.unlike), title: "Moments like this are left out", onclick: () => { example.unlike = !example.unlike; render(); changed(); } }, example.unlike ? "not like this" : "like this"));
  if (example.blob && example.kind !== "picture") made.append(listen(example));
  return made;
}

let hearing = null;

/** Plays what was given, from this machine. */
function listen(example) {
  const button = iconButton("play", `Play ${example.name}`, () => {
    if (hearing) { hearing.pause(); const own = hearing.example === example; hearing = null; if (own) return; }
    example.url ||= URL.createObjectURL(example.blob);
    const audio = Object.assign(new Audio(example.url), { example });
    hearing = audio;
    audio.onplay = () => button.replaceChildren(icon("pause"));
    audio.onpause = audio.onended = () => { button.replaceChildren(icon("play")); if (hearing === audio) hearing = null; };
    audio.play().catch(() => say("This browser cannot play the file that was given."));
  });
  return button;
}
