// What the pages of one gateway show besides figures: the events of a connection as a timeline, times in the viewer's
// zone, and a search in the settings. The pages also work without this script. It is a module, so its names are its own.

// Times

const two = (number) => String(number).padStart(2, "0");
const timeOf = (seconds) => {
  const at = new Date(seconds * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
};

function showTimes() {
  for (const element of document.querySelectorAll("time[data-at]")) {
    const at = new Date(Number(element.dataset.at) * 1000);
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    element.title = element.title || element.textContent;
    const isToday = new Date().toDateString() === at.toDateString();
    element.textContent = (isToday ? "" : `${day} `) + timeOf(at / 1000);
  }
}
document.addEventListener("htmx:afterSwap", showTimes);
showTimes();

// The timeline of a connection: events of messages that follow one another are folded into one entry

const GAP = 5; // seconds without an event after which a new entry begins
const SPAN = 60; // seconds in one entry
const ENTRIES = 100;
const TRAFFIC = ["in", "out", "hook"];
let entry = null;

const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const sized = (bytes) => (bytes < 1000 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const lasting = (seconds) => (seconds < 0.1 ? "" : seconds < 10 ? `over ${seconds.toFixed(1)} s` : `over ${Math.round(seconds)} s`);

function fits(at, what, note) {
  if (!entry || at - entry.last > GAP || at - entry.began > SPAN) return false;
  if (TRAFFIC.includes(what)) return entry.isTraffic;
  return !entry.isTraffic && entry.what === what && entry.note === note;
}

function addEvent(list, [at, what, size, note]) {
  if (!fits(at, what, note)) {
    const item = document.createElement("li");
    item.innerHTML = '<time></time><div><span class="what"></span><p class="note"></p></div>';
    list.prepend(item);
    entry = { item, what, note, began: at, repeats: 0, isTraffic: TRAFFIC.includes(what), in: [0, 0], out: [0, 0], hooks: new Map() };
    item.querySelector("time").title = new Date(at * 1000).toISOString();
  }
  entry.last = at;
  entry.repeats += 1;
  if (what === "in" || what === "out") {
    entry[what][0] += 1;
    entry[what][1] += size || 0;
  } else if (what === "hook") {
    const [hook, ...rest] = note.split(" ");
    const [count] = entry.hooks.get(hook) || [0];
    entry.hooks.set(hook, [count + 1, rest.join(" ")]);
  }
  showEntry();
}

function showEntry() {
  const { item, what, note, began, last, repeats, isTraffic } = entry;
  const parts = [];
  let title = what + (repeats > 1 ? ` ${repeats} times` : "");
  if (isTraffic) {
    const ways = ["in", "out"].filter((way) => entry[way][0]);
    const hooks = Array.from(entry.hooks, ([hook, [count, rest]]) => (count === 1 ? `${hook} ${rest}` : `${hook} ${count} times, last ${rest}`));
    title = ways.map((way) => `${counted(entry[way][0], "message")} ${way}`).join(", ") || hooks.shift();
    parts.push(...ways.map((way) => sized(entry[way][1]) + (ways.length > 1 ? ` ${way}` : "")), lasting(last - began), ...hooks);
  } else {
    parts.push(note, repeats > 1 ? lasting(last - began) : "");
  }
  item.querySelector("time").textContent = timeOf(began);
  item.querySelector(".what").textContent = title.startsWith("on_") ? title : title[0].toUpperCase() + title.slice(1);
  item.querySelector(".note").textContent = parts.filter(Boolean).join(" · ");
  item.classList.toggle("error", what === "dropped" || (isTraffic && Array.from(entry.hooks.values()).some(([, rest]) => rest.startsWith("failed"))));
}

// Called by panel.js with each push to the page of a connection
globalThis.showConnection = (own) => {
  for (const [name, value] of Object.entries(own)) {
    if (name !== "events" && name !== "open") text(`[data-own=${name}]`, document, name === "age" ? age(value) : value);
  }
  const open = document.getElementById("open");
  open.dataset.state = own.open ? "running" : "stopped";
  if (open.lastElementChild.textContent !== (own.open ? "open" : "closed")) open.lastElementChild.textContent = own.open ? "open" : "closed";
  if (!own.open) for (const element of document.querySelectorAll("main form")) element.remove();
  const list = document.getElementById("events");
  if (!list) return;
  for (const event of own.events) addEvent(list, event);
  while (list.children.length > ENTRIES) list.lastElementChild.remove();
};

// The recipients of a message: a text selects its kind

for (const field of document.querySelectorAll(".recipient input:not([type=radio]), .recipient textarea")) {
  field.addEventListener("input", () => (field.closest(".recipient").querySelector("[type=radio]").checked = true));
}
for (const radio of document.querySelectorAll(".recipients [type=radio]")) {
  radio.addEventListener("change", () => {
    for (const field of document.querySelectorAll(".recipient input:not([type=radio]), .recipient textarea")) {
      if (!field.closest(".recipient").contains(radio)) field.value = "";
    }
  });
}

// The search in the settings hides what does not match

const find = document.querySelector("#find input");

function search() {
  const sought = find.value.trim().toLowerCase();
  let matches = 0;
  for (const topic of document.querySelectorAll(".topic")) {
    let inside = 0;
    for (const field of topic.querySelectorAll("[data-field]")) {
      const isMatch = !sought || field.textContent.toLowerCase().includes(sought);
      field.hidden = !isMatch;
      inside += Number(isMatch);
    }
    topic.hidden = !inside;
    if (topic.tagName === "DETAILS") topic.open = (sought && inside) || topic.dataset.open === "yes";
    matches += inside;
  }
  document.getElementById("found").textContent = sought ? counted(matches, "setting") : "";
}

if (find) {
  for (const topic of document.querySelectorAll("details.topic")) topic.dataset.open = topic.querySelector(".wrong") ? "yes" : "no";
  find.addEventListener("input", search);
  find.form.addEventListener("submit", (event) => event.preventDefault());
  if (find.value) search();
}
