// Opens a copy of one's data that a site sealed to one's key, in the browser.
import { fromBase64, open, savedBy, utf8 } from "./hpke.js";

const problem = document.getElementById("copy-problem");
const tell = (text) => { problem.textContent = text; problem.hidden = false; problem.focus(); };

const fetched = async (site) => {
  const answer = await fetch("/v1/public/requests/package", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ receipt_code: document.getElementById("receipt_code").value, site }),
    credentials: "omit",
    referrerPolicy: "no-referrer",
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error([told.detail, told.fix].filter(Boolean).join("; "));
  return told;
};

const secretKey = () => {
  const text = document.getElementById("secret").value.trim();
  try {
    const raw = fromBase64(text);
    if (raw.length === 32) return raw;
  } catch { /* said below */ }
  throw new Error("This is not a key. It is the text that you saved when you made the request.");
};

for (const button of document.querySelectorAll("button[data-site]")) {
  button.addEventListener("click", async () => {
    const site = button.dataset.site;
    problem.hidden = true;
    button.disabled = true;
    try {
      const secret = secretKey();
      const told = await fetched(site);
      const info = `{"format":"fiduciary.sealed-package/1","request":"${told.request_id}","site":"${site}"}`;
      const copy = await open(fromBase64(told.sealed), secret, utf8(info));
      const link = document.getElementById(`copy-${site}`);
      savedBy(link, copy, `${site}-${told.request_id.slice(0, 8)}.json`, "application/json");
      link.hidden = false;
      link.focus();
    } catch (error) {
      const unopened = error.name === "OperationError" || error.name === "DataError";
      tell(unopened ? "It does not open with this key." : error.message);
    } finally {
      button.disabled = false;
    }
  });
}
