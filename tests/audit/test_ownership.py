"""Where the operating system says no, the message names whose the folder is and who asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit.ownership import denied


def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    root = Path("/proc/1")  # belongs to root on every Linux, and can be looked at by anybody
    if os.geteuid() == 0:
        root = tmp_path / "theirs"
        root.mkdir()
        os.chown(root, 10001, 10001)
    owner = root.stat().st_uid
    told = denied(PermissionError(13, "Permission denied", str(root / "data" / "compliance")))
    assert f"{root} belongs to user {owner}" in str(told)
    assert f"this process is user {os.geteuid()}" in str(told)
    assert told.fix.startswith(f"as root: chown -R {os.geteuid()}:{os.getegid()} {root}")


def test_a_folder_of_ones_own_needs_another_mode(tmp_path: Path) -> None:
    told = denied(PermissionError(13, "Permission denied", str(tmp_path / "a" / "b")))
    assert str(told) == f"{tmp_path}/a/b: Permission denied"
    assert told.fix == f"let its owner read and write: chmod u+rwX {tmp_path}, then try again"


@pytest.mark.parametrize("error", [PermissionError("not permitted"), PermissionError(1, "no")])
def test_a_refusal_without_a_path_is_told_too(error: PermissionError) -> None:
    assert denied(error).fix
    assert str(denied(error)) in ("not permitted", "no")
