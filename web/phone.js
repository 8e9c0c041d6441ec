// @ts-check
/** "Your app": what a backend would do with the API, as two forms. */

import { element, setText } from "./dom.js";
import { forgetLastCall, startTelephone } from "./telephone.js";

const AGAIN_AFTER_SECONDS = 20;
const POLL_MS = 1000;
const ROUTES_WITH_KEY = /^\/(send-otp|verify-otp|otp-status|cancel-otp)(\/|$)/; // the key goes nowhere else
const UNREACHABLE = "The server cannot be reached.";
const EVENT_WORDS = {
  created: "Requested", dialing: "Dialing", ringing: "Ringing", answered: "Answered", code_requested: "Reading",
  code_spoken: "Code read", wrong_key: "Wrong key", completed: "Call ended", wrong_code: "Wrong code",
  code_replaced: "New code", verified: "Verified", expired: "Expired", locked: "Locked", cancelled: "Cancelled",
  queued: "Waiting", failed_over: "Next carrier", redialing: "Calling again", code_handed_over: "Code handed over",
  message_queued: "Text message", message_sent: "Text sent", message_delivered: "Text delivered",
  message_undelivered: "Text lost", machine_detected: "Machine", keys_pressed: "Keys pressed", wrong_keys: "Wrong keys",
  code_asked_for: "Code asked for",
};
const STATUS_WORDS = {
  pending: "The code is made.", calling: "The call is under way.", delivered: "The code was read to its end.",
  undelivered: "The code was not heard", verified: "The code was right.", expired: "The code is too old.",
  locked: "Too many wrong codes.", cancelled: "The code was withdrawn.",
};
const TEXT_WORDS = {
  calling: "The text message is on its way.", delivered: "The text message arrived.",
  undelivered: "The text message did not arrive",
};
const REASON_WORDS = {
  incorrect: "That is not the code.", expired_or_not_found: "This code is used up or too old: ask for a new call.",
  too_many_attempts: "Too many wrong codes: ask for a new call later.",
};

const REFUSED_WORDS = {
  rate_limited: "No call: too many were asked for in a short time.",
  spending_limit_reached: "No call: the service has spent on calls what it may.",
  destination_not_allowed: "No call: this number may not be called. The service’s log says which rule forbids it.",
  sending_stopped: "No call: the operator of the service has stopped its calls.",
  too_many_failures: "Too many wrong codes for this number: it has to wait.",
};

/** `wait`: the seconds of Retry-After, else 0. @typedef {{ok: boolean, status: number, body: any, wait: number}} Answer */

const callNote = element("call-note");
const phoneField = /** @type {HTMLInputElement} */ (element("phone-number"));
const codeField = /** @type {HTMLInputElement} */ (element("code"));
const keyField = /** @type {HTMLInputElement} */ (element("api-key"));
const callButton = element("call-me");
const modeField = /** @type {HTMLSelectElement} */ (element("mode"));
const carrierField = /** @type {HTMLSelectElement} */ (element("carrier"));
const againButton = /** @type {HTMLButtonElement} */ (element("call-again"));
const textButton = /** @type {HTMLButtonElement} */ (element("text-me"));
/** Descriptions of the numbers that scripts answer. @type {Map<string, string>} */
const scripted = new Map();

/** Kept for the session, so that a reload in the middle of a call loses nothing. */
let verificationId = sessionStorage.getItem("verification_id") ?? "";
let apiKey = sessionStorage.getItem("api_key") ?? "";
/** Keys were refused, and none was let in since. */
let isKeyInDoubt = false;
/** What waits for a key. @type {() => void} */
let askAgain = () => {};
/** The number as it was typed for the newest call. */
let askedPhone = "";
let pollTimer = 0;
let againTimer = 0;
let waitTimer = 0;

/** @param {string} method @param {string} path @param {object} [body] @returns {Promise<Answer>} */
async function callApi(method, path, body) {
  const headers = { "Content-Type": "application/json", ...authorization(path) };
  try {
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const wait = Number(response.headers.get("Retry-After")) || 0;
    return { ok: response.ok, status: response.status, body: await response.json(), wait };
  } catch {
    return { ok: false, status: 0, body: { detail: UNREACHABLE }, wait: 0 };
  }
}

/** @param {string} path @returns {Record<string, string>} */
function authorization(path) {
  return apiKey && ROUTES_WITH_KEY.test(path) ? { Authorization: `Bearer ${apiKey}` } : {};
}

