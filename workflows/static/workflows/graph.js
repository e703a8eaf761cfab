/* Draws the stages of a workflow: boxes laid out by dagre, counts and colours renewed every few seconds. */
"use strict";
(() => {
  const WIDTH = 190, HEIGHT = 54, DOT = 10, RENEW_MS = 3000;
  const SVG = "http://www.w3.org/2000/svg";
  const place = document.getElementById("graph");
  if (!place) return;

  const element = (name, attributes, parent, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  };
  const shortened = (text) => (text.length > 24 ? text.slice(0, 23) + "…" : text);
  const counts = (s) => `${s.done} done · ${s.failed} failed · ${s.queued} queued · ${s.waiting} waiting`;

  function layOut(data) {
    const graph = new dagre.graphlib.Graph();
    // The better ranking takes seconds for hundreds of stages.
    const ranker = data.stages.length > 100 ? "longest-path" : "network-simplex";
    graph.setGraph({ rankdir: "LR", nodesep: 14, ranksep: 50, marginx: 8, marginy: 8, ranker });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const s of data.stages) graph.setNode(`s${s.id}`, { width: WIDTH, height: HEIGHT });
    for (const join of data.joins) {
      // Many to many is drawn through a dot, as it is decided: once.
      if (join.parents.length > 1 && join.children.length > 1) {
        graph.setNode(`j${join.id}`, { width: DOT, height: DOT });
        for (const p of join.parents) graph.setEdge(`s${p}`, `j${join.id}`);
        for (const c of join.children) graph.setEdge(`j${join.id}`, `s${c}`);
      } else {
        for (const p of join.parents) for (const c of join.children) graph.setEdge(`s${p}`, `s${c}`);
      }
    }
    dagre.layout(graph);
    return graph;
  }

  function draw(data) {
    const graph = layOut(data);
    const { width, height } = graph.graph();
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }, place);
    element("title", {}, svg, "Stages and what they wait for");
    for (const edge of graph.edges()) {
      const points = graph.edge(edge).points.map((p) => `${p.x},${p.y}`).join(" ");
      element("polyline", { points, class: "w-edge" }, svg);
    }
    for (const id of graph.nodes().filter((n) => n.startsWith("j"))) {
      const { x, y } = graph.node(id);
      element("circle", { cx: x, cy: y, r: DOT / 2, class: "w-dot" }, svg);
    }
    return new Map(data.stages.map((s) => [s.id, box(svg, graph.node(`s${s.id}`), s)]));
  }

  function box(svg, { x, y }, s) {
    const link = element("a", { href: s.jobs }, svg);
    const group = element("g", { transform: `translate(${x - WIDTH / 2},${y - HEIGHT / 2})` }, link);
    const title = element("title", {}, group);
    const frame = element("rect", { width: WIDTH, height: HEIGHT, rx: 6 }, group);
    element("text", { x: 10, y: 18, class: "w-name" }, group, shortened(s.name));
    const line = element("text", { x: 10, y: 34, class: "w-counts" }, group);
    const bars = ["done", "failed", "queued"].map((kind) =>
      element("rect", { y: 42, height: 5, class: `w-${kind}` }, group));
    return { title, frame, line, bars };
  }

  function renew(boxes, data) {
    for (const s of data.stages) {
      const found = boxes.get(s.id);
      if (!found) continue;
      found.frame.setAttribute("class", `w-box w-${s.look}`);
      found.title.textContent = `${s.name}: ${s.status}\n${counts(s)}`;
      found.line.textContent = `${s.done}/${s.total}` + (s.failed ? `, ${s.failed} failed` : "") + ` · ${s.status}`;
      let at = 10;
      ["done", "failed", "queued"].forEach((kind, index) => {
        const long = ((WIDTH - 20) * s[kind]) / Math.max(1, s.total);
        found.bars[index].setAttribute("x", at);
        found.bars[index].setAttribute("width", long);
        at += long;
      });
    }
    const progress = document.getElementById("progress");
    if (progress) progress.textContent = `${counts(data.progress)} · ${data.progress.total} in all · ${data.status}`;
  }

  const fit = document.getElementById("fit");
  if (fit) fit.addEventListener("change", () => place.classList.toggle("w-fit", fit.checked));

  const load = async () => (await fetch(place.dataset.source, { credentials: "same-origin" })).json();
  async function follow(boxes) {
    const data = await load();
    renew(boxes, data);
    if (data.active) setTimeout(() => follow(boxes).catch(() => {}), RENEW_MS);
  }
  load().then((data) => {
    const boxes = draw(data);
    renew(boxes, data);
    place.dataset.drawn = String(data.stages.length);
    if (data.active) setTimeout(() => follow(boxes).catch(() => {}), RENEW_MS);
  }).catch((error) => { place.textContent = `The graph could not be drawn: ${error}`; });
})();
