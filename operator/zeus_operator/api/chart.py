"""The chart's templates that are made from the code: CRD, admission policy, rights.  Pure.

The manifests are those of `crds/` and `deploy/`, with what a release decides put in as template
text: its namespace, its labels, the namespaces it watches, and which of them it wants at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from zeus_operator.api.admission import admission_policy
from zeus_operator.api.crd import custom_resource_definition
from zeus_operator.api.manifests import document_text
from zeus_operator.api.rbac import SERVICE_ACCOUNT, cluster_wide, namespaced, user_roles
from zeus_operator.workloads.base import WorkloadKind
from zeus_operator.workloads.registry import KINDS

Manifest = dict[str, Any]

_SOURCE = "operator/zeus_operator/api"
_RELEASE = "RELEASE-NAMESPACE"
_WATCHED = "WATCHED-NAMESPACE"
_INCLUDE = "INCLUDE-"
_KIND, _END_OF_KIND = "KIND-", "END-OF-KIND"
_AGENTS = f"{SERVICE_ACCOUNT}-agents"


def crd_template() -> str:
    """Return the template of the CRD; it outlives the release unless `crds.keep` is off."""
    crd = _with_labels(custom_resource_definition())
    crd["metadata"]["annotations"] = {f"{_INCLUDE}crd-annotations": ""}
    return _file("{types,status,rules}.py", "$.Values.crds.enabled", [_text(crd)])


def admission_template() -> str:
    """Return the template of the admission policy and its binding."""
    texts = [_text(_with_labels(each)) for each in admission_policy()]
    return _file("{template_rules,admission}.py", "$.Values.admissionPolicy.enabled", texts)


def rbac_template() -> str:
    """Return the template of the operator's rights: to the cluster, or to some namespaces."""
    kinds = tuple(KINDS.values())
    everywhere = _texts_of_roles(cluster_wide(_RELEASE, kinds, _marked))
    somewhere = _texts_of_roles(namespaced([_WATCHED], _RELEASE, kinds, _marked))
    return _file(
        "rbac.py",
        "$.Values.rbac.create",
        [
            "{{- if $.Values.watchNamespaces }}\n",
            *_separated(somewhere),
            "{{- else }}\n",
            *_separated(everywhere),
            "{{- end }}\n",
        ],
        separate=False,
    )


def user_roles_template() -> str:
    """Return the template of the roles for the people who use ZeusJobs."""
    texts = [_text(_with_labels(each)) for each in user_roles()]
    return _file("rbac.py", "$.Values.rbac.aggregateToDefaultRoles", texts)


TEMPLATES: dict[str, Callable[[], str]] = {
    "charts/zeus-operator/templates/crds/zeusjobs.yaml": crd_template,
    "charts/zeus-operator/templates/admission-policy.yaml": admission_template,
    "charts/zeus-operator/templates/rbac/operator.yaml": rbac_template,
    "charts/zeus-operator/templates/rbac/users.yaml": user_roles_template,
}
"""Each generated template, by its path in the repository."""


def _marked(kind: WorkloadKind, rules: list[Manifest]) -> list[Any]:
    """Return the rules of a kind between marks: they are for releases that allow it."""
    return [f"{_KIND}{kind.kind}", *rules, _END_OF_KIND]


def _texts_of_roles(manifests: Sequence[Manifest]) -> list[str]:
    """Return roles and bindings; the account and its namespace are made elsewhere."""
    people = {each["metadata"]["name"] for each in user_roles()}
    return [
        _in_its_place(each)
        for each in manifests
        if each["kind"] not in ("Namespace", "ServiceAccount")
        and each["metadata"]["name"] not in people
    ]


def _in_its_place(manifest: Manifest) -> str:
    """Return a role's text: once for each watched namespace, or only where there are agents."""
    text = _text(_with_labels(manifest))
    if manifest["metadata"].get("namespace") == _WATCHED:
        return f"{{{{- range $.Values.watchNamespaces }}}}\n---\n{text}{{{{- end }}}}\n"
    if manifest["metadata"]["name"] == _AGENTS:
        return f"{{{{- if $.Values.agent.enabled }}}}\n---\n{text}{{{{- end }}}}\n"
    return text


def _with_labels(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    labels = {**metadata.get("labels", {}), f"{_INCLUDE}labels": ""}
    return {**manifest, "metadata": {**metadata, "labels": labels}}


def _separated(texts: Sequence[str]) -> list[str]:
    return [text if text.startswith("{{-") else f"---\n{text}" for text in texts]


def _file(source: str, switch: str, texts: Sequence[str], *, separate: bool = True) -> str:
    """Return a whole template: what it is made from, when it applies, its documents."""
    head = f"{{{{- /* Generated from {_SOURCE}/{source} by `make docs`: change it there. */}}}}\n"
    body = "".join(_separated(texts) if separate else texts)
    return f"{head}{{{{- if {switch} }}}}\n{body}{{{{- end }}}}\n"


def _text(manifest: Manifest) -> str:
    """Return a manifest as template text."""
    # What looks like a template in a description is text.
    text = document_text(manifest).replace("{{", '{{ "{{" }}')
    text = re.sub(rf"^( *){_INCLUDE}([\w-]+): ''$", _include, text, flags=re.MULTILINE)
    text = re.sub(
        rf"^( *)- {_WATCHED}$",
        r"\1{{- range $.Values.watchNamespaces }}"
        "\n"
        r"\1- {{ . | quote }}"
        "\n"
        r"\1{{- end }}",
        text,
        flags=re.MULTILINE,
    )
    # An upgrade that keeps the values of a chart without this one has none.
    allowed = r'\1{{- if has "\2" ($.Values.operator.workloads | default (list "Job")) }}'
    text = re.sub(rf"^( *)- {_KIND}(\w+)$", allowed, text, flags=re.MULTILINE)
    text = re.sub(rf"^( *)- {_END_OF_KIND}$", r"\1{{- end }}", text, flags=re.MULTILINE)
    text = text.replace(f": {_WATCHED}", ": {{ . | quote }}")
    text = text.replace(f": {_RELEASE}", ": {{ $.Release.Namespace | quote }}")
    return text.replace(f":{_RELEASE}:", ":{{ $.Release.Namespace }}:")  # an account's name


def _include(found: re.Match[str]) -> str:
    indent, name = found.group(1), found.group(2)
    return f'{indent}{{{{- include "zeus-operator.{name}" $ | nindent {len(indent)} }}}}'
