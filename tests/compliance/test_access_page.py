"""docs/access.md: its settings are read by a real service, and its commands are executed."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from audit.errors import ExitCode
from compliance import cli
from compliance.service import throttle
from compliance.service.folder import NewService, create_folder
from compliance.service.settings import read_settings
from tests.compliance.logging_in import ROOT, PresentClock, started
from tests.compliance.provider import SECRET
from tests.compliance.running import running

PAGE = (ROOT / "docs" / "access.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clock = tmp_path / "compliance", PresentClock()
    create_folder(folder, NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log"), clock)
    (folder / "keys" / "oidc-secret").write_text(SECRET)
    (folder / "keys" / "oidc-secret").chmod(0o600)
    (settings,) = blocks("toml")
    said: dict[str, str] = {}
    (tmp_path / "provider").mkdir()
    with started(tmp_path / "provider") as provider:
        provider.person("ada", "internal-audit")
        ours = f'ca_file = "{provider.folder / "certificate.pem"}"\n[[oidc.roles]]'
        settings = settings.replace(
            "https://login.hospital.example", f"https://127.0.0.1:{provider.port}"
        ).replace("[[oidc.roles]]", ours, 1)
        with (folder / "compliance.toml").open("a") as file:
            file.write(settings)
        with running(folder, clock) as service:
            service.trust.save(tmp_path / "trust.json")
            second = service.as_("officer").add_principal("second", ["officer"])
            (tmp_path / "second.token").write_text(second.token)
            monkeypatch.delenv("FIDUCIARY_TOKEN_FILE", raising=False)
            for name, value in {
                "BROWSER": f"{provider.browser(tmp_path)} %s",
                "FIDUCIARY_COMPLIANCE": str(folder),
                "FIDUCIARY_TRUST": str(tmp_path / "trust.json"),
                "XDG_STATE_HOME": str(tmp_path / "state"),
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.chdir(tmp_path)
            for block in blocks("console"):
                for line in block.splitlines():
                    monkeypatch.setattr(sys, "argv", shlex.split(line.removeprefix("$ ")))
                    with pytest.raises(SystemExit) as ended:
                        cli.main()
                    captured = capsys.readouterr()
                    assert ended.value.code in (0, None), f"{line}: {captured.err}"
                    said[line] = captured.out
            assert (tmp_path / "night-export.token").exists()
            people = {view.name: view for view in service.client(second.token).principals()}
    assert '"name": "ada"' in said["$ compliance whoami --json"]
    assert people["dr-north"].sites == {"officer": ("north",)}
    assert people["dr-south"].confirmed
    assert not people["dr-north"].confirmed
    assert people["night-export"].revoked_at is not None


def test_the_settings_of_the_page_can_be_read(tmp_path: Path) -> None:
    (block,) = blocks("toml")
    minimal = (
        'format = "fiduciary.compliance/1"\nhost = "127.0.0.1"\nport = 1\norigin = "x"\n'
        "require_site_certificates = false\n"
    )
    (tmp_path / "compliance.toml").write_text(minimal + block)
    oidc = read_settings(tmp_path / "compliance.toml").oidc
    assert oidc is not None
    assert tomllib.loads(block)["oidc"]["session_minutes"] == oidc.session_minutes
    assert [(entry.group, entry.role, entry.sites) for entry in oidc.roles] == [
        ("privacy-office", "officer", ()),
        ("privacy-north", "officer", ("north",)),
        ("internal-audit", "auditor", ()),
    ]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("https://login", "http://login", "issuer"),
        ('"openid", "profile"', '"profile"', "openid"),
        ("session_minutes = 60", "session_minutes = 100000", "session_minutes"),
        ('role = "auditor"', 'role = "site"', "role"),
        ('role = "auditor"', 'role = "consumer"\nsites = ["north"]', "cannot be limited"),
        ("groups_claim", "group_claim", "group_claim"),
    ],
)
def test_settings_that_would_let_the_wrong_people_in_are_refused(
    tmp_path: Path,
    before: str,
    after: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = blocks("toml")
    folder = tmp_path / "compliance"
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "fiduciary.test/log")
    create_folder(folder, new, PresentClock())
    assert before in block
    with (folder / "compliance.toml").open("a") as file:
        file.write(block.replace(before, after))
    monkeypatch.setattr(sys, "argv", ["compliance", "start", str(folder)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == ExitCode.MALFORMED_INPUT
    assert reason in capsys.readouterr().err


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    told = [int(row.replace(" ", "")) for row in re.findall(r"\| ([\d ]+) \| 429", PAGE)]
    assert told == [
        throttle.MAX_FAILURES,
        throttle.MAX_KNOCKS,
        throttle.MAX_VISITS,
        throttle.MAX_CALLS,
        throttle.MAX_REFUSALS,
    ]
