// Records an example from the microphone, and shows how loud it is.

import { $, toast } from "./dom.js";

const MOST_SECONDS = 30;
const KINDS = [["audio/webm;codecs=opus", "webm"], ["audio/mp4", "m4a"], ["audio/ogg;codecs=opus", "ogg"]];
let recording = null;
let isAsking = false; // the person, whether it may

/** Begins to record, or ends and gives the file to `take`. */
export async function toggleRecording(take) {
  if (recording) { recording.stop(); return; }
  if (isAsking) return;
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    toast("A browser gives the microphone only to pages on this machine (localhost) or over https.", { bad: true });
    return;
  }
  isAsking = true;
  let stream;
  try {
    // As it is: what speech wants taken out is what is looked for here.
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  } catch (error) {
    const why = { NotAllowedError: "The microphone is not allowed for this page.", NotFoundError: "There is no microphone." };
    toast(why[error.name] || `The microphone cannot be used: ${error.message}`, { bad: true });
    return;
  } finally { isAsking = false; }
  try {
    record(stream, take);
  } catch (error) {
    for (const track of stream.getTracks()) track.stop();
    toast(`This browser cannot record: ${error.message}`, { bad: true });
  }
}

function record(stream, take) {
  const [type, suffix] = KINDS.find(([kind]) => MediaRecorder.isTypeSupported(kind)) || ["", "webm"];
  const recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
  recorder.start();
  const parts = [];
  const level = watchLevel(stream);
  const began = performance.now();
  const clock = setInterval(() => {
    const seconds = (performance.now() - began) / 1000;
    $("record-label").textContent = `Stop ${seconds.toFixed(0)} s`;
    if (seconds >= MOST_SECONDS) recorder.stop();
  }, 200);
  recording = recorder;
  $("record").classList.add("on");
  $("record").setAttribute("aria-pressed", "true");
  $("record-label").textContent = "Stop 0 s";
  recorder.ondataavailable = (event) => { if (event.data.size) parts.push(event.data); };
  recorder.onstop = () => {
    clearInterval(clock);
    level.end();
    for (const track of stream.getTracks()) track.stop();
    recording = null;
    $("record").classList.remove("on");
    $("record").setAttribute("aria-pressed", "false");
    $("record-label").textContent = "Record";
    const now = new Date();
    const time = [now.getHours(), now.getMinutes(), now.getSeconds()].map((part) => String(part).padStart(2, "0")).join(".");
    if (parts.length) take(new File(parts, `recording ${time}.${suffix}`, { type }));
  };
}

function watchLevel(stream) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const bar = $("level").firstElementChild;
  let going = true;
  $("level").hidden = false;
  const step = () => {
    if (!going) return;
    analyser.getFloatTimeDomainData(samples);
    const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1e-4);
    bar.style.transform = `scaleX(${Math.min(1, Math.max(0, 1 + Math.log10(loudest) / 2.5))})`;
    requestAnimationFrame(step);
  };
  step();
  return { end() { going = false; $("level").hidden = true; context.close(); } };
}
