// @ts-check
/** "Your app": what a backend would do with the API, as two forms. */

import { element, setText } from "./dom.js";
import { forgetLastCall, startTelephone } from "./telephone.js";

const AGAIN_AFTER_SECONDS = 20;
const POLL_MS = 1000;
const UNREACHABLE = "The server cannot be reached.";
const EVENT_WORDS = {
  created: "Requested", dialing: "Dialing", ringing: "Ringing", answered: "Answered", code_requested: "Reading",
  code_spoken: "Code read", wrong_key: "Wrong key", completed: "Call ended", wrong_code: "Wrong code",
  code_replaced: "New code", verified: "Verified", expired: "Expired", locked: "Locked", cancelled: "Cancelled",
};
const STATUS_WORDS = {
  pending: "The code is made.", calling: "The call is under way.", delivered: "The code was read to its end.",
  undelivered: "The code was not heard", verified: "The code was right.", expired: "The code is too old.",
  locked: "Too many wrong codes.", cancelled: "The code was withdrawn.",
};
const REASON_WORDS = {
  incorrect: "That is not the code.", expired_or_not_found: "This code is used up or too old: ask for a new call.",
  too_many_attempts: "Too many wrong codes: ask for a new call later.",
};

/** @typedef {{ok: boolean, status: number, body: any}} Answer */

const callNote = element("call-note");
const phoneField = /** @type {HTMLInputElement} */ (element("phone-number"));
const codeField = /** @type {HTMLInputElement} */ (element("code"));
const againButton = /** @type {HTMLButtonElement} */ (element("call-again"));
/** Descriptions of the numbers that scripts answer. @type {Map<string, string>} */
const scripted = new Map();

/** Kept for the session, so that a reload in the middle of a call loses nothing. */
let verificationId = sessionStorage.getItem("verification_id") ?? "";
let pollTimer = 0;
let againTimer = 0;

/** @param {string} method @param {string} path @param {object} [body] @returns {Promise<Answer>} */
async function callApi(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  try {
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    return { ok: response.ok, status: response.status, body: await response.json() };
  } catch {
    return { ok: false, status: 0, body: { detail: UNREACHABLE } };
  }
}

/** A call that a button made: its exchange is shown. @param {string} path @param {object} body */
async function post(path, body) {
  const answer = await callApi("POST", path, body);
  element("api-hint").hidden = true;
  setText("api-request", `POST ${path}\n${JSON.stringify(body, null, 2)}`);
  setText("api-response", `${answer.status || "no answer"}\n${JSON.stringify(answer.body, null, 2)}`);
  return answer;
}

/** @param {HTMLElement} place @param {"good" | "bad" | ""} mood @param {...(string | Node)} content */
function tell(place, mood, ...content) {
  place.dataset.mood = mood;
  place.replaceChildren(...content);
}

/** @param {string} text @param {string} [kind] @param {keyof HTMLElementTagNameMap} [tag] */
function piece(text, kind = "", tag = "code") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

/** @param {string} buttonId @param {() => Promise<void>} work */
async function whileBusy(buttonId, work) {
  const button = /** @type {HTMLButtonElement} */ (element(buttonId));
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true"); // not disabled: that would drop the keyboard's focus
  await work();
  button.removeAttribute("aria-busy");
}

async function send() {
  const phone = phoneField.value.trim();
  startOver();
  tell(callNote, "", "Asking the carrier …");
  const { ok, body } = await post("/send-otp", { phone });
  if (!ok) return tell(callNote, "bad", body.detail);
  remember(body.verification_id);
  offerAgain(body.phone);
  tell(callNote, "", sentNote(body));
  poll();
}

/** Nothing of an earlier call may stay: its code would be checked, or read off the telephone, for another number. */
function startOver() {
  remember("");
  clearTimeout(pollTimer);
  clearInterval(againTimer);
  codeField.value = "";
  tell(element("result"), "");
  element("progress").hidden = element("again").hidden = true;
  forgetLastCall();
}

/** @param {string} id */
function remember(id) {
  verificationId = id;
  sessionStorage.setItem("verification_id", id);
}

/** @param {any} sent */
function sentNote(sent) {
  const script = scripted.get(sent.phone);
  if (sent.deduplicated) return "That call is still under way: no second one was placed.";
  if (script) return `A script has this number: it ${script}. The telephone here stays silent.`;
  return `Calling ${sent.phone} from ${sent.from}.`;
}

