// @ts-check
/** The telephone: it follows the calls that the simulated carrier reports, and sends back what its buttons do. */

import { element, setText } from "./dom.js";
import * as sound from "./sound.js";

const RECONNECT_MS = 1500;
const STALE_MS = 1000;
const MOST_SLOTS = 10;
const FRESH = {
  from: "", answeredAt: 0, hungUp: false, sentence: "", isWhole: false, isStale: false, position: 0, current: -1,
};
/** The carrier's words for an end; a failure's words say what happened and are shown as they are. */
const END_WORDS = {
  "Normal Hangup": "The call ended", "End Of XML Instructions": "The call ended", "Scheduled Hangup": "The call ended",
  Rejected: "You declined", "Ring Timeout Reached": "Nobody answered", Canceled: "The call was cancelled",
};

/**
 * A wait for keys: how many it takes, those that are typed, and those that were named for the rest.
 * @typedef {{keys: number, typed: string, wanted: string}} Asked
 */

/**
 * `position` is where the next digit goes, `current` the digit that is being said, or -1. `isWhole`: the row of
 * digits was seen from its beginning, so a second reading moves along it instead of replacing it.
 * @typedef {typeof FRESH & {id: string, digits: string[], asked: Asked | null}} Call
 */

/** @type {Map<string, Call>} */
const calls = new Map();
/** The call that ended last: what it said stays readable. @type {{call: Call, reason: string} | undefined} */
let ended;
/** The newest text message. @type {{from: string, to: string, text: string} | undefined} */
let textMessage;
let isConnected = true;
/** @type {(isConnected: boolean) => void} */
let onConnection = () => {};

const telephone = element("telephone");
const keys = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-key]")]);

/** @param {typeof onConnection} listener is told whenever the server comes or goes */
export function startTelephone(listener) {
  onConnection = listener;
  for (const gesture of ["pointerdown", "keydown"]) document.addEventListener(gesture, sound.unlock);
  for (const action of ["answer", "decline", "hang-up"]) element(action).onclick = () => act(action);
  for (const key of keys) key.onclick = () => press(key.dataset.key ?? "");
  element("mute").onclick = toggleMute;
  document.addEventListener("keydown", pressFromKeyboard);
  setInterval(tick, 1000);
  render();
  connect();
}

/** The number may be another one's next: what the last call said must not be read off for it. */
export function forgetLastCall() {
  ended = undefined;
  render();
}

function connect() {
  const events = new EventSource("/simulator/phone/events");
  events.onopen = () => setConnected(true);
  events.onmessage = (message) => receive(JSON.parse(message.data));
  events.onerror = () => {
    setConnected(false);
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, RECONNECT_MS); // it gave up itself
  };
}

/** @param {boolean} connected */
function setConnected(connected) {
  isConnected = connected;
  onConnection(connected);
  render();
}

/** @param {any} event */
function receive(event) {
  if (event.event === "hello") return markStale();
  if (event.event === "text") return receiveText(event);
  if (event.event === "ended") return end(event.call, event.reason);
  const call = callOf(event.call);
  call.from = event.from;
  call.asked = event.asked ?? null;
  if (event.event !== "silence") call.current = -1;
  if (event.event !== "ringing") call.answeredAt ||= Date.now();
  if (event.event === "speaking") hear(call, event);
  else if (event.event === "playing") hearRecording(call, event.audio_url);
  else element("spoken-digit").textContent = ""; // so that the same digit twice is announced twice
  render();
}

/** It stays on the screen, but for calls. @param {NonNullable<typeof textMessage>} message */
function receiveText(message) {
  textMessage = message;
  setText("text-head", `Text message from ${message.from} to ${message.to}`);
  setText("text-body", message.text);
  render();
}

/** What happened while we were away is unknown: only calls that the server repeats go on. */
function markStale() {
  for (const call of calls.values()) call.isStale = true;
  setTimeout(() => {
    for (const call of calls.values()) if (call.isStale) end(call.id, "The server no longer knows this call");
  }, STALE_MS);
}

/** @param {string} id @returns {Call} */
function callOf(id) {
  const known = calls.get(id);
  if (known && !known.isStale) return known;
  const call = { ...FRESH, id, answeredAt: known?.answeredAt ?? 0, digits: [], asked: null };
  calls.set(id, call);
  return call;
}

/** @param {Call} call @param {{text: string, character: string, language: string, audio_url: string | null}} utterance */
function hear(call, utterance) {
  const { text, character } = utterance;
  if (!character) hearSentence(call, text);
  else if (call.asked) call.sentence += ` ${character}`; // a key that a prompt names is no part of a code
  else hearDigit(call, character);
  if (call === shownCall()) sound.say(utterance);
}

/** The page may have another of this machine's names than the file's address. @param {Call} call @param {string} url */
function hearRecording(call, url) {
  hearSentence(call, "♪ A recording is played");
  if (call === shownCall()) sound.play(new URL(url).pathname);
}

/** @param {Call} call @param {string} digit */
function hearDigit(call, digit) {
  call.current = call.position++;
  call.digits[call.current] = digit;
  element("spoken-digit").textContent = digit;
}

/** @param {Call} call @param {string} text */
function hearSentence(call, text) {
  if (!call.isWhole) call.digits = [];
  call.isWhole = true;
  call.position = 0;
  call.sentence = text;
}

