// The gallery: what is shown follows from the address behind # alone, so that any view can be linked and Back works.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const NUMBER = "number", TYPICAL = "typical", DIFFERENCE = "difference ";
const typical = data.typical.some(Boolean);
const own = data.reconstructions[0];
const defaults = {show: own.name, beside: "", by: typical ? TYPICAL : NUMBER, order: "best", words: "", from: "", to: "", clip: ""};
let state, first, second, metric, listed = [], place = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) element.setAttribute(name, value);
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// ---------------------------------------------------------------------------------------------- the address

function read() {
  state = {...defaults, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1)))};
  const named = name => data.reconstructions.find(one => one.name === name);
  first = named(state.show) || own;
  second = named(state.beside);
  if (second === first) second = undefined;
  const name = state.by.replace(DIFFERENCE, "");
  metric = data.metrics.find(one => one.name === name);
  if (!metric && state.by !== NUMBER) state.by = defaults.by;
  if (!second) state.by = state.by.replace(DIFFERENCE, "");
}

function address(changes) {
  const next = {...state, ...changes};
  return "#" + (new URLSearchParams(Object.entries(next).filter(([name, value]) => name in defaults && value !== defaults[name])) + "" || "all");
}

/** Go to an address at once: the browser's own event comes later. */
function visit(where) {
  location.replace(where);
  update();
}

// ---------------------------------------------------------------------------------------------- which clips, in which order

const score = (one, name, i) => one?.values[name]?.[i] ?? null;

/** What clips are sorted by and filtered on; null where a clip has no value. */
function key(i) {
  if (!metric) return null;
  const value = score(first, metric.name, i);
  if (!state.by.startsWith(DIFFERENCE)) return value;
  const other = score(second, metric.name, i);
  return value === null || other === null ? null : value - other;
}

function matches(i, terms) {
  const text = (data.captions[i] || "").toLowerCase();
  return terms.every(term => /^\d+$/.test(term) ? data.numbers[i] === Number(term) : text.includes(term));
}

function list() {
  const terms = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  const [from, to] = [state.from, state.to].map(text => text === "" ? null : Number(text));
  const found = data.numbers.map((_, i) => i).filter(i => {
    if (!first.made[i] || !matches(i, terms)) return false;
    const value = key(i);
    return (from === null && to === null) || !metric || value !== null && (from === null || value >= from) && (to === null || value <= to);
  });
  const roles = ["best", "median", "worst", null];
  if (state.by === TYPICAL) return found.sort((a, b) => roles.indexOf(data.typical[a]) - roles.indexOf(data.typical[b]) || a - b);
  if (!metric) return state.order === "best" ? found : found.reverse();
  const sign = (state.order === "best") === metric.lower ? 1 : -1;
  const last = value => value === null;
  return found.sort((a, b) => last(key(a)) - last(key(b)) || sign * (key(a) - key(b)) || a - b);
}

// ---------------------------------------------------------------------------------------------- parts

const text = value => value === null ? "–" : (Math.abs(value) >= 100 ? value.toFixed(1) : String(Number(Number(value.toFixed(4)).toPrecision(3)))).replace("-", "−");
const average = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const shown = () => metric?.name || data.ranked_by || data.metrics[0]?.name;  // the metric that cards name
const url = (pictures, i) => pictures?.files[i] ? `${pictures.folder}/${pictures.files[i]}` : null;

/** A film with a line below it; `row` counts in the strip from above. */
function film(one, pictures, i, row, rows, words, value = "") {
  const source = url(pictures, i);
  const box = make("span", {class: source ? "film" : "film missing", style: `--row: ${row}; --rows: ${rows}; --zoom: ${one.zoom}`});
  if (source) box.append(make("img", {src: source, alt: `${words} of clip ${data.numbers[i]}`, class: one.small ? "pixelated" : null}));
  else box.textContent = one.made[i] ? "no picture" : "not reconstructed";
  return make("figure", {}, box, make("figcaption", {}, make("span", {}, words), value === "" ? null : make("b", {}, value)));
}

const truth = (one, i) => one.rows === 2 ? film(one, one.strips, i, 0, 2, "ground truth") : null;
const result = (one, i, words, value) => film(one, one.strips, i, one.rows - 1, one.rows, words, value);
const stage1 = (one, i, words) => one.stage1 ? film(one, one.stage1, i, 0, 1, words) : null;

