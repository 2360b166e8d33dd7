// The search page. Query and filter live in the URL; a picture from the visitor cannot, and is kept for the visit.

import { makeFilters, readFilters, showFilters } from "./filters.js";
import { $, fromTemplate, speak, spell, words } from "./words.js";

const EXAMPLES = [
  "four small blue circles in a row", "a small red star", "a large green heart above a small yellow circle",
  "三个小号绿色三角形排成一列", "红色星形",
];
const COUNT = 24;

const uploads = new Map(); // key in history.state -> File
let about = null;
let running = null;

function setLanguage(language) {
  speak(language);
  $("h1 a").search = state().has("lang") ? `lang=${language}` : "";
  $("#language").textContent = words.other;
  $("#language").lang = language === "zh" ? "en" : "zh";
  showAbout();
}

function showAbout() {
  arrange();
  if (!about) return;
  $("#about").textContent = words.about(spell(about.images.count), spell(about.texts.count), about.model.reference);
}

// The key, where the service needs one, is kept until the tab is closed and sent as a header alone.
const KEY = "crossmodal-key";

async function ask(url, options = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key) options.headers = { Authorization: `Bearer ${key}` };
  const answer = await fetch(url, options);
  if (answer.ok) return answer;
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    $("#unlock").hidden = false;
    throw new Error(key ? words.badKey : words.locked);
  }
  const { detail } = await answer.json().catch(() => ({})); // a proxy's page has none
  throw new Error(reason(answer, detail, Boolean(options.body)), { cause: detail });
}

function reason(answer, detail, withPicture) {
  const { status, headers } = answer;
  if (status === 429) return words.limit(again(headers.get("Retry-After")));
  if (status === 503) return words.overload(again(headers.get("Retry-After")));
  if (status === 422 && /^(query\.)?filter/.test(detail)) return words.misfit;
  if (status >= 500) return words.broken;
  const reasons = { 404: words.unknown, 408: words.slow, 413: words.large };
  return reasons[status] ?? (withPicture ? words.unreadable : words.refused);
}

function again(seconds) {
  if (!(seconds > 0)) return words.later; // none, or a date
  const [size, unit] = seconds < 120 ? [1, "second"] : seconds < 7200 ? [60, "minute"] : [3600, "hour"];
  return words.soon(spell(Math.ceil(seconds / size), { style: "unit", unit, unitDisplay: "long" }));
}

// An <img> sends no header: under a key, its bytes are fetched here.
async function load(image, url) {
  if (!sessionStorage.getItem(KEY)) {
    image.src = url;
    return;
  }
  try {
    showBytes(image, await (await ask(url)).blob());
  } catch {
    image.classList.add("missing");
  }
}

function showBytes(image, blob) {
  const source = URL.createObjectURL(blob);
  for (const end of ["load", "error"]) image.addEventListener(end, () => URL.revokeObjectURL(source), { once: true });
  image.src = source;
}

async function openPicture(event, id) {
  if (!sessionStorage.getItem(KEY) || event.button > 1) return; // 1: the middle one
  event.preventDefault();
  const tab = open("about:blank"); // now: later it would be a pop-up
  if (!tab) {
    say(words.blocked, true);
    return;
  }
  try {
    const answer = await ask(`/v1/images/${encodeURIComponent(id)}/content`);
    tab.location = URL.createObjectURL(await answer.blob());
  } catch (error) {
    tab.close();
    complain(error);
  }
}

const state = () => new URLSearchParams(location.search);
const target = () => $("input[name=target]:checked").value;

function go(changes, upload) {
  const query = state();
  for (const name of ["text", "id"]) query.delete(name);
  for (const [name, value] of Object.entries(changes)) query.set(name, value);
  query.set("target", target());
  const key = upload ? `${Date.now()}-${uploads.size}` : null; // distinct over reloads too: history outlives the map
  if (upload) uploads.set(key, upload);
  visit(query, key);
  showText();
}

