"""What our compose files may use of the compose specification, written down here as a JSON Schema.

It is our own text, made from the specification's chapters, and stricter than the specification's
own schema: what is not named here is refused, so that a misspelt key, or one whose meaning nobody
here has thought about, fails a test. The specification's schema (Apache-2.0) judges beside it, from
the package `check-jsonschema` or from the file that FIDUCIARY_COMPOSE_SCHEMA names; it is not ours,
and not in this repository.
"""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = {"type": "string", "minLength": 1}
_TEXTS: Final = {"type": "array", "items": _TEXT, "minItems": 1}
_NAME: Final = {"type": "string", "pattern": "^[a-z][a-z0-9_-]*$"}
_DURATION: Final = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$"}
_SIZE: Final = {"type": "string", "pattern": r"^[0-9]+[bkmg]$"}


def _object(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _named(value: Any) -> dict[str, Any]:
    return {"type": "object", "patternProperties": {_NAME["pattern"]: value}} | {
        "additionalProperties": False,
        "minProperties": 1,
    }


_HEALTHCHECK: Final = {
    "oneOf": [
        _object(("disable",), disable={"const": True}),
        _object(
            ("test", "interval", "timeout", "retries", "start_period", "start_interval"),
            test={
                "type": "array",
                "prefixItems": [{"const": "CMD"}],
                "items": _TEXT,
                "minItems": 2,
            },
            interval=_DURATION,
            timeout=_DURATION,
            retries={"type": "integer", "minimum": 1},
            start_period=_DURATION,
            start_interval=_DURATION,
        ),
    ]
}
_LIMITS: Final = _object(
    ("cpus", "memory", "pids"),
    cpus={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
    memory=_SIZE,
    pids={"type": "integer", "minimum": 1},
)
_SERVICE: Final = _object(
    (
        *("image", "init", "read_only", "user", "cap_drop", "security_opt", "tmpfs", "restart"),
        *("healthcheck", "deploy", "logging", "environment"),
    ),
    image={"type": "string", "pattern": r"^[a-z][a-z0-9./-]*:[a-z0-9][a-z0-9._-]*$"},
    build=_object(
        ("context", "dockerfile", "target"), context=_TEXT, dockerfile=_TEXT, target=_NAME
    ),
    init={"const": True},
    read_only={"const": True},
    user={"type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$"},
    cap_drop={"const": ["ALL"]},
    security_opt={"const": ["no-new-privileges:true"]},
    tmpfs={
        "type": "array",
        "items": {"type": "string", "pattern": r"^/[a-z/]+:[a-z0-9=,]+$"},
        "minItems": 1,
    },
    restart={"enum": ["no", "unless-stopped"]},
    stop_grace_period=_DURATION,
    stop_signal={"const": "SIGINT"},
    shm_size=_SIZE,
    logging=_object(
        ("driver", "options"),
        driver={"const": "json-file"},
        options=_object(("max-size", "max-file"), **{"max-size": _SIZE, "max-file": _TEXT}),
    ),
    command=_TEXTS,
    environment={
        "type": "object",
        "patternProperties": {"^[A-Z][A-Z_]*$": _TEXT},
        "additionalProperties": False,
    },
    secrets={"type": "array", "items": _NAME, "minItems": 1, "uniqueItems": True},
    configs={
        "type": "array",
        "items": _object(("source", "target"), source=_NAME, target=_TEXT),
        "minItems": 1,
    },
    volumes={
        "type": "array",
        "items": {"type": "string", "pattern": r"^[a-z][a-z-]*:/[a-z/]+(:ro)?$"},
        "minItems": 1,
    },
    ports={
        "type": "array",
        "items": {"type": "string", "pattern": r"^[0-9.]+:[0-9]+:[0-9]+$"},
        "minItems": 1,
    },
    networks={
        "oneOf": [
            {"type": "array", "items": _NAME, "minItems": 1, "uniqueItems": True},
            _named({"oneOf": [{"type": "null"}, _object(("aliases",), aliases=_TEXTS)]}),
        ]
    },
    network_mode={"const": "none"},
    profiles={"const": ["demo"]},
    healthcheck=_HEALTHCHECK,
    depends_on=_named(
        _object(
            ("condition",),
            condition={"enum": ["service_healthy", "service_completed_successfully"]},
            required={"type": "boolean"},
        )
    ),
    deploy=_object(("resources",), resources=_object(("limits",), limits=_LIMITS)),
)
_FILE: Final = _object(("file",), file=_TEXT)

SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        ("name", "services", "networks", "volumes", "secrets"),
        name=_NAME,
        services=_named(_SERVICE),
        networks=_named(
            {"oneOf": [{"type": "null"}, _object(("internal",), internal={"const": True})]}
        ),
        volumes=_named({"type": "null"}),
        configs=_named(_FILE),
        secrets=_named(_FILE),
    ),
}
SCHEMA["patternProperties"] = {"^x-": {}}
