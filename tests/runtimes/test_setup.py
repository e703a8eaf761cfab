"""The installers, on a machine where everything is installed already."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "worker" / "setup"
SCRIPTS = ["install-apptainer.sh", "install-udocker.sh", "install-registry.sh", "node.sh"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_machine_is_left_alone_quickly(script: str) -> None:
    begin = time.monotonic()
    ended = subprocess.run([SETUP / script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert time.monotonic() - begin < 5  # well under 1 s on an idle machine


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_ordinary_user_is_told_what_is_missing(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    for name in ("sh", "dirname", "id"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    # The project may be where another user cannot go.
    shutil.copytree(SETUP, tmp_path / "setup")
    ended = subprocess.run(
        [tmp_path / "setup" / "install-apptainer.sh"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
        user=56999,
    )
    assert ended.returncode == 3
    assert "missing: apptainer squashfs-tools uidmap python3" in ended.stderr
