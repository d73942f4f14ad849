"""The pages: the reference is current, each runbook is whole, the scrape configuration works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.observability.support.programs import Programs
from tests.observability.support.server import REPOSITORY
from tests.observability.support.shipped import (
    FROM_PROMETHEUS,
    METRICS_PAGE,
    RUNBOOKS,
    alerts,
    metrics_in,
    recorded,
)
from tools.metrics_reference import exported_names
from tools.metrics_reference import main as write_or_check
from zeus_agent.throttling import REASONS as THROTTLING_REASONS
from zeus_operator.metrics import REASONS as RECONCILE_REASONS

HOW_TO = REPOSITORY / "docs" / "how-to" / "watch-in-prometheus.md"
PARTS = ("## Meaning", "## Impact", "## Diagnosis", "## Mitigation")
PAGES = [path for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "README"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_reference_of_metrics_is_what_the_exporters_show() -> None:
    assert write_or_check(["--check"]) == 0


def test_the_reference_lists_every_metric_that_is_exported() -> None:
    listed = set(re.findall(r"^\| `(zeus_\w+)` \|", METRICS_PAGE.read_text(), re.MULTILINE))
    parts = {name for name in exported_names() if re.search("_(bucket|count|sum)$", name)}
    assert listed == exported_names() - parts


def test_a_metric_is_listed_with_its_type_its_labels_and_their_values() -> None:
    text = METRICS_PAGE.read_text()
    assert (
        "| `zeus_operator_attempts_total` | counter | `namespace`, `zeusjob`, `outcome` |" in text
    )
    assert "| `zeus_operator_reconcile_seconds` | histogram |  |" in text
    assert "process_cpu" not in text
    (reasons,) = [line for line in text.splitlines() if line.startswith("| `reason` |")]
    for reason in (*RECONCILE_REASONS, *THROTTLING_REASONS):
        assert f"`{reason}`" in reasons


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_means_what_suffers_how_to_find_out_and_what_to_do(
    page: Path,
) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    places = [text.index(part) for part in PARTS]
    assert places == sorted(places)
    diagnosis = text[places[2] : places[3]]
    assert "```" in diagnosis, "it has commands"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_names_only_metrics_that_exist(page: Path) -> None:
    parts = {"zeus_agent_run_"}
    named = set(re.findall(r"\bzeus_(?:agent|operator|job)_\w+", page.read_text()))
    assert named <= exported_names() | parts


@pytest.mark.parametrize("page", [*PAGES, RUNBOOKS / "README.md", HOW_TO], ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_list_of_runbooks_is_whole_and_says_how_bad_each_is() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|",
        (RUNBOOKS / "README.md").read_text(),
        re.MULTILINE,
    )
    assert all(name == page for name, page, _ in rows)
    assert {name: severity for name, _, severity in rows} == {
        rule.name: rule.document["labels"]["severity"] for rule in alerts()
    }


def test_promtool_takes_the_scrape_configuration_of_the_how_to(
    programs: Programs, tmp_path: Path
) -> None:
    (configuration,) = [text for text in blocks(HOW_TO, "yaml") if "scrape_configs" in text]
    # Debian builds Prometheus without its discovery of Kubernetes; the rest is checked.
    found, replaced = re.subn(
        r"kubernetes_sd_configs: .*",
        "static_configs: [{targets: ['localhost:8080']}]",
        configuration,
    )
    assert replaced == 2
    path = tmp_path / "prometheus.yaml"
    path.write_text(found)
    done = subprocess.run(
        [str(programs.promtool), "check", "config", "--syntax-only", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert configuration.count("honor_labels: true") == 2
    assert "target_label: node" in configuration


def test_queries_in_the_how_to_ask_for_what_is_exported_or_recorded() -> None:
    queries = blocks(HOW_TO, "promql")
    assert queries
    for query in queries:
        code = "\n".join(line for line in query.splitlines() if not line.startswith("#"))
        assert metrics_in(code) <= exported_names() | recorded() | FROM_PROMETHEUS, query
