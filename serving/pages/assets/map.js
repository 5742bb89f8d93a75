// The map of search results: points of the table below, and a line drawn around some ticks them.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = 14;

function make(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function inside([x, y], ring) {
  let within = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [ax, ay] = ring[i], [bx, by] = ring[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

function start(section) {
  const form = section.closest("form");
  const plot = section.querySelector("[data-plot]");
  const svg = make("svg", { role: "img", "aria-label": "Map of the prompts in the table below" });
  plot.append(svg);
  const points = [...form.querySelectorAll("tr[data-x]")].map((row) => {
    const circle = make("circle", { r: 5 }, svg);
    const title = make("title", {}, circle);
    title.textContent = row.querySelector(".excerpt").textContent.trim().slice(0, 160);
    return { row, circle, box: row.querySelector("input[name=pick]"), at: [0, 0] };
  });
  const choice = section.querySelector("[data-colour]");

  function place() {
    const { clientWidth: width, clientHeight: height } = plot;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const point of points) {
      const { x, y } = point.row.dataset;
      point.at = [MARGIN + x * (width - 2 * MARGIN), height - MARGIN - y * (height - 2 * MARGIN)];
      point.circle.setAttribute("cx", point.at[0]);
      point.circle.setAttribute("cy", point.at[1]);
    }
  }

  function paint() {
    for (const point of points) {
      const colour = point.row.dataset[choice.value];
      point.circle.setAttribute("class", `colour-${colour}${point.box.checked ? " ticked" : ""}`);
    }
    for (const legend of section.querySelectorAll("[data-legend]")) {
      legend.hidden = legend.dataset.legend !== choice.value;
    }
  }

  let ring = null, line = null;
  const where = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    ring = [where(event)];
    line = make("polygon", { class: "lasso" }, svg);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!ring) return;
    ring.push(where(event));
    line.setAttribute("points", ring.map((pair) => pair.join(",")).join(" "));
  });
  const end = (event) => {
    if (!ring) return;
    const [x, y] = where(event);
    for (const point of points) {
      // A click that draws nothing ticks the one point that it meets.
      const met = ring.length < 4 && Math.hypot(point.at[0] - x, point.at[1] - y) < 8;
      if (met) point.box.checked = !point.box.checked;
      else if (ring.length >= 4 && inside(point.at, ring)) point.box.checked = true;
    }
    line.remove();
    ring = line = null;
    form.dispatchEvent(new Event("change"));
  };
  svg.addEventListener("pointerup", end);
  svg.addEventListener("pointercancel", () => { line?.remove(); ring = line = null; });
  form.addEventListener("ticked", paint);
  choice.addEventListener("change", paint);
  addEventListener("resize", place);
  place();
  paint();
}

for (const section of document.querySelectorAll("[data-map]")) start(section);
