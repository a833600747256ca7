# SPDX-License-Identifier: Apache-2.0
"""Writes docs/metrics.md from the catalogues of both daemons.

python docs/generate_metrics.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, it sees docs/ alone

from control.abi import Reason  # noqa: E402  # after the path
from control.metrics import catalogue as relay  # noqa: E402
from control.metrics.reasons import BINDINGS, direction  # noqa: E402
from telemetry.declared import Declared, Kind  # noqa: E402
from transceiver import catalogue as transceiver  # noqa: E402

PAGE = ROOT / "docs" / "metrics.md"
_KINDS = {Kind.GAUGE_HISTOGRAM: "histogram of what is there now: no `rate()`"}
_HEAD = """# Metrics

Made of the code by `python docs/generate_metrics.py`; a test compares. Names and labels are API. No label has
values that somebody outside can make up, and none is there for each call: [`earshot`](cli.md) has those.

earshotd serves them at `metrics_listen` (`127.0.0.1:9464`), earshot-transceiver at `/metrics` of `--http`.
Both also have `process_*` of the Prometheus client: CPU, memory, descriptors, start. What the kernel counts
outlives the daemon; what a daemon counts begins with it.

[`earshot.rules.yml`](../deploy/prometheus/earshot.rules.yml) has alerts, each with a question of
[operations](operations.md); [`earshot.json`](../deploy/grafana/earshot.json) is a dashboard for Grafana. Both
want jobs of these names:

```yaml
scrape_configs:
  - job_name: earshotd
    static_configs: [{targets: ["127.0.0.1:9464"]}]
  - job_name: earshot-transceiver
    static_configs: [{targets: ["127.0.0.1:8080"]}]
rule_files: [earshot.rules.yml]
```
"""


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            _HEAD,
            *_table("earshotd", relay.ALL),
            *_table("earshot-transceiver", transceiver.ALL),
            "With `--workers` every metric of a worker also has the label `worker`.",
            "",
            *_bindings(),
            *_directions(),
        ]
    )


def _table(title: str, metrics: Iterable[Declared]) -> Iterator[str]:
    yield from (f"## {title}", "", "| metric | kind | labels | |", "|---|---|---|---|")
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.shown}` | {_KINDS.get(metric.kind, metric.kind)} | {labels} | {metric.text} |"
    yield ""


def _bindings() -> Iterator[str]:
    yield from ("## Results of bindings", "")
    yield f"`{relay.BINDINGS.shown}` adds up reasons that no other packet can have:"
    yield from ("", "| result | reasons |", "|---|---|")
    for result, reasons in BINDINGS.items():
        yield f"| `{result}` | {_words(reasons)} |"
    yield ""


def _directions() -> Iterator[str]:
    yield from ("## Reasons by direction", "")
    yield (
        "The program counts by reason alone, and most reasons can only be had by packets of one side; "
        "`either` is what is found before the side is known, or on both ways. What each means, and its cure: "
        "[`bpf/README.md`](../bpf/README.md#reasons)."
    )
    yield from ("", "| direction | reasons |", "|---|---|")
    for way in dict.fromkeys(direction(reason) for reason in Reason):
        yield f"| `{way}` | {_words(reason for reason in Reason if direction(reason) == way)} |"
    yield ""


def _words(reasons: Iterable[Reason]) -> str:
    return ", ".join(f"`{reason.name.lower()}`" for reason in reasons)


if __name__ == "__main__":
    PAGE.write_text(page())
