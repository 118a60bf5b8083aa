// Asks the questions of copier.yml, previews what the answers give, and hands it over.
const byId = (id) => document.getElementById(id);
const [preview, tree, code, dialog] = ["preview", "tree", "code", "comparison"].map(byId);
const fieldOf = (name) => document.getElementsByName(name)[0]?.closest(".field");
const highlighted = new Map();
let answers = {}; // Those that were given.
let notice = ""; // About the address.
let current = { answers: {}, files: [] }; // The last preview that works.
let [previous, edited] = [null, null]; // The answers before the last change, and its input.
let marks = new Map(); // What that change did to files, by path.
let selected = "README.md";

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const prose = (text = "") => text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
const unseen = (text) => make("span", { className: "unseen" }, text);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const sum = (files, key) => files.reduce((total, file) => total + file[key], 0);
const size = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
const same = (one, other) => JSON.stringify(Object.entries(one).sort()) === JSON.stringify(Object.entries(other).sort());
const stable = (path) => path.replace(/^(\/?)src\/[^/]+/, "$1src/*"); // The same if the package gets another name.

function say(text, isError = false, region = dialog.open ? dialog : preview) {
  Object.assign(byId(region === dialog ? "comparison-status" : "status"), { textContent: text, className: isError ? "error" : "" });
  if (region !== dialog) byId("again").hidden = !isError;
}

/** Return a function that runs `task`, aborts its run before, and says what fails. */
function latest(region, task) {
  let running = new AbortController();
  return async (...given) => {
    running.abort();
    const { signal } = (running = new AbortController());
    region.ariaBusy = "true";
    await task(signal, ...given).catch((error) => signal.aborted || say(error.message, true, region));
    if (!signal.aborted) region.ariaBusy = "false";
  };
}

/** Send a request, and again if the service is busy; say so, and what takes long, but for a file: no text follows it. */
async function ask(signal, path, body, read = (response) => response.json()) {
  const progress = { archives: "Packing the zip …", highlights: "" }[path] ?? "Working …";
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const send = () => fetch(`v1/${path}`, { ...(body && post), signal });
  for (let isFirst = true; ; isFirst = false) {
    signal.throwIfAborted();
    const slow = setTimeout(() => progress && !signal.aborted && say(progress), 800);
    const response = await send().catch(() => pause(200).then(send).catch(() => null)); // The network may have changed.
    clearTimeout(slow);
    if (!response) throw new Error("The service can't be reached, so this page shows nothing new.");
    if (response.ok) return read(response);
    const { detail } = await response.json().catch(() => ({}));
    if (![429, 503].includes(response.status)) throw new Error(detail || `The service failed with status ${response.status}.`);
    if (!isFirst) throw new Error("The service is still busy. Try again in a minute.");
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    if (progress) say(`The service is busy. This page tries again in ${count(seconds, "second")}.`);
    await pause(seconds * 1000);
  }
}

/** Ask for a preview, without the answers to questions that the others hide. */
async function settle(signal, wanted) {
  const found = await ask(signal, "previews", { answers: wanted });
  const hidden = found.questions.filter((one) => !one.shown).map((one) => one.name);
  const kept = Object.fromEntries(Object.entries(wanted).filter(([name]) => !hidden.includes(name)));
  return same(kept, wanted) ? { ...found, answers: wanted } : settle(signal, kept);
}

function makeField({ name, help, placeholder, choices }) {
  const [, label, hint] = help.match(/^([^?]*\??)\s*(.*)$/s);
  const title = [make("span", {}, ...prose(label)), " ", make("code", {}, name)];
  const above = make("p", { className: "hint", id: `${name}-hint` }, ...prose(hint));
  const below = make("p", { className: "message", id: `${name}-message`, role: "status" });
  const rows = choices?.map(({ value, label: text }) => {
    const [main, detail] = text.split(/: (.*)/s);
    const words = make("span", {}, make("b", {}, ...prose(main)), make("small", {}, ...prose(detail)));
    const button = make("button", { onclick: () => compare(name, value) }, "Compare", unseen(` ${main}`));
    return make("div", { className: "choice" }, make("label", {}, make("input", { type: "radio", name, value }), words), button);
  });
  const input = make(choices ? "fieldset" : "input", { name, id: name, placeholder, maxLength: 1000, spellcheck: false });
  input.setAttribute("aria-describedby", `${above.id} ${below.id}`);
  if (!choices) return make("div", { className: "field" }, make("label", { htmlFor: name }, ...title), above, input, below);
  input.append(make("legend", {}, ...title), above, make("div", { className: "choices" }, ...rows), below);
  return Object.assign(input, { className: "field", role: "radiogroup" });
}

