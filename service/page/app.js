// The search page. The query lives in the URL; a picture from the visitor cannot, and is kept for the visit.

const WORDS = {
  en: {
    label: "Describe the picture", placeholder: "a red star, or drop a picture here", choose: "Picture…", search: "Search",
    target: "Search for", images: "Pictures", texts: "Captions", more: "More like this", like: "Like this picture",
    none: "Nothing found.", busy: "Searching…", failed: "The service cannot be reached.",
    gone: "That picture was not kept: choose it again.", other: "中文", open: "Open picture",
    locked: "This service needs a key", unlock: "Use", badKey: "That key is not good here.",
    about: (p, c, m) => `${p} pictures, ${c} captions, model ${m}`, found: (n, ms) => `${n} ${n === 1 ? "result" : "results"} in ${ms} ms`,
    blocked: "The browser blocked the new tab: allow pop-ups for this page.",
    results: "Results", later: (s) => `Too many requests at the moment: try again in ${s} s.`,
  },
  zh: {
    label: "描述您要找的图片", placeholder: "例如：红色星形，或把图片拖到这里", choose: "选择图片…", search: "搜索",
    target: "搜索内容", images: "图片", texts: "文字说明", more: "查找相似", like: "与此图相似",
    none: "没有找到结果。", busy: "正在搜索…", failed: "无法连接到服务。",
    gone: "该图片未被保留，请重新选择。", other: "English", open: "打开图片",
    locked: "此服务需要密钥", unlock: "使用", badKey: "该密钥无效。",
    about: (p, c, m) => `${p} 张图片，${c} 条说明，模型 ${m}`, found: (n, ms) => `${n} 条结果，用时 ${ms} 毫秒`,
    blocked: "浏览器拦截了新标签页，请允许此页面弹出窗口。",
    results: "搜索结果", later: (s) => `目前请求过多，请在 ${s} 秒后重试。`,
  },
};
const EXAMPLES = [
  "four small blue circles in a row", "a small red star", "a large green heart above a small yellow circle",
  "三个小号绿色三角形排成一列", "红色星形",
];
const COUNT = 24;

const $ = (selector, root = document) => root.querySelector(selector);
const uploads = new Map(); // key in history.state -> File
let words = WORDS.en;
let about = null;
let running = null;

function setLanguage(language) {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  translate(document);
  $("h1 a").search = state().has("lang") ? `lang=${language}` : "";
  $("#language").textContent = words.other;
  $("#language").lang = language === "zh" ? "en" : "zh";
  showAbout();
}

function translate(root) {
  for (const [kind, property] of [["text", "textContent"], ["label", "ariaLabel"], ["placeholder", "placeholder"]]) {
    for (const element of root.querySelectorAll(`[data-${kind}]`)) element[property] = words[element.dataset[kind]];
  }
}

function showAbout() {
  if (!about) return;
  const number = new Intl.NumberFormat(document.documentElement.lang);
  $("#examples").hidden = about.model.reference !== "tiny"; // no other model is good at coloured shapes alone
  $("#about").textContent = words.about(number.format(about.images.count), number.format(about.texts.count), about.model.reference);
}

// The key, where the service needs one, is kept until the tab is closed and sent as a header alone.
const KEY = "crossmodal-key";

async function ask(url, options = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key) options.headers = { Authorization: `Bearer ${key}` };
  const answer = await fetch(url, options);
  if (answer.status === 401) {
    sessionStorage.removeItem(KEY);
    $("#unlock").hidden = false;
    throw new Error(key ? words.badKey : words.locked);
  }
  if (answer.headers.has("Retry-After")) throw new Error(words.later(answer.headers.get("Retry-After")));
  return answer;
}

// An <img> sends no header: under a key, its bytes are fetched here.
async function load(image, url) {
  if (!sessionStorage.getItem(KEY)) {
    image.src = url;
    return;
  }
  try {
    const answer = await ask(url);
    if (!answer.ok) throw new Error(answer.statusText);
    showBytes(image, await answer.blob());
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
    if (!answer.ok) throw new Error((await answer.json()).detail);
    tab.location = URL.createObjectURL(await answer.blob());
  } catch (error) {
    tab.close();
    say(error instanceof TypeError ? words.failed : error.message, true);
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
  history.pushState(key, "", `?${query}`);
  showText();
  run();
}

function showText() {
  $("#text").value = state().get("text") ?? "";
}

async function run() {
  const query = state();
  const wanted = query.get("target") === "texts" ? "texts" : "images";
  $(`input[name=target][value=${wanted}]`).checked = true;
  const upload = uploads.get(history.state);
  const id = query.get("id");
  showQuery(id, upload);
  running?.abort();
  if (!query.get("text") && !id && !upload) {
    say(history.state ? words.gone : "", Boolean(history.state));
    $("#results").replaceChildren();
    return;
  }
  const control = (running = new AbortController());
  say(words.busy);
  $("#results").classList.add("old");
  const options = new URLSearchParams({ k: COUNT });
  if (wanted === "images") options.set("include", "captions");
  const request = { signal: control.signal };
  if (upload) {
    request.method = "POST";
    request.body = new FormData();
    request.body.set("image", upload);
  } else if (id) options.set("image_id", id);
  else options.set("text", query.get("text"));
  try {
    const answer = await ask(`/v1/search/${wanted}?${options}`, request);
    const body = await answer.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new TypeError(words.failed); // a proxy's page, not the service's answer
    });
    if (!answer.ok) throw new Error(body.detail ?? body.title);
    const hits = wanted === "images" ? body.hits.filter((hit) => hit.id !== id) : body.hits;
    show(wanted, hits);
    say(hits.length ? words.found(hits.length, Math.round(body.took_ms.total)) : words.none);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("#results").replaceChildren();
    say(error instanceof TypeError ? words.failed : error.message, true);
  } finally {
    if (running === control) $("#results").classList.remove("old");
  }
}

function say(message, wrong = false) {
  $("#status").textContent = message;
  $("#status").classList.toggle("wrong", wrong);
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

function fromTemplate(name) {
  const item = $(`#${name}`).content.firstElementChild.cloneNode(true);
  translate(item);
  return item;
}

function picture(hit) {
  const item = fromTemplate("picture");
  const text = hit.captions?.find((c) => /[\u4e00-\u9fff]/.test(c) === (words === WORDS.zh)) ?? hit.captions?.[0] ?? hit.uri;
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
    const answer = await ask("/v1/index");
    if (!answer.ok) throw new Error((await answer.json()).detail);
    about = await answer.json();
    $("#targets").hidden = !about.texts.count;
    showAbout();
  } catch (error) {
    say(error instanceof TypeError || error instanceof SyntaxError ? words.failed : error.message, true);
  }
}

function takePicture(file) {
  if (file) go({}, file);
}

$("#form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("#text").value.trim();
  if (text) go({ text });
});
$("#targets").addEventListener("change", () => {
  const query = state();
  query.set("target", target());
  history.pushState(history.state, "", `?${query}`);
  run();
});
$("#file").addEventListener("change", (event) => {
  takePicture(event.target.files[0]);
  event.target.value = "";
});
$("#language").addEventListener("click", () => {
  const language = words === WORDS.en ? "zh" : "en";
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
