# SPDX-License-Identifier: Apache-2.0
"""The image's recipe, where no engine is at hand: what goes wrong most often, and what others rely on.

tests/deploy/test_image.py builds it and runs its relay, of nights.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RECIPE = (DEPLOY / "container" / "Containerfile").read_text()


def steps(recipe: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, in order; lines that go on are joined."""
    lines = [line for line in recipe.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def faults(recipe: str) -> list[str]:
    """What a reviewer would object to."""
    found = []
    words = [word for word, _ in steps(recipe)]
    if not set(words) <= {"ARG", "FROM", "RUN", "USER", "STOPSIGNAL", "CMD"}:
        found.append("an instruction that nothing here is checked for")
    users = [rest for word, rest in steps(recipe) if word == "USER"]
    if not users or users[-1].partition(":")[0] in {"", "0", "root"}:
        found.append("it runs as root")
    bases = [rest for word, rest in steps(recipe) if word in {"ARG", "FROM"}]
    if any(re.search(r":latest\b", base) or re.fullmatch(r"BASE=[^:]+", base) for base in bases):
        found.append("a base without a version")
    for rest in (rest for word, rest in steps(recipe) if word == "RUN"):
        if "apt-get install" in rest:
            if not re.search(r"apt-get update +&&", rest):
                found.append("a list of packages of another day")
            if "--no-install-recommends" not in rest or "--yes" not in rest:
                found.append("more packages than are needed, or a question that nobody answers")
            if "rm -rf /var/lib/apt/lists/*" not in rest:
                found.append("lists of packages in a layer")
        if "curl" in rest or "wget" in rest or re.search(r"\bsudo\b", rest) or "chmod 777" in rest:
            found.append("something from elsewhere, or open to all")
    if not re.search(r'^CMD \["/', recipe, re.MULTILINE):
        found.append("a shell in front of the process, which gets its signals")
    return found


def test_no_fault() -> None:
    assert faults(RECIPE) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("USER 64100:64100", "USER root"),
        ("USER 64100:64100", ""),
        (":bookworm-slim", ""),
        ("--no-install-recommends", ""),
        ("rm -rf /var/lib/apt/lists/*", "true"),
        ("apt-get update", "true"),
        ('CMD ["/usr/bin/earshotd-with-capabilities"]', "CMD earshotd"),
        ("ARG BASE", "ADD https://host.example/x /x\nARG BASE"),
    ],
)
def test_each_fault_would_be_found(right: str, wrong: str) -> None:
    assert right in RECIPE
    assert faults(RECIPE.replace(right, wrong))


def test_manifests_and_image_agree() -> None:
    made = dict(re.findall(r"useradd .*--uid (\d+) .* (\S+?)$", RECIPE.replace(" \\", ""), re.MULTILINE))
    assert sorted(made.values()) == ["earshot", "earshot-transceiver"]
    users = {}
    for name in ("relay", "transceiver"):
        workload = next(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))
        pod = workload["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        context = {**pod["securityContext"], **container["securityContext"]}
        users[name] = made[str(context["runAsUser"])]
        assert container["command"][0] in RECIPE or name == "transceiver"
    assert users == {"relay": "earshot", "transceiver": "earshot-transceiver"}
