"""A real Prometheus on loopback that scrapes quickly and evaluates the chart's rules."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.cluster.support.processes import end, free_ports, spawn
from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[3]
RULES = REPOSITORY / "charts" / "zeus-operator" / "files" / "rules"
RUNBOOKS = "https://runbooks.example"

INTERVAL = "2s"
"""Of scrapes and rules.  A scrape may take as long, which it does on a busy machine."""
_OWN_INTERVAL = re.compile(r"^ +interval: .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """What is scraped: under which name, where, and with which labels."""

    job: str
    address: str
    labels: Mapping[str, str]


def rules_as_the_chart_has_them(folder: Path) -> list[Path]:
    """Return copies of the rule files with the runbooks' address in its place."""
    made = []
    for source in sorted(RULES.glob("*.yaml")):
        made.append(folder / source.name)
        made[-1].write_text(source.read_text().replace("RUNBOOK_BASE_URL", RUNBOOKS))
    return made


class Prometheus:
    """Started on entry, ended on exit.

    Args:
        program: the server.
        folder: takes its data, rules and log.
        targets: what it scrapes.
        interval: of scrapes, the longest that one may take, and of rules.
    """

    def __init__(
        self, program: Path, folder: Path, targets: Sequence[Target], interval: str = INTERVAL
    ) -> None:
        self._folder = folder
        (port,) = free_ports(1)
        self._address = f"127.0.0.1:{port}"
        rules = rules_as_the_chart_has_them(folder)
        for each in rules:  # nobody waits five minutes for a test
            each.write_text(_OWN_INTERVAL.sub("", each.read_text()))
        configuration = folder / "prometheus.yaml"
        configuration.write_text(yaml.safe_dump(_configuration(rules, targets, interval)))
        self._command = [
            str(program),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        log = self._folder / "prometheus.log"
        process = self._process = spawn(self._command, log)

        def is_ready() -> bool:
            assert process.poll() is None, f"Prometheus has ended:\n{log.read_text()}"
            try:
                # Answered once it is ready, and with 503 before.
                url = f"http://{self._address}/api/v1/query?query=1"
                with urllib.request.urlopen(url, timeout=10):
                    return True
            except OSError:
                return False

        eventually(is_ready, "Prometheus is ready")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            end(self._process, kill=True)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, those that are not a number left out.

        Raises:
            AssertionError: Prometheus refuses the expression; the text has its words.
        """
        data = self._get("query", query=expr)
        if data["resultType"] != "vector":
            return [{"metric": {}, "value": data["result"]}]
        return [each for each in data["result"] if each["value"][1] != "NaN"]

    def values(self, expr: str) -> list[float]:
        """Return the values of a query."""
        return [float(sample["value"][1]) for sample in self.query(expr)]

    def value(self, expr: str) -> float:
        """Return the value of a query that has exactly one sample."""
        (value,) = self.values(expr)
        return value

    def labels(self, expr: str, *names: str) -> set[tuple[str, ...]]:
        """Return what the samples of a query have as these labels."""
        found = (sample["metric"] for sample in self.query(expr))
        return {tuple(metric.get(name, "") for name in names) for metric in found}

    def over_time(self, expr: str, seconds: float, step_seconds: float) -> list[dict[str, Any]]:
        """Return the series of a range query that ends now."""
        now = self.value("time()")
        data = self._get("query_range", query=expr, start=now - seconds, end=now, step=step_seconds)
        result: list[dict[str, Any]] = data["result"]
        return result

    def label_values(self, metric: str, label: str) -> list[str]:
        """Return what Grafana fills a variable with."""
        found: list[str] = self._get(f"label/{label}/values", **{"match[]": metric})
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing, with their texts."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules, with the health of each."""
        groups = self._get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _get(self, what: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(
                f"http://{self._address}/api/v1/{what}?{query}", timeout=60
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            words = json.load(error).get("error", "")
            raise AssertionError(f"Prometheus refuses {parameters}: {words}") from None


def _configuration(
    rules: Sequence[Path], targets: Sequence[Target], interval: str
) -> dict[str, Any]:
    jobs = dict.fromkeys(target.job for target in targets)
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "honor_labels": True,
                "scrape_timeout": interval,
                "static_configs": [
                    {"targets": [target.address], "labels": dict(target.labels)}
                    for target in targets
                    if target.job == job
                ],
            }
            for job in jobs
        ],
    }
