"""Reading a ZeusJob file: what is accepted, and one message for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import manifests
from zeus_operator.api.manifest import ManifestError, load_manifest
from zeus_operator.api.types import ZeusJobSpec


def problems_of(path: Path, *, local: bool = True) -> list[tuple[str, str]]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path, local=local)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def test_a_valid_file_is_read_with_its_folder_and_defaults(tmp_path: Path) -> None:
    loaded = load_manifest(manifests.write(tmp_path))

    assert loaded.job.key == "default/digits"
    assert loaded.directory == tmp_path
    assert loaded.job.spec.batch_size.choices == (8, 16, 32, 64, 128, 256, 512, 1024)
    assert loaded.job.spec.policy == "structured"
    assert loaded.job.spec.retry.max_attempts == 5


def test_the_stored_document_reads_back_as_the_same_spec(tmp_path: Path) -> None:
    spec = load_manifest(manifests.write(tmp_path)).job.spec
    document = load_manifest(tmp_path / "zeusjob.yaml").job.spec_document()

    assert ZeusJobSpec.model_validate(document) == spec


def test_fields_of_the_template_that_we_do_not_know_are_passed_on(tmp_path: Path) -> None:
    text = manifests.with_container("volumeMounts: [{name: a, mountPath: /a, subPath: null}]")
    job = load_manifest(manifests.write(tmp_path, text)).job

    pod = job.spec_document()["workload"]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "a", "mountPath": "/a", "subPath": None}
    ]


@pytest.mark.parametrize("mistake", manifests.WRONG_FILES)
def test_each_mistake_gives_one_message_with_path_and_what_is_allowed(
    tmp_path: Path, mistake: str
) -> None:
    text, path, allowed = manifests.WRONG_FILES[mistake]

    found = problems_of(manifests.write(tmp_path, text))

    assert [where for where, _ in found] == [path]
    assert allowed in found[0][1]


def test_several_mistakes_are_said_at_once(tmp_path: Path) -> None:
    text = manifests.changed("mode: Max", "mode: max").replace("maxEpochs: 30", "maxEpochs: none")

    found = problems_of(manifests.write(tmp_path, text))

    assert [where for where, _ in found] == [
        "spec.objective.metric.mode",
        "spec.objective.maxEpochs",
    ]


def test_what_only_one_machine_needs_is_not_asked_of_a_file_for_a_cluster(tmp_path: Path) -> None:
    path = manifests.write(tmp_path, script=False)

    assert load_manifest(path, local=False).job.key == "default/digits"
    assert problems_of(path)[0][1].startswith("train.py: no such file in ")


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ('["python", "-u", "gone.py"]', "command[2]"),
        ('["python", "-X", "dev", "gone.py"]', "command[3]"),
        ('["python3.11", "gone.py"]', "command[1]"),
        ('["bash", "gone.sh"]', "command[1]"),
        ('["./gone"]', "command[0]"),
        ('["python", "-m", "package.gone"]', None),
        ('["python", "-c", "print(1)"]', None),
        ('["python", "$(SCRIPT)"]', None),
        ('["python"]', "args[0]"),
    ],
)
def test_the_script_is_found_where_interpreters_look_for_it(
    tmp_path: Path, command: str, missing: str | None
) -> None:
    text = manifests.changed('["python", "train.py"]', command)
    text = text.replace('"--batch-size=$(ZEUS_BATCH_SIZE)"', '"gone.py"')
    path = manifests.write(tmp_path, text)

    if missing is None:
        load_manifest(path)
    else:
        assert problems_of(path)[0][0] == f"{manifests.CONTAINERS}[0].{missing}"


def test_a_script_in_a_subfolder_is_found_beside_the_file_not_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job" / "src").mkdir(parents=True)
    (tmp_path / "job" / "src" / "run.py").touch()
    path = manifests.write(tmp_path / "job", manifests.changed('"train.py"', '"src/run.py"'))
    monkeypatch.chdir(tmp_path)

    assert load_manifest(path.relative_to(tmp_path)).directory == tmp_path / "job"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: [1, 2\nb: 3\n", "zeusjob.yaml:2", "can't be read"),
        ("kind: ZeusJob\nkind: ZeusJob\n", "zeusjob.yaml:2", "'kind' is given twice"),
        ("", "zeusjob.yaml", "holds no document"),
        (f"{manifests.VALID}---\n{manifests.VALID}", "zeusjob.yaml", "holds 2 documents"),
        ("- just\n- a list\n", "zeusjob.yaml", "must hold a ZeusJob"),
        ("a: \x07\n", "zeusjob.yaml", "can't be read"),
        ("? [a, b]\n: c\n", "zeusjob.yaml:1", "a key must be a plain word"),
    ],
)
def test_a_file_that_is_not_one_yaml_object_is_refused_with_its_line(
    tmp_path: Path, text: str, where: str, message: str
) -> None:
    found = problems_of(manifests.write(tmp_path, text))

    assert len(found) == 1
    assert found[0][0].endswith(where)
    assert message in found[0][1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (".inf", "inf is not a number that an API object can hold"),
        ("!!binary '/9j/'", "tag:yaml.org,2002:binary"),
        ("!!set {a, b}", "tag:yaml.org,2002:set"),
        ("9" * 5000, "Exceeds the limit"),
        ("&a [*a]", "refer to themselves"),
        (
            "{a: &a [1,1,1,1,1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], "
            "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], "
            "e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]}",
            "more than 100,000 values",
        ),
    ],
    ids=["infinite", "bytes", "set", "digits", "cycle", "bomb"],
)
def test_a_template_that_no_api_object_could_hold_is_refused(
    tmp_path: Path, value: str, message: str
) -> None:
    found = problems_of(manifests.write(tmp_path, manifests.with_container(f"x: {value}")))

    assert len(found) == 1
    assert message in found[0][1]


def test_aliases_may_be_used_to_say_something_once(tmp_path: Path) -> None:
    text = manifests.with_container("x: {a: &a [1, 2], b: *a}")

    pod = load_manifest(manifests.write(tmp_path, text)).job.spec_document()
    container = pod["workload"]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["x"] == {"a": [1, 2], "b": [1, 2]}


def test_an_empty_second_document_does_no_harm(tmp_path: Path) -> None:
    path = manifests.write(tmp_path, f"---\n{manifests.VALID}---\n")

    assert load_manifest(path).job.key == "default/digits"


def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert problems_of(missing) == [(str(missing), "can't be read: No such file or directory")]
    assert problems_of(tmp_path) == [(str(tmp_path), "can't be read: Is a directory")]
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9\n")
    assert problems_of(latin) == [(str(latin), "is not UTF-8 at byte 9")]
    large = tmp_path / "large.yaml"
    large.write_text("#" * (2 << 20))
    assert "is larger than" in problems_of(large)[0][1]


def test_dates_stay_the_text_that_they_are(tmp_path: Path) -> None:
    text = manifests.changed("{name: digits}", "{name: digits, annotations: {since: 2026-01-05}}")

    job = load_manifest(manifests.write(tmp_path, text)).job

    assert job.metadata.annotations == {"since": "2026-01-05"}
