"""Writes what is generated from the code: `python -m zeus_operator.api.docs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from zeus_operator.api import chart
from zeus_operator.api.admission import admission_policy
from zeus_operator.api.crd import custom_resource_definition
from zeus_operator.api.manifests import manifest_text
from zeus_operator.api.operator_reference import operator_reference
from zeus_operator.api.rbac import cluster_wide, namespaced
from zeus_operator.api.reference import reference

EXAMPLE_NAMESPACES = ("team-a", "team-b")
_SOURCE = "operator/zeus_operator/api"


def _crd() -> str:
    return manifest_text(
        [custom_resource_definition()],
        f"the models and rules in {_SOURCE}/{{types,status,rules}}.py",
    )


def _policy() -> str:
    return manifest_text(admission_policy(), f"{_SOURCE}/{{template_rules,admission}}.py")


def _rbac() -> str:
    return manifest_text(cluster_wide(), f"{_SOURCE}/rbac.py")


def _rbac_namespaced() -> str:
    return manifest_text(
        namespaced(EXAMPLE_NAMESPACES),
        f"{_SOURCE}/rbac.py",
        "For an operator that watches these namespaces only: "
        f"{', '.join(EXAMPLE_NAMESPACES)} stand for yours.",
    )


GENERATED: dict[str, Callable[[], str]] = {
    "docs/reference/operator.md": operator_reference,
    "docs/reference/zeusjob.md": reference,
    "crds/zeusjobs.yaml": _crd,
    "deploy/admission-policy.yaml": _policy,
    "deploy/rbac.yaml": _rbac,
    "deploy/namespaced/rbac.yaml": _rbac_namespaced,
}
"""Each generated file, by its path in the repository; the chart's templates are in `chart`."""


def main(arguments: list[str] | None = None) -> int:
    """Write the generated files (`--write`) or say which are not current (`--check`)."""
    parser = argparse.ArgumentParser(prog="python -m zeus_operator.api.docs", description=__doc__)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true", help="write the files")
    how.add_argument("--check", action="store_true", help="exit 1 if one is not current")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of the repository")
    options = parser.parse_args(arguments)
    stale = 0
    for name, text in {**GENERATED, **chart.TEMPLATES}.items():
        path: Path = options.root / name
        if options.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text():
            print(f"{name} is not what its source says: run `make docs`", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
