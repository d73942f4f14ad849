"""buildah, with a store of images of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BUNDLE_IN_BASES = "/etc/ssl/certs/ca-certificates.crt"
_BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImagesError(RuntimeError):
    """An image can't be made; the text says what to do or what the program said."""


def cache_directory() -> Path:
    """Return where images are kept: `$ZEUS_IMAGES_CACHE`, else a folder of the user's cache."""
    chosen = os.environ.get("ZEUS_IMAGES_CACHE")
    if chosen:
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zeus-operator" / "images"


class Buildah:
    """The images of one store.

    Args:
        directory: of the store; made if need be.

    Raises:
        ImagesError: there is no buildah.
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which("buildah")
        if program is None:
            raise ImagesError("no buildah: install it, on Debian and Ubuntu `apt install buildah`")
        directory.mkdir(parents=True, exist_ok=True)
        self._command = (
            program,
            f"--root={directory / 'storage'}",
            f"--runroot={directory / 'run'}",
        )

    def run(self, *arguments: str) -> str:
        """Run `buildah arguments` and return what it prints.

        Raises:
            ImagesError: it failed.
        """
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-4000:].strip()
            raise ImagesError(f"buildah {' '.join(arguments)} failed:\n{said}")
        return done.stdout.strip()

    def id_of(self, name: str) -> str | None:
        """Return the id of the image of that name, or None if the store has none."""
        done = subprocess.run(
            [*self._command, "images", "--quiet", "--no-trunc", name],
            capture_output=True,
            text=True,
            check=False,
        )
        ids = done.stdout.split() if done.returncode == 0 else []
        return ids[0].removeprefix("sha256:") if ids else None

    def names_of(self, repository: str) -> list[str]:
        """Return the full names of the images of a repository; empty: of all that have one."""
        listed = self.run("images", "--format={{.Name}}:{{.Tag}}").splitlines()
        named = [name for name in listed if not name.startswith("<none>")]
        return [name for name in named if not repository or name.startswith(f"{repository}:")]

    def image_of_archive(self, archive: Path, name: str) -> None:
        """Make an image of one layer from the tar file of a root file system."""
        container = self.run("from", "scratch")
        try:
            self.run("add", "--quiet", container, str(archive), "/")
            self.run("config", f"--env=PATH={_BASE_PATH}", "--cmd=/bin/sh", container)
            self.run("commit", "--quiet", container, name)
        finally:
            self.run("rm", container)

    def build(
        self,
        context: Path,
        target: str,
        name: str,
        *,
        build_arguments: Mapping[str, str],
        timestamp: int,
        with_cache: bool,
        pull: bool,
    ) -> None:
        """Build the stage `target` of the Dockerfile in `context`.

        Args:
            context: folder of the Dockerfile.
            target: the stage.
            name: what the image is called.
            build_arguments: for ARG.
            timestamp: the time that all files of the layers get, seconds since 1970.
            with_cache: go on from layers of builds before.
            pull: fetch base images that the store lacks.

        Raises:
            ImagesError: it failed.
        """
        options = [f"--build-arg={key}={value}" for key, value in build_arguments.items()]
        options += [f"--target={target}", f"--tag={name}", f"--timestamp={timestamp}"]
        options += ["--layers", "--isolation=chroot", "--pull" if pull else "--pull-never"]
        if not with_cache:
            options.append("--no-cache")
        # Where packages come by a mirror with an authority of its own, it is trusted in the
        # build, and nothing of it is in an image.
        bundle = os.environ.get("SSL_CERT_FILE")
        if bundle and Path(bundle).is_file():
            options.append(f"--volume={Path(bundle).resolve()}:{_BUNDLE_IN_BASES}:ro")
        self.run("bud", *options, str(context))

    def export(self, name: str, reference: str, archive: Path) -> None:
        """Write the image to an OCI archive, under the name of `reference`."""
        # Under another name first: an archive that is there is a whole one.
        partial = archive.with_name(f".{archive.name}.partial")
        partial.unlink(missing_ok=True)
        self.run("push", "--quiet", "--format=oci", name, f"oci-archive:{partial}:{reference}")
        partial.rename(archive)

    def configuration(self, name: str) -> dict[str, Any]:
        """Return the OCI configuration of the image: user, command, environment, labels."""
        found = json.loads(self.run("inspect", "--type=image", name))["OCIv1"]["config"]
        assert isinstance(found, dict)
        return found
