// Draws what an account's page holds as data; the same figures stand in a table below.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
let drawn = [];

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

// Dates as they are written everywhere, UTC; below a day the time too.
function times(plot, splits, _axis, _space, step) {
  return splits.map((seconds) => {
    const date = new Date(seconds * 1000);
    const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
    const clock = date.toISOString().slice(11, 16);
    return step >= 86400 || clock === "00:00" ? day : clock;
  });
}

function bars() {
  return uPlot.paths.bars({ size: [0.8, 24], align: 1 });
}

function limitLine(value) {
  return (plot) => {
    const y = Math.round(plot.valToPos(value, "y", true));
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = css("--over");
    ctx.setLineDash([6, 4]);
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  };
}

function draw(element) {
  const chart = JSON.parse(element.dataset.chart);
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false },
    font: "11px system-ui, sans-serif" };
  const pad = 1800;
  const first = chart.x[0], end = chart.x[chart.x.length - 1];
  const options = {
    width: element.clientWidth, height: 150, padding: [8, 8, 0, 0], cursor: { show: false }, legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    scales: {
      x: { range: [first - pad, end + 2 * pad] },
      y: { range: chart.max ? [0, chart.max] : (_, low, high) => [0, Math.max(high * 1.05, 1)] },
    },
    axes: [{ ...axis, size: 24, space: 60, values: times }, { ...axis, size: 38 }],
    series: [{}, chart.kind === "bars"
      ? { fill: css("--fill"), stroke: css("--fill"), width: 0, paths: bars(), points: { show: false } }
      : { stroke: css("--accent"), width: 1.5, points: { show: true, size: 4, fill: css("--accent") } }],
    hooks: chart.limit ? { draw: [limitLine(chart.limit)] } : {},
  };
  return new uPlot(options, [chart.x, chart.y], element);
}

function drawAll() {
  for (const plot of drawn) plot.destroy();
  drawn = [...document.querySelectorAll("[data-chart]")].map(draw);
}

function whenReady() {
  drawAll();
  dark.addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawAll(); } });
}

whenReady();
