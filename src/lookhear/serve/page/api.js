// The server, as far as the page asks it. All that it can do is in /api/openapi.json.

/** A sentence of the server, or of the network. */
export class Problem extends Error {
  constructor(sentence, status) { super(sentence); this.status = status; }
}

let locked = () => {};
/** Calls `then` whenever the server wants its token. */
export function whenLocked(then) { locked = then; }

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  let sentence = answer.statusText || `error ${answer.status}`;
  try { sentence = (await answer.json()).error || sentence; } catch { /* it was no JSON */ }
  if (answer.status === 401 && path !== "session") locked(); // a token that is none ends no session
  throw new Problem(sentence, answer.status);
}

const json = async (path, options) => (await ask(path, options)).json();
const post = (path, body, options = {}) =>
  ask(path, { ...options, method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const status = () => json("status");
export const folders = () => json("folders");
export const labels = () => json("labels");
export const about = (id) => json(`files/${id}`);
export const search = async (asked, signal) => (await post("search", asked, { signal })).json();

/** A part of the list of files; `asked` are the parameters of GET /api/files. */
export function files(asked, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) {
    for (const each of Array.isArray(value) ? value : [value]) if (each !== "" && each !== null) query.append(name, each);
  }
  return json(`files?${query}`, { signal });
}

/** Uploads an example; `progress` is told the share that has left. XMLHttpRequest, for fetch does not say. */
export function upload(blob, name, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/uploads?name=${encodeURIComponent(name)}`);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => progress(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Problem("The server could not take the file: the connection ended.", 0));
    request.onload = () => {
      if (request.status === 201) return resolve(request.response);
      if (request.status === 401) locked();
      reject(new Problem(request.response?.error || `error ${request.status}`, request.status));
    };
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(blob);
  });
}

export const forget = (id) => ask(`uploads/${id}`, { method: "DELETE" }).catch(() => {});

/** Tells the server the token, for a session; false if it is another one. */
export async function open(token) {
  try {
    await ask("session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
    return true;
  } catch (error) {
    if (error.status === 401) return false;
    throw error;
  }
}

/** Has hits written for another program: the file, its name, and what was left out of it. */
export async function handOver(path, body) {
  const answer = await post(path, body);
  const name = /filename="?([^";]+)"?/.exec(answer.headers.get("content-disposition") || "")?.[1] || "lookhear";
  const report = JSON.parse(decodeURIComponent(answer.headers.get("x-lookhear-report") || "%7B%7D"));
  return { blob: await answer.blob(), name, report };
}

// ---- addresses of what is played and seen

const of = (id, what, asked = {}) => {
  const query = new URLSearchParams(Object.entries(asked).map(([name, value]) => [name, typeof value === "number" ? +value.toFixed(3) : value]));
  return `/api/files/${id}/${what}${query.size ? `?${query}` : ""}`;
};
export const mediaUrl = (id) => of(id, "media");
export const frameUrl = (id, at, height = 240) => of(id, "frame", { at, height });
export const heatUrl = (id, at, height = 240) => of(id, "heat", { at, height });
export const stripUrl = (id, start, end, kind, width, height) => of(id, "strip", { start, end, kind, width, height });
export const previewUrl = (id, start, seconds) => of(id, "preview", { start, seconds });
export const exampleUrl = (id) => `/api/uploads/${id}/picture`;
