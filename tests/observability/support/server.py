"""A real Prometheus on loopback that scrapes quickly and evaluates the chart's rules."""

from __future__ import annotations

import json
import re
import socket
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

from tests.support.eventually import eventually

REPOSITORY = Path(__file__).resolve().parents[3]
RULES = REPOSITORY / "charts" / "zeus-operator" / "files" / "rules"
RUNBOOKS = "https://runbooks.example"

SCRAPE_INTERVAL = RULE_INTERVAL = "1s"
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
    """

    def __init__(self, program: Path, folder: Path, targets: Sequence[Target]) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        rules = rules_as_the_chart_has_them(folder)
        for each in rules:  # nobody waits five minutes for a test
            each.write_text(_OWN_INTERVAL.sub("", each.read_text()))
        configuration = folder / "prometheus.yaml"
        configuration.write_text(yaml.safe_dump(_configuration(rules, targets)))
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
        with log.open("wb") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self._process = process

        def is_ready() -> bool:
            assert process.poll() is None, f"Prometheus has ended:\n{log.read_text()}"
            try:
                with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=10):
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
            self._process.kill()
            self._process.wait(60)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query, those that are not a number left out.

        Raises:
            AssertionError: Prometheus refuses the expression; the text has its words.
        """
        data = self._get("query", query=expr)
        if data["resultType"] != "vector":
            return [{"metric": {}, "value": data["result"]}]
        return [each for each in data["result"] if each["value"][1] != "NaN"]

    def value(self, expr: str) -> float:
        """Return the value of a query that has exactly one sample."""
        (sample,) = self.query(expr)
        return float(sample["value"][1])

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


def _configuration(rules: Sequence[Path], targets: Sequence[Target]) -> dict[str, Any]:
    jobs = dict.fromkeys(target.job for target in targets)
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": RULE_INTERVAL},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "honor_labels": True,
                "scrape_timeout": SCRAPE_INTERVAL,
                "static_configs": [
                    {"targets": [target.address], "labels": dict(target.labels)}
                    for target in targets
                    if target.job == job
                ],
            }
            for job in jobs
        ],
    }
