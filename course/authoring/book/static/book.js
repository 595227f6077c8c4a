// What a page of the book does by itself: draw charts, explain terms, open folds where they hide
// what is looked for. Without this script a page shows all the same, with still pictures.
"use strict";

const STATIC = document.currentScript.src.replace(/[^/]*$/, "");
const CHINESE = document.documentElement.lang.startsWith("zh");

// A page opened from a disk may not read its neighbours, so no excerpts below what is found
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

function drawCharts() {
  const charts = [...document.querySelectorAll(".chart")];
  if (!charts.length) return;
  const script = document.createElement("script");
  script.src = STATIC + "vega.js";
  script.onload = () => charts.forEach(async (chart) => {
    const spec = JSON.parse(chart.querySelector("script").textContent);
    const live = document.createElement("div");
    chart.append(live);
    try {
      await window.vegaEmbed(live, spec, { mode: "vega-lite", actions: false, renderer: "svg" });
      const still = chart.querySelector(".still");
      live.setAttribute("role", "group");
      live.setAttribute("aria-label", still ? still.alt : CHINESE ? "图" : "Chart");
      still?.remove();
      chart.classList.add("drawn");
      scrollByKeyboard();
    } catch (error) {
      live.remove(); // the still picture stays
      console.warn("A chart stays a picture:", error);
    }
  });
  document.head.append(script);
}

// What scrolls in itself can be scrolled by keyboard, too
function scrollByKeyboard() {
  const areas = ".scrolls, span.formula.long, .cell_output pre, .pst-scrollable-table-container";
  for (const area of document.querySelectorAll(areas)) {
    const wide = area.scrollWidth > area.clientWidth;
    if (wide) area.tabIndex = 0;
    else if (area.tabIndex === 0) area.removeAttribute("tabindex");
    if (wide && !area.hasAttribute("role")) {
      area.setAttribute("role", "group");
      area.setAttribute("aria-label", CHINESE ? "可左右滚动" : "Scrolls sideways");
    }
  }
}

// A term's three languages and its meaning, while the pointer or the keyboard is on it
function explainTerms() {
  const box = document.createElement("div");
  box.id = "term-told";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);
  const show = (term) => {
    const [names, ...meaning] = term.dataset.told.split("\n");
    const languages = CHINESE ? ["zh", "en", "de", "zh"] : ["en", "zh", "de", "en"];
    box.replaceChildren();
    for (const [i, text] of [...names.split(" · "), meaning.join(" ")].entries()) {
      const line = document.createElement("div");
      line.lang = languages[i];
      line.textContent = text;
      box.append(line);
    }
    box.hidden = false;
    const at = term.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8);
    const below = at.bottom + box.offsetHeight + 8 < window.innerHeight;
    box.style.left = Math.max(8, left) + "px";
    box.style.top = (below ? at.bottom + 4 : at.top - box.offsetHeight - 4) + "px";
    term.setAttribute("aria-describedby", box.id);
  };
  const hide = (term) => {
    box.hidden = true;
    term.removeAttribute("aria-describedby");
  };
  for (const term of document.querySelectorAll("a.term[title]")) {
    term.dataset.told = term.title;
    term.removeAttribute("title");
    for (const kind of ["mouseenter", "focus"]) term.addEventListener(kind, () => show(term));
    for (const kind of ["mouseleave", "blur"]) term.addEventListener(kind, () => hide(term));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") box.hidden = true;
  });
  document.addEventListener("scroll", () => (box.hidden = true), { passive: true, capture: true });
}

// A link into a fold, or to a word in one, opens it
function openFolds() {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = name && (document.getElementById(name) ?? places()[Number(/^place-(\d+)$/.exec(name)?.[1])]);
  const wanted = [target, ...document.querySelectorAll("span.highlighted")].filter(Boolean);
  for (const place of wanted) {
    for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      fold.open = true;
    }
    if (place === target) {
      place.querySelectorAll(":scope > details.more").forEach((fold) => (fold.open = true));
      place.scrollIntoView();
    }
  }
}

// Sections and terms: both editions have them in the same order, under different names; the Chinese
// one has no second summary, which is Chinese in English
function places() {
  return [...document.querySelectorAll("article section, dl.terms dt")].filter((place) =>
    CHINESE || !place.querySelector(":scope > h2")?.textContent.includes("小结"));
}

// The link to the other edition leads to the place that is read
function keepPlace() {
  const link = document.querySelector("a.other-language");
  const follow = () => {
    const at = places().findLastIndex((place) => place.getBoundingClientRect().top < 150);
    link.hash = at > 0 ? `place-${at}` : "";
    if (document.querySelector("#search-results")) link.search = location.search;
  };
  for (const kind of ["pointerdown", "click"]) link?.addEventListener(kind, follow);
}

function printAll() {
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open])")];
    closed.forEach((fold) => (fold.open = true));
  });
  window.addEventListener("afterprint", () => closed.forEach((fold) => (fold.open = false)));
}

document.addEventListener("DOMContentLoaded", () => {
  drawCharts();
  explainTerms();
  scrollByKeyboard();
  openFolds();
  keepPlace();
  printAll();
  window.addEventListener("hashchange", openFolds);
  window.addEventListener("resize", scrollByKeyboard);
  document.addEventListener("toggle", scrollByKeyboard, true);
  document.fonts.addEventListener("loadingdone", scrollByKeyboard); // formulas change their width
});
window.addEventListener("load", () => setTimeout(() => {
  scrollByKeyboard();
  if (document.querySelector("span.highlighted")) openFolds();
}, 300));