function visit(query, key = history.state) {
  history.pushState(key, "", `?${query}`);
  run();
}

function showText() {
  $("#text").value = state().get("text") ?? "";
}

function question() {
  const query = state();
  const [upload, id, text] = [uploads.get(history.state), query.get("id"), query.get("text")?.trim()];
  const wanted = query.get("target") === "texts" ? "texts" : "images";
  const filter = wanted === "images" && query.get("filter"); // captions have no metadata
  return { upload, id, text, asked: Boolean(upload || id || text), wanted, filter };
}

// What there is to press, by what is asked for and what the index has.
function arrange() {
  const { text, asked, wanted, filter } = question();
  document.title = asked ? `${text || words.like} · Crossmodal` : "Crossmodal";
  $(`input[name=target][value=${wanted}]`).checked = true;
  $("#examples").hidden = asked || about?.model.reference !== "tiny"; // no other model is good at coloured shapes alone
  showFilters(asked && wanted === "images", filter);
}

async function run() {
  const { upload, id, text, asked, wanted, filter } = question();
  arrange();
  showQuery(id, upload);
  running?.abort();
  if (!asked) {
    say(history.state ? words.gone : "", Boolean(history.state));
    $("#results").replaceChildren();
    return;
  }
  const control = (running = new AbortController());
  say(words.busy);
  $("#results").classList.add("old");
  const options = new URLSearchParams({ k: COUNT });
  if (wanted === "images") options.set("include", "captions");
  if (filter) options.set("filter", filter);
  const request = { signal: control.signal };
  if (upload) {
    request.method = "POST";
    request.body = new FormData();
    request.body.set("image", upload);
  } else if (id) options.set("image_id", id);
  else options.set("text", text);
  try {
    const body = await (await ask(`/v1/search/${wanted}?${options}`, request)).json();
    const hits = wanted === "images" ? body.hits.filter((hit) => hit.id !== id) : body.hits;
    show(wanted, hits);
    if (hits.length) say(words.found(hits.length, Math.round(body.took_ms.total)));
    else say(filter ? words.noneLeft : words.none);
  } catch (error) {
    if (control.signal.aborted) return;
    $("#results").replaceChildren();
    complain(error);
  } finally {
    if (running === control) $("#results").classList.remove("old");
  }
}

function setFilter(filter) {
  const query = state();
  if (Object.keys(filter).length) query.set("filter", JSON.stringify(filter));
  else query.delete("filter");
  visit(query);
}

function complain(error) {
  const unreached = error instanceof TypeError || error instanceof SyntaxError; // or a proxy's page as the answer
  say(unreached ? words.failed : error.message, true, error.cause);
}

function say(message, wrong = false, detail = "") {
  $("#status").textContent = message;
  $("#status").classList.toggle("wrong", wrong);
  if (!detail) return;
  const note = document.createElement("span");
  note.lang = "en";
  note.textContent = detail;
  $("#status").append(" ", note);
}

function showQuery(id, upload) {
  const image = new Image(); // a new one: what is still on its way is of the old
  image.alt = "";
  $("#query img").replaceWith(image);
  $("#query").hidden = !id && !upload;
  if (upload) showBytes(image, upload);
  else if (id) load(image, thumbnail(id));
}

const thumbnail = (id) => `/v1/images/${encodeURIComponent(id)}/thumbnail`;

function show(kind, hits) {
  const list = $("#results");
  if (list.contains(document.activeElement)) list.focus(); // what was pressed goes, the place in the page stays
  list.className = kind;
  list.replaceChildren(...hits.map(kind === "images" ? picture : caption));
}

