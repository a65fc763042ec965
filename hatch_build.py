"""Hatch build hook: compile the Cython kernels.

Editable installs get each shared object next to its source; wheels carry them as artifacts. ``python
hatch_build.py`` rebuilds in place without reinstalling. ``PULSERING_KERNEL=debug`` compiles in the
invariant checks, bounds checks and line tracing (for coverage); ``PULSERING_KERNEL=sanitize`` the invariant
checks under AddressSanitizer and UndefinedBehaviorSanitizer, to be run with gcc's ``libasan`` preloaded.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOTS = (Path("client"), Path("server"))
SANITIZED = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]


def build_kernels() -> None:
    """Compile every ``.pyx`` below the import roots, in place."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    kind = os.environ.get("PULSERING_KERNEL", "")
    debug, sanitize = kind == "debug", kind == "sanitize"
    macros = [("PULSERING_DEBUG", "1")] if debug or sanitize else []
    flags = ["-O0", "-g"] if debug else SANITIZED if sanitize else ["-O3"]
    for root in ROOTS:
        extensions = [
            Extension(
                ".".join(source.relative_to(root).with_suffix("").parts),
                [str(source)],
                define_macros=[*macros, ("CYTHON_TRACE", "1")] if debug else macros,
                extra_compile_args=flags,
                extra_link_args=SANITIZED if sanitize else [],
            )
            for source in sorted(root.rglob("*.pyx"))
        ]
        if not extensions:
            continue
        command = build_ext(
            Distribution(
                {
                    "ext_modules": cythonize(
                        extensions,
                        include_path=[str(r) for r in ROOTS],
                        build_dir=None if debug else "build/cython",
                        force=debug,
                        compiler_directives={"linetrace": True, "boundscheck": True} if debug else {},
                    ),
                    "package_dir": {"": str(root)},
                }
            )
        )
        command.inplace = True
        command.parallel = os.cpu_count()
        command.force = debug or sanitize
        command.ensure_finalized()
        command.run()


class KernelBuildHook(BuildHookInterface[Any]):
    """Runs ``build_kernels`` for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, then tell hatch to ship the shared objects under a platform tag."""
        build_kernels()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [f"{root}/**/*.{ending}" for root in ROOTS for ending in ("so", "pyd")]


if __name__ == "__main__":
    build_kernels()
