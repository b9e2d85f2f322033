"""Where a plan's base model is on this machine. A plan names a model, never a place.

* `embedded:…` comes with an installed package, `tabular:…` with this one.
* Any other name is looked up in the site's own `models/` folder, then in the local hub cache.
* A name that reads as a path is refused: the coordinator has no say in which files are opened.
* Nothing is downloaded, and the digest decides: a name alone is never enough.
"""

from __future__ import annotations

import re
from pathlib import Path

from audit.errors import MalformedInput, NotFound, Refused
from client.learning.base_model import (
    TABULAR_MODELS,
    base_model_digest,
    resolve_base_model,
)
from client.learning.plan_model import quiet_transformers
from client.policy import EMBEDDED_PREFIX

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


def find_base_model(name: str, models: Path) -> Path:
    """The folder of a base model.

    Args:
        name: As the plan names it.
        models: The site's own folder of models.

    Raises:
        Refused: When the name is a path.
        NotFound: When the model is not on this machine.
    """
    if name.startswith(EMBEDDED_PREFIX) or name in TABULAR_MODELS:
        return resolve_base_model(name)
    if not _HUB_NAME.fullmatch(name) or ".." in name:
        raise Refused(
            f"the base model's name {name!r} is not a model's name",
            fix="ask for a plan that names an embedded model or a hub id",
        )
    folder = models / name.replace("/", "--")
    if folder.is_dir():
        return folder
    if Path(name).exists():
        # `resolve_base_model` would take a folder of this name in the working directory.
        raise NotFound(
            f"base model {name} is not installed here",
            fix=f"put its folder under {models} as {folder.name}",
        )
    return resolve_base_model(name)


def installed_digest(name: str, models: Path) -> str:
    """Digest of a base model as it is installed here.

    Raises:
        Refused: When the name is a path, or the folder holds pickled weights.
        NotFound: When the model is not on this machine.
    """
    return base_model_digest(find_base_model(name, models))


def load_base_model(folder: Path) -> str:
    """Load a base model as training would, and return its digest.

    Raises:
        MalformedInput: When it does not load.
        Refused: When the folder holds pickled weights.
        NotFound: When the folder holds no model.
    """
    found = base_model_digest(folder)
    import transformers  # slow to import, and needed here only

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **options)
            transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MalformedInput(
            f"the base model in {folder.name} does not load: {type(error).__name__}",
            fix="install it again",
        ) from error
    return found
