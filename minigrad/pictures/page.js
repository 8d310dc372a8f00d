"use strict";
const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const view = find("view"), svg = view.firstElementChild, info = find("info");
const up = data.direction === "up", right = data.direction === "right";
const TITLE = 26; // height of a closed frame
const frames = {}; // id -> {frame, element, closed}
const closed = (id) => id in frames && frames[id].closed;

// --- frames that open and close ------------------------------------------------------------------

// Lays out one frame anew from the places it had with everything open: heights shrink, widths stay.
// Returns its height and the function from old heights inside it to new ones.
function arrange(id) {
  const { frame, element } = frames[id];
  const inner = {}, strip = Object.keys(frame.frames).some((key) => frames[key].step);
  for (const [key, [place]] of Object.entries(frame.frames)) {
    const [x, y, width, height, layer] = place, made = arrange(key);
    const now = frames[key].closed ? TITLE : made.height;
    inner[key] = { x, y, width, height, layer, now, map: made.map, closed: frames[key].closed };
  }
  let gone = 0;
  const bands = frame.bands.map(([top, bottom], layer) => {
    const here = Object.values(inner).filter((one) => one.layer === layer);
    const boxes = Object.values(frame.boxes).filter((box) => box[4] === layer);
    const least = Math.max(0, ...boxes.map((box) => box[3] + 2 * Math.abs(box[1] - (top + bottom) / 2)));
    const height = here.length ? Math.max(least, ...here.map((one) => one.now)) : bottom - top;
    const band = { top, bottom, start: top - gone, end: top - gone + height };
    gone += bottom - top - height;
    return band;
  });
  const total = frame.size[1] - gone;
  const map = (y) => {
    let shift = 0;
    for (const band of bands) {
      if (y <= band.top + 0.05) return y + band.start - band.top;
      if (y < band.bottom - 0.05) return y + (band.start + band.end - band.top - band.bottom) / 2;
      shift = band.end - band.bottom;
    }
    return y + shift;
  };
  for (const [key, one] of Object.entries(inner)) {
    const shape = frames[key], middle = map(one.y);
    one.top = middle - one.now / 2;
    if (strip) one.top = up ? total - (frame.size[1] - one.y - one.height / 2) - one.now : one.y - one.height / 2;
    one.shrunk = shape.closed ? Math.min(one.width, shape.wide) : one.width;
    shape.element.setAttribute("transform", `translate(${one.x - one.shrunk / 2} ${one.top})`);
    const rect = shape.element.querySelector(":scope > rect");
    rect.setAttribute("width", one.shrunk);
    rect.setAttribute("height", one.now);
    shape.element.classList.toggle("closed", shape.closed);
    shape.title.setAttribute("x", shape.closed ? 10 : shape.at);
    shape.title.setAttribute("aria-expanded", String(!shape.closed));
  }
  for (const [key, [, y]] of Object.entries(frame.boxes)) {
    find(key).setAttribute("transform", `translate(0 ${map(y) - y})`);
  }
  frame.lines.forEach((line, i) => route(frame, line, i, element, map, inner, bands, strip));
  return { height: total, map };
}

// A line's points where they are now; its ends stay with the box or frame that they belong to.
function route(frame, [, from, to, points, head, square], i, element, map, inner, bands, strip) {
  const moved = points.map(([x, y]) => [x, map(y)]);
  if (strip && square) {
    const at = (x) => Object.values(inner).find((one) => Math.abs(x - one.x) <= one.width / 2);
    points.forEach(([x, y], k) => {
      const first = k < 2, one = at(first ? points[0][0] : points[points.length - 1][0]);
      const inside = one.map(y - one.y + one.height / 2);
      moved[k][1] = one.top + (one.closed ? TITLE / 2 : inside);
      if (one.closed && (k === 0 || k === points.length - 1)) moved[k][0] = one.x + ((first ? 1 : -1) * one.shrunk) / 2;
    });
  }
  for (const [key, first] of [[from, true], [to, false]]) {
    const one = inner[key], k = first ? 0 : points.length - 1;
    if (key in frame.boxes) moved[k][1] = points[k][1] + map(frame.boxes[key][1]) - frame.boxes[key][1];
    if (!one || square) continue;
    const leaves = first === up; // at the upper border
    const x = one.x + (points[k][0] - one.x) * (one.shrunk / one.width);
    for (let j = k; j >= 0 && j < points.length && points[j][0] === points[k][0]; j += first ? 1 : -1) {
      if (!bands[one.layer] || points[j][1] < bands[one.layer].top - 0.1 || points[j][1] > bands[one.layer].bottom + 0.1) break;
      moved[j][0] = x;
    }
    moved[k] = [x, one.top + (leaves ? 0 : one.now)];
  }
  const ends = { start: 0, end: points.length - 1 };
  for (const part of element.querySelectorAll(`:scope > g > [data-line="${i}"]`)) {
    const k = ends.end;
    if (part.closest("g").getAttribute("fill") === "none") part.setAttribute("d", curve(moved, head, square));
    else part.setAttribute("transform", `translate(${moved[k][0] - points[k][0]} ${moved[k][1] - points[k][1]})`);
  }
  for (const [name, k] of Object.entries(ends)) {
    for (const text of element.querySelectorAll(`:scope > g > [data-${name}="${i}"]`)) {
      text.setAttribute("transform", `translate(${moved[k][0] - points[k][0]} ${moved[k][1] - points[k][1]})`);
    }
  }
}

