"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse(document.getElementById("values").textContent);

  // Theme
  for (const input of all("input[name=theme]")) {
    input.addEventListener("change", () => { root.dataset.theme = input.value; });
  }

  // Receptive fields: every text is that of the record.
  const section = document.getElementById("erf");
  if (section) {
    const slider = document.getElementById("threshold");
    const keys = slider.dataset.keys.split(" ");
    const texts = slider.dataset.texts.split("|");
    const chosen = (name) => section.querySelector(`input[name=${name}]:checked`).value;

    const set = (card, field, text) => { card.querySelector(`[data-field=${field}]`).textContent = text; };
    const show = (event) => {
      const protocol = chosen("protocol");
      const key = keys[slider.value];
      const text = texts[slider.value];
      section.dataset.scale = chosen("scale");
      slider.setAttribute("aria-valuetext", text);
      document.getElementById("threshold-text").textContent = text;
      const meaning = document.getElementById("protocol-meaning");
      meaning.firstElementChild.textContent = `${protocol}, ${text}`;
      meaning.lastChild.textContent = `: ${data.meanings[protocol]}.`;
      const said = [];
      for (const card of all("[data-card]", section)) {
        const found = (data.cards[card.dataset.card][protocol] || {})[key];
        set(card, "ratio", found ? `${found.ratio} %` : "–");
        set(card, "interval", found && found.interval ? `95 %: ${found.interval}` : "");
        set(card, "side", found ? `side ${found.side} px` : "not measured");
        said.push(`${card.dataset.name} ${found ? `${found.ratio} %` : "not measured"}`);
        for (const frame of all("rect", card)) {
          if (!frame.classList.contains("window") && !frame.classList.contains("halo")) continue;
          frame.toggleAttribute("hidden", !(found && found.window));
          if (found && found.window) {
            ["x", "y", "width", "height"].forEach((name, index) => frame.setAttribute(name, found.window[index]));
          }
        }
        for (const layer of all("image.outside", card)) {
          layer.toggleAttribute("hidden", !(found && found.outside));
          if (found && found.outside) layer.setAttribute("href", found.outside);
        }
      }
      // Screen readers announce what has changed, not what the page began with.
      if (event.type !== "pageshow") document.getElementById("erf-status").textContent = `${protocol}, ${text}: ${said.join(", ")}`;
      let charts = 0;
      const drawn = all("[data-protocol]", section);
      for (const chart of drawn) {
        chart.hidden = chart.dataset.protocol !== protocol || chart.dataset.threshold !== key;
        charts += !chart.hidden;
      }
      if (drawn.length) document.getElementById("no-convergence").hidden = charts > 0;
    };
    slider.addEventListener("input", show);
    for (const input of all("input[type=radio]", section)) input.addEventListener("change", show);
    // A browser may restore the choice of an earlier visit.
    window.addEventListener("pageshow", show);
  }

  // Kernels: one layer at a time.
  for (const select of all("select[data-model]")) {
    const show = () => {
      for (const layer of all(`[data-layer^="${select.dataset.model}-"]`)) {
        layer.hidden = layer.dataset.layer !== `${select.dataset.model}-${select.value}`;
      }
    };
    select.addEventListener("change", show);
    window.addEventListener("pageshow", show);
    show();
  }

  // Tables are sorted by the values of the records; cells without a value come last.
  for (const table of all("table")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numeric = head.dataset.sort === "number";
        const down = head.ariaSort ? head.ariaSort === "ascending" : numeric;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.value;
        const rows = all("tbody tr", table);
        rows.sort((a, b) => {
          const [one, other] = [value(a), value(b)];
          if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
          const order = numeric ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Values of markers that have the pointer or the focus. A chart is one stop of the Tab key; arrows move inside of it.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const reveal = (mark) => {
    const box = mark.querySelector(".target").getBoundingClientRect();
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 8), root.clientWidth - tip.offsetWidth - 8);
    const top = box.top - tip.offsetHeight - 4;
    tip.style.left = `${left}px`;
    tip.style.top = `${top < 4 ? box.bottom + 4 : top}px`;
  };
  for (const chart of all(".chart")) {
    const series = all(".series", chart).map((one) => all(".mark", one)).filter((marks) => marks.length);
    if (!series.length) continue;
    const isRows = chart.classList.contains("rows");
    const place = (mark, name) => Number(mark.querySelector(".target").getAttribute(name));
    let current = series[0][0];
    const enter = (mark) => {
      current.setAttribute("tabindex", "-1");
      mark.setAttribute("tabindex", "0");
      current = mark;
    };
    for (const mark of series.flat()) {
      const title = mark.querySelector("title");
      if (title) title.remove();  // the browser would show it as well
      mark.setAttribute("tabindex", "-1");
      mark.addEventListener("pointerenter", () => reveal(mark));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => { enter(mark); reveal(mark); });
      mark.addEventListener("blur", hide);
    }
    enter(current);
    chart.addEventListener("keydown", (event) => {
      const row = series.findIndex((marks) => marks.includes(current));
      const column = series[row].indexOf(current);
      const [along, across] = isRows ? [["ArrowUp", "ArrowDown"], ["ArrowLeft", "ArrowRight"]] : [["ArrowLeft", "ArrowRight"], ["ArrowUp", "ArrowDown"]];
      const axis = isRows ? "cy" : "cx";
      let next;
      if (event.key === "Escape") { hide(); return; }
      if (along.includes(event.key)) next = series[row][column + 2 * along.indexOf(event.key) - 1];
      if (event.key === "Home") next = series[row][0];
      if (event.key === "End") next = series[row].at(-1);
      if (across.includes(event.key)) {
        const other = series[row + 2 * across.indexOf(event.key) - 1];
        const distance = (mark) => Math.abs(place(mark, axis) - place(current, axis));
        next = other && other.reduce((best, mark) => (distance(mark) < distance(best) ? mark : best));
      } else if (!along.includes(event.key) && !["Home", "End"].includes(event.key)) return;
      event.preventDefault();
      if (next) next.focus();
    });
  }
  window.addEventListener("scroll", () => { if (!document.activeElement.classList.contains("mark")) hide(); }, { passive: true });

  // Everything is printed.
  window.addEventListener("beforeprint", () => { for (const one of all("details")) one.open = true; });
})();