/** A call that a button made: its exchange is shown, but for the key. @param {string} path @param {object} body */
async function post(path, body) {
  const answer = await callApi("POST", path, body);
  element("api-hint").hidden = true;
  const header = apiKey ? "Authorization: Bearer …\n" : "";
  setText("api-request", `POST ${path}\n${header}${JSON.stringify(body, null, 2)}`);
  setText("api-response", `${answer.status || "no answer"}\n${JSON.stringify(answer.body, null, 2)}`);
  if (![0, 401, 429].includes(answer.status)) isKeyInDoubt = false;
  return answer;
}

/** The service wants a key, or another one: ask for it, and then again for what it refused. @param {() => void} again */
function askForKey(again) {
  askAgain = again;
  const words = apiKey ? "The service does not know this key." : "The service wants an API key before it answers.";
  tell(element("key-note"), apiKey ? "bad" : "", words);
  useKey("");
  isKeyInDoubt = true;
  element("key-form").hidden = false;
}

/** @param {string} key */
function useKey(key) {
  apiKey = key;
  if (key) sessionStorage.setItem("api_key", key);
  else sessionStorage.removeItem("api_key");
}

async function takeKey() {
  useKey(keyField.value.trim());
  keyField.value = "";
  element("key-form").hidden = true;
  askAgain();
}

