"use strict";
// Sort, filter, draw and highlight, and keep all of that in the page's address.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  let charts = [];
  const state = { sort: "", filters: {}, models: new Set(), switches: {} };
  root.classList.add("script");

  // Plotly and the charts are packed in the page: unpacking them takes over a second, and nothing else waits for it.
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let library = null;
  function loaded() {
    library ||= (async () => {
      charts = JSON.parse(await unpacked("data"));
      const script = document.createElement("script");
      script.textContent = await unpacked("plotly");
      document.head.append(script);  // its hash is in the page's policy
    })();
    return library;
  }

  // --- the address ---------------------------------------------------------------------------------------------------

  function readAddress() {
    const words = new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
    // an address may come from an older page or another store: ignore what is not here
    const known = new Set(all("#chips .chip").map((chip) => chip.dataset.model));
    const [head, direction] = (words.get("sort") || "").split(":");
    const sortable = all("#results thead th").some((one) => one.dataset.key === head) && ["up", "down"].includes(direction);
    state.sort = sortable ? `${head}:${direction}` : "";
    state.models = new Set(words.getAll("model").filter((model) => known.has(model)));
    if (["light", "dark"].includes(words.get("theme"))) root.dataset.theme = words.get("theme");
    state.filters = {};
    state.switches = {};
    for (const [key, value] of words) {
      const select = key.startsWith("only-") && document.querySelector(`#filters select[data-facet="${CSS.escape(key.slice(5))}"]`);
      if (select && [...select.options].some((option) => option.value === value)) state.filters[key.slice(5)] = value;
      if (key.startsWith("x-")) state.switches[key.slice(2)] = value;
    }
  }

  function writeAddress() {
    const words = new URLSearchParams();
    if (state.sort) words.set("sort", state.sort);
    for (const [key, value] of Object.entries(state.filters)) if (value) words.set(`only-${key}`, value);
    for (const [key, value] of Object.entries(state.switches)) words.set(`x-${key}`, value);
    for (const model of state.models) words.append("model", model);
    if (root.dataset.theme) words.set("theme", root.dataset.theme);
    const text = words.toString();
    try {
      history.replaceState(null, "", text ? `#?${text}` : "#");
    } catch {
      // a page in a frame may not change its address; the link beside the charts has it
    }
    const link = document.getElementById("link");
    if (link) link.href = text ? `#?${text}` : "#";
  }

  // --- the table -----------------------------------------------------------------------------------------------------

  const table = document.getElementById("results");
  const rows = table ? all("tbody tr:not(.title)", table) : [];
  const bodies = table ? [...table.tBodies].map((body) => [body, all("tr:not(.title)", body)]) : [];

  function valueOf(row, column) {
    const cell = row.cells[column];
    return cell && "value" in cell.dataset ? cell.dataset.value : "";
  }

  function sortRows() {
    if (!table) return;
    const [key, direction] = state.sort.split(":");
    const heads = all("thead th", table);
    const column = heads.findIndex((head) => head.dataset.key === key);
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction === "up" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    const sign = direction === "up" ? 1 : -1;
    const numeric = column >= 0 && heads[column].classList.contains("number");
    // each comparison on its own: figures of different conditions have no common order
    for (const [body, firstOrder] of bodies) {
      body.append(...(column < 0 ? firstOrder : [...firstOrder].sort((a, b) => {
        const [x, y] = [valueOf(a, column), valueOf(b, column)];
        if (x === "" || y === "") return (x === "") - (y === "");  // rows without a figure come last, whatever the order
        return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
      })));
    }
  }

  function meets(facets) {
    return Object.entries(state.filters).every(([key, value]) => !value || !(key in facets) || facets[key] === value);
  }

  function filterRows() {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !meets(JSON.parse(row.dataset.facets));
      shown += !row.hidden;
    }
    for (const [body, own] of bodies) body.hidden = own.every((row) => row.hidden);
    const count = document.getElementById("count");
    if (count) count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    for (const group of all(".group")) group.hidden = !meets(JSON.parse(group.dataset.facets));
    const left = all(".group:not([hidden]) > details");
    if (left.length === 1) left[0].open = true;
    for (const select of all("#filters select")) select.value = state.filters[select.dataset.facet] || "";
  }

  // --- charts --------------------------------------------------------------------------------------------------------

  const plots = all("figure .plot");

  function isDark() {
    const wish = root.dataset.theme;
    return wish ? wish === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  const onDark = { "#000000": "#ffffff", "#0072B2": "#4aa8e0" };  // black and deep blue vanish on a dark page
  const shade = (colour) => (isDark() && onDark[colour]) || colour;

  function readable(colour) {  // a name in its model's colour, darker on a light page and lighter on a dark one
    const towards = isDark() ? 255 : 0;
    const parts = [1, 3, 5].map((i) => Math.round(0.62 * parseInt(colour.slice(i, i + 2), 16) + 0.38 * towards));
    return `rgb(${parts.join(",")})`;
  }

  const kept = new Set(["meta", "customdata", "text", "name", "ticktext"]);  // a model may be called #000000

  function painted(value) {  // a copy with every colour adapted to the theme
    if (typeof value === "string") return shade(value);
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, kept.has(k) ? v : painted(v)]));
    }
    return value;
  }

  function opacityOf(trace) {
    const chosen = state.models, { model } = trace.meta;
    const base = trace.opacity === undefined ? 1 : trace.opacity;
    return !chosen.size || !model || chosen.has(model) ? base : 0.12 * base;
  }

  function withHighlight(trace) {
    trace.opacity = opacityOf(trace);
    if (trace.meta.models && state.models.size) {
      const seen = trace.meta.models.map((model) => (state.models.has(model) ? 1 : 0.15));
      trace.marker = { ...trace.marker, opacity: seen };
    }
    return trace;
  }

  function currentChart(plot) {
    const figure = plot.closest("figure");
    const positions = all(".position", figure);
    const word = state.switches[plot.dataset.key];
    const current = positions.find((position) => position.dataset.word === word) || positions[0];
    for (const position of positions) position.classList.toggle("current", position === current);
    for (const radio of all(".switch input", figure)) radio.checked = radio.value === current.dataset.word;
    figure.querySelector("h4").textContent = current.dataset.title;
    plot.setAttribute("aria-label", `${current.dataset.title}. ${current.querySelector("figcaption").textContent}`);
    return Number(current.dataset.chart);
  }

  function wrapped(text, most) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const line = lines[lines.length - 1];
      if (line && line.length + word.length >= most) lines.push(word);
      else lines[lines.length - 1] = line ? `${line} ${word}` : word;
    }
    return lines.join("<br>");
  }

  function roomFor(plot, data) {  // pixels at the right for the names of lines that end there
    const names = data.flatMap((trace) => (trace.mode || "").includes("lines") && trace.meta.labels || []);
    const longest = Math.max(0, ...names.map((name) => name.replace(/&[#0-9a-z]+;/g, "x").length));
    return longest && plot.clientWidth > 480 ? Math.min(200, 16 + 6.9 * longest) : 24;
  }

  function layoutOf(layout, data, plot) {
    const style = getComputedStyle(root), ink = style.getPropertyValue("--ink"), grid = style.getPropertyValue("--grid");
    const across = Math.max(20, (plot.clientWidth - 110) / 7);  // characters of a title
    const axis = (made) => ({
      ...made, gridcolor: grid, linecolor: grid, zerolinecolor: grid, tickfont: { color: ink }, zeroline: false,
      title: { ...made.title, text: wrapped(made.title.text, across), font: { size: 13, color: ink }, standoff: 8 },
    });
    return {
      ...layout, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: roomFor(plot, data), t: 28, b: 52 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink }, hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: ink } },
      hoverlabel: { align: "left", bgcolor: style.getPropertyValue("--pale"), bordercolor: grid, font: { color: ink, size: 12 } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
  }

  async function draw(plot) {
    try {
      await loaded();
    } catch {
      root.classList.add("stills");  // a browser that cannot unpack them keeps the still images
      return;
    }
    const chart = charts[currentChart(plot)];
    const data = painted(chart.data).map(withHighlight);
    const config = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };
    await Plotly.react(plot, data, layoutOf(painted(chart.layout), data, plot), config);
    if (!plot.dataset.drawn) {
      plot.dataset.drawn = "yes";
      plot.on("plotly_click", (event) => {
        const { meta } = event.points[0].data;
        const model = meta.model || (meta.models && meta.models[event.points[0].pointNumber]);
        if (model) choose(model);
      });
      plot.on("plotly_relayout", (change) => { if (!("annotations" in change)) label(plot); });
    }
    await label(plot);
  }

  // Small boxes along a line, so that no name covers it.
  function along(trace, xaxis, yaxis) {
    const boxes = [], steps = trace.line.shape === "hv";
    for (let i = 1; i < trace.x.length; i += 1) {
      if ([trace.x[i], trace.x[i - 1], trace.y[i], trace.y[i - 1]].includes(null)) continue;
      const [a, b] = [xaxis.d2p(trace.x[i - 1]), yaxis.d2p(trace.y[i - 1])], [c, d] = [xaxis.d2p(trace.x[i]), yaxis.d2p(trace.y[i])];
      for (const [x, y, u, v] of steps ? [[a, b, c, b], [c, b, c, d]] : [[a, b, c, d]]) {
        const pieces = Math.min(60, Math.ceil(Math.hypot(u - x, v - y) / 10));
        for (let k = 0; k <= pieces; k += 1) {
          const px = x + (u - x) * k / Math.max(1, pieces), py = y + (v - y) * k / Math.max(1, pieces);
          boxes.push([px - 2, py - 2, px + 2, py + 2]);
        }
      }
    }
    return boxes;
  }

  // Names beside marks, where they cover neither a mark nor another name; the others appear on pointing.
  async function label(plot) {
    const { xaxis, yaxis } = plot._fullLayout;
    const taken = [], names = [], width = xaxis._length, height = yaxis._length, beyond = plot._fullLayout.margin.r - 4;
    const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    plot.data.forEach((trace) => {
      if (trace.type !== "scatter") return;
      if (trace.mode.includes("lines")) taken.push(...along(trace, xaxis, yaxis));
      if (trace.meta.thin) return;
      trace.x.forEach((x, i) => {
        if (x === null || trace.y[i] === null) return;
        const [px, py] = [xaxis.d2p(x), yaxis.d2p(trace.y[i])];
        const sizes = trace.marker ? trace.marker.size : 0, size = Array.isArray(sizes) ? sizes[i] : sizes, half = Math.max(3, size / 2);
        if (!trace.mode.includes("lines") || (trace.meta.labels && trace.meta.labels[i])) {
          taken.push([px - half, py - half, px + half, py + half]);
        }
        for (const axis of ["x", "y"]) {  // the interval's line
          const bars = trace[`error_${axis}`];
          if (!bars || bars.array[i] === null) continue;
          const value = axis === "x" ? x : trace.y[i], scale = axis === "x" ? xaxis : yaxis;
          const [a, b] = [scale.d2p(value - bars.arrayminus[i]), scale.d2p(value + bars.array[i])];
          taken.push(axis === "x" ? [Math.min(a, b), py - 2, Math.max(a, b), py + 2] : [px - 2, Math.min(a, b), px + 2, Math.max(a, b)]);
        }
        const text = trace.meta.labels && trace.meta.labels[i];
        const shown = px >= -1 && px <= width + 1 && py >= -1 && py <= height + 1;
        if (text && shown) names.push({ text, px, py, half, trace, end: trace.mode.includes("lines") });
      });
    });
    const annotations = [];
    for (const { text, px, py, half, trace, end } of names) {
      const plain = text.replace(/&[#0-9a-z]+;/g, "x"), w = 6.9 * plain.length + 4, h = 15, gap = half + 3;
      const places = [[px + gap, py], [px - gap - w, py], [px - w / 2, py - gap - h / 2], [px - w / 2, py + gap + h / 2]];
      if (end) for (const far of [9, 18, 27, 36, 48, 60]) places.push([px + gap, py - far], [px + gap, py + far]);
      for (const far of [16, 30, 46, 64]) {
        places.push([px + gap, py - far], [px + gap, py + far], [px - gap - w, py - far], [px - gap - w, py + far]);
      }
      const box = places.map(([x, y]) => [x, y - h / 2, x + w, y + h / 2])
        .find((one) => one[0] >= 0 && one[2] <= width + beyond && one[1] >= -14 && one[3] <= height && !taken.some((other) => overlaps(one, other)));
      if (!box) continue;
      taken.push(box);
      const faded = state.models.size && trace.meta.model && !state.models.has(trace.meta.model);
      const colour = trace.line && trace.line.color || trace.marker && trace.marker.color;
      const away = Math.abs((box[1] + box[3]) / 2 - py) > half + h;
      annotations.push({
        text, x: box[0] / width, y: 1 - (box[1] + box[3]) / 2 / height, xref: "paper", yref: "paper", xanchor: "left", yanchor: "middle",
        showarrow: false, font: { size: 12, color: /^#[0-9a-f]{6}$/i.test(colour) ? readable(colour) : undefined }, opacity: faded ? 0.15 : 1,
      });
      if (away) {
        annotations.push({
          text: "", x: xaxis.p2l(px), y: yaxis.p2l(py), ax: (box[0] > px ? box[0] : box[2]) - px, ay: (box[1] + box[3]) / 2 - py,
          xref: "x", yref: "y", showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: "#999", opacity: faded ? 0.1 : 0.8, standoff: half,
        });
      }
    }
    if (annotations.length || (plot.layout.annotations || []).length) await Plotly.relayout(plot, { annotations });
  }

  const drawn = () => plots.filter((plot) => plot.dataset.drawn);
  const seen = new IntersectionObserver((entries) => {  // a page may hold hundreds of charts: draw those in sight
    for (const entry of entries) if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
  }, { rootMargin: "400px" });

  function redraw() {
    for (const plot of plots) {
      if (plot.dataset.drawn) draw(plot);
      else currentChart(plot);
    }
  }

  // --- highlight -----------------------------------------------------------------------------------------------------

  function choose(model) {
    if (state.models.has(model)) state.models.delete(model);
    else state.models.add(model);
    showChosen();
    writeAddress();
    drawn().forEach(draw);
  }

  function showChosen() {
    for (const chip of all("#chips .chip")) chip.setAttribute("aria-pressed", String(state.models.has(chip.dataset.model)));
    for (const row of rows) row.classList.toggle("chosen", state.models.has(row.dataset.model));
  }

  function paintChips() {
    for (const icon of all("#chips svg")) {
      const colour = shade(icon.dataset.colour);
      icon.style.fill = colour;
      icon.style.stroke = colour;
    }
  }

  // --- controls ------------------------------------------------------------------------------------------------------

  for (const head of table ? all("thead th", table) : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const first = head.classList.contains("number") ? "down" : "up";  // the largest figure first
    button.addEventListener("click", () => {
      const [key, direction] = state.sort.split(":");
      const again = key === head.dataset.key;
      if (again && direction !== first) state.sort = "";
      else state.sort = `${head.dataset.key}:${again ? (first === "up" ? "down" : "up") : first}`;
      sortRows();
      writeAddress();
    });
  }
  for (const select of all("#filters select")) {
    select.addEventListener("change", () => {
      state.filters[select.dataset.facet] = select.value;
      filterRows();
      writeAddress();
    });
  }
  const on = (id, act) => { const button = document.getElementById(id); if (button) button.addEventListener("click", act); };
  on("clear", () => { state.filters = {}; filterRows(); writeAddress(); });
  on("nobody", () => { state.models.clear(); showChosen(); writeAddress(); drawn().forEach(draw); });
  on("theme", () => { root.dataset.theme = isDark() ? "light" : "dark"; paintChips(); redraw(); writeAddress(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paintChips(); redraw(); });
  for (const chip of all("#chips .chip")) chip.addEventListener("click", () => choose(chip.dataset.model));
  for (const radio of all(".switch input")) {
    radio.addEventListener("change", () => {
      state.switches[radio.closest("figure").querySelector(".plot").dataset.key] = radio.value;
      writeAddress();
      redraw();
    });
  }
  for (const link of all('a[href^="#"]')) {
    link.addEventListener("click", (event) => {  // scroll to sections without losing the view in the address
      const target = link.id !== "link" && document.getElementById(link.getAttribute("href").slice(1));
      if (!target) return;
      event.preventDefault();
      target.setAttribute("tabindex", "-1");
      target.focus({ preventScroll: true });
      target.scrollIntoView();
    });
  }
  for (const link of all("a.download")) {
    link.addEventListener("click", (event) => {  // browsers refuse very long addresses; a blob has a short one
      if (link.href.length < 1e6) return;
      event.preventDefault();
      const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
      const short = document.createElement("a");
      short.href = URL.createObjectURL(new Blob([bytes], { type: "text/csv" }));
      short.download = link.download;
      short.click();
      setTimeout(() => URL.revokeObjectURL(short.href), 10000);
    });
  }
  for (const one of all(".group > details")) {
    one.addEventListener("toggle", () => {  // a chart drawn while it was closed has no width of its own
      for (const plot of all(".plot", one)) if (plot.dataset.drawn && plot.clientWidth) draw(plot);
    });
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open]):not(.figures)");  // the figures of a chart are for screens
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
  addEventListener("hashchange", () => { if (location.hash.startsWith("#?")) { readAddress(); paintChips(); show(); } });

  function show() {
    sortRows();
    filterRows();
    showChosen();
    redraw();
  }

  readAddress();
  paintChips();
  show();
  if (location.hash.startsWith("#?")) writeAddress();
  plots.forEach((plot) => seen.observe(plot));
  root.dataset.ready = "yes";
  if (plots.length) (window.requestIdleCallback || setTimeout)(() => setTimeout(() => loaded().catch(() => {}), 500));
})();