/** @param {string} id @param {string} reason */
function end(id, reason) {
  const call = calls.get(id);
  if (!call) return;
  if (call === shownCall()) sound.hush();
  calls.delete(id);
  const words = call.hungUp ? "You hung up" : (END_WORDS[reason] ?? reason);
  ended = { call: { ...call, current: -1, asked: null }, reason: words };
  render();
}

/** The call that we talk in, else the one that rang last. @returns {Call | undefined} */
function shownCall() {
  const all = [...calls.values()].reverse();
  return all.find((call) => call.answeredAt) ?? all[0];
}

/** @param {string} action */
async function act(action) {
  const call = shownCall();
  if (!call) return;
  sound.stopRinging();
  call.hungUp ||= action === "hang-up";
  const response = await fetch(`/simulator/phone/calls/${call.id}/${action}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
  }).catch(() => setConnected(false));
  if (response?.status === 404) end(call.id, "This call was over");
}

/** @param {string} key */
function press(key) {
  const call = shownCall();
  if (!call?.answeredAt) return;
  sound.pressTone(key);
  if (call.asked) sound.hush();
  flash(key);
  act(`keys/${encodeURIComponent(key)}`);
}

/** @param {string} key */
function flash(key) {
  const button = keys.find((one) => one.dataset.key === key);
  button?.classList.add("pressed");
  setTimeout(() => button?.classList.remove("pressed"), 180);
}

/** @param {KeyboardEvent} event */
function pressFromKeyboard(event) {
  const isTyping = event.target instanceof HTMLInputElement;
  const isKey = keys.some((key) => key.dataset.key === event.key);
  if (isKey && !isTyping && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) press(event.key);
}

function toggleMute() {
  const isMuted = element("mute").getAttribute("aria-pressed") !== "true";
  element("mute").setAttribute("aria-pressed", String(isMuted));
  sound.mute(isMuted);
}

function render() {
  const call = shownCall();
  const state = call ? (call.answeredAt ? "talking" : "ringing") : ended ? "ended" : "idle";
  const before = telephone.dataset.state;
  telephone.dataset.state = state;
  element("answer").hidden = element("decline").hidden = state !== "ringing";
  element("hang-up").hidden = element("keypad").hidden = state !== "talking";
  element("text-message").hidden = !textMessage || !["idle", "ended"].includes(state);
  renderCaller(state, call ?? ended?.call);
  renderSpeech(state === "ringing" ? undefined : (call ?? ended?.call));
  if (state === "ringing" && isConnected) sound.startRinging();
  else sound.stopRinging();
  if (state !== before) moveFocus(state);
}

const STATE_WORDS = {
  idle: "Waiting for a call", ringing: "Incoming call", talking: "In call", ended: "Call ended",
};

/** @param {keyof typeof STATE_WORDS} state @param {Call | undefined} call */
function renderCaller(state, call) {
  setText("call-state", STATE_WORDS[state]);
  setText("caller-id", call?.from ?? "");
  tick();
}

/** @param {Call | undefined} call */
function renderSpeech(call) {
  setText("spoken", call && calls.has(call.id) ? call.sentence : "");
  renderAsked(call?.asked);
  const digits = call?.digits ?? [];
  element("digits").hidden = digits.length === 0;
  element("digits").setAttribute("aria-label", `Digits heard: ${digits.join(" ")}`);
  element("digits").replaceChildren(...digits.map((digit, place) => tile(digit, place === call?.current)));
}

/** What is asked for, and how far it is typed. @param {Asked | null} [asked] */
function renderAsked(asked) {
  setText("key-prompt", asked ? askedWords(asked) : "");
  const slots = asked && asked.keys > 1 ? [...asked.typed.padEnd(asked.keys)].slice(0, MOST_SLOTS) : [];
  element("typed").hidden = slots.length === 0;
  element("typed").replaceChildren(...slots.map((key) => tile(key, false)));
  keys.forEach((key) => key.classList.toggle("wanted", !!asked?.wanted && key.dataset.key === asked.wanted[0]));
}

/** @param {Asked} asked */
function askedWords({ keys: count, wanted }) {
  if (wanted) return `Press ${[...wanted].join(" ")} now`;
  if (count === 1) return "Press a key now";
  return count > MOST_SLOTS ? "Type now" : `Type ${count} digits now`;
}

/** @param {string} digit @param {boolean} isCurrent */
function tile(digit, isCurrent) {
  const box = document.createElement("span");
  box.className = isCurrent ? "digit current" : "digit";
  box.textContent = digit;
  return box;
}

/** The clock, and the line below the caller's number. */
function tick() {
  setText("clock", new Date().toLocaleTimeString([], { hour: "numeric", minute: "2-digit" }));
  setText("call-detail", detail(shownCall()));
}

/** @param {Call | undefined} call */
function detail(call) {
  if (!call) return ended?.reason ?? "It rings here when your app calls.";
  if (!call.answeredAt) return calls.size > 1 ? `and ${calls.size - 1} more` : "is calling you";
  const seconds = Math.max(0, Math.floor((Date.now() - call.answeredAt) / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** Buttons come and go with the state; a keyboard must not be left on one that went. @param {string} state */
function moveFocus(state) {
  const focused = document.activeElement;
  const isOurs = focused === document.body || telephone.contains(focused);
  if (state === "ringing" && (isOurs || focused?.closest("#call-form"))) element("answer").focus();
  if (state === "talking" && isOurs) telephone.focus();
  if (telephone.contains(document.activeElement)) telephone.scrollIntoView({ block: "nearest" });
  if (state === "ended" && isOurs && ended?.call.digits.length) element("code").focus();
}
