// Hits as cards: seen, heard, marked, and what can be done with each.

import * as api from "./api.js";
import { clock, el, icon, iconButton, paintBy, rarity, say } from "./dom.js";
import { player } from "./player.js";
import { Strip, whenSeen } from "./strip.js";

const CONTEXT_SECONDS = 2.5; // shown before and after a moment
const LEAST_SHOWN_SECONDS = 8;
const HOVER_MILLISECONDS = 350;
const MATCHED = { both: "sound and picture match", sound: "its sound matches", picture: "its picture matches" };
const NAMED = { both: "named by its sound and picture", sound: "named by its sound", picture: "named by its picture" };

export const selected = new Map(); // hits by key

const keyOf = (hit) => `${hit.file_id}@${hit.start_seconds.toFixed(3)}`;

/** The stretch around a moment that its strip shows. */
function context(hit) {
  const room = Math.max(CONTEXT_SECONDS, (LEAST_SHOWN_SECONDS - (hit.end_seconds - hit.start_seconds)) / 2);
  let [start, end] = [hit.start_seconds - room, hit.end_seconds + room];
  if (start < 0) [start, end] = [0, end - start];
  // A file whose clock does not begin at 0 may end later; the strip then shows a little less of it.
  return [Math.min(start, hit.start_seconds), Math.max(Math.min(end, Math.max(hit.seconds, hit.end_seconds)), start + 1)];
}

/** A hit's score as it is shown: how rare, or by a label alone how probable. */
const scoreOf = (score, isProbability) => (isProbability
  ? { short: `${Math.round(100 * score)} %`, beside: "probable", long: `The classifier gave its label a probability of ${score.toFixed(2)}` }
  : { short: score.toFixed(1), beside: rarity(score), long: `Score ${score.toFixed(2)}: ${rarity(score)} random pairs of this library matches as well` });

