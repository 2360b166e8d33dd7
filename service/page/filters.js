// The filters: the REST API's own JSON, here as a form. Each input has a column as its name, and an operator.

import { $, fromTemplate, words } from "./words.js";

const DATE = /^\d{4}-\d\d-\d\d/;
const MANY = 20; // values; the service tells the commonest so many
const form = $("#filters");
const inputs = () => form.querySelectorAll("input");
const title = (column) => column.replaceAll("_", " ");
const label = (value) => (typeof value === "boolean" ? words[value ? "yes" : "no"] : value);

// `facets` has the values, commonest first, of columns that have no numbers.
export function makeFilters({ images, metadata = {} }, facets) {
  $("#columns").replaceChildren();
  for (const [column, type] of Object.entries(metadata)) {
    const counts = facets[column] ?? [];
    const values = counts.filter(({ count }) => count < images.count).map(({ value }) => value); // what all have narrows nothing
    if (/^(u?int|float|double)/.test(type)) addColumn(column, ["from", "to"].map((end) => bound(end, "number")));
    else if (values.length && values.every((value) => DATE.test(value))) addColumn(column, ["from", "to"].map((end) => bound(end, "date")));
    else if (values.length && counts.length < MANY) addColumn(column, values.map(choice));
  }
}

function addColumn(column, choices) {
  const group = fromTemplate("column");
  $("legend", group).textContent = title(column);
  group.append(...choices);
  for (const input of group.querySelectorAll("input")) input.name = column;
  $("#columns").append(group);
}

function choice(value) {
  const item = fromTemplate("choice");
  $("input", item).value = JSON.stringify(value);
  $("span", item).textContent = label(value);
  if (typeof value === "boolean") $("span", item).dataset.text = value ? "yes" : "no"; // when the language changes
  return item;
}

function bound(end, type) {
  const item = fromTemplate(end);
  const input = $("input", item);
  input.type = type;
  if (type === "date") input.min = "1000-01-01"; // a year is there once its last digit is
  return item;
}

export function showFilters(shown, text) {
  const filter = parse(text);
  const columns = Object.entries(filter);
  form.hidden = !shown || !(columns.length || $("#columns").hasChildNodes());
  $("summary span:last-child", form).textContent = columns.map(tell).join(" · ");
  $("[type=reset]", form).hidden = !columns.length;
  for (const input of inputs()) {
    const value = filter[input.name]?.[input.dataset.operator];
    if (input.type === "checkbox") input.checked = value?.includes?.(JSON.parse(input.value)) ?? false;
    else input.value = input.type === "date" ? value?.slice?.(0, 10) ?? "" : value ?? "";
  }
}

function parse(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {}; // written by hand: the service says what is wrong with it
  }
}

function tell([column, conditions]) {
  const { $in, $gte, $lte } = conditions ?? {};
  const [least, most] = [$gte, $lte].map((end) => String(end ?? "").replace("~", ""));
  const range = least && most ? `${least}–${most}` : least ? `≥ ${least}` : most ? `≤ ${most}` : JSON.stringify(conditions);
  return `${title(column)}: ${$in?.map?.(label).join(", ") ?? range}`;
}

export function readFilters() {
  const filter = {};
  for (const { name, type, checked, value, valueAsNumber, dataset: { operator } } of inputs()) {
    if (operator === "$in" ? !checked : !value) continue;
    const conditions = (filter[name] ??= {});
    if (operator === "$in") (conditions.$in ??= []).push(JSON.parse(value));
    else if (type === "number") conditions[operator] = valueAsNumber;
    else conditions[operator] = operator === "$lte" ? `${value}~` : value; // ~ is after all times of that day
  }
  return filter;
}
