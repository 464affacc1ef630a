// One player for the whole page: it plays a file from a moment on, on the file's own clock, wherever it is put. What
// the browser cannot play is shown as a preview of the part that is wanted.

import * as api from "./api.js";
import { el } from "./dom.js";

const LEAD_SECONDS = 1.5; // of a preview, before the moment
const PREVIEW_SECONDS = 12; // of a preview without an end

const known = new Map(); // what files are, by id
let knownOf = ""; // the generation of the index that they are of
const refused = new Set(); // files that this browser could not play after all

/** What GET /api/files/ID says, asked once. */
export function aboutOf(id) {
  if (!known.has(id)) known.set(id, api.about(id).catch((error) => { known.delete(id); throw error; }));
  return known.get(id);
}

/** Forgets them when the index is another one: a file may have another name now. */
export function forgetFilesOf(generation) {
  if (generation !== knownOf) known.clear();
  knownOf = generation;
}

class Player {
  constructor() {
    this.video = el("video", { preload: "auto", playsInline: true, class: "player" });
    this.listener = null; // {onState(state, sentence), onTime(seconds)} of whoever plays
    this.id = null;
    this.offset = 0; // of the file's clock where the player shows 0
    this.range = null; // of a preview, on the file's clock
    this.until = null;
    this.wanted = 0; // where to begin once it is loaded
    this.most = 30; // seconds of a preview, as the server has it
    const video = this.video;
    video.addEventListener("loadedmetadata", () => this.loaded());
    video.addEventListener("playing", () => { this.tell("playing"); this.follow(); });
    video.addEventListener("pause", () => { if (!video.ended) this.tell("paused"); });
    video.addEventListener("waiting", () => this.tell("loading"));
    video.addEventListener("ended", () => this.ended());
    video.addEventListener("error", () => this.failed());
    video.addEventListener("timeupdate", () => this.stopAtEnd()); // also while the tab is hidden
    video.addEventListener("seeked", () => this.listener?.onTime(this.time));
  }

  /** Seconds on the file's clock. */
  get time() { return this.offset + this.video.currentTime; }
  get playing() { return this.id !== null && !this.video.paused; }

  tell(state, sentence = "") { this.listener?.onState(state, sentence); }

  /** Plays `{id, from, until}` (until null: to the end) in `place`, an element; whoever played before is told. */
  async play(moment, place, listener) {
    if (this.listener && this.listener !== listener) this.release();
    const turn = (this.turn = (this.turn || 0) + 1);
    this.listener = listener;
    if (this.video.parentElement !== place) place.append(this.video);
    this.until = moment.until;
    if (this.id === moment.id && this.covers(moment.from) && this.video.readyState > 0) {
      this.video.currentTime = moment.from - this.offset;
      this.start();
      return;
    }
    this.tell("loading");
    try {
      const about = await aboutOf(moment.id);
      if (turn !== this.turn) return;
      this.id = moment.id;
      this.about = about;
      this.load(moment.from);
    } catch (error) {
      if (turn === this.turn) this.tell("failed", error.message);
    }
  }

  covers(seconds) {
    return this.range === null || (seconds >= this.range[0] - 0.001 && seconds < this.range[1] - 0.05);
  }

  load(from) {
    const { about, video } = this;
    this.wanted = from;
    if (about.plays === "directly" && !refused.has(this.id)) {
      this.range = null;
      this.offset = 0;
      video.src = api.mediaUrl(this.id);
    } else {
      const start = Math.max(about.start_seconds, Math.floor(Math.max(from - LEAD_SECONDS, about.start_seconds)));
      const end = Math.max((this.until ?? from) + 1, from + PREVIEW_SECONDS);
      const seconds = Math.min(this.most, Math.ceil(end - start));
      this.range = [start, Math.min(start + seconds, about.end_seconds)];
      this.offset = start;
      video.src = api.previewUrl(this.id, start, seconds);
    }
    video.load();
  }

  loaded() {
    if (this.range === null && this.about.picture && this.video.videoWidth === 0) { this.failed(); return; }
    this.video.currentTime = Math.max(0, this.wanted - this.offset);
    this.start();
  }

  start() {
    this.video.play().catch((error) => {
      if (error.name === "NotAllowedError") this.tell("paused");
    });
  }

  failed() {
    if (this.id === null || !this.video.getAttribute("src")) return;
    if (this.range === null) {
      refused.add(this.id);
      this.load(this.wanted);
      return;
    }
    // The player says only that it failed; the server says why, and by then something else may play.
    const turn = this.turn;
    const tell = (sentence) => { if (turn === this.turn) this.tell("failed", sentence); };
    fetch(this.video.src, { headers: { range: "bytes=0-0" } })
      .then((answer) => (answer.ok ? null : answer.json()))
      .then((answer) => tell(answer?.error || "This browser cannot play it."))
      .catch(() => tell("The server cannot be reached."));
  }

  ended() {
    if (this.range !== null && this.until === null && this.range[1] < this.about.end_seconds - 0.1) {
      this.load(this.range[1]);
      return;
    }
    this.tell("paused");
  }

  /** Tells the time while it plays, and stops where the moment ends. */
  follow() {
    if (this.following) return;
    this.following = true;
    const step = () => {
      if (!this.playing) { this.following = false; return; }
      this.stopAtEnd();
      this.listener?.onTime(this.time);
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  stopAtEnd() {
    if (!this.playing || this.until === null || this.time < this.until) return;
    this.video.pause();
    this.until = null; // who plays on from here wants to see what follows
  }

  /** Goes to a time of the file that plays. */
  seek(seconds) {
    this.until = null;
    if (this.covers(seconds)) this.video.currentTime = Math.max(0, seconds - this.offset);
    else this.load(seconds);
  }

  pause() { this.video.pause(); }

  /** Stops, and leaves the place where it played. */
  release() {
    const listener = this.listener;
    this.listener = null;
    this.turn = (this.turn || 0) + 1;
    this.id = null;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.video.remove();
    listener?.onState("stopped", "");
  }
}

export const player = new Player();
