// The sound of a stretch as a picture, with the moment marked and a line where it plays. It is a slider.

import * as api from "./api.js";
import { clock, el, paintBy } from "./dom.js";

const STEP_SECONDS = 0.5;

export class Strip {
  /** `span` and `mark` are [start, end] on the file's clock; `onseek(seconds)` is called where somebody points. */
  constructor({ id, span, mark = null, peak = null, kind = "spectrogram", width = 480, height = 56, label, onseek, eager = false }) {
    this.id = id;
    this.kind = kind;
    this.width = width;
    this.height = height;
    this.onseek = onseek;
    this.paint = el("div", { class: "paint" });
    this.marked = el("div", { class: "mark", hidden: !mark });
    this.peak = el("div", { class: "peak", hidden: peak === null });
    this.line = el("div", { class: "line", hidden: true });
    this.element = el("div", { class: `strip ${kind}`, role: "slider", tabIndex: 0, "aria-label": label, title: "Click to play from there" },
      this.marked, this.paint, this.peak, this.line);
    this.element.addEventListener("click", (event) => {
      const box = this.element.getBoundingClientRect();
      this.go(this.span[0] + ((event.clientX - box.left) / box.width) * (this.span[1] - this.span[0]));
    });
    this.element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -STEP_SECONDS, ArrowRight: STEP_SECONDS, PageUp: 10 * STEP_SECONDS, PageDown: -10 * STEP_SECONDS }[event.key];
      if (step) this.go(this.now + step);
      else if (event.key === "Home") this.go(this.span[0]);
      else if (event.key === "End") this.go(this.span[1] - STEP_SECONDS);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.now = mark ? mark[0] : span[0];
    this.peakSeconds = peak;
    this.show(span, mark, { eager });
  }

  /** Shows another stretch. */
  show(span, mark = null, { eager = true } = {}) {
    this.span = span;
    this.mark(mark);
    const paint = () => paintBy(this.paint, api.stripUrl(this.id, span[0], span[1], this.kind, this.width, this.height));
    if (eager) paint();
    else whenSeen(this.element, paint);
    this.element.setAttribute("aria-valuemin", span[0].toFixed(2));
    this.element.setAttribute("aria-valuemax", span[1].toFixed(2));
    if (this.peakSeconds !== null) this.peak.style.left = this.place(this.peakSeconds);
    this.at(this.now, false);
  }

  /** Marks a part of it. */
  mark(mark) {
    this.marked.hidden = !mark;
    if (!mark) return;
    const [left, right] = [Math.max(mark[0], this.span[0]), Math.min(mark[1], this.span[1])];
    this.marked.style.left = this.place(left);
    this.marked.style.width = `${(100 * Math.max(right - left, 0)) / (this.span[1] - this.span[0])}%`;
  }

  place(seconds) {
    const share = (seconds - this.span[0]) / (this.span[1] - this.span[0]);
    return `${100 * Math.min(Math.max(share, 0), 1)}%`;
  }

  /** Moves the line. */
  at(seconds, visible = true) {
    this.now = seconds;
    this.line.hidden = !visible;
    this.line.style.left = this.place(seconds);
    this.element.setAttribute("aria-valuenow", seconds.toFixed(2));
    this.element.setAttribute("aria-valuetext", clock(seconds));
  }

  go(seconds) {
    const inside = Math.min(Math.max(seconds, this.span[0]), this.span[1]);
    this.at(inside);
    this.onseek(inside);
  }
}

const waiting = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    waiting.get(entry.target)?.();
    waiting.delete(entry.target);
  }
}, { rootMargin: "300px" });

/** Forgets elements that have left the page unseen: they and what they hold would stay for ever. */
export function forgetUnseen() {
  for (const element of waiting.keys()) {
    if (element.isConnected) continue;
    watcher.unobserve(element);
    waiting.delete(element);
  }
}

/** Calls `work` when the element comes near to what is seen. */
export function whenSeen(element, work) {
  waiting.set(element, work);
  watcher.observe(element);
}
