"""`python -m tools.images`: build, export and measure the images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.images.build import DEFAULT_REGISTRY, TARGETS, Builder, Built, Wishes
from tools.images.buildah import ImagesError
from tools.images.dockerfile import DockerfileError
from tools.images.page import table, with_table

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "reference" / "images.md"
_ARCHIVES = _ROOT / "build" / "images"


def main(arguments: list[str] | None = None) -> int:
    """Run the tool.  Exit code 0: done; 1: it could not be done; 2: wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        builder = Builder(_ROOT)
        with builder.locked():
            options.run(builder, options)
    except (ImagesError, DockerfileError, OSError) as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.images",
        description="Build the container images; needs root, buildah and debootstrap, no registry.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="build images and export them as OCI archives")
    build.add_argument(
        "targets", nargs="*", type=_target, metavar="TARGET", help=f"of {', '.join(TARGETS)}"
    )
    build.add_argument("--registry", default=DEFAULT_REGISTRY, help="before each name")
    build.add_argument("--tag", help="default: the project's version")
    build.add_argument("--output", type=Path, default=_ARCHIVES, help="folder of the archives")
    build.add_argument(
        "--base",
        action="append",
        default=[],
        type=_base,
        metavar="ARGUMENT=IMAGE",
        help="a base image to use in place of one made here, e.g. "
        "BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm",
    )
    build.add_argument("--no-cache", action="store_true", help="build what has been built, too")
    build.add_argument(
        "--fresh-bases", action="store_true", help="make the bases anew: Debian's updates come in"
    )
    build.set_defaults(run=_build)
    measure = commands.add_parser(
        "measure", help="build all anew and write times and sizes into docs/reference/images.md"
    )
    measure.set_defaults(run=_measure)
    clean = commands.add_parser("clean", help="remove all images and bases from the store")
    clean.set_defaults(run=lambda builder, _options: builder.clean(keep_bases=False))
    return parser


def _target(text: str) -> str:
    if text not in TARGETS:
        raise argparse.ArgumentTypeError(f"{text!r}; there are {', '.join(TARGETS)}")
    return text


def _base(text: str) -> tuple[str, str]:
    argument, equals, image = text.partition("=")
    if not argument or not equals or not image:
        raise argparse.ArgumentTypeError("expected ARGUMENT=IMAGE")
    return argument, image


def _build(builder: Builder, options: argparse.Namespace) -> None:
    wishes = Wishes(
        registry=options.registry,
        tag=options.tag,
        bases=dict(options.base),
        with_cache=not options.no_cache,
    )
    targets = tuple(options.targets) or TARGETS
    if options.fresh_bases:
        builder.make_bases(targets, anew=True)
    built: dict[str, Built] = {}
    for target in targets:
        built[target] = image = builder.build(target, wishes)
        how = "was there" if image.build_seconds is None else f"{image.build_seconds:.0f} s"
        print(f"{image.reference}: {how}", flush=True)
    for target, facts in builder.export(built, options.output).items():
        print(f"{options.output / target}.tar: {facts.download_bytes / 1e6:.1f} MB, {facts.digest}")


def _measure(builder: Builder, _options: argparse.Namespace) -> None:
    builder.make_bases(TARGETS, anew=False)  # they are not part of the time
    builder.clean(keep_bases=True)
    built = {target: builder.build(target, Wishes()) for target in TARGETS}
    facts = builder.export(built, _ARCHIVES)
    seconds = {target: image.build_seconds or 0.0 for target, image in built.items()}
    _PAGE.write_text(with_table(_PAGE.read_text(), table(facts, seconds)))


if __name__ == "__main__":
    sys.exit(main())