/** A card of one hit. `acts` are like(hit), unlike(hit), selectionChanged(). */
export class Card {
  constructor(hit, rank, best, isProbability, acts) {
    this.hit = hit;
    this.acts = acts;
    this.state = "stopped";
    const at = clock(hit.peak_seconds);
    const score = scoreOf(hit.score, isProbability);
    const labels = hit.labels.join(", ");
    this.why = (isProbability ? NAMED : MATCHED)[hit.matched];
    this.hasPicture = hit.status !== "sound_only";
    this.stage = el("div", { class: "stage" });
    this.playButton = el("button", { type: "button", class: "play", "aria-label": `Play ${hit.name} from ${at}`, title: "Play (Enter)", onclick: () => this.toggle() }, icon("play"));
    this.fill();
    this.strip = new Strip({
      id: hit.file_id, span: context(hit), mark: [hit.start_seconds, hit.end_seconds], peak: hit.peak_seconds,
      label: `Time in ${hit.name}`, onseek: (seconds) => this.playFrom(seconds),
    });
    this.box = el("input", { type: "checkbox", "aria-label": `Select ${hit.name} at ${at}`, checked: selected.has(keyOf(hit)), onchange: () => this.select(this.box.checked) });
    this.message = el("p", { class: "error", hidden: true });
    this.heatButton = hit.status === "ok" || hit.status === "partial"
      ? iconButton("heat", "Where the sound comes from", () => this.showHeat(!this.heatShown), "h") : null;
    this.heatButton?.setAttribute("aria-pressed", "false");
    this.element = el("article", { class: "card", tabIndex: 0, "aria-label": `${rank}. ${hit.name} at ${at}, score ${score.short}, ${this.why}${labels && `, labelled ${labels}`}`, "data-key": keyOf(hit) },
      this.stage, this.strip.element, this.message,
      el("div", { class: "facts" },
        el("div", { class: "names" },
          el("a", { class: "name", href: `#/file/${hit.file_id}?at=${hit.peak_seconds.toFixed(2)}`, title: hit.path }, hit.name),
          el("span", { class: "folder", title: hit.path }, this.place()),
          labels && el("span", { class: "labels", title: `Labelled ${labels}` }, labels)),
        el("div", { class: "score", title: score.long }, el("b", {}, score.short), el("span", {}, score.beside))),
      this.meter(best),
      el("div", { class: "acts" },
        el("button", { type: "button", class: "text", title: "More like this (m)", onclick: () => acts.like(hit) }, icon("like"), "More like this"),
        iconButton("unlike", "Not like this", () => acts.unlike(hit), "n"),
        this.heatButton,
        el("span", { class: "gap" }),
        el("label", { class: "check", title: "Select (x)" }, this.box, el("span", { class: "hidden" }, "Select"))));
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  place() {
    const { folder, copies } = this.hit;
    const where = folder || "(top folder)";
    return copies.length ? `${where} · ${copies.length + 1} copies` : where;
  }

  meter(best) {
    const full = el("span", {});
    full.style.width = `${100 * Math.min(Math.max(this.hit.score / Math.max(best, 1), 0), 1)}%`;
    return el("div", { class: "meter", "aria-hidden": "true" }, full);
  }

  /** What stands still in the stage. */
  fill() {
    const { hit } = this;
    const times = el("span", { class: "tag times" }, `${clock(hit.start_seconds)} – ${clock(hit.end_seconds)}`);
    const matched = el("span", { class: `tag matched ${hit.matched}`, title: this.why }, icon(hit.matched === "both" ? "both" : hit.matched), { both: "both", sound: "sound", picture: "picture" }[hit.matched]);
    if (this.hasPicture) {
      this.picture = el("img", { alt: "", decoding: "async", draggable: false });
      this.picture.addEventListener("error", () => { this.picture.hidden = true; this.stage.classList.add("bare"); });
      whenSeen(this.stage, () => { this.picture.src = api.frameUrl(hit.file_id, hit.peak_seconds); });
      this.heat = el("img", { class: "heat", alt: "", draggable: false });
      this.stage.append(this.picture, this.heat);
      this.stage.addEventListener("pointerenter", (event) => {
        if (event.pointerType === "mouse") this.hover = setTimeout(() => this.showHeat(true, true), HOVER_MILLISECONDS);
      });
      this.stage.addEventListener("pointerleave", () => { clearTimeout(this.hover); if (this.heatByHover) this.showHeat(false); });
    } else {
      const wave = el("div", { class: "wave" });
      whenSeen(this.stage, () => paintBy(wave, api.stripUrl(hit.file_id, hit.start_seconds, Math.max(hit.end_seconds, hit.start_seconds + 0.5), "waveform", 360, 120)));
      this.stage.classList.add("sound");
      this.stage.append(wave);
    }
    this.stage.append(times, matched, this.playButton);
  }

  showHeat(on, byHover = false) {
    if (!this.heatButton || (byHover && this.state !== "stopped")) return;
    this.heatShown = on;
    this.heatByHover = on && byHover;
    this.heatButton.setAttribute("aria-pressed", String(on));
    if (!on) { this.heat.classList.remove("on"); this.stage.classList.remove("thinking"); return; }
    if (this.heat.complete && this.heat.naturalWidth) { this.heat.classList.add("on"); return; }
    this.stage.classList.add("thinking");
    this.heat.onload = () => { this.stage.classList.remove("thinking"); if (this.heatShown) this.heat.classList.add("on"); };
    this.heat.onerror = () => {
      this.stage.classList.remove("thinking");
      this.heat.removeAttribute("src");
      if (!this.heatByHover) this.tell("Where the sound comes from cannot be shown here.");
      this.heatShown = false;
      this.heatButton.setAttribute("aria-pressed", "false");
    };
    this.heat.src = api.heatUrl(this.hit.file_id, this.hit.peak_seconds);
  }

  tell(sentence) {
    this.message.textContent = sentence;
    this.message.hidden = !sentence;
    if (sentence) say(sentence);
  }

  toggle() {
    if (this.state === "playing") player.pause();
    else if (this.state === "paused" && player.time < this.hit.end_seconds - 0.05 && player.time >= this.hit.start_seconds) player.start();
    else this.playFrom(this.hit.start_seconds, this.hit.end_seconds);
  }

  playFrom(from, until = null) {
    this.tell("");
    this.showHeat(false);
    player.play({ id: this.hit.file_id, from, until }, this.stage, this);
  }

  onState(state, sentence) {
    this.state = state;
    this.element.classList.toggle("active", state !== "stopped");
    this.stage.classList.toggle("thinking", state === "loading");
    this.playButton.replaceChildren(icon(state === "playing" ? "pause" : "play"));
    this.playButton.setAttribute("aria-label", `${state === "playing" ? "Pause" : "Play"} ${this.hit.name} from ${clock(this.hit.peak_seconds)}`);
    if (state === "failed") { this.tell(sentence); player.release(); }
    if (state === "stopped") this.strip.at(this.hit.start_seconds, false);
  }

  onTime(seconds) { this.strip.at(seconds); }

  select(on) {
    this.box.checked = on;
    this.element.classList.toggle("selected", on);
    if (on) selected.set(keyOf(this.hit), this.hit);
    else selected.delete(keyOf(this.hit));
    this.acts.selectionChanged();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const own = event.target === this.element;
    const act = {
      m: () => this.acts.like(this.hit),
      n: () => this.acts.unlike(this.hit),
      x: () => this.select(!this.box.checked),
      h: () => this.showHeat(!this.heatShown),
      o: () => { location.hash = `#/file/${this.hit.file_id}?at=${this.hit.peak_seconds.toFixed(2)}`; },
      ...(own ? { Enter: () => this.toggle(), " ": () => this.toggle() } : {}),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/** Cards of a page of hits, with a line where chance would do as well. */
export function cardsOf(found, rankOfFirst, best, acts) {
  const shown = [];
  const isProbability = found.chance_score === null;
  let hasLine = isProbability; // with which chance has nothing to do
  found.hits.forEach((hit, place) => {
    if (!hasLine && hit.score < found.chance_score) {
      hasLine = true;
      shown.push(el("p", { class: "divider" },
        el("span", {}, `Chance alone finds about ${found.chance_score.toFixed(1)} in a library of this size: from here on, trust your ears.`)));
    }
    shown.push(new Card(hit, rankOfFirst + place, best, isProbability, acts).element);
  });
  return shown;
}

/** Cards that are about to come. */
export const skeletons = (number) => Array.from({ length: number }, () =>
  el("div", { class: "card skeleton", "aria-hidden": "true" }, el("div", { class: "stage" }), el("div", { class: "strip" }), el("div", { class: "facts" })));