/** @param {Answer} answer */
function refusedWords({ status, body }) {
  if (status === 429 && isKeyInDoubt) return "Too many wrong API keys came from here.";
  return REFUSED_WORDS[body.code] ?? body.detail;
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`;
}

/** @param {number} seconds @param {(left: number) => void} show is told every second what is left, and 0 in the end */
function countDown(seconds, show) {
  const due = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.max(0, Math.ceil((due - Date.now()) / 1000));
    if (left === 0) clearInterval(timer);
    show(left);
  };
  const timer = setInterval(tick, 1000);
  tick();
  return timer;
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
  if (button.matches('[aria-busy="true"], [aria-disabled="true"]')) return;
  button.setAttribute("aria-busy", "true"); // not disabled: that would drop the keyboard's focus
  await work();
  button.removeAttribute("aria-busy");
}

async function call() {
  const phone = phoneField.value.trim();
  const provider = carrierField.value || undefined;
  await send({ phone, provider, mode: modeField.value === "keypad" ? "keypad" : undefined });
}

async function text() {
  choosePhone(textButton.value);
  codeField.focus({ preventScroll: true }); // the button goes
  await send({ phone: textButton.value, channel: "sms" });
}

/** @param {{phone: string, provider?: string, channel?: string, mode?: string}} order */
async function send(order) {
  const { phone } = order;
  if (phone !== askedPhone) startOver();
  askedPhone = phone;
  tell(callNote, "", "Asking the carrier …");
  const answer = await post("/send-otp", order);
  const { ok, status, body } = answer;
  if (status === 401) return holdFor(callNote, () => callButton.click());
  if (!ok) return refuse(answer);
  const shown = body.deduplicated ? shownCode() : body.code;
  startOver();
  remember(body.verification_id, shown);
  offerAgain(body);
  tell(callNote, "", sentNote(body));
  poll();
}

/** @param {HTMLElement} place @param {() => void} again */
function holdFor(place, again) {
  tell(place, "");
  askForKey(again);
  keyField.focus();
}

/** No call was placed; the code of an earlier one to this number may still be typed. @param {Answer} answer */
function refuse(answer) {
  element("again").hidden = true;
  tell(callNote, "bad", refusedWords(answer));
  if (answer.wait) waitToCall(answer.wait);
}

/** @param {number} seconds */
function waitToCall(seconds) {
  callButton.setAttribute("aria-disabled", "true"); // not disabled: that would drop the keyboard's focus
  waitTimer = countDown(seconds, (left) => {
    setText("call-wait", `You can ask again in ${duration(left)}.`); // no live region: it would speak every second
    if (left > 0) return;
    stopWaiting();
    tell(callNote, "", "You can ask for a call now.");
  });
}

function isWaiting() {
  return callButton.hasAttribute("aria-disabled");
}

/** Most limits are a number's own: another one need not wait. */
function stopWaiting() {
  if (!isWaiting()) return;
  clearInterval(waitTimer);
  callButton.removeAttribute("aria-disabled");
  setText("call-wait", "");
  tell(callNote, "");
}

/** @param {string} phone */
function choosePhone(phone) {
  phoneField.value = phone;
  stopWaiting();
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

/** @param {string} id @param {string} [code] what the callee is to type on the telephone */
function remember(id, code = "") {
  verificationId = id;
  sessionStorage.setItem("verification_id", id);
  sessionStorage.setItem("shown_code", code);
  show(code);
}

/** @param {string} code */
function show(code) {
  element("shown").hidden = !code;
  setText("shown-code", code);
}

function shownCode() {
  return sessionStorage.getItem("shown_code") ?? "";
}

/** @param {any} sent */
function sentNote(sent) {
  const script = scripted.get(sent.phone);
  if (sent.deduplicated) return "That call is still under way: no second one was placed.";
  if (script) return `A script has this number (${script}): the telephone here stays silent.`;
  const through = carrierField.length > 2 ? ` through ${sent.provider}` : "";
  if (sent.status === "queued") return `The call waits for its turn${through}.`;
  return `${sent.channel === "sms" ? "Texting" : "Calling"} ${sent.phone} from ${sent.from}${through}.`;
}

async function verify() {
  const otp = codeField.value.replace(/\s/g, "").toUpperCase();
  const who = verificationId ? { verification_id: verificationId } : { phone: phoneField.value.trim() };
  const answer = await post("/verify-otp", { ...who, otp });
  const { status, body, wait } = answer;
  if (status === 401) return holdFor(element("result"), () => element("verify").click());
  if (body.valid === true) succeed();
  else if (body.valid === false) tell(element("result"), "bad", ...refusal(body));
  else tell(element("result"), "bad", `${refusedWords(answer)}${wait ? ` Try again in ${duration(wait)}.` : ""}`);
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
  const { ok, status, body, wait } = await callApi("GET", `/otp-status/${id}`);
  if (id !== verificationId) return; // another call was asked for meanwhile
  if (status === 404) return forget();
  clearTimeout(pollTimer); // a second poll may have begun while this one waited
  if (status === 401) return element("key-form").hidden ? askForKey(poll) : undefined;
  if (ok) renderStatus(body);
  if (ok && isOver(body)) return noteEnd(body);
  pollTimer = setTimeout(poll, Math.max(POLL_MS, wait * 1000));
}

/** @param {any} status */
function isOver({ channel, call, message }) {
  return channel === "sms" ? ["delivered", "undelivered"].includes(message.state) : call?.state === "completed";
}

/** @param {any} status */
function noteEnd({ channel, phone }) {
  if (!isWaiting()) tell(callNote, "", channel === "sms" ? "" : `The call to ${phone} is over.`);
}

/** The server was restarted and keeps nothing. */
function forget() {
  startOver();
  tell(callNote, "bad", "The server no longer knows this call: press Call me again.");
}

/** @param {any} status */
function renderStatus(status) {
  element("progress").hidden = false;
  const isText = status.channel === "sms";
  const causes = isText ? [status.message.cause] : [status.call?.end_reason, status.call?.hangup_cause];
  const words = { ...STATUS_WORDS, ...(isText ? TEXT_WORDS : {}) }[status.status] ?? "";
  setText("status", status.status);
  setText("status-words", `${words}${status.status === "undelivered" ? ` (${causes.filter(Boolean).join(", ")})` : ""}`);
  setText("status-carrier", carrierField.length > 2 && status.provider ? `through ${status.provider}` : "");
  element("status").dataset.status = status.status;
  if (status.status === "verified" && shownCode()) succeed(); // it was typed, and checked, on the telephone
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

/** Count down to the offer of a second call: no sooner than the service would place one. @param {any} sent */
function offerAgain(sent) {
  againButton.value = textButton.value = sent.phone;
  element("again").hidden = false;
  textButton.hidden = !sent.fallback_available || !!sent.code;
  againTimer = countDown(Math.max(AGAIN_AFTER_SECONDS, sent.resend_after), (left) => {
    againButton.disabled = textButton.disabled = left > 0;
    setText("again-wait", left > 0 ? `You can ask again in ${duration(left)}` : "We call you once more.");
  });
}

/** Several carriers can be chosen from; one is no choice. */
async function listCarriers() {
  const { ok, body } = await callApi("GET", "/ready");
  if (!ok) return;
  for (const { name } of body.providers) carrierField.add(new Option(name, name));
  element("through").hidden = body.providers.length < 2;
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
    choosePhone(phone);
    callButton.focus();
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
  if (isConnected && carrierField.length === 1) listCarriers();
}

/** @param {string} formId @param {string} buttonId @param {() => Promise<void>} work */
function onSubmit(formId, buttonId, work) {
  element(formId).addEventListener("submit", (event) => {
    event.preventDefault();
    whileBusy(buttonId, work);
  });
}

onSubmit("key-form", "use-key", takeKey);
onSubmit("call-form", "call-me", call);
phoneField.oninput = stopWaiting;
onSubmit("code-form", "verify", verify);
againButton.onclick = () => {
  choosePhone(againButton.value);
  callButton.focus({ preventScroll: true });
  callButton.click();
};
textButton.onclick = () => whileBusy("text-me", text);
startTelephone(onConnection);
show(shownCode());
if (verificationId) poll();
