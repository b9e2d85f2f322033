"""The compose files: as the specification wants them, and as hard as docs/deployment.md says."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deployment.compose import (
    FEDERATION,
    ROOT,
    SITE,
    SITE_SETTINGS,
    MissingSetting,
    dependencies,
    mounts,
    networks,
    read_compose,
)
from tests.deployment.compose_subset import SCHEMA

OURS = {"10001:10001"}
FILES = pytest.mark.parametrize("path", [FEDERATION, SITE], ids=["federation", "site"])


def read(path: Path) -> dict[str, Any]:
    return read_compose(path, SITE_SETTINGS)


@pytest.fixture(scope="module")
def federation() -> dict[str, Any]:
    return read(FEDERATION)


@pytest.fixture(scope="module")
def services(federation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = federation["services"]
    return found


def specification() -> Any:
    """A validator by the compose specification's own schema, from wherever this machine has it."""
    named = os.environ.get("FIDUCIARY_COMPOSE_SCHEMA")
    package = importlib.util.find_spec("check_jsonschema")
    if named:
        path = Path(named)
    elif package is not None and package.origin is not None:
        path = Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    else:
        pytest.skip(
            "the compose specification's schema is not here: pip install check-jsonschema, or set"
            " FIDUCIARY_COMPOSE_SCHEMA"
        )
    found = json.loads(path.read_text("utf-8"))
    # Older ones call themselves "https://json-schema.org/draft-07/schema", which is not its name.
    kind = jsonschema.validators.validator_for(found, default=jsonschema.Draft7Validator)
    kind.check_schema(found)
    return kind(found)


# --- schemas ----------------------------------------------------------------------------------


@FILES
def test_it_is_what_the_compose_specification_says(path: Path) -> None:
    specification().validate(read(path))


