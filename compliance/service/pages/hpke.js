// HPKE (RFC 9180), base mode, in the browser: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001,
// AES-256-GCM 0x0002. It does what compliance/subject_sealing.py does in Python.

const KEM = Uint8Array.of(0x4b, 0x45, 0x4d, 0x00, 0x20);
const HPKE = Uint8Array.of(0x48, 0x50, 0x4b, 0x45, 0x00, 0x20, 0x00, 0x01, 0x00, 0x02);
const EMPTY = new Uint8Array(0);
const X25519 = { name: "X25519" };
const KEY_BYTES = 32;
// RFC 8410: what stands before the 32 bytes of an X25519 private key in PKCS #8.
const PKCS8 = Uint8Array.of(48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32);

export const utf8 = (text) => new TextEncoder().encode(text);
export const toBase64 = (bytes) =>
  btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const fromBase64Url = (text) => fromBase64(text.replaceAll("-", "+").replaceAll("_", "/"));

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

// The key and nonce that both sides agree on: RFC 9180, sections 4.1 and 5.1.
const agree = async (mine, theirs, sent, receiver, info, use) => {
  const shared = { name: "X25519", public: theirs };
  const bits = new Uint8Array(await crypto.subtle.deriveBits(shared, mine, 256));
  const eae = await extract(KEM, EMPTY, "eae_prk", bits);
  const agreed = await expand(KEM, eae, "shared_secret", join(sent, receiver), 32);
  const context = join(
    Uint8Array.of(0),
    await extract(HPKE, EMPTY, "psk_id_hash", EMPTY),
    await extract(HPKE, EMPTY, "info_hash", info),
  );
  const secret = await extract(HPKE, agreed, "secret", EMPTY);
  const raw = await expand(HPKE, secret, "key", context, 32);
  const nonce = await expand(HPKE, secret, "base_nonce", context, 12);
  return [
    { name: "AES-GCM", iv: nonce },
    await crypto.subtle.importKey("raw", raw, "AES-GCM", false, [use]),
  ];
};
const publicKey = (raw) => crypto.subtle.importKey("raw", raw, X25519, true, []);
const privateKey = (raw) =>
  crypto.subtle.importKey("pkcs8", join(PKCS8, raw), X25519, true, ["deriveBits"]);

// Seals bytes to a raw public key.
export const seal = async (plaintext, receiver, info) => {
  const pair = await crypto.subtle.generateKey(X25519, false, ["deriveBits"]);
  const sent = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const theirs = await publicKey(receiver);
  const [cipher, key] = await agree(pair.privateKey, theirs, sent, receiver, info, "encrypt");
  return join(sent, new Uint8Array(await crypto.subtle.encrypt(cipher, key, plaintext)));
};

// Opens what was sealed to the public key of a raw private key; throws when it does not open.
export const open = async (sealed, raw, info) => {
  const mine = await privateKey(raw);
  const receiver = fromBase64Url((await crypto.subtle.exportKey("jwk", mine)).x);
  const sent = sealed.slice(0, KEY_BYTES);
  const theirs = await publicKey(sent);
  const [cipher, key] = await agree(mine, theirs, sent, receiver, info, "decrypt");
  const opened = await crypto.subtle.decrypt(cipher, key, sealed.slice(KEY_BYTES));
  return new Uint8Array(opened);
};

// A new pair of raw keys.
export const makeKeys = async () => {
  const pair = await crypto.subtle.generateKey(X25519, true, ["deriveBits"]);
  const jwk = await crypto.subtle.exportKey("jwk", pair.privateKey);
  return { secret: fromBase64Url(jwk.d), shared: fromBase64Url(jwk.x) };
};

// Lets a link save bytes as a file. They do not leave this device.
export const savedBy = (link, bytes, name, type) => {
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
};