function updateField({ name, shown, value, message }) {
  const field = fieldOf(name);
  const isLeft = !shown && field.contains(document.activeElement);
  if (isLeft) field.previousElementSibling.querySelector("input:checked, input[id]").focus();
  field.hidden = !shown;
  byId(name).value = value;
  for (const radio of field.querySelectorAll("[type=radio]")) radio.checked = radio.value === value;
  // A prompt shows the same, without Copier's "Validation error for question …".
  const text = (message ?? "").replace(/^Validation error for question '\w+': /, "");
  const below = byId(`${name}-message`);
  if (below.textContent !== text) below.textContent = text;
  byId(name).ariaInvalid = String(text !== "");
}

function readAddress() {
  const isKnown = ([name, value]) => value.length <= 1000 && fieldOf(name)?.querySelector(`input[id], [value="${CSS.escape(value)}"]`);
  const entries = new URLSearchParams(location.hash.slice(1));
  const { known = [], unknown = [] } = Object.groupBy(entries, (one) => (isKnown(one) ? "known" : "unknown"));
  const listed = unknown.map((one) => one.join("=").slice(0, 60)).join(", ");
  notice = listed && `The address has an unknown question or choice, which is ignored: ${listed}. `;
  answers = Object.fromEntries(known);
}

const update = latest(preview, async (signal, delay) => {
  await pause(delay);
  const found = await settle(signal, answers);
  answers = { ...found.answers };
  const told = found.questions.filter((one) => one.name in answers && one.value !== one.default);
  history.replaceState(null, "", `#${new URLSearchParams(told.map((one) => [one.name, one.value]))}`);
  found.questions.forEach(updateField);
  const wrong = found.questions.filter((one) => one.message).length;
  if (wrong) return say(`${notice}${count(wrong, "answer")} can't work, so there is no new preview.`, false, preview);
  const sides = previous && !same(previous, found.answers) && { before: previous, after: found.answers };
  const { files } = sides ? await ask(signal, "comparisons", sides) : { files: [] };
  current = found;
  for (const name of ["copier", "make"]) byId(name).textContent = found.commands[name];
  marks = new Map(files.map((file) => [file.path, file]));
  const change = sides ? ` The last change: ${summary(files)}.` : "";
  say(`${notice}${count(found.files.length, "file")}, ${size(sum(found.files, "size"))}.${change}`, false, preview);
  const focused = document.activeElement.id;
  const opened = [...tree.querySelectorAll("[open] > summary")].map((one) => stable(one.id));
  tree.replaceChildren(makeList([...new Set([...found.files.map(({ path }) => path), ...marks.keys()])].sort(), "", opened));
  if (focused.startsWith("/")) byId(focused)?.focus();
  show(selected);
});

function summary(files) {
  const byStatus = Object.groupBy(files, (file) => file.status);
  const parts = ["added", "changed", "removed"].filter((status) => byStatus[status]);
  return parts.map((status) => `${count(byStatus[status].length, "file")} ${status}`).join(", ") || "no file differs";
}

function badge({ status, added, removed }) {
  const numbers = [added && `+${added}`, removed && `−${removed}`].filter(Boolean).join(" ");
  return make("span", { className: `badge ${status}` }, status === "changed" ? unseen("changed ") : `${status} `, numbers);
}

