// Seals who somebody is to each chosen site, in the browser, and sends that. Who asks for a copy gets
// a key that the copy will be sealed to; its secret half stays here.
import { fromBase64, makeKeys, savedBy, seal, toBase64, utf8 } from "./hpke.js";

const PADDED_BYTES = 1024;
const COPIES = ["access", "portability"];

const padded = (text) => {
  const bytes = utf8(text);
  const whole = new Uint8Array(Math.ceil(bytes.length / PADDED_BYTES) * PADDED_BYTES).fill(0x20);
  whole.set(bytes);
  return whole;
};
const requestNumber = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0")).join("");

const form = document.getElementById("intake");
const problem = document.getElementById("problem");
const tell = (text) => { problem.textContent = text; problem.hidden = false; problem.focus(); };
const chosen = (name) => form.querySelector(`input[name="${name}"]:checked`)?.value;
const wrong = (asked) => {
  if (!asked.right) return "Choose what you ask for.";
  if (!asked.sites.length) return "Choose at least one site.";
  if (!asked.ids.length) return "Give your number there.";
  if (asked.ids.length > 10) return "Give at most ten numbers.";
  if (asked.ids.some((id) => id.length > 200)) return "A number has at most 200 characters.";
  if (!asked.identity) return "Choose how you will show who you are.";
  if (asked.identity === "email-challenge" && !form.elements.email.value)
    return "Give an e-mail address for the code.";
  return "";
};
const withoutProof = (right) =>
  form.dataset.withoutProof.split(" ").includes(`${form.elements.law.value}:${right}`);
const gather = () => ({
  right: chosen("right"),
  identity: withoutProof(chosen("right")) ? "not-required" : chosen("identity"),
  sites: [...form.querySelectorAll('input[name="site"]:checked')],
  ids: form.elements.subject.value.split("\n").map((line) => line.trim()).filter(Boolean),
});

const send = async (asked) => {
  const id = requestNumber();
  const keys = COPIES.includes(asked.right) ? await makeKeys() : null;
  const identifiers = JSON.stringify({
    format: "fiduciary.identifiers/1",
    subject_ids: asked.ids,
    details: form.elements.details.value,
    ...(keys && { package_key: toBase64(keys.shared) }),
  });
  const sealed = {};
  const sealedTo = {};
  for (const site of asked.sites) {
    const info = `{"format":"fiduciary.sealed-identifiers/1","request":"${id}","site":"${site.value}"}`;
    const octets = await seal(padded(identifiers), fromBase64(site.dataset.key), utf8(info));
    sealed[site.value] = toBase64(octets);
    sealedTo[site.value] = site.dataset.key;
  }
  const body = {
    request_id: id,
    right: asked.right,
    jurisdiction: form.elements.law.value,
    sealed,
    sealed_to: sealedTo,
    identity: asked.identity,
  };
  if (asked.identity === "email-challenge") body.email = form.elements.email.value;
  const answer = await fetch("/v1/public/requests", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    credentials: "omit",
    referrerPolicy: "no-referrer",
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error([told.detail, told.fix].filter(Boolean).join("; "));
  return { ...told, secret: keys && keys.secret };
};

const show = (filed, identity) => {
  if (filed.secret) {
    const text = toBase64(filed.secret);
    const name = `key-${filed.request_id.slice(0, 8)}.txt`;
    document.getElementById("secret").textContent = text;
    savedBy(document.getElementById("save"), utf8(`${text}\n`), name, "text/plain");
    document.getElementById("copy").hidden = false;
  }
  document.getElementById("code").textContent = filed.receipt_code;
  document.getElementById("number").textContent = filed.request_id;
  document.getElementById("due").textContent = filed.due_at.slice(0, 10);
  document.getElementById("next").textContent = {
    "email-challenge": "You get a code by e-mail within minutes. Enter it with your receipt code.",
    "site-verified": "Show at one of the sites who you are, and name the number of the request.",
    "not-required": "The sites have it already: for this you need not show who you are.",
  }[identity];
  form.reset();
  form.hidden = true;
  const filedSection = document.getElementById("filed");
  filedSection.hidden = false;
  filedSection.focus();
};

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const asked = gather();
  const reason = wrong(asked);
  if (reason) { tell(reason); return; }
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    show(await send(asked), asked.identity);
  } catch (error) {
    const unsupported = error.name === "NotSupportedError";
    tell(unsupported ? "This browser is too old to encrypt your request." : error.message);
  } finally {
    button.disabled = false;
  }
});
