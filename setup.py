"""The compiled part of the build; everything else stands in pyproject.toml.

The tree keeps `engine/`, `ext/` and `api/` at its top, but they are imported below
`taskforge_server`. Cython (for `.pxd` files) and mypy (for packages) look names up on disk,
so links under `build/ns/taskforge_server/` show them the tree under its import names.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
TOPS = ("engine", "ext", "api")
NAMES = Path("build/ns")
JOBS = 2
FLAGS = ["-O3", "-Wno-sign-compare"]  # what Cython generates compares signs for us

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
}


def link_import_names() -> None:
    """Show the tree under its import names; keep links that are right already."""
    folder = ROOT / NAMES / "taskforge_server"
    folder.mkdir(parents=True, exist_ok=True)
    for top in TOPS:
        link, target = folder / top, Path("../../..") / top
        if link.is_symlink() and link.readlink() == target:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def extensions() -> list[Extension]:
    """One extension module per `.pyx` file below `ext/`."""
    found = []
    for path in sorted((ROOT / "ext").rglob("*.pyx")):
        source = path.relative_to(ROOT)
        name = ".".join(("taskforge_server", *source.with_suffix("").parts))
        found.append(Extension(name, [str(source)], extra_compile_args=FLAGS))
    if not found:
        return []
    return cythonize(
        found,
        include_path=[str(NAMES)],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
        nthreads=JOBS,
    )


link_import_names()
setup(
    packages=[
        f"taskforge_server.{name}"
        for name in find_namespace_packages(  # folders of SQL and Lua belong to it too
            str(ROOT),
            include=[pattern for top in TOPS for pattern in (top, f"{top}.*")],
            exclude=["*.__pycache__"],
        )
    ],
    ext_modules=extensions(),
    options={"build_ext": {"parallel": JOBS}},
)