function makeList(paths, prefix, opened) {
  const groups = Map.groupBy(paths, (path) => path.slice(prefix.length).match(/^(src\/)?[^/]+\//)?.[0] ?? "");
  const files = (groups.get("") ?? []).map((path) => {
    const button = make("button", { id: `/${path}`, onclick: () => show(path) }, path.slice(prefix.length));
    if (marks.has(path)) button.append(badge(marks.get(path)));
    return make("li", {}, button);
  });
  groups.delete("");
  const folders = [...groups].map(([name, inner]) => {
    const path = prefix + name;
    const title = make("summary", { id: `/${path}` }, name);
    const marked = inner.filter((one) => marks.has(one)).length;
    if (marked) title.append(make("span", { className: "badge" }, `${marked}`, unseen(" marked")));
    const open = opened.includes(stable(title.id));
    return make("li", {}, make("details", { open }, title, makeList(inner, path, opened)));
  });
  return make("ul", {}, ...folders, ...files);
}

const show = latest(code, async (signal, path) => {
  const find = (wanted) => current.files.find((one) => stable(one.path) === stable(wanted));
  const file = find(path) ?? (marks.has(path) ? { path, text: "", size: 0 } : find("README.md"));
  if (stable(selected) !== stable(file.path)) code.scrollTo(0, 0);
  selected = file.path;
  for (const button of tree.querySelectorAll("button")) button.ariaCurrent = button.id === `/${selected}` ? "true" : null;
  const key = `${selected}\n${file.text}`;
  const isNew = file.text && !highlighted.has(key);
  try {
    if (isNew) highlighted.set(key, (await ask(signal, "highlights", { answers: current.answers, path: selected })).lines);
  } finally {
    if (!signal.aborted) drawFile(file, highlighted.get(key) ?? file.text.split("\n").map((line) => [["", line]]));
  }
});

/** Draw a file, with the lines marked that the last change added, and those that it removed between them. */
function drawFile(file, lines) {
  const mark = marks.get(file.path);
  byId("path").textContent = file.path;
  byId("about").replaceChildren(size(file.size), file.mode === "100755" ? ", executable " : " ", mark ? badge(mark) : "");
  const [added, removed] = [new Set(), new Map()];
  let number = 0;
  for (const line of mark?.diff.split("\n").slice(2) ?? []) {
    const hunk = line.match(/^@@ -\S+ \+(\d+)/);
    if (hunk) number = Number(hunk[1]);
    else if (line[0] === "-") removed.set(number, [...(removed.get(number) ?? []), line.slice(1)]);
    else if (line[0] === "+") added.add(number++);
    else number++;
  }
  const shown = lines.at(-1).some(([, text]) => text) ? lines : lines.slice(0, -1);
  const rows = [null, ...shown, null].flatMap((tokens, row) => {
    const gone = (removed.get(row) ?? []).map((text) => make("del", {}, `${text}\n`));
    const parts = tokens?.map(([kind, text]) => make("span", { className: kind }, text));
    return parts ? [...gone, make(added.has(row) ? "ins" : "span", {}, ...parts, "\n")] : gone;
  });
  code.replaceChildren(make("code", {}, ...rows));
}

const compare = latest(dialog, async (signal, name, value) => {
  byId("comparison-title").replaceChildren("What does ", make("code", {}, `${name}=${value}`), " change?");
  byId("differences").replaceChildren();
  const radio = fieldOf(name).querySelector(`[value="${value}"]`);
  byId("choose").onclick = () => { dialog.close(); radio.focus(); radio.click(); };
  dialog.showModal();
  say("");
  const after = await settle(signal, { ...current.answers, [name]: value });
  const { files } = await ask(signal, "comparisons", { before: current.answers, after: after.answers });
  byId("differences").append(...files.map((file) => {
    const tags = { "+": "ins", "-": "del", "@": "b" };
    const lines = file.diff.split("\n").slice(2).map((line) => make(tags[line[0]] ?? "span", {}, `${line.slice(line[0] !== "@")}\n`));
    const diff = make("pre", { tabIndex: 0, role: "group", ariaLabel: file.path }, make("code", {}, ...lines));
    return make("details", {}, make("summary", {}, file.path, badge(file)), diff);
  }));
  say(`${summary(files)}: ${count(sum(files, "added"), "line")} added, ${count(sum(files, "removed"), "line")} removed.`);
});

const download = latest(byId("download"), async (signal) => {
  const invalid = document.querySelector("[aria-invalid=true]");
  if (invalid) return (invalid.querySelector("input:checked") ?? invalid).focus();
  const response = await ask(signal, "archives", { answers }, (given) => given); // Not those of the last preview: it may be late.
  const [, name] = response.headers.get("Content-Disposition").match(/filename="(.*?)"/);
  const link = make("a", { download: name, href: URL.createObjectURL(await response.blob()) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Your browser has ${name}. Unzip it, and in its folder: git init -b main && make lock && git add . && git commit -m Start`);
});

async function copy({ currentTarget }) {
  const command = byId(currentTarget.value);
  getSelection().selectAllChildren(command);
  const write = Promise.try(() => navigator.clipboard.writeText(command.textContent)).then(() => true);
  const isCopied = await write.catch(() => document.execCommand("copy"));
  say(isCopied ? `Copied: ${command.textContent}` : "The browser does not let this page copy. The command is selected.");
}

const start = latest(preview, async (signal) => {
  const { release, questions } = await ask(signal, "questions");
  byId("release").textContent = `Release ${release}.`;
  byId("questions").append(...questions.map(makeField));
  for (const question of questions) updateField({ ...question, value: question.default });
  readAddress();
  return update(0);
});

byId("questions").addEventListener("input", ({ target }) => {
  if (target !== edited) previous = current.files.length ? current.answers : null;
  edited = target;
  notice = "";
  answers[target.name] = target.value;
  update(50);
});
window.addEventListener("hashchange", () => { [previous, edited] = [current.answers, null]; readAddress(); update(0); });
byId("skip").addEventListener("click", (event) => { event.preventDefault(); preview.focus(); });
for (const button of document.querySelectorAll(".commands button")) button.addEventListener("click", copy);
byId("download").addEventListener("click", download);
byId("again").addEventListener("click", () => (document.querySelector(".field") ? update(0) : start()));
start();