function card(i) {
  const name = shown(), values = [first, second].map(one => one && name ? text(score(one, name, i)) : "");
  const rank = first.ranks[i];
  return [
    make("span", {class: "head"}, `Clip ${data.numbers[i]}`,
      data.typical[i] && first === own ? make("span", {class: "badge"}, data.typical[i]) : null,
      rank ? make("span", {class: rank === 1 ? "badge good" : "badge", title: `own caption: rank ${rank} of ${first.captions}`}, `caption rank ${rank}`) : null),
    make("div", {class: "films"}, truth(first, i) || (second ? truth(second, i) : null), result(first, i, first.name, values[0]),
      second ? result(second, i, second.name, values[1]) : null),
    make("span", {class: "words"}, data.captions[i] || ""),
  ];
}

// ---------------------------------------------------------------------------------------------- all clips: cards are filled while they are near

const near = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) target.replaceChildren(...isIntersecting ? card(Number(target.dataset.i)) : []);
}, {rootMargin: "700px 0px"});

function showGrid() {
  near.disconnect();
  $("grid").style.setProperty("--least", second ? "25rem" : "17rem");
  $("grid").replaceChildren(...listed.map(i => make("a", {
    class: "card", "data-i": i, id: `clip${data.numbers[i]}`, href: address({clip: data.numbers[i]}), "aria-label": `Clip ${data.numbers[i]}: ${data.captions[i] || ""}`,
  })));
  setHeight();
  for (const element of $("grid").children) near.observe(element);
}

/** All rows as high as the first card, so that what is not filled keeps its place. */
function setHeight() {
  const card0 = $("grid").firstElementChild;
  if (!card0 || $("grid").hidden) return;
  $("grid").style.gridAutoRows = "auto";
  if (!card0.firstChild) card0.replaceChildren(...card(Number(card0.dataset.i)));
  $("grid").style.gridAutoRows = `${card0.offsetHeight}px`;
}

// ---------------------------------------------------------------------------------------------- one clip

/** Where a value lies among those of all clips: a histogram, a dot for this clip, a ring for the reconstruction beside. */
function histogram(name, i) {
  const values = first.values[name].filter(value => value !== null), other = second ? score(second, name, i) : null;
  const all = other === null ? values : [...values, other];
  const low = Math.min(...all), high = Math.max(...all), n = 32, bins = Array(n).fill(0);
  const x = value => high > low ? (value - low) / (high - low) : .5;
  for (const value of values) bins[Math.min(n - 1, Math.floor(x(value) * n))] += 1;
  const most = Math.max(...bins), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const mean = average(values);
  const part = (tag, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    svg.append(element);
  };
  bins.forEach((count, bin) => part("rect", {class: "bin", x: `${100 * bin / n}%`, width: `${100 / n}%`, y: `${85 - 80 * count / most}%`, height: `${80 * count / most}%`}));
  part("line", {class: "mean", x1: `${100 * x(mean)}%`, x2: `${100 * x(mean)}%`, y1: "0", y2: "85%"});
  if (other !== null) part("circle", {class: "beside", cx: `${100 * x(other)}%`, cy: "88%", r: 4.5});
  part("circle", {class: "here", cx: `${100 * x(score(first, name, i))}%`, cy: "88%", r: 4.5});
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name} of all clips from ${text(low)} to ${text(high)}, this clip ${text(score(first, name, i))}`);
  return svg;
}

function metricRows(i) {
  return data.metrics.filter(({name}) => first.values[name]).map(({name, lower}) => {
    const value = score(first, name, i), values = first.values[name].filter(other => other !== null);
    const better = values.filter(other => lower ? other < value : other > value).length, equal = values.filter(other => other === value).length;
    const rank = value === null ? ["–"] : [`${better + 1} of ${values.length}`, equal > 1 ? make("small", {}, `${equal} equal`) : null];
    return make("tr", {}, make("th", {}, name + (lower ? " ↓" : "")), make("td", {class: "number"}, text(value)),
      second ? make("td", {class: "number"}, text(score(second, name, i))) : null,
      make("td", {class: "plot"}, value === null ? "" : histogram(name, i)), make("td", {class: "place"}, ...rank));
  });
}

function metricTable(i) {
  const rows = metricRows(i);
  if (!rows.length) return make("p", {class: "faint"}, first.about.includes("metrics") ? first.about : "Not scored yet: run Evaluation_Metrics/evaluate.py.");
  const heads = ["metric", first.name, ...second ? [second.name] : [], "all clips", "place"];
  const legend = `Bars: all clips of ${first.name}; dashed: their mean; dot: this clip${second ? `; ring: this clip of ${second.name}` : ""}.`;
  return make("div", {class: "scroll"}, make("table", {style: `--values: ${second ? 2 : 1}`}, make("caption", {}, legend), make("thead", {}, make("tr", {}, ...heads.map((head, at) =>
    make("th", {class: at && at < heads.length - 2 ? "number" : null}, head)))), make("tbody", {}, ...rows)));
}

function captionList(i) {
  if (!first.nearest[i].length) return [];
  const rank = first.ranks[i], items = first.nearest[i].map(([sentence, cosine]) => {
    const words = data.sentences[sentence];
    return make("li", {class: words === data.captions[i] ? "own" : null}, words, " ", make("span", {class: "place"}, `cosine ${cosine.toFixed(2)}`));
  });
  return [make("h3", {}, "Captions nearest to the decoded semantics"), make("ol", {}, ...items),
    rank ? make("p", {class: "place"}, `The clip's own caption has rank ${rank} of ${first.captions} different ones.`) : null];
}

