# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets compile, take the captures, and stand a short run. The long one: scripts/nightly."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import corpus

ROOT = Path(__file__).parent.parent.parent
RUNS = 10_000  # with the corpus
TIMEOUT = 300  # seconds: others may go first
pytestmark = pytest.mark.timeout(2 * TIMEOUT)
# Edges that the corpus alone covers, and a little less: a flow, and its way back, are behind a signature.
REACHED = {"packets": 300, "stun": 260}


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the corpora; the targets are in build/fuzz."""
    subprocess.run([ROOT / "tests/fuzz/build"], check=True, timeout=TIMEOUT)
    folder = tmp_path_factory.mktemp("corpus")
    corpus.make(folder)
    return folder


@pytest.mark.parametrize("target", ["packets", "stun"])
def test_fuzz_target(targets: Path, tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        [
            ROOT / "build/fuzz" / target,
            f"-runs={RUNS}",
            "-seed=1",
            f"-dict={ROOT / 'tests/fuzz/stun.dict'}",
            f"-artifact_prefix={tmp_path}/",
            targets / target,
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    reached = [int(number) for number in re.findall(r"cov: (\d+)", done.stderr)]
    assert max(reached) > REACHED[target], done.stderr[-4000:]
