// Small things that every part of the page needs: elements, numbers as people read them, what is said aloud.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** A new element. `props` are properties; those that begin with aria- or data- or are named here are attributes. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (/^(aria-|data-|role$|list$|for$)/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  play: "M7 5.500v13l11-6.500z",
  pause: "M7.500 5.500v13M16.500 5.500v13",
  like: "M10.500 17a6.500 6.500 0 1 0 0-13 6.500 6.500 0 0 0 0 13zM15.500 15.500 20 20M10.500 7.500v6M7.500 10.500h6",
  unlike: "M10.500 17a6.500 6.500 0 1 0 0-13 6.500 6.500 0 0 0 0 13zM15.500 15.500 20 20M7.500 10.500h6",
  heat: "M12 21c3.600 0 6-2.300 6-5.700 0-3.900-3.200-5.300-3.700-9.300-2.300 1.100-3.600 3.200-3.500 5.600-1-.500-1.600-1.400-1.700-2.600C7.400 10.600 6 12.800 6 15.300 6 18.700 8.400 21 12 21z",
  file: "M5 6.500h5l2 2h7v9.500H5z",
  close: "M6.500 6.500l11 11M17.500 6.500l-11 11",
  sound: "M5 10v4h3.500l4 3.500v-11L8.500 10zM15.500 9.500a3.600 3.600 0 0 1 0 5M17.800 7.200a7 7 0 0 1 0 9.600",
  picture: "M4.500 6h15v12h-15zM4.500 15.500l4.500-4 3.500 3 3-2.500 4 3.500",
  both: "M4 12c2.200-3.800 4.900-5.700 8-5.700s5.800 1.900 8 5.700M12 10.400a1.800 1.800 0 1 1 0 3.600 1.800 1.800 0 0 1 0-3.600M6.500 15.500v2M10 17v2.500M14 17v2.500M17.500 15.500v2",
  mark: "M8 5H5.500v14H8M16 5h2.500v14H16",
};

/** A drawn icon, which says nothing by itself. */
export function icon(name) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  if (name === "play") path.setAttribute("class", "fill");
  made.append(path);
  return made;
}

/** A button with an icon; `label` is what it is called, `key` what else calls it. */
export function iconButton(name, label, onclick, key = "") {
  return el("button", { type: "button", class: "icon", title: key ? `${label} (${key})` : label, "aria-label": label, onclick }, icon(name));
}

/** Seconds as a clock: 1:02.5, 1:00:02. */
export function clock(seconds, digits = 1) {
  const sign = seconds < 0 ? "-" : "";
  const scale = 10 ** digits;
  const whole = Math.round(Math.abs(seconds) * scale);
  const rest = whole % (60 * scale);
  const minutes = Math.floor(whole / (60 * scale));
  const tail = (rest / scale).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return minutes < 60 ? `${sign}${minutes}:${tail}` : `${sign}${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${tail}`;
}

/** Seconds as a length: 4.0 s, 12 min, 38 h 12 min. */
export function length(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** A count with thousands apart. */
export const count = (number) => number.toLocaleString("en");

/** Bytes as people say them. */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

/** "1 file", "2 files". */
export const several = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Scores are calibrated up to here: what is rarer is only more alike.
const RAREST = 5;

/** How rare a score is: 3 is one in a thousand. */
export function rarity(score) {
  if (score < 0.05) return "as any pair";
  if (score >= RAREST) return `beyond 1 in ${count(10 ** RAREST)}`;
  const times = 10 ** score;
  const step = 10 ** Math.max(0, Math.floor(score) - 1);
  return `1 in ${count(times < 10 ? Math.round(times * 10) / 10 : Math.round(times / step) * step)}`;
}

/** What a status is called. */
export const STATUS = {
  ok: "sound and picture", sound_only: "sound only", picture_only: "silent picture", partial: "partly readable",
  refused: "skipped", waiting: "waiting",
};

/** Says something to those who listen to the page. */
export function say(text) { $("said").textContent = text; }

/** Shows a sentence for a while, and says it. */
export function toast(text, { bad = false } = {}) {
  const shown = el("div", { class: bad ? "toast bad" : "toast" }, el("span", {}, text),
    iconButton("close", "Dismiss", () => shown.remove()));
  $("toasts").append(shown);
  setTimeout(() => shown.remove(), bad ? 12000 : 5000);
}

/** Calls `work` when nothing more has been asked for `milliseconds`. */
export function later(work, milliseconds) {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), milliseconds); };
}

/** Paints an element by a picture whose alpha says how much. */
export function paintBy(element, url) {
  element.style.maskImage = element.style.webkitMaskImage = `url("${url}")`;
}

/** The outline of peaks (0 to 1) as an SVG. */
export function outline(peaks) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${peaks.length} 100`);
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("aria-hidden", "true");
  made.setAttribute("class", "outline");
  const most = Math.max(...peaks, 0.02);
  const path = document.createElementNS(SVG, "path");
  const heights = peaks.map((peak) => Math.max(1.5, (46 * peak) / most));
  const upper = heights.map((height, place) => `${place},${50 - height}`);
  const lower = heights.map((height, place) => `${place},${50 + height}`).reverse();
  path.setAttribute("d", `M${upper.join("L")}L${lower.join("L")}Z`);
  made.append(path);
  return made;
}