function picture(hit) {
  const item = fromTemplate("picture");
  const text = hit.captions?.find((c) => /[\u4e00-\u9fff]/.test(c) === (document.documentElement.lang === "zh-CN")) ?? hit.captions?.[0] ?? hit.uri;
  const link = $("a", item);
  link.href = `/v1/images/${encodeURIComponent(hit.id)}/content`;
  link.setAttribute("aria-label", `${words.open}: ${text}`);
  if (sessionStorage.getItem(KEY) && /^https?:\/\//.test(hit.uri)) link.href = hit.uri;
  else for (const kind of ["click", "auxclick"]) link.addEventListener(kind, (event) => openPicture(event, hit.id));
  $("img", item).alt = text;
  if (hit.thumbnail_url) load($("img", item), hit.thumbnail_url);
  else $("img", item).remove();
  $(".score", item).textContent = hit.score.toFixed(3);
  $(".caption", item).textContent = text;
  $(".more", item).setAttribute("aria-label", `${words.more}: ${text}`);
  $(".more", item).addEventListener("click", () => go({ id: hit.id }));
  return item;
}

function caption(hit) {
  const item = fromTemplate("caption");
  $(".caption", item).textContent = hit.text;
  $(".score", item).textContent = hit.score.toFixed(3);
  for (const id of hit.image_ids.slice(0, 4)) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    load(image, thumbnail(id));
    image.alt = `${words.more}: ${hit.text}`;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => {
      $("input[name=target][value=images]").checked = true;
      go({ id });
    });
    $(".thumbs", item).append(button);
  }
  return item;
}

async function start() {
  try {
    about = await (await ask("/v1/index")).json();
    $("#targets").hidden = !about.texts.count;
    showAbout();
    makeFilters(about, await countValues());
    arrange();
  } catch (error) {
    complain(error);
  }
}

// The commonest values of what is not a number, by column; none where the service cannot count them.
async function countValues() {
  const columns = Object.entries(about.metadata ?? {}).filter(([, type]) => /string|bool/.test(type)).map(([name]) => name);
  const facets = {};
  for (let start = 0; start < columns.length; start += 10) { // as many as one request may ask for
    const query = { vector: Array(about.model.dim).fill(1) }; // any: only the rows are counted
    const body = JSON.stringify({ query, k: 1, facets: columns.slice(start, start + 10) });
    const answer = await ask("/v1/search/images", { method: "POST", body }).catch(() => null);
    Object.assign(facets, (await answer?.json())?.facets);
  }
  return facets;
}

function takePicture(file) {
  if (file) go({}, file);
}

$("#form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("#text").value.trim();
  if (text) go({ text });
  else say(words.empty, true);
});
$("#targets").addEventListener("change", () => {
  const query = state();
  query.set("target", target());
  visit(query);
});
$("#filters").addEventListener("change", () => {
  if ($("#filters").checkValidity()) setFilter(readFilters()); // else a date or number that is not whole yet
});
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#filters").addEventListener("reset", () => {
  $("#filters summary").focus(); // the button goes
  setFilter({});
});
$("#file").addEventListener("change", (event) => {
  takePicture(event.target.files[0]);
  event.target.value = "";
});
$("#language").addEventListener("click", () => {
  const language = document.documentElement.lang === "en" ? "zh" : "en";
  const query = state();
  query.set("lang", language);
  history.replaceState(history.state, "", `?${query}`);
  setLanguage(language);
  run();
});
$("#unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("#key").value.trim());
  $("#key").value = "";
  $("#unlock").hidden = true;
  run();
  start();
});
addEventListener("popstate", () => {
  showText();
  run();
});
addEventListener("error", (event) => event.target.classList?.add("missing"), true); // a picture that does not load
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("drop");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("drop");
});
addEventListener("drop", (event) => {
  document.body.classList.remove("drop");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  takePicture(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) {
    event.preventDefault();
    takePicture(file);
  }
});

for (const text of EXAMPLES) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.lang = /[\u4e00-\u9fff]/.test(text) ? "zh" : "en";
  button.addEventListener("click", () => go({ text }));
  $("#examples").append(button);
}
const asked = state().get("lang") ?? navigator.language;
setLanguage(asked.startsWith("zh") ? "zh" : "en");
showText();
run();
start();
