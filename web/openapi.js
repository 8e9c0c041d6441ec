// @ts-check
/** What /openapi.json says, in the form in which a page needs it. */

/** @type {any} */
export let api = {};

export async function load() {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  api = await response.json();
}

/** Tags and their routes: first the tags that the document describes, in its order. */
export function routesByTag() {
  /** @type {Map<string, {id: string, path: string, method: string, route: any}[]>} */
  const groups = new Map((api.tags ?? []).map((/** @type {any} */ tag) => [tag.name, []]));
  for (const [path, methods] of Object.entries(api.paths)) {
    const slug = path.replace(/[\W_]+/g, "-").replace(/^-|-$/g, "");
    Object.entries(methods).forEach(([method, route], index) => {
      const tag = route.tags?.[0] ?? "other";
      const id = index ? `${slug}-${method}` : slug;
      groups.set(tag, [...(groups.get(tag) ?? []), { id, path, method, route }]);
    });
  }
  return groups;
}

/** A schema with its reference followed and "or null" dropped. @param {any} schema @returns {any} */
function plain(schema = {}) {
  const { $ref, anyOf, ...own } = schema;
  if ($ref) return { ...plain(api.components.schemas[$ref.split("/").pop()]), ...own };
  const choices = anyOf?.filter((/** @type {any} */ choice) => choice.type !== "null") ?? [];
  return choices.length === 1 ? { ...plain(choices[0]), ...own } : schema;
}

/** The example of a schema, or of those fields of it that have one. @param {any} schema @returns {any} */
function exampleOf(schema) {
  const { example, examples, properties, items } = plain(schema);
  if (example !== undefined) return example;
  if (examples?.length) return examples[0];
  if (properties) {
    const fields = Object.entries(properties).map(([name, field]) => [name, exampleOf(field)]);
    const shown = fields.filter(([, value]) => value !== undefined);
    return shown.length ? Object.fromEntries(shown) : undefined;
  }
  const item = items && exampleOf(items);
  return item === undefined ? undefined : [item];
}

/** @param {any} content one media type of a body */
export function bodyExample({ example, examples, schema }) {
  return example ?? /** @type {any} */ (Object.values(examples ?? {})[0])?.value ?? exampleOf(schema);
}

/** Fields with those inside them: `call.state`, `timeline[].at`. Of a choice between objects, those of each.
 * @param {any} schema @returns {any[]} */
export function fieldsOf(schema, prefix = "") {
  const { properties = {}, required = [], anyOf = [] } = plain(schema);
  const ofChoices = anyOf.flatMap((/** @type {any} */ choice) => fieldsOf(choice, prefix));
  const own = Object.entries(properties).flatMap(([key, value]) => {
    const [name, field] = [prefix + key, plain(value)];
    const inside = field.items ? fieldsOf(field.items, `${name}[].`) : fieldsOf(field, `${name}.`);
    return [{ name, field, isRequired: required.includes(key) }, ...inside];
  });
  return eachOnce([...own, ...ofChoices.map((/** @type {any} */ one) => ({ ...one, isRequired: false }))]);
}

/** @param {any[]} fields */
function eachOnce(fields) {
  return [...new Map(fields.map((field) => [field.name, field])).values()];
}

/** @param {any} route */
export function requestFields(route) {
  const parameters = (route.parameters ?? []).map((/** @type {any} */ parameter) => ({
    name: parameter.name,
    field: { description: parameter.description, ...plain(parameter.schema) },
    isRequired: parameter.required,
    place: `in the ${parameter.in}`,
  }));
  const bodies = Object.values(route.requestBody?.content ?? {});
  const fields = [...parameters, ...eachOnce(bodies.flatMap((body) => fieldsOf(body.schema)))];
  return fields.sort((one, other) => (one.place === "in the header") - (other.place === "in the header"));
}

/** @param {any} field */
export function typeOf(field) {
  if (field.items) return `list of ${typeOf(plain(field.items))}s`;
  const choices = field.anyOf?.map((/** @type {any} */ choice) => typeOf(plain(choice)));
  return choices?.join(" or ") ?? field.type ?? "any";
}

/** @param {any} field @returns {[string, string][]} what bounds a value, as word and value */
export function limitsOf({ minimum, maximum, minLength, maxLength, pattern, enum: words, default: preset, ...field }) {
  const example = field.example ?? field.examples?.[0];
  /** @type {[string, any][]} */
  const limits = [
    ["at least", minimum], ["at most", maximum], ["min. length", minLength], ["max. length", maxLength],
    ["pattern", pattern], ["one of", words?.join(", ")], ["default", preset], ["example", example === preset ? undefined : example],
  ];
  return limits.filter(([, value]) => value !== undefined && value !== null).map(([word, value]) => [word, text(value)]);
}

/** @param {any} value */
export function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

/** @param {any} route */
export function needsKey(route) {
  const schemes = api.components?.securitySchemes ?? {};
  const names = (route.security ?? api.security ?? []).flatMap(Object.keys);
  return names.some((/** @type {string} */ name) => schemes[name]?.type === "http" && schemes[name].scheme === "bearer");
}

/** A line for the shell. @param {string} path @param {string} method @param {any} route */
export function curlOf(path, method, route) {
  const url = location.origin + path.replace(/\{(\w+)\}/g, (_, name) => {
    const parameter = route.parameters?.find((/** @type {any} */ one) => one.name === name);
    return exampleOf(parameter?.schema) ?? name.toUpperCase(); // curl would take braces for a pattern
  });
  const words = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${url}`];
  if (needsKey(route)) words.push('-H "Authorization: Bearer $API_KEY"'); // double quotes: the shell fills it in
  const body = exampleOf(route.requestBody?.content["application/json"]?.schema);
  if (body !== undefined) words.push("-H 'Content-Type: application/json'", `-d ${quoted(oneLine(body))}`);
  return words.join(" \\\n  ");
}

/** @param {string} word */
function quoted(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/** JSON with a space after each colon and comma. @param {any} value */
function oneLine(value) {
  return JSON.stringify(value, null, 1).replace(/\n\s*/g, " ").replace(/^\{ | \}$/g, (end) => end.trim());
}
