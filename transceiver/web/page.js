// SPDX-License-Identifier: Apache-2.0
// The page: controls, and what they show. The call itself is in call.js.

import { Call, CallError } from "/page/call.js";
import { Graph, Levels, Quality } from "/page/meters.js";
import { another } from "/page/moving.js";

const STATES = {
  idle: "Not in a call",
  connecting: "Connecting …",
  connected: "In a call",
  lost: "Connection lost, trying again …",
  moving: "The other side has gone, calling again …",
};
const MOST_EVENTS = 200;
const $ = (id) => document.getElementById(id);

const graphs = { rtt: new Graph($("rtt"), 4), loss: new Graph($("loss"), 2), jitter: new Graph($("jitter"), 4) };
const levels = new Levels();
let call = null;
let microphone = null;
let measuring = null;
let moving = null; // to another transceiver: while it is set, the end of the call is not the end
let replies = new Map(); // utterance -> its line in the transcript

function show(state) {
  const up = state !== "idle";
  // A screen reader says a status again that is set again.
  if ($("status").textContent !== STATES[state]) $("status").textContent = STATES[state];
  $("status").dataset.state = state;
  $("start").disabled = up;
  $("microphone").disabled = state === "connecting";
  $("mute").disabled = $("hang-up").disabled = !up;
  $("text").disabled = $("send").disabled = state !== "connected";
}

function complain(error) {
  $("error").textContent = error?.message ?? "";
  $("error").hidden = !error;
  if (error?.code === "token") {
    $("token-row").hidden = false;
    $("token").focus();
  }
}

