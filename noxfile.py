"""Sessions for developers: `nox -l` lists them, `nox -s tests -- -k raft` passes arguments on."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

SOURCES = ("nefia", "tests", "benchmarks", "noxfile.py")


def install(session: nox.Session, group: str) -> None:
    """The project and one of pyproject.toml's dependency groups."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, group))


PYPROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite, as in README.md."""
    install(session, "test")
    session.run("pytest", *(session.posargs or ["-n", "2"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and common mistakes; `nox -s lint -- --fix` repairs what can be."""
    install(session, "check")
    session.run("ruff", "check", *session.posargs, *SOURCES)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), *SOURCES)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    install(session, "dev")
    session.run("mypy", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Many seeds of both simulators; the arguments are those of tests/simulation/run.py.

    First it compares short seeds under two hash seeds: `--hash-seeds 0` leaves that out.
    """
    install(session, "test")
    session.run("python", "-m", "tests.simulation.run", "--hash-seeds", "50", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant the known mistakes one by one; the arguments are those of tests/mutants/run.py."""
    install(session, "test")
    session.run("python", "-m", "tests.mutants.run", *session.posargs)


@nox.session
def handovers(session: nox.Session) -> None:
    """The leader's services change hands 100 times for each kind of fault, which takes an hour or
    so; the arguments are those of tests/end_to_end/handovers.py, such as `--mutants`."""
    install(session, "test")
    session.run("python", "-m", "tests.end_to_end.handovers", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The microbenchmarks; the arguments are pytest's. docs/performance.md has the others."""
    install(session, "bench")
    columns = "--benchmark-columns=min,median,max,rounds"
    session.run("pytest", "benchmarks/micro", columns, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Mutated bytes for all that reads them; the arguments are those of tests/fuzz/run.py."""
    install(session, "test")
    session.run("python", "-m", "tests.fuzz.run", *session.posargs)


@nox.session
def big(session: nox.Session) -> None:
    """Snapshots, restarts and new nodes with a million tasks; about five minutes."""
    install(session, "test")
    session.run("python", "-m", "benchmarks.snapshots", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel, in dist/."""
    session.install("build")
    session.run("python", "-m", "build", *session.posargs)