function curve(points, head, square) {
  const all = points.map((point) => [...point]), last = all.length - 1;
  if (head && square) all[last][0] -= 5 * Math.sign(all[last][0] - all[last - 1][0]);
  else if (head) all[last][1] -= up ? -5 : 5;
  let d = `M${all[0][0]} ${all[0][1]}`;
  for (let k = 1; k <= last; k++) {
    const [x0, y0] = all[k - 1], [x1, y1] = all[k], half = (y0 + y1) / 2;
    d += square || x0 === x1 || y0 === y1 ? `L${x1} ${y1}` : `C${x0} ${half} ${x1} ${half} ${x1} ${y1}`;
  }
  return d;
}

function toggle(ids, value) {
  for (const id of ids) frames[id].closed = value ?? !frames[id].closed;
  const { height } = arrange("");
  svg.firstElementChild.nextElementSibling.setAttribute("height", height + 28);
}

function learn(id, frame, element, kind) {
  const title = id && element.querySelector(":scope > text");
  frames[id] = { frame, element, closed: false, title, step: kind === "step" };
  if (id) {
    frames[id].at = title.getAttribute("x");
    frames[id].wide = title.getBBox().width + 24;
    if (title.textContent) {
      title.classList.add("head");
      for (const [name, value] of [["tabindex", 0], ["role", "button"], ["aria-expanded", true]]) title.setAttribute(name, value);
      title.addEventListener("click", () => toggle([id]));
      title.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); toggle([id]); }
      });
    }
  }
  for (const [key, [, inner, kind]] of Object.entries(frame.frames)) learn(key, inner, find(key), kind);
}
learn("", data.frame, svg.querySelector(":scope > g"));
const titled = Object.keys(frames).filter((id) => id && frames[id].title.textContent);
find("close").addEventListener("click", () => toggle(titled, true));
find("open").addEventListener("click", () => toggle(titled, false));
find("close").hidden = find("open").hidden = !titled.length;

// --- zoom and pan --------------------------------------------------------------------------------

const whole = svg.getAttribute("viewBox").split(" ").map(Number);
let box = [...whole];
const show = () => svg.setAttribute("viewBox", box.join(" "));
const scale = () => Math.max(box[2] / view.clientWidth, box[3] / view.clientHeight);
function zoom(factor, x = box[0] + box[2] / 2, y = box[1] + box[3] / 2) {
  factor = Math.min(Math.max(factor, whole[2] / 100 / box[2]), (whole[2] * 10) / box[2]);
  box = [x + (box[0] - x) * factor, y + (box[1] - y) * factor, box[2] * factor, box[3] * factor];
  show();
}
function move(dx, dy) { box[0] += dx; box[1] += dy; show(); }
function fit() { box = [...whole]; show(); }
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, at.x, at.y);
}, { passive: false });
view.addEventListener("pointermove", (event) => {
  if (event.buttons & 1) move(-event.movementX * scale(), -event.movementY * scale());
});
find("in").addEventListener("click", () => zoom(1 / 1.3));
find("out").addEventListener("click", () => zoom(1.3));
find("all").addEventListener("click", fit);

// --- what is known of a box, and of the value on a line ------------------------------------------

let lit = [];
function light(elements) {
  for (const one of lit) one.classList.remove("lit");
  lit = elements.filter(Boolean);
  for (const one of lit) one.classList.add("lit");
}
const lines = []; // [path, id of the box whose value it is]
for (const { frame, element } of Object.values(frames)) {
  frame.lines.forEach(([source], i) => {
    for (const path of element.querySelectorAll(`:scope > g[fill=none] > [data-line="${i}"]`)) lines.push([path, source]);
  });
}
const ways = (id) => lines.filter(([, source]) => source === id).map(([path]) => path);
function tell(id, edge) {
  if (!(id in data.tips)) return;
  info.textContent = (edge ? "value of " : "") + data.tips[id];
  light([find(id), ...ways(id), ...data.tags.filter(([a]) => a === id).map(([, b]) => find(b))]);
}
for (const id of Object.keys(data.tips)) find(id)?.addEventListener("pointerenter", () => tell(id, false));
for (const [path, source] of lines) { // a line is thin: what is pointed at is a wide one over it
  const wide = path.cloneNode();
  wide.setAttribute("stroke-width", 9);
  wide.setAttribute("opacity", 0);
  path.after(wide);
  wide.addEventListener("pointerenter", () => tell(source, true));
}

// --- backward, step by step ----------------------------------------------------------------------

let step = -1;
function go(by) {
  step = Math.min(Math.max(step + by, 0), data.steps.length - 1);
  const [id, text] = data.steps[step];
  info.textContent = `backward, step ${step + 1} of ${data.steps.length}. ${text}`;
  light([id && find(id), ...(id ? ways(id) : [])]);
}
find("back").hidden = !data.steps.length;
find("next").addEventListener("click", () => go(1));
find("previous").addEventListener("click", () => go(-1));
const keys = {
  "+": () => zoom(1 / 1.3), "-": () => zoom(1.3), 0: fit,
  ArrowLeft: () => move(-60 * scale(), 0), ArrowRight: () => move(60 * scale(), 0),
  ArrowUp: () => move(0, -60 * scale()), ArrowDown: () => move(0, 60 * scale()),
  n: () => data.steps.length && go(1), p: () => data.steps.length && go(-1),
};
document.addEventListener("keydown", (event) => {
  if (event.key in keys && !event.ctrlKey && !event.metaKey) { event.preventDefault(); keys[event.key](); }
});
