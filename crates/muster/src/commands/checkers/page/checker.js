// The local page of a Checker: asks the program that served it, and shows what it says.
"use strict";

const at = (id) => document.getElementById(id);
const text = (id, value) => { at(id).textContent = value; };
const TASKS_SHOWN = 100;

// Smallest units as tokens: exact, since they pass what a number holds.
function tokens(units) {
  const digits = String(units ?? "0").padStart(19, "0");
  const whole = digits.slice(0, -18);
  return `${whole.replace(/\B(?=(\d{3})+$)/g, "\u202f")}.${digits.slice(-18, -14)} MUST`;
}

function finding(found) {
  if (found === null) return ["under way", "warn"];
  if (typeof found === "string") return [found, { good: "good", unknown: "warn" }[found] ?? "bad"];
  const [kind, of] = Object.entries(found)[0];
  switch (kind) {
    case "liveness": return [`answered ${of.answered} of ${of.asked}`, of.answered === of.asked ? "good" : "bad"];
    case "proved": return [`proved ${(of.ob / 100).toFixed(2)} OB in ${(of.took_ms / 1000).toFixed(1)} s`, "good"];
    case "refuted": return ["refuted: it lied", "bad"];
    case "rechecked": return [of.good ? "rechecked: right" : "rechecked: wrong", "good"];
    default: return [kind, kind === "same" ? "good" : "bad"];
  }
}

function rows(body, cells) {
  body.replaceChildren(...cells.map((row) => {
    const line = document.createElement("tr");
    for (const [value, kind, full] of row) {
      const cell = document.createElement("td");
      cell.textContent = value;
      if (kind) cell.className = kind;
      if (full) cell.title = full;
      line.append(cell);
    }
    return line;
  }));
}

function show(status) {
  const c = status.checker;
  text("name", status.name);
  text("id", c.id);
  text("drawable", c.drawable ? "drawn" : "not drawn");
  at("drawable").className = `badge ${c.drawable ? "good" : "warn"}`;
  at("drawable").title = c.drawable ? "" : "It needs a licence, its stake, and one full epoch.";
  text("epoch", c.epoch);
  text("phase", c.phase);
  const length = status.epoch_ends_ms - status.epoch_begins_ms;
  at("time").value = Math.min(1, Math.max(0, (status.now_ms - status.epoch_begins_ms) / length));
  text("settled", c.settled ?? "none yet");
  text("open", `${c.open} open`);
  text("licences", c.licences);
  text("earned", tokens(c.earned));
  text("done", c.counted.tasks);
  text("unknown", `${c.counted.unknown} without result`);
  text("refuted", c.counted.refuted);
  text("reexecuted", c.counted.reexecuted);
  text("kept", c.transcripts[0]);
  text("bytes", `${(c.transcripts[1] / 1048576).toFixed(1)} MiB`);
  at("problems").hidden = c.problems.length === 0;
  at("problems").replaceChildren(...c.problems.map((problem) => {
    const item = document.createElement("li");
    item.textContent = problem;
    return item;
  }));
  rows(at("tasks"), c.tasks.slice(-TASKS_SHOWN).reverse().map((task) => [
    [task.kind], [task.subject.slice(0, 8), "", task.subject], finding(task.finding), [task.epoch], [task.why ?? ""],
  ]));
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(10000) });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error?.message ?? `it answers ${answer.status}`);
  return value;
}

async function again(what, every) {
  try {
    await what();
    at("away").hidden = true;
  } catch (error) {
    text("away", `The Checker does not answer as it should: ${error.message}`);
    at("away").hidden = false;
  }
  setTimeout(() => again(what, every), every);
}

again(async () => show(await ask("api/v1/status")), 1000);
again(async () => {
  const { licences } = await ask("api/v1/licences");
  rows(at("served"), licences.map((licence) => {
    const last = licence.last_epoch ?? {};
    return [[licence.id], [licence.owner.slice(0, 10), "", licence.owner], [tokens(last.base)], [tokens(last.bonus)], [tokens(last.penalties)]];
  }));
}, 5000);
