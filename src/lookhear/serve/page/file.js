// The view of one file: watch it, hear it, and start a search from a moment or a span of it.

import * as api from "./api.js";
import { $, STATUS, bytes, clock, el, icon, later, length, paintBy, several, toast } from "./dom.js";
import { aboutOf, player } from "./player.js";
import { Strip } from "./strip.js";

const SHOWN_SECONDS = 40; // of the sound, around where it plays
const REPAINT_MILLISECONDS = 150;
let view = null;

/** Shows a file at a time of it. */
export async function open(id, query) {
  player.release();
  view = null;
  const at = Number(query.get("at"));
  $("file-view").replaceChildren(el("p", { class: "faint loading" }, "Looking at the file …"));
  try {
    const about = await aboutOf(id);
    if (!location.hash.startsWith(`#/file/${id}`)) return;
    view = new FileView(id, about, Number.isFinite(at) && query.has("at") ? at : about.start_seconds);
    $("file-view").replaceChildren(view.element);
    $("file-view").focus({ preventScroll: true });
  } catch (error) {
    if (error.status === 401 || !location.hash.startsWith(`#/file/${id}`)) return;
    $("file-view").replaceChildren(el("div", { class: "empty" }, el("h2", {}, "This file cannot be shown"), el("p", {}, error.message),
      el("a", { class: "button", href: "#/library" }, "To the library")));
  }
}

class FileView {
  constructor(id, about, at) {
    this.id = id;
    this.about = about;
    this.state = "stopped";
    this.now = Math.min(Math.max(at, about.start_seconds), about.end_seconds);
    this.from = this.to = null; // the span that is marked
    this.stage = el("div", { class: "stage large" });
    this.play = el("button", { type: "button", class: "play", "aria-label": "Play", title: "Play (Enter)", onclick: () => this.toggle() }, icon("play"));
    this.poster();
    this.repaintSoon = later(() => { if (this.element.isConnected && this.state === "stopped") this.repaint(); }, REPAINT_MILLISECONDS);
    this.strip = new Strip({
      id, span: this.span(), width: 1200, height: 96, label: "Time around here", eager: true, onseek: (seconds) => this.go(seconds),
    });
    this.whole = el("input", { type: "range", min: about.start_seconds, max: about.end_seconds, step: 0.1, value: this.now, "aria-label": "Time in the whole file", oninput: () => this.jump(Number(this.whole.value)) });
    this.time = el("output", { class: "time" });
    this.spanSays = el("span", { class: "faint" });
    this.likeButton = el("button", { type: "button", class: "primary", title: "More like this (m)", onclick: () => this.search() }, icon("like"), el("span", {}, "More like this moment"));
    this.heatButton = about.picture && about.sound ? el("button", { type: "button", "aria-pressed": "false", title: "Where the sound comes from (h)", onclick: () => this.showHeat() }, icon("heat"), "Heat") : null;
    this.message = el("p", { class: "error", role: "alert" });
    this.element = el("div", { class: "file-grid" }, this.left(), this.facts());
    this.show();
  }

