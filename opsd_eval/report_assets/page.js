"use strict";
(function () {
  const controls = document.getElementById("controls");
  if (!controls) return;
  const problems = Array.from(document.querySelectorAll("article.problem"));
  const texts = problems.map((p) => p.textContent.toLowerCase());
  const field = (name) => controls.querySelector("[name=" + name + "]");
  const count = document.getElementById("count");

  function wanted(problem, text, state) {
    if (state.place && problem.dataset.place !== state.place) return false;
    if (state.disagree && problem.dataset.disagree !== "1") return false;
    if (state.outcome || state.arm) {
      const shown = Array.from(problem.querySelectorAll(".dot"));
      const match = shown.some((dot) =>
        (!state.arm || dot.dataset.arm === state.arm) && (!state.outcome || dot.dataset.outcome === state.outcome));
      if (!match) return false;
    }
    return state.words.every((word) => text.includes(word));
  }

  function apply() {
    const state = {
      place: field("place").value, arm: field("arm").value, outcome: field("outcome").value,
      disagree: field("disagree").checked,
      words: field("search").value.toLowerCase().split(/\s+/).filter(Boolean),
    };
    let shown = 0;
    problems.forEach((problem, at) => {
      problem.hidden = !wanted(problem, texts[at], state);
      shown += problem.hidden ? 0 : 1;
    });
    count.textContent = shown + " of " + problems.length + " problems";
  }

  controls.hidden = false;
  controls.addEventListener("input", apply);
  controls.addEventListener("reset", () => setTimeout(apply, 0));
  controls.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
