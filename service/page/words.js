// What the page says, in two languages.

const WORDS = {
  en: {
    label: "Describe the picture", placeholder: "a red star, or drop a picture here", choose: "Picture…", search: "Search",
    target: "Search for", images: "Pictures", texts: "Captions", more: "More like this", like: "Like this picture",
    none: "Nothing found.", busy: "Searching…", failed: "The service cannot be reached.",
    gone: "That picture was not kept: choose it again.", other: "中文", open: "Open picture",
    locked: "This service needs a key", unlock: "Use", badKey: "That key is not good here.",
    about: (p, c, m) => `${p} pictures, ${c} captions, model ${m}`, found: (n, ms) => `${n} ${n === 1 ? "result" : "results"} in ${ms} ms`,
    blocked: "The browser blocked the new tab: allow pop-ups for this page.", results: "Results",
    filters: "Filters", from: "from", to: "to", yes: "yes", no: "no", clear: "Clear filters",
    noneLeft: "No picture passes these filters.", empty: "Describe what you look for, or choose a picture.",
    limit: (again) => `Too many requests at the moment: ${again}.`, overload: (again) => `The service is too busy: ${again}.`,
    later: "try again later", soon: (time) => `try again in ${time}`,
    large: "That picture is too large.", slow: "The picture took too long to arrive.", unreadable: "That picture cannot be used.",
    misfit: "These filters do not fit this index.", unknown: "That picture is not there.", refused: "The service cannot answer this.",
    broken: "The service failed to answer.",
  },
  zh: {
    label: "描述您要找的图片", placeholder: "例如：红色星形，或把图片拖到这里", choose: "选择图片…", search: "搜索",
    target: "搜索内容", images: "图片", texts: "文字说明", more: "查找相似", like: "与此图相似",
    none: "没有找到结果。", busy: "正在搜索…", failed: "无法连接到服务。",
    gone: "该图片未被保留，请重新选择。", other: "English", open: "打开图片",
    locked: "此服务需要密钥", unlock: "使用", badKey: "该密钥无效。",
    about: (p, c, m) => `${p} 张图片，${c} 条说明，模型 ${m}`, found: (n, ms) => `${n} 条结果，用时 ${ms} 毫秒`,
    blocked: "浏览器拦截了新标签页，请允许此页面弹出窗口。", results: "搜索结果",
    filters: "筛选", from: "从", to: "到", yes: "是", no: "否", clear: "清除筛选",
    noneLeft: "没有符合筛选条件的图片。", empty: "请描述您要找的图片，或选择一张图片。",
    limit: (again) => `目前请求过多，${again}。`, overload: (again) => `服务繁忙，${again}。`,
    later: "请稍后重试", soon: (time) => `请在${time}后重试`,
    large: "图片过大。", slow: "图片上传超时。", unreadable: "无法使用该图片。",
    misfit: "筛选条件不适用于此索引。", unknown: "找不到该图片。", refused: "服务无法处理此请求。",
    broken: "服务出错，未能回答。",
  },
};

export const $ = (selector, root = document) => root.querySelector(selector);
export let words = WORDS.en;

export function speak(language) {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  translate(document);
}

function translate(root) {
  for (const [kind, property] of [["text", "textContent"], ["label", "ariaLabel"], ["placeholder", "placeholder"]]) {
    for (const element of root.querySelectorAll(`[data-${kind}]`)) element[property] = words[element.dataset[kind]];
  }
}

export function fromTemplate(name) {
  const item = $(`#${name}`).content.firstElementChild.cloneNode(true);
  translate(item);
  return item;
}

export function spell(number, options = {}) {
  return new Intl.NumberFormat(document.documentElement.lang, options).format(number);
}
