"""Sessions for developers: `nox -l` lists them, `nox -s tests -- -k raft` passes arguments on."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

SOURCES = ("nefia", "tests", "noxfile.py")


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
    """Many seeds of the simulated cluster; the arguments are those of tests/simulation/run.py."""
    install(session, "test")
    session.run("python", "-m", "tests.simulation.run", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant the known mistakes one by one; the arguments are those of tests/mutants/run.py."""
    install(session, "test")
    session.run("python", "-m", "tests.mutants.run", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel, in dist/."""
    session.install("build")
    session.run("python", "-m", "build", *session.posargs)
