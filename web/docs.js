// @ts-check
/** The API as /openapi.json describes it. What the document says becomes text, never markup. */

import { element, setText } from "./dom.js";
import {
  api, bodyExample, curlOf, fieldsOf, limitsOf, load, needsKey, requestFields, routesByTag, text, typeOf,
} from "./openapi.js";

const CURL_TAG = "backend"; // what carriers and load balancers call is not for people to try
const COPIED_MS = 2000;

/** What the search looks through. @type {{words: string, card: HTMLElement, link: HTMLElement}[]} */
const routes = [];
const searchField = /** @type {HTMLInputElement} */ (element("docs-find"));

/** @param {string} tag @param {Record<string, string>} attributes @param {...(string | Node)} content */
function make(tag, attributes, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

/** Words with `code` among them. @param {string} text @returns {(string | Node)[]} */
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** @param {string} text */
function paragraphs(text) {
  return text.split(/\n\n+/).filter(Boolean).map((part) => make("p", {}, ...withCode(part)));
}

/** Fields that a caller gives, or gets. @param {any[]} fields @param {boolean} isRequest */
function fieldList(fields, isRequest) {
  return make("dl", { class: "fields" }, ...fields.flatMap(({ name, field, isRequired, place }) => {
    const kind = [typeOf(field), place].filter(Boolean).join(" ");
    const limits = limitsOf(field).filter(([word]) => isRequest || word !== "example"); // an answer's are shown whole
    return [
      make("dt", {}, make("code", {}, name), ` ${kind} · `, presence(isRequest, isRequired)),
      make("dd", {}, ...paragraphs(field.description ?? ""), limitLine(limits)),
    ];
  }));
}

/** @param {boolean} isRequest @param {boolean} isRequired */
function presence(isRequest, isRequired) {
  if (!isRequest) return isRequired ? "always" : "may be missing or null";
  return isRequired ? make("b", {}, "required") : "optional";
}

/** @param {[string, string][]} limits */
function limitLine(limits) {
  const pieces = limits.map(([word, value]) => make("span", {}, `${word} `, make("code", {}, value)));
  return make("p", { class: "limits" }, ...pieces);
}

/** @param {string} path @param {string} line */
function curlBlock(path, line) {
  const shown = make("pre", { tabindex: "0", role: "group", "aria-label": `curl line for ${path}` }, line);
  const label = `Copy the curl line for ${path}`;
  const button = make("button", { type: "button", class: "copy", "aria-label": label }, "Copy");
  const said = make("span", { class: "note", role: "status" });
  button.onclick = async () => {
    said.textContent = await copy(line, shown);
    setTimeout(() => (said.textContent = ""), COPIED_MS);
  };
  return make("div", { class: "curl" }, make("div", { class: "bar" }, make("h4", {}, "Try it"), said, button), shown);
}

/**
 * Browsers give the clipboard to https and to this machine only: elsewhere the line is selected.
 * @param {string} line @param {HTMLElement} shown
 */
async function copy(line, shown) {
  try {
    await navigator.clipboard.writeText(line);
    return "Copied";
  } catch {
    getSelection()?.selectAllChildren(shown);
    return "Selected: press Ctrl+C";
  }
}

/** Answers; those that say the same share an entry. @param {any} responses @param {boolean} isOpen */
function answerList(responses, isOpen) {
  /** @type {Map<string, string[]>} */
  const statuses = new Map();
  for (const [status, answer] of Object.entries(responses)) {
    const key = JSON.stringify(answer);
    statuses.set(key, [...(statuses.get(key) ?? []), status]);
  }
  const entries = [...statuses].map(([key, codes], index) => answerEntry(codes, JSON.parse(key), isOpen && index === 0));
  return make("div", { class: "answers" }, make("h4", {}, "Answers"), ...entries);
}

/** @param {string[]} codes @param {any} answer @param {boolean} isOpen */
function answerEntry(codes, answer, isOpen) {
  const mark = (/** @type {string} */ code) => make("span", { class: "code", "data-class": code[0] }, code);
  const title = [...codes.flatMap((code) => [mark(code), " "]), ...withCode(answer.description)]; // a space can wrap
  const bodies = Object.entries(answer.content ?? {}).filter(([, body]) => bodyExample(body) !== undefined);
  if (!bodies.length) return make("p", { class: "answer" }, ...title);
  const entry = make("details", { class: "answer" }, make("summary", {}, ...title), ...bodies.flatMap(answerBody));
  entry.toggleAttribute("open", isOpen);
  return entry;
}

/** @param {[string, any]} content */
function answerBody([mediaType, body]) {
  const fields = fieldsOf(body.schema).filter(({ field }) => field.description || field.enum);
  const label = `example, ${mediaType}`;
  const example = make("pre", { tabindex: "0", role: "group", "aria-label": label }, text(bodyExample(body)));
  return [make("p", { class: "note" }, mediaType), example, ...(fields.length ? [fieldList(fields, false)] : [])];
}

/** @param {string} method */
function methodBadge(method) {
  return make("span", { class: "method", "data-method": method }, method.toUpperCase());
}

/** @param {string} words */
function badge(words) {
  return make("span", { class: "badge" }, words);
}

/** A route's card, and its entry in the contents. @param {{id: string, path: string, method: string, route: any}} one */
function showRoute({ id, path, method, route }) {
  const isCurlable = route.tags?.includes(CURL_TAG) ?? false;
  const about = route.description ?? route.summary ?? "";
  const fields = requestFields(route);
  const title = make("h3", { id: `${id}-title` }, methodBadge(method), " ", make("a", { href: `#${id}` }, path));
  const request = fields.length ? fieldList(fields, true) : make("p", { class: "note" }, "No fields.");
  const card = make("article", { id, class: "card", "aria-labelledby": `${id}-title` },
    make("div", { class: "title" }, title, ...(needsKey(route) ? [badge("needs an API key")] : [])),
    make("div", { class: "about" }, ...paragraphs(about)),
    make("div", { class: "columns" },
      make("div", {}, make("h4", {}, "Request"), request),
      make("div", {},
        ...(isCurlable ? [curlBlock(path, curlOf(path, method, route))] : []),
        answerList(route.responses, isCurlable))));
  const link = make("li", {}, make("a", { href: `#${id}` }, methodBadge(method), " ", path));
  const words = [method, path, about, ...fields.map(({ name }) => name)].join(" ").toLowerCase();
  routes.push({ words, card, link });
  return { card, link };
}

/** @param {string} tag @param {{card: HTMLElement, link: HTMLElement}[]} shown */
function showGroup(tag, shown) {
  const title = tag.charAt(0).toUpperCase() + tag.slice(1);
  const about = api.tags?.find((/** @type {any} */ one) => one.name === tag)?.description ?? "";
  const heading = make("h2", { id: `tag-${tag}` }, title);
  element("docs-routes").append(make("section", { class: "group", "aria-labelledby": `tag-${tag}` },
    heading, make("p", { class: "note" }, about), ...shown.map(({ card }) => card)));
  element("docs-contents").append(make("div", { class: "group" },
    make("p", { class: "eyebrow" }, title), make("ul", {}, ...shown.map(({ link }) => link))));
}

function search() {
  const words = searchField.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const route of routes) {
    route.card.hidden = route.link.hidden = !words.every((word) => route.words.includes(word));
  }
  for (const group of document.querySelectorAll(".group")) {
    /** @type {HTMLElement} */ (group).hidden = !group.querySelector("article:not([hidden]), li:not([hidden])");
  }
  const found = routes.filter(({ card }) => !card.hidden).length;
  setText("docs-found", words.length ? `${found} of ${routes.length} routes` : "");
  scrollTo(0, Math.min(scrollY, element("docs-routes").offsetTop)); // up to what was found, if it is above
}

/** Go where the address points, also to what the search hid or what was not there when the page was loaded. */
function followHash() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  if (target.closest("[hidden]")) {
    searchField.value = "";
    search();
  }
  target.scrollIntoView();
}

async function start() {
  await load();
  setText("docs-about", api.info.description ?? "");
  setText("docs-version", `API ${api.info.version}`);
  element("docs-version").hidden = false;
  for (const [tag, group] of routesByTag()) {
    if (group.length) showGroup(tag, group.map(showRoute));
  }
  element("docs-state").remove();
  if (location.hash) location.replace(location.hash); // now that its target is there
}

searchField.oninput = search;
element("docs-search").onsubmit = (event) => event.preventDefault();
window.onhashchange = followHash;
start().catch(({ message }) => setText("docs-state", `/openapi.json cannot be shown: ${message}. Reload to try again.`));
