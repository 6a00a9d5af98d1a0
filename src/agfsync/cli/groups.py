"""The command groups `agfsync recipes` and `agfsync study`."""

import shutil
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Literal

import typer

from agfsync.cli.failures import UNEXPECTED
from agfsync.cli.options import Debug, Settings
from agfsync.cli.processes import lead_training, serve_orders
from agfsync.commands.help import WholeHelpGroup
from agfsync.engine import launcher

recipes = typer.Typer(
    cls=WholeHelpGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the shipped recipes, or show one.",
)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes, or show one."""
    if context.invoked_subcommand is None:
        from agfsync.recipe import list_shipped, summarize_shipped

        indent = " " * (max(map(len, list_shipped())) + 1)
        width = shutil.get_terminal_size((200, 24)).columns  # no wrapping in a pipe
        for name in list_shipped():
            line = f"{name:<{len(indent)}}{summarize_shipped(name)}"
            typer.echo(fill(line, max(width, len(indent) + 20), subsequent_indent=indent, break_on_hyphens=False))


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as shapes.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Print a shipped recipe, comments included."""
    from agfsync.recipe import read_shipped

    typer.echo(read_shipped(name), nl=False)


class _StudyGroup(WholeHelpGroup):
    """A command group that runs its first argument if that is a study."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


studies = typer.Typer(
    cls=_StudyGroup, no_args_is_help=True, rich_markup_mode=None, help="Compare arms of a recipe under several seeds."
)
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.", show_default=False)]


@studies.command("run")
def study_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A file, or the name of a shipped study.")],
    out: Annotated[Path | None, typer.Option(help="The folder; default: studies/NAME.", show_default=False)] = None,
    set_: Settings = None,
    update: Annotated[bool, typer.Option("--update", help="Continue with changed settings of the arms.")] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Create the run folders of the base and the arms; train nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run the base and the arms of a study; `agfsync study STUDY` is short for this."""
    from agfsync.commands.study import format_study_status
    from agfsync.engine.progress import make_progress
    from agfsync.study.running import run_study
    from agfsync.study.settings import load_study
    from agfsync.study.status import locate_failure

    resolved = load_study(study, set_ or [])
    path = out or Path("studies") / resolved.name
    if launcher.process_rank() > 0:
        raise typer.Exit(serve_orders())
    with lead_training(True):
        run_study(resolved, path, make_progress(), update=update, prepare=prepare)
    typer.echo(format_study_status(path))
    typer.echo(f"table: `agfsync study table {path}`; page: {path / 'study.html'}")
    if any(locate_failure(arm, path).is_file() for arm in resolved.resolve_arms()):
        raise typer.Exit(UNEXPECTED)


@studies.command("status")
def study_status_command(path: StudyFolder, debug: Debug = False) -> None:
    """Show the state and the run folder of each arm."""
    from agfsync.commands.study import format_study_status

    typer.echo(format_study_status(path))


@studies.command("table")
def study_table_command(
    path: StudyFolder,
    format_: Annotated[
        Literal["markdown", "latex"], typer.Option("--format", help="The format of the table.")
    ] = "markdown",
    debug: Debug = False,
) -> None:
    """Print the table of a study as far as it got."""
    from agfsync.commands.study import format_study_table

    typer.echo(format_study_table(path, format_))


@studies.command("report")
def study_report_command(path: StudyFolder, debug: Debug = False) -> None:
    """Rewrite table.parquet and study.html, for example after a scheduler has run arms."""
    from agfsync.study.report import write_results
    from agfsync.study.running import read_study

    write_results(path, study := read_study(path))
    typer.echo(f"page: {path / study.page_file}")
