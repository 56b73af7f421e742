"""What all commands have in common: global options, asking the daemon, errors, exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from nefia.admin import SOCKET_NAME
from nefia.admin.client import DEFAULT_TIMEOUT_SECONDS, AdminClient
from nefia.cli import output
from nefia.errors import EXIT_FAILED, EXIT_INTERRUPTED, InvalidArgument, NefiaError, NotInitialized
from nefia.units import parse_duration

if TYPE_CHECKING:
    from nefia.config import Config

F = TypeVar("F", bound=Callable[..., Any])

REQUEST_ID_BYTES = 16


class Json:
    """A value of any JSON type to send as it is, null too."""

    def __init__(self, value: object) -> None:
        self.value = value


class Setup:
    """What the global options say; they are taken both before and after the command."""

    config: str | None = None
    state_dir: str | None = None

    def socket_path(self) -> Path:
        """Raises InvalidConfiguration or Permission for a file that does not say where."""
        from nefia.config import state_dir_for_client

        directory = state_dir_for_client(
            state_dir=self.state_dir,
            config=self.config,
            environ=os.environ,
            is_root=os.geteuid() == 0,
        )
        return directory / SOCKET_NAME

    def load(self) -> Config:
        """The whole configuration, checked. Raises InvalidConfiguration and Permission."""
        from nefia.config import load, require_config

        return load(
            require_config(self.config, os.environ),
            state_dir=self.state_dir,
            environ=os.environ,
            is_root=os.geteuid() == 0,
        )

    def load_cluster(self) -> Config:
        """As `load`, for what makes sense in a cluster only. Raises NotInitialized too."""
        config = self.load()
        if not config.cluster.enabled:
            raise NotInitialized("this node runs without a cluster, since cluster.enabled is false")
        return config

    def ask(self, action: str, *, timeout: float | None, **params: object) -> dict[str, Any]:
        """The daemon's result. Parameters that are None are not sent."""
        given = {
            name: value.value if isinstance(value, Json) else value
            for name, value in params.items()
            if value is not None
        }
        seconds = DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout
        with AdminClient(self.socket_path()) as client:
            return client.call(action, timeout=seconds, **given)

    def change(
        self,
        action: str,
        *,
        timeout: float | None,
        request_id: str | None,
        forward: bool,
        **params: object,
    ) -> dict[str, Any]:
        """As `ask`, under a request id with which a repetition is safe."""
        request_id = request_id or os.urandom(REQUEST_ID_BYTES).hex()
        params |= {"request_id": request_id, "forward": forward or None}
        try:
            return self.ask(action, timeout=timeout, **params)
        except KeyboardInterrupt:
            output.note(
                "\nInterrupted. Whether it was done is not known. "
                f"To repeat it safely, add --request-id {request_id}."
            )
            raise


pass_setup = click.make_pass_decorator(Setup, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(context.ensure_object(Setup), str(parameter.name), value)


def _global_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            help="The nefia.yaml to use.",
            callback=_remember,
            expose_value=False,
            type=click.Path(),
        ),
        click.Option(
            ["--state-dir"],
            metavar="DIRECTORY",
            help="Where the daemon keeps its state and its socket.",
            callback=_remember,
            expose_value=False,
            type=click.Path(),
        ),
    ]


class Command(click.Command):
    """A command that takes the global options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _global_options()


class Group(click.Group):
    """A group of such commands, which takes the global options as well."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _global_options()


class Root(Group):
    """The outermost group, where every error becomes a message and an exit code.

    Each of `modules` is a module of `nefia.cli` with a command of its name, and is imported when
    that is asked for.
    """

    group_class = Group

    def __init__(self, *args: Any, modules: frozenset[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.commands.keys() | self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules - self.commands.keys():
            self.add_command(getattr(import_module(f"nefia.cli.{cmd_name}"), cmd_name))
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """As click's, except for errors: no traceback for anything an operator can cause."""
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            sys.stdout.flush()
        except NefiaError as error:
            output.show_error(error)
            code = error.exit_code
        except click.exceptions.NoArgsIsHelpError as error:
            output.note(error.format_message())
            code = error.exit_code
        except click.ClickException as error:
            usage = _usage_error(error)
            output.show_error(usage)
            code = usage.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            # Nobody reads our output any more, and Python must not complain of it at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_FAILED
        sys.exit(code if isinstance(code, int) else 0)


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """By name, in that order; those with a module of their own are imported for it."""
    context = click.Context(group)
    found = ((name, group.get_command(context, name)) for name in group.list_commands(context))
    return {name: command for name, command in found if command is not None}


def _usage_error(error: click.ClickException) -> InvalidArgument:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see `{context.command_path} --help`" if context else ""
    return InvalidArgument(error.format_message(), hint=hint)


# Parameters that several commands share.


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A callback for an option of Go-style text: seconds."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


timeout_option = click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration,
    help="How long to wait for the daemon's answer.",
)

output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(output.FORMATS),
    default="table",
    help="How to print the answer.",
)


def reading(function: F) -> F:
    """Options of a command that reads: `form`, `timeout`."""
    return output_option(timeout_option(function))


def reading_state(function: F) -> F:
    """Options of a command that reads the shared state: `form`, `timeout`, `consistency`."""
    local = click.option(
        "--local",
        "consistency",
        flag_value="local",
        help="Read what this node has applied, without asking the leader.",
    )
    return reading(local(function))


def changing(function: F) -> F:
    """Options of a command that changes something: `forward`, `request_id`, `timeout`."""
    forward = click.option(
        "--forward", is_flag=True, help="On a follower: pass the change on to the leader."
    )
    request_id = click.option(
        "--request-id", metavar="ID", help="Repeat a change whose outcome is not known."
    )
    return forward(request_id(timeout_option(function)))


def changing_state(function: F) -> F:
    """Those of `changing`, and `form`."""
    return output_option(changing(function))


def argument_or_option(
    name: str, meaning: str, *, key: str | None = None, kind: type[str | int] = str
) -> Callable[[F], F]:
    """A value that may be given as an argument or as `--name`, but in one way only.

    The function gets it as `key`, by default as `name`.
    """
    positional = f"{name}_argument"

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            given = [kwargs.pop(positional), kwargs.pop(name)]
            values = [value for value in given if value is not None]
            if len(values) != 1:
                raise click.UsageError(f"Give the {name} once: as an argument or with --{name}.")
            return function(*args, **kwargs, **{key or name: values[0]})

        argument = click.argument(positional, metavar=name.upper(), required=False, type=kind)
        option = click.option(f"--{name}", name, metavar=name.upper(), help=meaning, type=kind)
        return cast(F, argument(option(checked)))

    return decorate
