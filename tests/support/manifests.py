"""A valid ZeusJob file, and ways to make it wrong."""

from __future__ import annotations

from pathlib import Path

VALID = """\
apiVersion: zeus.energy/v1alpha1
kind: ZeusJob
metadata: {name: digits}
spec:
  objective:
    metric: {target: "0.97", mode: Max}
    maxEpochs: 30
    energyPreference: "0.5"
  batchSize:
    default: 256
    choices: [1024, 512, 256, 128, 64, 32, 16, 8]
    learningRate: {default: "0.05", scaling: SquareRoot}
  workload:
    apiVersion: batch/v1
    kind: Job
    template:
      spec:
        template:
          spec:
            restartPolicy: Never
            containers:
              - name: train
                image: example.org/train:1
                command: ["python", "train.py"]
                args: ["--batch-size=$(ZEUS_BATCH_SIZE)", "--lr=$(ZEUS_LEARNING_RATE)"]
                resources: {limits: {nvidia.com/gpu: 1}}
"""

TEMPLATE = "spec.workload.template.spec"
CONTAINERS = f"{TEMPLATE}.template.spec.containers"


def changed(old: str, new: str) -> str:
    """Return the valid file with the first `old` replaced."""
    assert old in VALID, f"{old!r} is not in the valid file"
    return VALID.replace(old, new, 1)


def with_spec(line: str) -> str:
    """Return the valid file with one more field of the spec."""
    return changed("spec:\n", f"spec:\n  {line}\n")


def with_container(line: str) -> str:
    """Return the valid file with one more field of the container."""
    return changed("image: ", f"{line}\n                image: ")


def with_job(line: str) -> str:
    """Return the valid file with one more field of the child's own spec."""
    return changed(
        "      spec:\n        template:", f"      spec:\n        {line}\n        template:"
    )


def with_pod(line: str) -> str:
    """Return the valid file with one more field of the pod's spec."""
    return changed("            restartPolicy:", f"            {line}\n            restartPolicy:")


def write(folder: Path, text: str = VALID, *, script: bool = True) -> Path:
    """Write the file, and an empty training script beside it."""
    if script:
        (folder / "train.py").touch()
    path = folder / "zeusjob.yaml"
    path.write_text(text, encoding="utf-8")
    return path


