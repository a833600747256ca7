# SPDX-License-Identifier: Apache-2.0
"""The wheel: what it carries is enough to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv: str | Path, cwd: Path, status: int = 0) -> str:
    # Nothing of this checkout is to be found but what is installed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its programs, in an environment of its own, which has the dependencies of this one."""
    folder = tmp_path_factory.mktemp("venv")
    run("/usr/bin/python3", "-m", "venv", "--without-pip", "--system-site-packages", folder, cwd=folder)
    python = folder / "bin" / "python3"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    run(*pip, "--disable-pip-version-check", wheel, cwd=folder)
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # A folder that a .pth file names comes last, and its own .pth files, our editable one, do not count.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(
        python,
        "-P",
        "-c",
        "import control, transceiver; print(control.__path__[0], transceiver.__path__[0])",
        cwd=folder,
    )
    assert all(Path(path).parent == site for path in where.split())
    return folder / "bin"


def test_what_it_carries(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        programs = {name: packed.read(name) for name in names if name.endswith(".bpf.o")}
    assert set(programs) == {"control/relay.bpf.o", "control/clock.bpf.o"}
    assert all(str(ROOT).encode() not in program for program in programs.values())
    for name in ("transceiver/web/index.html", "supervision/notify.py", "earshot/relay/v1/relay_pb2_grpc.py"):
        assert name in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "control",
        "earshot",
        "fleet",
        "supervision",
        "telemetry",
        "transceiver",
    }


def test_its_programs_start(programs: Path, tmp_path: Path) -> None:
    version = run(programs / "earshot", "--version", cwd=tmp_path).split()[-1]
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    for name in ("earshotd", "earshot-transceiver"):
        assert version in run(programs / name, "--version", cwd=tmp_path)


@pytest.mark.root
def test_the_kernel_takes_its_program(programs: Path, tmp_path: Path) -> None:
    # Without a configuration, whatever this host has in /etc.
    told = run(programs / "python3", "-P", "-c", _CHECK, cwd=tmp_path)
    finding = json.loads(told)
    assert finding["status"] == "ok", finding


_CHECK = """
import json
from control.check import host
print(json.dumps(next(host.program())._asdict()))
"""
