"""What decides whether an image is built again, and what the page of sizes says.  No buildah."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.images.archive import ArchiveFacts
from tools.images.bases import BASES, base_name
from tools.images.build import TARGETS
from tools.images.content import key_of
from tools.images.dockerfile import DockerfileError, Ingredients, ingredients, parse
from tools.images.page import BEGIN, END, table, with_table

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()

TWO_STAGES = """\
# A comment, \\
ARG BASE=debian
FROM ${BASE} AS build
COPY a.txt folder \\
     /src/
RUN make
FROM build AS more
COPY --from=build /src /src
FROM scratch AS image
COPY --from=more /src/made /made
COPY --chown=1:1 licence /
"""


def test_an_image_is_made_of_what_all_stages_behind_it_copy() -> None:
    stages = parse(TWO_STAGES)

    assert ingredients(stages, "image") == Ingredients(("a.txt", "folder", "licence"), ("BASE",))
    assert ingredients(stages, "build") == Ingredients(("a.txt", "folder"), ("BASE",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM scratch", "expected `FROM base AS name`"),
        ("FROM scratch AS a\nADD x /", "use COPY"),
    ],
)
def test_a_line_that_is_not_understood_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DockerfileError, match=problem):
        parse(text)


def test_an_unknown_image_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DockerfileError, match="no stage 'x'; there are build, more, image"):
        ingredients(parse(TWO_STAGES), "x")


def test_everything_that_is_copied_is_let_into_the_build() -> None:
    let_in = {
        line[1:]
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    stages = parse(DOCKERFILE)
    copied = {source for target in TARGETS for source in ingredients(stages, target).sources}

    assert copied
    for source in copied:
        assert any(source == entry or source.startswith(f"{entry}/") for entry in let_in), source


def test_every_base_that_the_dockerfile_asks_for_can_be_made() -> None:
    stages = parse(DOCKERFILE)
    asked = {name for target in TARGETS for name in ingredients(stages, target).base_arguments}

    assert asked == set(BASES)
    for name in asked:
        default = re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.MULTILINE)
        assert default is not None
        assert f"-{BASES[name].suite}" in default[1] or f":{BASES[name].suite}" in default[1]


def test_bases_with_other_packages_have_other_names() -> None:
    assert len({base_name(REPOSITORY, argument) for argument in BASES}) == len(BASES)


class Tree:
    """A small project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "package").mkdir()
        (root / "package" / "module.py").write_text("1\n")
        (root / "LICENSE").write_text("free\n")

    def key(self, **facts: str) -> str:
        return key_of(self.root, ["package", "LICENSE"], facts)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_same_content_has_the_same_key_whenever_it_was_written(tree: Tree) -> None:
    before = tree.key(base="a")

    (tree.root / "LICENSE").unlink()
    (tree.root / "LICENSE").write_text("free\n")
    (tree.root / "package" / "__pycache__").mkdir()
    (tree.root / "package" / "__pycache__" / "module.pyc").write_text("compiled")
    (tree.root / "other").write_text("not copied")

    assert tree.key(base="a") == before


def test_each_thing_that_decides_the_image_changes_the_key(tree: Tree) -> None:
    keys = {tree.key(), tree.key(base="a"), tree.key(base="b")}
    module = tree.root / "package" / "module.py"
    module.write_text("2\n")
    keys.add(tree.key())
    module.chmod(0o755)
    keys.add(tree.key())
    module.rename(module.with_name("renamed.py"))
    keys.add(tree.key())

    assert len(keys) == 6


def test_a_source_that_is_missing_is_named(tree: Tree) -> None:
    with pytest.raises(FileNotFoundError, match="absent is named in the Dockerfile"):
        key_of(tree.root, ["absent"], {})


FACTS = {"runtime": ArchiveFacts("sha256:0", 1, 1_234_567, 3_900_000)}


def test_the_page_gets_its_table_between_the_marks() -> None:
    rows = table(FACTS, {"runtime": 7.4})

    page = with_table(f"# Images\n{BEGIN}\nold\n{END}\nmore\n", rows)

    assert page == f"# Images\n{BEGIN}\n{rows}\n{END}\nmore\n"
    assert "| `runtime` | 1.2 | 3.9 | 1 | 7 |" in rows


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no lines"):
        with_table("# Images\n", "rows")