function otherReconstructions(i) {
  const others = data.reconstructions.filter(one => one !== first && one !== second && one.made[i]), name = shown();
  if (!others.length) return [];
  return [make("h3", {}, "The same clip in the other reconstructions"), make("div", {class: "others"}, ...others.map(one =>
    make("a", {href: address({beside: one.name}), title: one.about, class: "quiet"}, result(one, i, one.name, name && one.values[name] ? text(score(one, name, i)) : ""))))];
}

function fileLinks(i) {
  const links = [first, ...second ? [second] : []].flatMap(one => [["frames", url(one.strips, i)], ["stage 1", url(one.stage1, i)],
    ["GIF", url(one.movies, i)], ["GIF beside the truth", url(one.pairs, i)]].filter(([, link]) => link).map(([words, link]) =>
    make("a", {href: link}, (second ? one.name + ": " : "") + words)));
  return links.length ? [make("p", {}, "Files: ", ...links.flatMap((link, at) => at ? [" · ", link] : [link]))] : [];
}

function strips(i) {
  return [first, ...second ? [second] : []].filter(one => url(one.strips, i)).flatMap(one => [
    make("p", {class: "place"}, `${one.rows === 2 ? "True frames above, " : ""}${one.name}${one.rows === 2 ? " below" : ""}`),
    make("a", {href: url(one.strips, i)}, make("img", {src: url(one.strips, i), class: one.small ? "strip pixelated" : "strip", alt: `frames of clip ${data.numbers[i]}, ${one.name}`}))]);
}

function showClip(i) {
  place = Math.max(listed.indexOf(i), 0);
  const step = (by, words) => {
    const to = listed[place + by];
    return make("a", {class: "button", id: by < 0 ? "previous" : "next", "aria-disabled": to === undefined, href: to === undefined ? null : address({clip: data.numbers[to]})}, words);
  };
  const value = one => shown() && one.values[shown()] ? `${shown()} ${text(score(one, shown(), i))}` : "";
  const pair = one => [stage1(one, i, second ? `stage 1, ${one.name}` : "stage 1"), result(one, i, second ? one.name : "stage 2", value(one))].filter(Boolean);
  $("clip").replaceChildren(
    make("div", {class: "steps"}, make("a", {class: "button", id: "back", href: address({clip: ""})}, "← all clips"), step(-1, "‹ previous"), step(1, "next ›")),
    make("h2", {}, `Clip ${data.numbers[i]}`, data.captions[i] ? `: ${data.captions[i]}` : ""),
    make("div", {class: "films"}, ...[truth(first, i), ...pair(first), ...second ? pair(second) : []].filter(Boolean)),
    make("div", {class: "columns"},
      make("div", {}, make("h3", {}, "Metrics, and where this clip lies among all"), metricTable(i)),
      make("div", {}, ...captionList(i), ...otherReconstructions(i))),
    make("h3", {}, "Frames"), ...strips(i), ...fileLinks(i));
}