async function openMicrophone() {
  if (!navigator.mediaDevices) {
    throw new CallError("insecure", "The browser gives no page its microphone that comes over plain HTTP from another host. "
      + "Open this page by HTTPS, or as http://localhost.");
  }
  const chosen = $("microphone").value;
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  if (chosen) audio.deviceId = { exact: chosen };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new CallError("microphone", {
      NotAllowedError: "The browser was not allowed to use the microphone. Allow it for this page, then call again.",
      NotFoundError: "No microphone was found. Plug one in, then call again.",
      OverconstrainedError: "That microphone is not there any more. Choose another one.",
      NotReadableError: "The microphone cannot be used: another program may have it.",
    }[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

async function listMicrophones() {
  if (!navigator.mediaDevices) return;
  const inputs = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "audioinput" && device.deviceId);
  const chosen = $("microphone").value;
  $("microphone").replaceChildren(new Option("The browser's default", ""),
    ...inputs.filter((device) => device.deviceId !== "default")
      .map((device, index) => new Option(device.label || `Microphone ${index + 1}`, device.deviceId)));
  $("microphone").value = inputs.some((device) => device.deviceId === chosen) ? chosen : "";
}

/** A call that shows what happens to it once it is the one that counts. */
function make() {
  const made = new Call(`/whip${location.search}`, microphone, $("token").value.trim());
  made.counts = false;
  made.early = []; // what it is told before that
  made.addEventListener("state", ({ detail }) => made.counts && changed(detail));
  made.addEventListener("message", ({ detail }) => (made.counts ? told(detail) : made.early.push(detail)));
  made.addEventListener("failed", ({ detail }) => made.counts && !moving && complain(detail));
  made.addEventListener("track", ({ detail }) => {
    made.sound = detail;
    if (made.counts) play(detail);
  });
  return made;
}

/** Plays a stream, in the place of what is played now: that ends when this one has begun. */
async function play(stream) {
  const before = $("voice");
  const voice = before.srcObject ? before.cloneNode() : before;
  voice.srcObject = stream;
  levels.watch(stream, $("their-level"));
  await voice.play().catch(() => {}); // the user has clicked: it is allowed
  if (voice === before) return;
  before.replaceWith(voice);
  before.srcObject = null;
}

/** The transceiver is about to end: another one is called beside it, and takes over when it is there. */
async function move(seconds) {
  if (moving) return;
  const mine = (moving = {});
  try {
    const next = await another(make, seconds, () => moving === mine);
    if (!next) return; // hung up meanwhile
    const before = call;
    before.counts = false;
    call = next;
    call.counts = true;
    window.earshot = { call };
    await next.speakInto(microphone); // another one may have been chosen meanwhile
    await play(next.sound);
    before.hangUp();
    next.early.forEach(told);
    $("path").textContent = next.path ?? "–";
    measure();
    show("connected");
  } catch (error) {
    if (moving !== mine) return;
    if (!call.ended) return void show(call.peer.connectionState === "connected" ? "connected" : "lost"); // to its end
    complain(new CallError("moved", `The transceiver has ended the call, and no other one has taken it: ${error.message}`));
    tidy();
  } finally {
    if (moving === mine) moving = null;
  }
}

async function start() {
  complain(null);
  show("connecting");
  try {
    microphone = await openMicrophone();
    await listMicrophones(); // their names are known from now on
    call = make();
    call.counts = true;
    window.earshot = { call }; // for the console, and tests
    levels.watch(microphone, $("level"));
    await call.start();
    $("path").textContent = call?.path ?? "–";
  } catch (error) {
    complain(error instanceof CallError ? error : new CallError("failed", `Something went wrong: ${error.message}`));
    tidy();
  }
}

/** Another one has been chosen in the middle of a call. If it cannot be had, the call goes on with the one it has. */
async function changeMicrophone() {
  const during = call;
  if (!during) return;
  complain(null);
  const chosen = $("microphone").value;
  try {
    const opened = await openMicrophone();
    if (call !== during || $("microphone").value !== chosen) return stopTracks(opened); // too late
    stopTracks(microphone);
    microphone = opened;
    setMuted(muted());
    levels.watch(microphone, $("level"));
    await during.speakInto(microphone);
  } catch (error) {
    if (call !== during) return;
    complain(error instanceof CallError ? error : new CallError("microphone", `The microphone cannot be used: ${error.message}`));
    const used = microphone.getAudioTracks()[0].getSettings().deviceId;
    $("microphone").value = [...$("microphone").options].some(({ value }) => value === used) ? used : "";
  }
}

function changed(state) {
  if (state === "ended") return moving ? show("moving") : tidy();
  show(state);
  if (state === "connected" && !measuring) {
    measure();
    $("hang-up").focus();
  }
}

/** Shows from now on how good the connection is. */
function measure() {
  clearInterval(measuring);
  const quality = new Quality(call.peer);
  measuring = setInterval(async () => {
    const read = await quality.read();
    for (const name of Object.keys(graphs)) graphs[name].show(read[name]);
  }, 1000);
}

function hangUp() {
  moving = null;
  const current = call;
  current?.hangUp();
  if (call) tidy(); // it had ended already
}

function tidy() {
  clearInterval(measuring);
  measuring = call = moving = null;
  levels.stop();
  stopTracks(microphone);
  microphone = $("voice").srcObject = null;
  replies.clear();
  setMuted(false);
  show("idle");
  $("start").focus();
}

function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

function muted() {
  return $("mute").getAttribute("aria-pressed") === "true";
}

function setMuted(silent) {
  for (const track of microphone?.getTracks() ?? []) track.enabled = !silent;
  $("mute").setAttribute("aria-pressed", String(silent));
  $("mute").textContent = silent ? "Muted" : "Mute";
}

/** What came over the data channel. */
function told(message) {
  log(message);
  if (message.type === "transcript") line("You", message.text || "(not recognised)");
  else if (message.type === "reply") replies.set(message.utterance, line("Agent", message.text));
  else if (message.type === "reply_ended" && message.interrupted) replies.get(message.utterance)?.setAttribute("data-cut", "");
  else if (message.type === "echo") line("Echo", typeof message.data === "object" ? message.data?.text ?? JSON.stringify(message.data) : message.text ?? String(message.data));
  else if (message.type === "agent") line("Agent", message.about);
  else if (message.type === "move") move(message.within_seconds);
  else if (message.type === "session" && message.state === "lost") complain(new CallError("backend", "The speech backend failed; another attempt is made."));
  else if (message.type === "session" && message.state === "ready") complain(null);
  else if (message.type === "session" && message.state === "ended" && message.reason === "backend_failed")
    complain(new CallError("backend", "No speech backend could go on with the call."));
}

function line(who, what) {
  const item = document.createElement("li");
  item.append(span("who", who), span("what", what));
  return append($("transcript"), item, $("transcript-empty"));
}

function log(message) {
  const { type, ...rest } = message;
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  const item = document.createElement("li");
  const details = Object.entries(rest).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  const text = [type, ...details].join(" · ");
  item.append(time, span("", text.length > 160 ? `${text.slice(0, 159)}…` : text));
  append($("events"), item, $("events-empty"));
}

function append(list, item, empty) {
  empty.hidden = true;
  list.append(item);
  while (list.children.length > MOST_EVENTS) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
  return item;
}

function span(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

$("start").addEventListener("click", start);
$("hang-up").addEventListener("click", hangUp);
$("mute").addEventListener("click", () => setMuted(!muted()));
$("microphone").addEventListener("change", changeMicrophone);
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !call) return;
  line("You", text);
  call.send({ type: "say", text });
  $("text").value = "";
});
addEventListener("pagehide", hangUp);
navigator.mediaDevices?.addEventListener("devicechange", listMicrophones);
listMicrophones();
show("idle");
