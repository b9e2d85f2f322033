"""What the names of a plan's labels tell before any private record is read: free of privacy cost.

The labels are in the plan, which everyone may read. Their texts, put into a few neutral sentences
and encoded by the frozen base model, give

* the *centre* of the features that the task will have. Training on centred features of norm about 1
  spends no clipping norm on what all records share;
* a *transform* that shortens what many labels share, such as their topic, and leaves the rest: a
  gradient then has more of what tells labels apart, for the same clipping norm;
* a first head: logit `k` is the cosine between a record and label `k`. Where names mean something
  it is already far better than chance (0.61 on banking77's 77 labels); where they mean nothing it
  is a small random head that training overrules.

Nothing here depends on data, sites or randomness, so every party computes the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPLATES = (
    "{}",
    "I have a question about {}.",
    "What should I do about {}?",
    "This message is about {}.",
    "How do I deal with {}?",
    "Why is there a problem with {}?",
    "Can you help me with {}?",
    "Please tell me more about {}.",
    "My {} does not work as expected.",
    "Is it possible to get {}?",
    "I would like to know about {}.",
    "When will I have {}?",
)
"""Neutral sentences, so that the centre is that of sentences and not of bare names. With four of
them the centre is a third further from that of banking77's messages; 24 gained nothing more."""

INITIAL_LOGIT = 5.0
"""Logit of a record that points exactly at its label's name. 3 to 8 did equally well."""

SHARED_BY_LABELS = 4
"""A direction that tells one label has about `1 / labels` of the features' variance. One with this
many times as much is shortened by `sqrt(2)` beside one with none. On banking77 2 to 10 did equally
well; where labels are few hardly anything is to be shortened, for they share nothing."""


@dataclass(frozen=True)
class PublicPrior:
    """Centre `(hidden,)` and symmetric transform `(hidden, hidden)` of features, and a first head.

    Training sees `(x - centre) @ transform`. The head's weight `(labels, hidden)` and bias
    `(labels,)` are for plain features `x`.
    """

    centre: Tensor
    transform: Tensor
    head_weight: Tensor
    head_bias: Tensor


def label_sentences(labels: Sequence[str]) -> list[str]:
    """Each template filled with each label, template by template.

    >>> label_sentences(["card_arrival"])[1]
    'I have a question about card arrival.'
    """
    spoken = [_spoken(label) for label in labels]
    return [template.format(label) for template in TEMPLATES for label in spoken]


def prior_from_features(features: Tensor, label_count: int) -> PublicPrior:
    """Build the prior from the pooled features of `label_sentences`.

    Args:
        features: `(templates * labels, hidden)`, in the order of `label_sentences`.
        label_count: Number of labels.
    """
    centre = features.mean(0)
    centred = features - centre
    spread = float(centred.norm(dim=1).mean())
    if not spread:  # all names sound the same
        nothing = features.new_zeros(label_count, features.shape[1])
        return PublicPrior(centre, torch.eye(len(centre)), nothing, nothing[:, 0])
    directions = centred.reshape(-1, label_count, features.shape[1]).mean(0)
    weight = INITIAL_LOGIT * torch.nn.functional.normalize(directions, dim=1) / spread
    transform = _transform(centred / spread, label_count) / spread
    return PublicPrior(centre, transform, weight, -weight @ centre)


def _transform(features: Tensor, label_count: int) -> Tensor:
    """`(covariance + lambda)^(-1/2)`, scaled so that features keep a mean norm of 1."""
    covariance = (features.T @ features / len(features)).double()
    values, vectors = torch.linalg.eigh(covariance)
    shortened = (values.clamp(min=0) + SHARED_BY_LABELS / label_count).rsqrt()
    transform: Tensor = ((vectors * shortened) @ vectors.T).to(features.dtype)
    return transform / float((features @ transform).norm(dim=1).mean())


def _spoken(label: str) -> str:
    """A label as people would say it: separators and camel case become spaces.

    >>> _spoken("lostOrStolen_card-2")
    'lost Or Stolen card 2'
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-./]+", " ", label)
    return " ".join(words.split()) or label
