"""Builds images and exports them as archives, each only if its content is new."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.images.archive import ArchiveFacts, read_facts
from tools.images.bases import BASE_REPOSITORY, BASES, machine, make_base
from tools.images.buildah import Buildah, ImagesError, cache_directory
from tools.images.content import key_of
from tools.images.dockerfile import ingredients, parse

TARGETS = ("operator", "agent", "runtime", "example")
DEFAULT_REGISTRY = "localhost/zeus"
LIST_NAME = "images.json"
MOST_STAGES_KEPT = 20
"""Of those that no image needs; each takes up to 300 MB."""


@dataclass(frozen=True)
class Built:
    """One image of this store.

    Attributes:
        reference: what pods call it.
        name: what the store calls it.
        image_id: digest of its configuration.
        build_seconds: how long it took when it was built; None: it was not this time.
    """

    reference: str
    name: str
    image_id: str
    build_seconds: float | None


@dataclass(frozen=True)
class Wishes:
    """How to build.

    Attributes:
        registry: what stands before the name of each target.
        tag: of all references; default: the project's version.
        bases: base images by build argument, in place of those made here; they may be fetched.
        with_cache: False: from nothing but the bases, even if there is such an image.
        revision: what the image's label says; default: the commit of the tree.
    """

    registry: str = DEFAULT_REGISTRY
    tag: str | None = None
    bases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    with_cache: bool = True
    revision: str | None = None


class Builder:
    """Builds images of the project at `root` in the user's store.

    Raises:
        ImagesError: there is no buildah.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root = root
        self._cache = cache or cache_directory()
        self.buildah = Buildah(self._cache)
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        self.version = str(project["version"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until nobody else builds in this store."""
        with (self._cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def build(self, target: str, wishes: Wishes) -> Built:
        """Return the image of `target`, built if its content has not been built.

        Raises:
            ImagesError: it can't be built.
        """
        text = (self.root / "Dockerfile").read_text()
        parts = ingredients(parse(text), target)
        unknown = set(wishes.bases) - set(BASES)
        if unknown:
            raise ImagesError(
                f"no build argument {', '.join(sorted(unknown))}; there are {', '.join(BASES)}"
            )
        bases = {
            argument: wishes.bases.get(argument)
            or make_base(self.buildah, self.root, argument, anew=False)
            for argument in parts.base_arguments
        }
        key = key_of(self.root, ["Dockerfile", *parts.sources], self._facts(bases))
        name = f"localhost/zeus-built/{target}:{key}"
        reference = f"{wishes.registry}/{target}:{wishes.tag or self.version}"
        seconds = None
        if not wishes.with_cache or self.buildah.id_of(name) is None:
            begin = time.monotonic()
            self._build(target, name, bases, wishes)
            seconds = time.monotonic() - begin
            self._forget_others(name)
        self.buildah.run("tag", name, reference)
        image_id = self.buildah.id_of(name)
        assert image_id is not None
        return Built(reference, name, image_id, seconds)

    def _build(self, target: str, name: str, bases: Mapping[str, str], wishes: Wishes) -> None:
        commit = wishes.revision or revision(self.root)
        arguments = {"VERSION": self.version, "REVISION": commit, **bases}
        for variable in ("PIP_INDEX_URL", "SOURCE_DATE_EPOCH"):
            if variable in os.environ:
                arguments[variable] = os.environ[variable]
        self.buildah.build(
            self.root,
            target,
            name,
            build_arguments=arguments,
            timestamp=int(os.environ.get("SOURCE_DATE_EPOCH", "0")),
            with_cache=wishes.with_cache,
            pull=bool(wishes.bases),
        )

    def _forget_others(self, name: str) -> None:
        """Remove what was built of the same target before: each takes hundreds of megabytes."""
        for other in self.buildah.names_of(name.rpartition(":")[0]):
            if other != name:
                with contextlib.suppress(ImagesError):  # a container is made of it just now
                    self.buildah.run("rmi", other)
        # What builds go on from, once it is mostly of sources that are no more.
        stages = self.buildah.run("images", "--quiet", "--filter=dangling=true").split()
        if len(stages) > MOST_STAGES_KEPT:
            with contextlib.suppress(ImagesError):
                self.buildah.run("rmi", "--prune")

    def _facts(self, bases: Mapping[str, str]) -> dict[str, str]:
        # Not the revision: the same content of another commit is the same image.
        facts = {"version": self.version, "machine": machine()}
        facts["time"] = os.environ.get("SOURCE_DATE_EPOCH", "0")
        for argument, base in bases.items():
            facts[argument] = self.buildah.id_of(base) or base
        return facts

    def export(self, built: Mapping[str, Built], folder: Path) -> dict[str, ArchiveFacts]:
        """Write each image to `folder` as `TARGET.tar`, and what they are to `images.json`.

        An archive that holds this image under this name already stays.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads((folder / LIST_NAME).read_text())
        facts: dict[str, ArchiveFacts] = {}
        for target, image in built.items():
            archive = folder / f"{target}.tar"
            before = known.get(target, {})
            same = (before.get("id"), before.get("reference")) == (image.image_id, image.reference)
            if not same or not archive.exists():
                self.buildah.export(image.name, image.reference, archive)
                before = {}
            facts[target] = (
                ArchiveFacts(**before["facts"]) if "facts" in before else read_facts(archive)
            )
            known[target] = {
                "archive": archive.name,
                "facts": dataclasses.asdict(facts[target]),
                "id": image.image_id,
                "reference": image.reference,
            }
            (folder / LIST_NAME).write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        return facts

    def clean(self, *, keep_bases: bool) -> None:
        """Remove every image of this store, with `keep_bases` all but the bases made here."""
        self.buildah.run("rm", "--all")
        if not keep_bases:
            self.buildah.run("rmi", "--all", "--force")
            return
        for name in self.buildah.names_of(""):
            if not name.startswith(f"{BASE_REPOSITORY}:"):
                self.buildah.run("rmi", "--force", name)
        self.buildah.run("rmi", "--prune")

    def make_bases(self, targets: Sequence[str], *, anew: bool) -> None:
        """Make the bases of `targets`; `anew`: though they are there, with the packages of today.

        Raises:
            ImagesError: one can't be made.
        """
        stages = parse((self.root / "Dockerfile").read_text())
        for argument in {a for each in targets for a in ingredients(stages, each).base_arguments}:
            make_base(self.buildah, self.root, argument, anew=anew)


def revision(root: Path) -> str:
    """Return the commit at `root`, with a mark if the tree differs from it."""
    if not (root / ".git").exists():
        return "unknown"
    done = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
