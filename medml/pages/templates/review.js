"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const said = at("said");
  const say = (text, bad) => {
    said.textContent = text;
    said.classList.toggle("bad", Boolean(bad));
    said.hidden = !text;
  };
  const left = sessionStorage.getItem("medml-review");
  if (left) {
    sessionStorage.removeItem("medml-review");
    say(left);
  }
  const typing = (target) => target instanceof Element && target.closest("input:not([type=checkbox]):not([type=range]), select, textarea");
  const keys = (actions) =>
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
      const action = actions[event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    });

  const data = at("review");
  if (!data) {
    const items = [...document.querySelectorAll("a.item")];
    const step = (by) => {
      const place = items.indexOf(document.activeElement);
      items[Math.min(items.length - 1, Math.max(0, place < 0 ? 0 : place + by))]?.focus();
    };
    keys({ j: () => step(1), k: () => step(-1) });
    return;
  }

  const work = JSON.parse(data.textContent);
  const buttons = ["accept", "reject", "replace"].map(at).filter(Boolean);
  const reason = at("reason");
  const go = (place) => {
    if (place) location.assign(place);
  };
  let busy = false;
  const send = async (what, body, headers) => {
    if (busy) return;
    busy = true;
    buttons.forEach((button) => (button.disabled = true));
    say("Storing.");
    try {
      const answer = await fetch(`${work.place}/${what}`, {
        method: "POST",
        headers: { "X-Medml-Token": work.token, ...headers },
        body,
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      sessionStorage.setItem("medml-review", found.said);
      location.assign(found.next);
    } catch (error) {
      busy = false;
      buttons.forEach((button) => (button.disabled = false));
      say(error.message, true);
    }
  };
  const sendWords = (what, more) =>
    send(what, JSON.stringify({ seen: work.seen, reason: reason.value, ...more }), { "Content-Type": "application/json" });
  const accept = () => sendWords("accept");
  const reject = () => {
    if (!reason.value.trim()) {
      reason.focus();
      say("Say why it is rejected, then press Enter.", true);
      return;
    }
    sendWords("reject");
  };
  const replace = () => {
    const file = at("mask")?.files[0];
    if (file) {
      if (file.size > work.most) {
        say(`The file has ${file.size} bytes, at most ${work.most} are taken.`, true);
        return;
      }
      send("replace", file, {
        "Content-Type": "application/octet-stream",
        "X-Medml-Seen": String(work.seen),
        "X-Medml-Reason": encodeURIComponent(reason.value),
      });
      return;
    }
    const classes = [...(at("classes")?.selectedOptions ?? [])].map((option) => option.value).filter(Boolean);
    if (classes.length) sendWords("replace", { classes });
    else say("Choose what it is replaced by.", true);
  };
  at("accept").addEventListener("click", accept);
  at("reject").addEventListener("click", reject);
  at("replace")?.addEventListener("click", replace);
  at("mask")?.addEventListener("change", () => (at("replace").disabled = !at("mask").files.length));
  at("decision").addEventListener("submit", (event) => event.preventDefault());
  reason.addEventListener("keydown", (event) => {
    if (event.key === "Enter") reject();
    if (event.key === "Escape") reason.blur();
  });
  keys({ j: () => go(work.next), k: () => go(work.previous), a: accept, r: () => reason.focus() });
})();
