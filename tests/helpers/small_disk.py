"""A disk that is full, for real, wherever the tests run."""

import os
import shutil
import subprocess
from pathlib import Path

SIZE = 64  # MiB
# A disk in memory that nobody else sees and that ends with the command: for root, and for users who may have their own
# name spaces.
OWN = (["unshare", "-m"], ["unshare", "-rm"])


def on_small_disk(script: str, folder: Path, left: int) -> subprocess.CompletedProcess[str]:
    """Runs a bash script where $DISK has `left` bytes left; it has more once the script removes $DISK/ballast.

    Raises:
        RuntimeError: a disk can neither be mounted here nor is there a small one to fill.
    """
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SIZE}m none "$DISK"'
    fill = f'head -c $(($(df --output=avail -B1 "$DISK" | tail -1) - {left})) /dev/zero >"$DISK/ballast"'

    def bash(way: list[str], *lines: str, at: Path) -> subprocess.CompletedProcess[str]:
        command = [*way, "bash", "-euc", "\n".join(lines)]
        return subprocess.run(command, env=os.environ | {"DISK": str(at)}, capture_output=True, text=True)

    for way in OWN:
        if shutil.which("unshare") and bash(way, mount, at=disk).returncode == 0:
            return bash(way, mount, fill, script, at=disk)
    shared = Path("/dev/shm")  # where containers may not mount, it is small
    if shared.is_dir() and shutil.disk_usage(shared).total <= 2**30:
        made = Path(subprocess.check_output(["mktemp", "-d", "-p", str(shared)], text=True).strip())
        try:
            return bash([], fill, script, at=made)
        finally:
            shutil.rmtree(made)
    raise RuntimeError("there is no way to fill a disk here: allow user name spaces, or give /dev/shm at most 1 GiB")
