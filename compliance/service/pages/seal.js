"use strict";
// Seals who somebody is to each chosen site, in the browser (RFC 9180, base mode), and sends that.
// Suite: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, AES-256-GCM 0x0002. It does what
// compliance/subject_sealing.py does in Python.
(() => {
  const PADDED_BYTES = 1024;
  const KEM = Uint8Array.of(0x4b, 0x45, 0x4d, 0x00, 0x20);
  const HPKE = Uint8Array.of(0x48, 0x50, 0x4b, 0x45, 0x00, 0x20, 0x00, 0x01, 0x00, 0x02);
  const EMPTY = new Uint8Array(0);
  const utf8 = (text) => new TextEncoder().encode(text);

  const join = (...parts) => {
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
    let at = 0;
    for (const part of parts) { whole.set(part, at); at += part.length; }
    return whole;
  };
  const hmac = async (key, data) => {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    // HMAC pads its key with zeros, so 32 of them are the empty salt, which browsers refuse.
    const raw = key.length ? key : new Uint8Array(32);
    const imported = await crypto.subtle.importKey("raw", raw, algorithm, false, ["sign"]);
    return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
  };
  const extract = (suite, salt, label, material) =>
    hmac(salt, join(utf8("HPKE-v1"), suite, utf8(label), material));
  const expand = async (suite, key, label, info, length) => {
    const labelled = join(Uint8Array.of(0, length), utf8("HPKE-v1"), suite, utf8(label), info);
    return (await hmac(key, join(labelled, Uint8Array.of(1)))).slice(0, length);
  };

  const seal = async (plaintext, siteKey, info) => {
    const x25519 = { name: "X25519" };
    const receiver = await crypto.subtle.importKey("raw", siteKey, x25519, false, []);
    const pair = await crypto.subtle.generateKey(x25519, false, ["deriveBits"]);
    const sent = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
    const shared = { name: "X25519", public: receiver };
    const secretBits = await crypto.subtle.deriveBits(shared, pair.privateKey, 256);
    const eae = await extract(KEM, EMPTY, "eae_prk", new Uint8Array(secretBits));
    const agreed = await expand(KEM, eae, "shared_secret", join(sent, siteKey), 32);
    const context = join(
      Uint8Array.of(0),
      await extract(HPKE, EMPTY, "psk_id_hash", EMPTY),
      await extract(HPKE, EMPTY, "info_hash", info),
    );
    const secret = await extract(HPKE, agreed, "secret", EMPTY);
    const raw = await expand(HPKE, secret, "key", context, 32);
    const nonce = await expand(HPKE, secret, "base_nonce", context, 12);
    const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt"]);
    const cipher = { name: "AES-GCM", iv: nonce };
    return join(sent, new Uint8Array(await crypto.subtle.encrypt(cipher, key, plaintext)));
  };

  const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
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
    const identifiers = JSON.stringify({
      format: "fiduciary.identifiers/1",
      subject_ids: asked.ids,
      details: form.elements.details.value,
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
    return told;
  };

  const show = (filed, identity) => {
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
})();