WRONG_FILES: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the file, path of the field, what is allowed)
    "misspelled field": (
        changed("objective:", "objectve:"),
        "spec.objectve",
        "did you mean objective?",
    ),
    "field in another case": (
        changed("maxEpochs", "max_epochs"),
        "spec.objective.max_epochs",
        "did you mean maxEpochs?",
    ),
    "default not among the choices": (
        changed("default: 256", "default: 100"),
        "spec.batchSize.default",
        "allowed: 8, 16, 32, 64, 128, 256, 512, 1024",
    ),
    "target not a number": (
        changed('"0.97"', '"high"'),
        "spec.objective.metric.target",
        'must be a decimal in quotes, such as "0.97"',
    ),
    "target not finite": (
        changed('"0.97"', '"1e999"'),
        "spec.objective.metric.target",
        "must be a decimal in quotes",
    ),
    "target not quoted": (
        changed('"0.97"', "0.97"),
        "spec.objective.metric.target",
        'quote it: "0.97"',
    ),
    "too large a share of control runs": (
        with_spec('savings: {controlFraction: "0.6"}'),
        "spec.savings.controlFraction",
        'must be from "0" to "0.5"',
    ),
    "a share of control runs without quotes": (
        with_spec("savings: {controlFraction: 0.1}"),
        "spec.savings.controlFraction",
        'quote it: "0.1"',
    ),
    "too much to spend on exploring": (
        with_spec('exploration: {maxExtraCostPercent: "101"}'),
        "spec.exploration.maxExtraCostPercent",
        'must be from "0" to "100"',
    ),
    "less than nothing to spend on exploring": (
        with_spec('exploration: {maxExtraCostPercent: "-1"}'),
        "spec.exploration.maxExtraCostPercent",
        'must be from "0" to "100"',
    ),
    "a percentage without quotes": (
        with_spec("exploration: {maxExtraCostPercent: 5}"),
        "spec.exploration.maxExtraCostPercent",
        'quote it: "5"',
    ),
    "a percentage with its sign": (
        with_spec('exploration: {maxExtraCostPercent: "5%"}'),
        "spec.exploration.maxExtraCostPercent",
        "must be a decimal in quotes",
    ),
    "a bound that there is not": (
        with_spec("exploration: {bound: Always}"),
        "spec.exploration.bound",
        "Expected, EveryHistory",
    ),
    "energy preference out of range": (
        changed('"0.5"', '"1.5"'),
        "spec.objective.energyPreference",
        'must be from "0" to "1"',
    ),
    "missing script": (
        changed("train.py", "trian.py"),
        f"{CONTAINERS}[0].command[1]",
        "trian.py: no such file in ",
    ),
    "missing script of a launcher": (
        changed("train.py", '-m", "torch.distributed.run", "--standalone", "trian.py'),
        f"{CONTAINERS}[0].command[4]",
        "trian.py: no such file in ",
    ),
    "missing program": (
        changed('"python"', '"no-such-program"'),
        f"{CONTAINERS}[0].command[0]",
        "no such program on PATH",
    ),
    "cron nonsense": (
        with_spec("schedule: whenever I like"),
        "spec.schedule",
        "allowed: five fields",
    ),
    "cron out of range": (with_spec('schedule: "99 2 * * *"'), "spec.schedule", "minute (0-59)"),
    "wrong time zone": (
        with_spec('schedule: "0 2 * * *"\n  timeZone: Europe/Berlinn'),
        "spec.timeZone",
        "allowed: IANA names",
    ),
    "schedule and runs": (
        with_spec('schedule: "0 2 * * *"\n  runs: 5'),
        "spec.runs",
        "keep one",
    ),
    "required field missing": (
        changed("    maxEpochs: 30\n", ""),
        "spec.objective.maxEpochs",
        "is required",
    ),
    "number too small": (
        changed("maxEpochs: 30", "maxEpochs: 0"),
        "spec.objective.maxEpochs",
        "must be at least 1",
    ),
    "text for a number": (
        changed("default: 256", 'default: "256"'),
        "spec.batchSize.default",
        "must be a whole number",
    ),
    "unknown choice": (
        changed("mode: Max", "mode: max"),
        "spec.objective.metric.mode",
        "must be one of Max, Min",
    ),
    "batch size given twice": (
        changed("[1024, 512", "[512, 512"),
        "spec.batchSize.choices",
        "512 more than once",
    ),
    "power bounds crossed": (
        with_spec("power: {minPercent: 90, maxPercent: 80}"),
        "spec.power.minPercent",
        "allowed: 1 to 80",
    ),
    "learning rate not positive": (
        changed('"0.05"', '"0"'),
        "spec.batchSize.learningRate.default",
        'must be above "0"',
    ),
    "API version of another kind of workload": (
        changed("apiVersion: batch/v1", "apiVersion: kubeflow.org/v1"),
        "spec.workload.apiVersion",
        "must be batch/v1 for Job",
    ),
    "another kind of workload": (
        changed("kind: Job", "kind: RayJob"),
        "spec.workload.kind",
        "must be one of Job, JobSet",
    ),
    "name that is no label": (
        changed("name: digits", "name: Digits_1"),
        "metadata.name",
        "lower-case letters, digits",
    ),
    "unknown injected name": (
        changed("$(ZEUS_BATCH_SIZE)", "$(ZEUS_BATCHSIZE)"),
        f"{CONTAINERS}[0].args[0]",
        "did you mean ZEUS_BATCH_SIZE?",
    ),
    "learning rate used but not given": (
        changed('    learningRate: {default: "0.05", scaling: SquareRoot}\n', ""),
        f"{CONTAINERS}[0].args[1]",
        "spec.batchSize.learningRate",
    ),
    "own ZEUS_ name": (
        with_container("env: [{name: ZEUS_MINE, value: a}]"),
        f"{CONTAINERS}[0].env[0].name",
        "choose another",
    ),
    "value that is no text": (
        with_container("env: [{name: EPOCHS, value: 3}]"),
        f"{CONTAINERS}[0].env[0].value",
        'quote it: "3"',
    ),
    "argument that is no text": (
        changed('"--lr=$(ZEUS_LEARNING_RATE)"', '"--epochs", 3'),
        f"{CONTAINERS}[0].args[2]",
        'quote it: "3"',
    ),
    "command that is no list": (
        changed('["python", "train.py"]', "python train.py"),
        f"{CONTAINERS}[0].command",
        "must be a list of strings",
    ),
    "value only a cluster has": (
        with_container("env: [{name: KEY, valueFrom: {secretKeyRef: {name: a, key: b}}}]"),
        f"{CONTAINERS}[0].env[0].valueFrom",
        "give `value`",
    ),
    "restarts by the kubelet": (
        changed("Never", "OnFailure"),
        "spec.workload.template.spec.template.spec.restartPolicy",
        "spec.retry.maxAttempts",
    ),
    "restarts by the Job": (
        changed(
            "      spec:\n        template:",
            "      spec:\n        backoffLimit: 2\n        template:",
        ),
        "spec.workload.template.spec.backoffLimit",
        "spec.retry.maxAttempts",
    ),
    "restarts by a launcher": (
        changed('"--lr=$(ZEUS_LEARNING_RATE)"', '"--max-restarts=3"'),
        f"{CONTAINERS}[0].args[1]",
        "spec.retry.maxAttempts",
    ),
    "an argument that restarts in the next word": (
        changed('"--lr=$(ZEUS_LEARNING_RATE)"', '"--max_restarts", "2"'),
        f"{CONTAINERS}[0].args[1]",
        "spec.retry.maxAttempts",
    ),
    "several pods at once": (
        with_job("parallelism: 2"),
        f"{TEMPLATE}.parallelism",
        "a run of kind Job is one pod",
    ),
    "several pods in turn": (
        with_job("completions: 3"),
        f"{TEMPLATE}.completions",
        "a run of kind Job is one pod",
    ),
    "restarts of an index": (
        with_job("backoffLimitPerIndex: 1"),
        f"{TEMPLATE}.backoffLimitPerIndex",
        "spec.retry.maxAttempts",
    ),
    "own selector": (
        with_job("selector: {matchLabels: {a: b}}"),
        f"{TEMPLATE}.selector",
        "Kubernetes chooses it",
    ),
    "own selector that is meant": (
        with_job("manualSelector: true"),
        f"{TEMPLATE}.manualSelector",
        "Kubernetes chooses it",
    ),
    "pods that overlap": (
        with_job("podReplacementPolicy: TerminatingOrFailed"),
        f"{TEMPLATE}.podReplacementPolicy",
        "two pods of one run",
    ),
    "label of the pod that is the operator's": (
        changed(
            "        template:\n          spec:",
            "        template:\n          metadata: {labels: {zeus.energy/attempt: '1'}}\n"
            "          spec:",
        ),
        f"{TEMPLATE}.template.metadata.labels",
        "labels that begin with zeus.energy/",
    ),
    "label of the child that is the operator's": (
        changed(
            "    template:\n      spec:",
            "    template:\n      metadata: {labels: {zeus.energy/job: mine}}\n      spec:",
        ),
        "spec.workload.template.metadata.labels",
        "labels that begin with zeus.energy/",
    ),
    "label that is none": (
        changed(
            "    template:\n      spec:",
            "    template:\n      metadata: {labels: {not a label: a}}\n      spec:",
        ),
        "spec.workload.template.metadata.labels",
        "each name must be one that Kubernetes allows",
    ),
    "annotation that is none": (
        changed(
            "    template:\n      spec:",
            "    template:\n      metadata: {annotations: {a/b/c: a}}\n      spec:",
        ),
        "spec.workload.template.metadata.annotations",
        "each name must be one that Kubernetes allows",
    ),
    "own ZEUS_ name in an init container": (
        with_pod("initContainers: [{name: a, env: [{name: ZEUS_BATCH_SIZE, value: '8'}]}]"),
        f"{TEMPLATE}.template.spec.initContainers[0].env[0].name",
        'give that name the value "$(ZEUS_BATCH_SIZE)"',
    ),
    "unknown injected name in env": (
        with_container("env: [{name: A, value: '$$(ZEUS_X) $(ZEUS_BATCHES)'}]"),
        f"{CONTAINERS}[0].env[0].value",
        "$(ZEUS_BATCHES) is not a name we inject",
    ),
    "runtime put before a command that is not given": (
        changed("    kind: Job", "    kind: Job\n    injectRuntime: true").replace(
            '                command: ["python", "train.py"]\n', ""
        ),
        f"{CONTAINERS}[0].command",
        "is required with spec.workload.injectRuntime",
    ),
    "no containers": (
        with_pod("containers: []").split("            containers:\n")[0],
        CONTAINERS,
        "must be a list with at least one container",
    ),
    "several containers and none that trains": (
        changed(
            "                resources: {limits: {nvidia.com/gpu: 1}}\n",
            "              - name: b\n",
        ),
        "spec.workload.container",
        "none of the containers asks for nvidia.com/gpu; allowed: train, b",
    ),
    "a kind of deletion that there is not": (
        with_spec("deletionPolicy: Orphan"),
        "spec.deletionPolicy",
        "Retain, Delete",
    ),
    "a schedule with its time zone": (
        with_spec('schedule: "TZ=UTC 0 2 * * *"'),
        "spec.schedule",
        "timeZone",
    ),
    "a schedule that never comes": (
        with_spec('schedule: "0 0 31 2,4 *"'),
        "spec.schedule",
        "allowed: five fields",
    ),
    "the time zone of the machine": (
        with_spec('schedule: "0 2 * * *"\n  timeZone: Local'),
        "spec.timeZone",
        "allowed: IANA names",
    ),
    "a name too long for its runs": (
        changed("name: digits", f"name: {'d' * 41}"),
        "metadata.name",
        "at most 40",
    ),
    "container that is not there": (
        changed("kind: Job\n    template", "kind: Job\n    container: trainer\n    template"),
        "spec.workload.container",
        "it has: train",
    ),
    "no command": (
        changed('                command: ["python", "train.py"]\n', ""),
        f"{CONTAINERS}[0].command",
        "is required on one machine",
    ),
    "GPUs that are no number": (
        changed("nvidia.com/gpu: 1", "nvidia.com/gpu: some"),
        f'{CONTAINERS}[0].resources.limits["nvidia.com/gpu"]',
        "whole number of GPUs",
    ),
    "another kind of object": (changed("kind: ZeusJob", "kind: Job"), "kind", "must be ZeusJob"),
    "another version": (
        changed("v1alpha1", "v1"),
        "apiVersion",
        "must be zeus.energy/v1alpha1",
    ),
}
"""Every file has exactly one mistake."""

ONLY_ON_ONE_MACHINE = frozenset(
    {
        "missing script of a launcher",
        "missing script",
        "missing program",
        "no command",
        "value only a cluster has",
    }
)
"""Mistakes on one machine that are none in a cluster, where there are images and Secrets."""

ONLY_THE_OPERATOR = frozenset(
    {
        "a schedule that never comes",
        "GPUs that are no number",
    }
)
"""What the API server lets through, and the operator says in the condition Ready."""
