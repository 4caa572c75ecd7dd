for (const chart of document.querySelectorAll(".chart")) { // the values at the place under the pointer, or by the arrow keys
  const { ends, raised, along, curves } = JSON.parse(chart.dataset.told);
  const said = chart.querySelector("output"), svg = chart.querySelector("svg"), line = document.createElementNS(svg.namespaceURI, "path");
  const scaled = (value) => (raised ? Math.log(value) : value), [low, high] = ends.map(scaled);
  const places = [...new Set(curves.flatMap(([, steps]) => steps))].sort((one, other) => one - other);
  const nearest = (steps, place) =>
    steps.reduce((best, each, at) => (Math.abs(scaled(each) - place) < Math.abs(scaled(steps[best]) - place) ? at : best), 0);
  line.classList.add("here");
  svg.append(line);
  let at = places.length - 1;
  const tell = (place) => {
    at = nearest(places, place);
    const told = curves.map(([name, steps, values]) => (curves.length > 1 ? name + " " : "") + values[nearest(steps, place)]);
    said.textContent = along + " " + places[at].toLocaleString("en", { maximumSignificantDigits: 6 }) + ": " + told.join(", ");
    line.setAttribute("d", "M" + (1000 * (scaled(places[at]) - low)) / (high - low) + " 0V400");
  };
  const leave = () => ((said.textContent = ""), line.setAttribute("d", ""));
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect(), share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    tell(low + share * (high - low));
  };
  svg.onpointerleave = leave;
  svg.tabIndex = 0;
  svg.onfocus = () => svg.matches(":focus-visible") && tell(scaled(places[at]));
  svg.onblur = leave;
  svg.onkeydown = (event) => {
    const turn = { ArrowLeft: -1, ArrowRight: 1, Home: -places.length, End: places.length }[event.key];
    if (!turn) return;
    event.preventDefault();
    tell(scaled(places[Math.min(places.length - 1, Math.max(0, at + turn))]));
  };
}
for (const strip of document.querySelectorAll(".strip")) { // one picture at a time, chosen by a slider
  const figures = [...strip.children], label = document.createElement("label"), slider = document.createElement("input");
  const said = document.createElement("output"), caption = (figure) => figure.querySelector("figcaption").textContent;
  const show = () => {
    figures.forEach((figure, place) => (figure.hidden = place != slider.value));
    said.textContent = caption(figures[slider.value]);
    slider.setAttribute("aria-valuetext", said.textContent);
  };
  Object.assign(slider, { type: "range", min: 0, max: figures.length - 1, ariaLabel: "preview", oninput: show });
  slider.value = figures.length - 1;
  label.className = "slider";
  label.append(slider, said);
  strip.before(label);
  strip.classList.add("one");
  show();
}
for (const wide of document.querySelectorAll(".wide")) { // what scrolls in itself can be scrolled by keys
  if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
}