async function verify() {
  const otp = codeField.value.replace(/\s/g, "").toUpperCase();
  const who = verificationId ? { verification_id: verificationId } : { phone: phoneField.value.trim() };
  const { body } = await post("/verify-otp", { ...who, otp });
  if (body.valid === true) succeed();
  else if (body.valid === false) tell(element("result"), "bad", ...refusal(body));
  else tell(element("result"), "bad", body.detail);
  if (verificationId) poll();
}

function succeed() {
  clearInterval(againTimer);
  element("again").hidden = true;
  tell(element("result"), "good", piece("valid: true"), " The code is right.");
}

/** @param {any} body */
function refusal(body) {
  const words = REASON_WORDS[body.reason] ?? "";
  const left = body.reason === "incorrect" ? ` Attempts left: ${body.attempts_left}.` : "";
  return [piece("valid: false"), " ", piece(body.reason), ` ${words}${left}`];
}

async function poll() {
  clearTimeout(pollTimer);
  const id = verificationId;
  const { ok, status, body } = await callApi("GET", `/otp-status/${id}`);
  if (id !== verificationId) return; // another call was asked for meanwhile
  if (status === 404) return forget();
  clearTimeout(pollTimer); // a second poll may have begun while this one waited
  if (ok) renderStatus(body);
  if (ok && body.call.state === "completed") return setText("call-note", `The call to ${body.phone} is over.`);
  pollTimer = setTimeout(poll, POLL_MS);
}

/** The server was restarted and keeps nothing. */
function forget() {
  startOver();
  tell(callNote, "bad", "The server no longer knows this call: press Call me again.");
}

/** @param {any} status */
function renderStatus(status) {
  element("progress").hidden = false;
  const cause = [status.call?.end_reason, status.call?.hangup_cause].filter(Boolean).join(", ");
  setText("status", status.status);
  setText("status-words", `${STATUS_WORDS[status.status] ?? ""}${status.status === "undelivered" ? ` (${cause})` : ""}`);
  element("status").dataset.status = status.status;
  const start = Date.parse(status.timeline[0]?.at);
  element("timeline").replaceChildren(...status.timeline.map((entry) => timelineEntry(entry, start)));
  element("timeline").scrollLeft = element("timeline").scrollWidth;
}

/** @param {{at: string, event: string}} entry @param {number} start */
function timelineEntry(entry, start) {
  const item = piece(EVENT_WORDS[entry.event] ?? entry.event, "", "li");
  item.dataset.event = entry.event;
  item.append(piece(`${((Date.parse(entry.at) - start) / 1000).toFixed(1)} s`, "", "small"));
  return item;
}

/** Count down to the offer of a second call. @param {string} phone */
function offerAgain(phone) {
  againButton.value = phone;
  const due = Date.now() + AGAIN_AFTER_SECONDS * 1000;
  const count = () => {
    const seconds = Math.ceil((due - Date.now()) / 1000);
    againButton.disabled = seconds > 0;
    setText("again-wait", seconds > 0 ? `You can ask again in ${seconds} s` : "We call you once more.");
    if (seconds <= 0) clearInterval(againTimer);
  };
  element("again").hidden = false;
  count();
  againTimer = setInterval(count, 1000);
}

async function listCallees() {
  const { ok, body } = await callApi("GET", "/simulator/phone/callees");
  if (!ok) return;
  for (const { phone, description } of body) scripted.set(phone, description);
  element("callee-rows").replaceChildren(...body.map(calleeRow));
}

/** @param {{phone: string, description: string}} callee */
function calleeRow({ phone, description }) {
  const row = document.createElement("tr");
  const button = piece(phone, "quiet", "button");
  button.onclick = () => {
    phoneField.value = phone;
    element("call-me").focus();
  };
  row.insertCell().append(button);
  row.insertCell().textContent = description;
  return row;
}

/** @param {boolean} isConnected */
function onConnection(isConnected) {
  const wasLost = !element("offline").hidden;
  element("offline").hidden = isConnected;
  if (isConnected && wasLost && verificationId) poll();
  if (isConnected && scripted.size === 0) listCallees();
}

/** @param {string} formId @param {string} buttonId @param {() => Promise<void>} work */
function onSubmit(formId, buttonId, work) {
  element(formId).addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(buttonId, work);
  });
}

onSubmit("call-form", "call-me", send);
onSubmit("code-form", "verify", verify);
againButton.onclick = () => {
  phoneField.value = againButton.value;
  element("call-me").focus({ preventScroll: true });
  element("call-me").click();
};
startTelephone(onConnection);
if (verificationId) poll();
