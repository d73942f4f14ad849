"""ZeusJobs near the edge of what is allowed: each is taken, by zeusctl and by the API server."""

from __future__ import annotations

from tests.support.manifests import changed, with_container, with_job, with_spec

ALLOWED = {
    "bounds that meet": with_spec("power: {minPercent: 80, maxPercent: 80}"),
    "the smallest learning rate": changed('"0.05"', '"1e-99"'),
    "the longest name": changed("name: digits", f"name: {'d' * 40}"),
    "a target below zero": changed('"0.97"', '"-1.5e+3"'),
    "one choice": changed("[1024, 512, 256, 128, 64, 32, 16, 8]", "[256]"),
    "fields said as they are": with_job(
        "\n        ".join(
            (
                *("backoffLimit: 0", "parallelism: 1", "completions: 1"),
                *("manualSelector: false", "podReplacementPolicy: Failed"),
            )
        )
    ),
    "fields that are empty": with_job("backoffLimit:\n        selector:"),
    "no restarts by a launcher": changed(
        '"--lr=$(ZEUS_LEARNING_RATE)"', '"--max-restarts=0", "--max-restarts", "0"'
    ),
    "references that are no concern of ours": changed(
        '"--lr=$(ZEUS_LEARNING_RATE)"', '"$$(ZEUS_X)", "$(HOME) $(A)", "$ZEUS_X", "$(ZEUS_JOB)"'
    ),
    "our values under another name": with_container(
        "env: [{name: BATCH, value: $(ZEUS_BATCH_SIZE)}, {name: A}, {name: B, valueFrom: {}}]"
    ),
    "two containers, of which one asks for GPUs": changed(
        "containers:\n", "containers:\n              - name: side\n"
    ),
    "two containers, of which one is named": changed(
        "containers:\n", "containers:\n              - name: side\n"
    ).replace("    kind: Job\n", "    kind: Job\n    container: side\n"),
    "labels and annotations of the child": changed(
        "    template:\n      spec:",
        "    template:\n      metadata:\n"
        "        labels: {kueue.x-k8s.io/queue-name: gpus, Team: a_b.C}\n"
        "        annotations: {example.org/note: 'any text: at all', empty: ''}\n"
        "      spec:",
    ),
    "a runtime put before its command": changed(
        "    kind: Job", "    kind: Job\n    injectRuntime: true"
    ),
}
"""What is special about it: the file."""