  left() {
    const mark = (which, name, key) => el("button", { type: "button", title: `${name} (${key})`, onclick: () => this.mark(which) }, name);
    return el("div", { class: "watch" }, this.stage, this.message, this.strip.element,
      el("div", { class: "whole" }, el("span", {}, clock(this.about.start_seconds, 0)), this.whole, el("span", {}, clock(this.about.end_seconds, 0))),
      el("div", { class: "row deck" }, this.time, this.likeButton, mark("from", "Mark in", "i"), mark("to", "Mark out", "o"), this.heatButton,
        this.clearButton = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => { this.from = this.to = null; this.show(); } }, "Clear marks"), this.spanSays));
  }

  facts() {
    const { about } = this;
    const { row, picture, sound } = about;
    const parts = row.path.split("/");
    const name = parts.pop();
    const entries = {
      Folder: parts.length ? `${row.library}/${parts.join("/")}` : row.library,
      "What it is": STATUS[row.status],
      Length: length(row.seconds),
      Picture: picture ? `${picture.codec}, ${picture.width} × ${picture.height}, ${picture.frames_per_second.toFixed(2)} a second` : "none",
      Sound: sound ? `${sound.codec}, ${sound.sample_rate} Hz, ${several(sound.channels, "channel")}` : "none",
      Moments: String(row.moments),
      Size: bytes(row.size_bytes),
      Changed: new Date(1000 * row.modified).toLocaleString(),
      ...(about.copies.length ? { "Same bytes": about.copies.join("\n") } : {}),
      ...(row.reason ? { Missing: row.reason } : {}),
    };
    return el("aside", { class: "about", "aria-label": "About this file" }, el("h1", {}, name),
      el("dl", { class: "plain" }, ...Object.entries(entries).flatMap(([title, value]) => [el("dt", {}, title), el("dd", {}, value)])),
      about.plays === "directly" ? null : el("p", { class: "faint" }, "Browsers do not play this kind of file, so short previews are made of it."),
      el("a", { href: api.mediaUrl(this.id), download: name, class: "button" }, "Download"));
  }

  poster() {
    if (this.about.picture) {
      this.picture = el("img", { alt: "" });
      this.picture.addEventListener("error", () => { this.picture.hidden = true; });
      this.heat = el("img", { class: "heat", alt: "" });
      this.stage.append(this.picture, this.heat);
    } else {
      this.wave = el("div", { class: "wave" });
      this.stage.classList.add("sound");
      this.stage.append(this.wave);
    }
    this.repaint();
    this.stage.append(this.play);
    this.stage.addEventListener("click", (event) => { if (!event.target.closest("button")) this.toggle(); });
  }

  /** What stands still: the frame of now, or the sound around it. */
  repaint() {
    if (this.picture) {
      this.picture.hidden = false;
      this.picture.src = api.frameUrl(this.id, this.now, 540);
    } else paintBy(this.wave, api.stripUrl(this.id, ...this.span(), "waveform", 900, 240));
  }

  /** Where the sound of now comes from, or no more. */
  showHeat() {
    if (!this.heatButton) return;
    const on = this.heatButton.getAttribute("aria-pressed") !== "true";
    this.heatButton.setAttribute("aria-pressed", String(on));
    this.message.textContent = "";
    this.heat.classList.remove("on");
    this.stage.classList.toggle("thinking", on);
    if (!on) return;
    player.pause();
    this.heat.onload = () => { this.stage.classList.remove("thinking"); this.heat.classList.toggle("on", this.heatButton.getAttribute("aria-pressed") === "true"); };
    this.heat.onerror = () => {
      this.hideHeat();
      this.message.textContent = "Where the sound comes from cannot be shown here.";
    };
    this.heat.src = api.heatUrl(this.id, this.now, 540);
  }

  hideHeat() {
    this.heatButton?.setAttribute("aria-pressed", "false");
    this.heat?.classList.remove("on");
    this.stage.classList.remove("thinking");
  }

  /** The stretch of the strip: around now, inside the file. */
  span() {
    const { start_seconds: first, end_seconds: last } = this.about;
    const start = Math.max(first, Math.min(Math.floor(this.now - SHOWN_SECONDS / 2), last - SHOWN_SECONDS));
    return [start, Math.min(start + SHOWN_SECONDS, last)];
  }

  go(seconds) {
    this.now = seconds;
    this.message.textContent = "";
    this.hideHeat();
    player.play({ id: this.id, from: seconds, until: null }, this.stage, this);
    this.show();
  }

  /** To a place that the strip may not show. */
  jump(seconds) {
    this.now = seconds;
    this.hideHeat();
    if (player.id === this.id && this.state !== "stopped") player.seek(seconds);
    else this.repaintSoon();
    this.show();
  }

  toggle() {
    if (this.state === "playing") player.pause();
    else if (this.state === "paused") { this.hideHeat(); player.start(); }
    else this.go(this.now);
  }

  mark(which) {
    this[which] = this.now;
    if (this.from !== null && this.to !== null && this.to <= this.from) this[which === "from" ? "to" : "from"] = null;
    this.show();
  }

  search() {
    const isSpan = this.from !== null && this.to !== null;
    const at = isSpan ? `${this.from.toFixed(2)}-${this.to.toFixed(2)}` : this.now.toFixed(2);
    player.release();
    location.hash = `#/?${new URLSearchParams({ like: `${this.id}@${at}` })}`;
  }

  show() {
    const [start, end] = this.strip.span;
    if (this.now < start - 0.01 || this.now > end + 0.01) this.strip.show(this.span());
    const marked = this.from !== null || this.to !== null;
    this.strip.mark(marked ? [this.from ?? this.about.start_seconds, this.to ?? this.about.end_seconds] : null);
    const isSpan = this.from !== null && this.to !== null;
    this.likeButton.lastChild.textContent = isSpan ? "More like this span" : "More like this moment";
    this.spanSays.textContent = marked ? `${this.from === null ? "…" : clock(this.from)} – ${this.to === null ? "…" : clock(this.to)}` : "";
    this.clearButton.hidden = !marked;
    this.strip.at(this.now);
    this.time.textContent = clock(this.now, 2);
    this.whole.value = this.now;
    this.whole.setAttribute("aria-valuetext", clock(this.now));
  }

  onTime(seconds) {
    this.now = seconds;
    this.show();
  }

  onState(state, sentence) {
    this.state = state;
    this.stage.classList.toggle("thinking", state === "loading");
    this.stage.classList.toggle("active", state !== "stopped");
    this.play.replaceChildren(icon(state === "playing" ? "pause" : "play"));
    this.play.setAttribute("aria-label", state === "playing" ? "Pause" : "Play");
    if (state === "stopped") this.repaintSoon();
    if (state === "failed") { this.message.textContent = sentence; toast(sentence, { bad: true }); player.release(); }
  }
}

/** Keys of this view. */
export const keys = {
  Enter: () => view?.toggle(),
  " ": () => view?.toggle(),
  h: () => view?.showHeat(),
  m: () => view?.search(),
  i: () => view?.mark("from"),
  o: () => view?.mark("to"),
  ArrowLeft: () => view?.jump(Math.max(view.now - 1, view.about.start_seconds)),
  ArrowRight: () => view?.jump(Math.min(view.now + 1, view.about.end_seconds)),
};
