"""`$(NAME)` as the kubelet expands it."""

from __future__ import annotations

import pytest

from zeus_operator.api.expand import expand, expand_all, expand_environment, references

ENVIRONMENT = {"A": "1", "B": "$(A)", "EMPTY": "", "with space": "s"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(EMPTY)", ""),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$$", "$"),
        ("$", "$"),
        ("a$", "a$"),
        ("$A", "$A"),
        ("${A}", "${A}"),
        ("$(A", "$(A"),
        ("$(A$$", "$(A$"),
        ("$()", "$()"),
        ("$($(A))", "$($(A))"),
        ("$(with space)", "s"),
        ("$(B)", "$(A)"),  # a value is not expanded again
        ("a$\n(A)", "a$\n(A)"),
    ],
)
def test_a_reference_expands_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, ENVIRONMENT) == expected


def test_an_entry_sees_only_the_entries_before_it() -> None:
    entries = [("EARLY", "$(LATE)"), ("LATE", "2"), ("AFTER", "$(LATE)"), ("LATE", "$(LATE)3")]

    assert expand_environment(entries) == {"EARLY": "$(LATE)", "LATE": "23", "AFTER": "2"}


def test_every_word_of_a_command_is_expanded() -> None:
    assert expand_all(["python", "--size=$(A)"], ENVIRONMENT) == ["python", "--size=1"]


def test_references_are_those_that_would_be_expanded() -> None:
    assert list(references("$(A) $$(B) $(C")) == ["A"]
    assert list(references("$$$(A)")) == ["A"]