@FILES
def test_it_uses_only_what_we_know(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(read(path))


def _misspelt(document: dict[str, Any]) -> None:
    service = document["services"]["compliance"]
    service["read_onyl"] = service.pop("read_only")


def _no_such_condition(document: dict[str, Any]) -> None:
    document["services"]["compliance"]["depends_on"]["postgresql"]["condition"] = "service_started2"


def _port_of_a_list(document: dict[str, Any]) -> None:
    document["services"]["coordinator"]["ports"] = "9443:9443"


BROKEN = pytest.mark.parametrize("breaking", [_misspelt, _no_such_condition, _port_of_a_list])


@BROKEN
def test_our_schema_can_fail(
    federation: dict[str, Any], breaking: Callable[[dict[str, Any]], None]
) -> None:
    broken = copy.deepcopy(federation)
    breaking(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(broken)


@BROKEN
def test_the_specification_can_fail(
    federation: dict[str, Any], breaking: Callable[[dict[str, Any]], None]
) -> None:
    broken = copy.deepcopy(federation)
    breaking(broken)
    validator = specification()
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


@FILES
def test_what_is_named_is_declared_and_what_is_declared_is_used(path: Path) -> None:
    document = read(path)
    found = document["services"].values()
    used = {
        "networks": set().union(*map(networks, found)),
        "volumes": {mount.volume for service in found for mount in mounts(service)},
        "secrets": {name for service in found for name in service.get("secrets", ())},
        "configs": {each["source"] for service in found for each in service.get("configs", ())},
    }
    for kind, names in used.items():
        assert names == set(document.get(kind, ())), kind
    for service in found:
        assert set(dependencies(service)) <= set(document["services"])


@FILES
def test_the_files_that_it_hands_over_are_there(path: Path) -> None:
    document = read(path)
    for config in document.get("configs", {}).values():
        assert (path.parent / config["file"]).is_file()
    for service in document["services"].values():
        if "build" in service:
            context = (path.parent / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()


def test_a_site_elsewhere_needs_its_kit_and_the_fingerprint() -> None:
    for missing in SITE_SETTINGS:
        with pytest.raises(MissingSetting, match=missing):
            read_compose(SITE, {k: v for k, v in SITE_SETTINGS.items() if k != missing})


# --- hardening: what the schema of ours demands of each service is not repeated here -----------


@FILES
def test_a_service_either_runs_once_or_has_a_health_check(path: Path) -> None:
    document = read(path)
    waited_for = {
        name: rule["condition"]
        for service in document["services"].values()
        for name, rule in dependencies(service).items()
    }
    for name, service in document["services"].items():
        once = service["restart"] == "no"
        assert once == ("disable" in service["healthcheck"]), name
        if name in waited_for:
            wanted = "service_completed_successfully" if once else "service_healthy"
            assert waited_for[name] == wanted, name


@FILES
def test_two_processors_are_enough(path: Path) -> None:
    """An engine refuses a limit above what its machine has."""
    for name, service in read(path)["services"].items():
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) <= 2, name


@FILES
def test_our_images_run_as_their_own_user(path: Path) -> None:
    for name, service in read(path)["services"].items():
        if "build" in service:
            assert service["user"] in OURS, name


@FILES
def test_no_secret_is_in_an_environment_or_a_command(path: Path) -> None:
    for name, service in read(path)["services"].items():
        for variable in service["environment"]:
            secret = any(word in variable for word in ("PASSWORD", "TOKEN", "SECRET", "KEY"))
            assert not secret or variable.endswith("_FILE"), f"{name}: {variable}"
        for word in service.get("command", ()):
            address = word.partition("://")[2].partition("@")[0]
            assert ":" not in address, f"{name}: a password in {word}"
    assert "secrets/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_only_the_two_services_publish_a_port_and_only_here_unless_asked(
    services: dict[str, Any],
) -> None:
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert published == {
        "compliance": ["127.0.0.1:8443:8443"],
        "coordinator": ["127.0.0.1:9443:9443"],
    }
    everywhere = read_compose(FEDERATION, {"FIDUCIARY_PUBLISH": "0.0.0.0"})  # noqa: S104
    assert everywhere["services"]["compliance"]["ports"] == ["0.0.0.0:8443:8443"]


@pytest.mark.parametrize("site", ["north", "south"])
def test_a_site_reaches_the_two_services_and_nothing_else(
    federation: dict[str, Any], site: str
) -> None:
    found = federation["services"]
    for name in (site, f"{site}-join"):
        assert networks(found[name]) == {site}
    assert federation["networks"][site] == {"internal": True}
    on_its_network = {name for name, each in found.items() if site in networks(each)}
    assert on_its_network == {site, f"{site}-join", "compliance", "coordinator"}


def test_the_database_is_reached_by_the_compliance_service_alone(
    federation: dict[str, Any],
) -> None:
    found = federation["services"]
    assert federation["networks"]["database"] == {"internal": True}
    assert networks(found["postgresql"]) == {"database"}
    on_its_network = {name for name, each in found.items() if "database" in networks(each)}
    assert on_its_network == {"postgresql", "compliance", "compliance-init"}
    knowing = {name for name, each in found.items() if each.get("secrets")}
    assert knowing == on_its_network


def test_each_volume_is_written_by_its_owner_alone(services: dict[str, Any]) -> None:
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for name, service in services.items():
        for mount in mounts(service):
            (readers if mount.read_only else writers).setdefault(mount.volume, set()).add(name)
    sites = ("north", "south")
    assert writers == {
        "database": {"postgresql"},
        "compliance": {"compliance-init", "compliance"},
        "handover": {"compliance-handover"},
        "coordinator": {"coordinator-init", "coordinator", *(f"{site}-admit" for site in sites)},
        **{f"{site}-kit": {f"{site}-invite"} for site in sites},
        **{site: {site, f"{site}-join", f"{site}-demo"} for site in sites},
    }
    assert readers == {
        "compliance": {"compliance-handover"},
        "handover": {"coordinator-init"},
        "coordinator": {f"{site}-invite" for site in sites},
        **{f"{site}-kit": {f"{site}-join"} for site in sites},
    }


def test_what_hands_files_over_has_no_network(services: dict[str, Any]) -> None:
    for name in ("compliance-handover", "north-demo", "south-demo"):
        assert services[name]["network_mode"] == "none"
        assert not networks(services[name])


def test_every_service_of_ours_is_told_where_its_folder_is(services: dict[str, Any]) -> None:
    folders = {
        "fiduciary-compliance": ("FIDUCIARY_COMPLIANCE", "/data/compliance"),
        "fiduciary-coordinator": ("FIDUCIARY_FEDERATION", "/data/federation"),
        "fiduciary-site": ("FIDUCIARY_SITE", "/data/site"),
    }
    for name, service in services.items():
        image = service["image"].partition(":")[0]
        if image in folders:
            variable, folder = folders[image]
            assert service["environment"][variable] == folder, name
            assert service["environment"]["FIDUCIARY_LOG_FORMAT"] == "json", name


def test_the_two_files_start_a_site_alike() -> None:
    here, elsewhere = read(FEDERATION)["services"]["north"], read(SITE)["services"]["site"]
    for key in set(here) - {"build", "volumes", "networks", "depends_on"}:
        assert here[key] == elsewhere[key], key


def test_yaml_has_no_key_twice() -> None:
    class Strict(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), keys
        loader.flatten_mapping(node)
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for path in (FEDERATION, SITE):
        assert yaml.load(path.read_text("utf-8"), Strict)  # noqa: S506  a SafeLoader