// ---------------------------------------------------------------------------------------------- the whole page

function fill(select, options, value) {
  select.replaceChildren(...options.map(([id, words]) => make("option", {value: id}, words)));
  select.value = value;
}

function showBar() {
  const names = data.reconstructions.map(one => [one.name, one.name]), metrics = data.metrics.map(({name}) => name);
  fill($("show"), names, first.name);
  fill($("beside"), [["", "none"], ...names.filter(([name]) => name !== first.name)], second?.name || "");
  fill($("by"), [...typical ? [[TYPICAL, "typical clips first"]] : [], [NUMBER, "clip number"], ...metrics.map(name => [name, name]),
    ...second ? metrics.map(name => [DIFFERENCE + name, `${name}: difference`]) : []], state.by);
  fill($("order"), metric ? [["best", "best first"], ["worst", "worst first"]] : [["best", "first to last"], ["worst", "last to first"]], state.order);
  $("order").disabled = state.by === TYPICAL;
  for (const id of ["words", "from", "to"]) {
    if (document.activeElement !== $(id)) $(id).value = state[id];
    $(id).disabled = id !== "words" && !metric;
  }
  const values = listed.map(i => metric ? key(i) : score(first, shown(), i)).filter(value => value !== null), n = first.made.filter(Boolean).length;
  const mean = values.length ? `, mean ${metric ? state.by : shown()} ${text(average(values))}` : "";
  $("count").textContent = `${listed.length} of ${n} clips${mean}`;
  const said = one => one.about.toLowerCase().startsWith(one.name) || !second ? one.about : `${one.name}: ${one.about}`;
  $("about").textContent = [first, ...second ? [second] : []].map(said).join(" ");
}

function update() {
  if (update.done === location.href) return;
  update.done = location.href;
  const before = state, scrolled = scrollY;
  read();
  const i = state.clip === "" ? -1 : data.numbers.indexOf(Number(state.clip)), open = i >= 0;
  const changed = !before || Object.keys(defaults).some(name => name !== "clip" && before[name] !== state[name]);
  if (changed) listed = list();
  showBar();
  $("clip").hidden = !open;
  $("grid").hidden = open;
  $("top").hidden = open;
  if (open) {
    if (before && !before.clip) update.scroll = scrolled;
    showClip(i);
    if (!before?.clip) scrollTo(0, before ? Math.min(scrolled, $("bar").offsetTop) : 0);
  }
  if (changed || !$("grid").firstChild) showGrid(); else setHeight();
  if (!open && before?.clip) {
    scrollTo(0, update.scroll ?? 0);
    $("clip" + before.clip)?.focus({preventScroll: true});
    $("clip" + before.clip)?.scrollIntoView({block: "nearest"});
  }
  document.title = open ? `Clip ${state.clip}: ${first.name}` : own.name;
}

for (const id of ["show", "beside", "by", "order"]) $(id).onchange = event => visit(address({[id]: event.target.value, ...id === "by" ? {from: "", to: ""} : {}}));
for (const id of ["words", "from", "to"]) $(id).oninput = event => visit(address({[id]: event.target.value}));

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select");
  if (event.key === "Escape") {
    if (field) field.blur(); else if (state.clip) { location.hash = address({clip: ""}); update(); }
  } else if (event.key === "/" && !field) {
    event.preventDefault();
    $("choose").open = true;
    $("words").focus();
  } else if (!field && event.key.startsWith("Arrow")) {
    if (state.clip) {
      const link = {ArrowLeft: $("previous"), ArrowRight: $("next")}[event.key];
      if (link?.href) { event.preventDefault(); visit(link.href); }
      return;
    }
    const cards = [...$("grid").children], here = cards.indexOf(document.activeElement);
    const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
    const to = here < 0 ? 0 : here + {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
    if (here < 0 && event.key.match(/Up|Down/)) return;
    if (cards[to]) { event.preventDefault(); cards[to].focus(); }
  }
});

addEventListener("hashchange", update);
new ResizeObserver(setHeight).observe(document.querySelector("main"));
if (matchMedia("(max-width: 44rem)").matches) $("choose").open = false;
update();
