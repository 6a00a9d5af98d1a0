"""The command line: one verb a stage, run, doctor, status, export, inspect and others; parses, calls, prints.

What a verb needs, it imports itself.
"""

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agfsync import __version__
from agfsync.engine import launched
from agfsync.errors import AgfsyncError, DivergedError, PeerError
from agfsync.files.atomic import fault

if TYPE_CHECKING:
    from agfsync.pipeline import Standing

VERBS = {
    "captions": "Write the captions.",
    "questions": "Write each caption's questions.",
    "candidates": "Draw each caption's candidates.",
    "scores": "Let every scorer judge every candidate.",
    "pairs": "Choose each caption's winner and loser.",
    "training": "Align the model on the pairs.",
    "evaluation": "Compare base and aligned model on held-out captions.",
    "report": "Write the report.",
}
"""The stages in order: pipeline's, which isn't imported until a verb needs it, so that --help answers at once."""

USAGE, UNEXPECTED, STOPPED = 2, 1, 130
"""Exit codes: something the user can mend, a fault of the program, Ctrl-C."""

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}
"""What the libraries read when imported: threads without work sleep, since spinning makes a busy machine
up to ten times slower, and warnings stay out of the bars."""

app = typer.Typer(name="agfsync", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.", show_default=False)]
RecipeName = Annotated[str, typer.Argument(metavar="[RECIPE]", help="A file, or the name of a shipped recipe.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as pairs.weights.vqa=0.5; repeatable.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def agfsync(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
    debug: Debug = False,
) -> None:
    """Align text-to-image diffusion models with AI feedback, without a human label."""
    if version:
        typer.echo(f"agfsync {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    recipe: RecipeName = "shapes",
    out: Out = None,
    set_: Settings = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="The last stage to run.", show_default=False)
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Go on with other settings than the run's.")] = False,
    debug: Debug = False,
) -> None:
    """Run all stages of a recipe; the same command goes on where it was stopped."""
    from agfsync import pipeline
    from agfsync.engine.progress import progress
    from agfsync.recipe import resolve

    if until is not None and until not in VERBS:
        raise typer.BadParameter(f"no stage is called '{until}': there are {', '.join(VERBS)}")
    resolved = resolve(recipe, set_ or [])
    path = out or Path("runs") / resolved.name
    shown = progress()
    trains = until is None or list(VERBS).index(until) >= list(VERBS).index("training")
    if trains and launched.rank() > 0:
        _help(path, until, may_be_done=not update)
    else:
        with _leading(trains):
            pipeline.prepare(path, resolved, update=update, progress=shown)
            pipeline.run(path, until=until, progress=shown)
    _show(path)


@app.command()
def doctor(
    recipe: RecipeName = "shapes",
    out: Out = None,
    set_: Settings = None,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Say what a run would take and what it lacks, before anything runs."""
    from agfsync.recipe import resolve

    resolved = resolve(recipe, set_ or [])
    # Torch comes with these: a wrong recipe is told before.
    from agfsync.commands.doctor import examine
    from agfsync.commands.doctor.page import format_page

    found = examine(resolved, out or Path("runs") / resolved.name)
    width = shutil.get_terminal_size().columns
    typer.echo(json.dumps(found.plain(), ensure_ascii=False) if json_ else format_page(found, width))
    if not found.can_begin:
        raise typer.Exit(USAGE)


@app.command()
def status(path: Folder, debug: Debug = False) -> None:
    """Show how far a run is."""
    _show(path)


@app.command()
def verify(path: Folder, debug: Debug = False) -> None:
    """Verify each file of a run against its checksum; damaged ones are quarantined and regenerated by the next run."""
    from agfsync import pipeline

    typer.echo(f"{path}: {pipeline.verify(path)} files, all as they were written")


@app.command()
def export(
    path: Folder,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="Such as pick-a-pic.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Write a run's pairs in a format that others read."""
    from agfsync.commands.export import export_pairs

    counts = export_pairs(path, format_, out)
    typer.echo(", ".join(f"{count} {what}" for what, count in counts.items()) + f": {out}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a folder or a run.", show_default=False)],
    split: Annotated[str, typer.Option("--split", help="Of a folder with several; default: train.")] = "",
    repeats: Annotated[Literal["majority", "all"], typer.Option(help="How raters' judgements count.")] = "majority",
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Say what a file or folder is and count what it holds."""
    from agfsync.commands.inspect import inspect_path

    contents = inspect_path(path, split, repeats).plain()
    typer.echo(json.dumps({"path": str(path)} | contents, ensure_ascii=False) if json_ else _told(path, contents))


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="Pickled weights.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="A new file.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Make safetensors of pickled weights, on the CPU and without running what is in them."""
    from agfsync.commands.convert import convert_weights

    typer.echo(convert_weights(file, out))


recipes = typer.Typer(invoke_without_command=True, rich_markup_mode=None, help="List the shipped recipes, or show one.")
app.add_typer(recipes, name="recipes")


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from agfsync.recipe import shipped, summarize_shipped

        for name in shipped():
            typer.echo(f"{name:<11} {summarize_shipped(name)}")


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as shapes.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Print a shipped recipe as it is, comments included."""
    from agfsync.recipe import read_shipped

    typer.echo(read_shipped(name), nl=False)


def _told(path: Path, contents: Mapping[str, Any]) -> str:
    """Return what is there, a count a line."""
    from agfsync.formats import format_places

    lines = [f"{path}: {contents['what']}"]
    counted = ["captions", "questions", "pairs", "ties"]
    counted += ["judgements"] if contents["judgements"] != contents["pairs"] else []
    lines += [f"{name:<11} {contents[name]}" for name in counted if contents[name]]
    lines += [f"questions left out: {reason} {count}" for reason, count in contents["questions_left_out"].items()]
    for reason, count in contents["left_out"].items():
        lines.append(f"left out: {reason} {count}{format_places(contents['left_out_at'].get(reason, []), count)}")
    for category, counts in contents["categories"].items():
        lines.append(f"  {category}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))
    return "\n".join(lines)


def _verb(stage: str) -> Callable[[Path, bool], None]:
    def verb(path: Folder, debug: Debug = False) -> None:
        from agfsync import pipeline
        from agfsync.engine.progress import progress

        trains, shown = stage == "training", progress()
        if trains and launched.rank() > 0:
            _help(path, stage)
        else:
            with _leading(trains):
                pipeline.run_stage(path, stage, progress=shown)
        _show(path)

    verb.__doc__ = VERBS[stage]
    return verb


for _stage in VERBS:
    app.command(_stage)(_verb(_stage))


@app.command(
    "shapes",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="The embedded Shapes world: train its models, print their card.",
)
def shapes(context: typer.Context, debug: Debug = False) -> None:
    from agfsync.shapes.cli import app as shapes_app

    shapes_app(args=context.args, prog_name="agfsync shapes", standalone_mode=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's); the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _stoppable(signal.SIGTERM):
            return _code(app(args=given, prog_name="agfsync", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        return _code(STOPPED)
    except Exception as failure:
        if "--debug" in given:
            traceback.print_exception(failure)
        return _failed(*_line(fault(failure, Path.cwd()) or failure))


@contextmanager
def _stoppable(*wanted: signal.Signals) -> Iterator[None]:
    """Within, these signals stop as Ctrl-C does, so that what is complete is kept.

    A launcher passes on what the terminal has sent to all: after the first such signal there is nothing more to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        for each in stopping:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    stopping = [each for each in wanted if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in stopping}
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is stop:
                signal.signal(each, handler)


@contextmanager
def _leading(trains: bool) -> Iterator[None]:
    """Within, this process is the first of those launched together, if what `trains` was launched in several."""
    if not trains or launched.count() == 1:
        yield
        return
    with _stoppable(signal.SIGTERM, signal.SIGINT), launched.leading():
        yield


def _help(path: Path, until: str | None, *, may_be_done: bool = True) -> None:
    """Do what a process that isn't the first of several does: its share of trainings. Return if all is done already.

    Raises:
        typer.Exit: the first process has ended, or this one can't help it.
    """
    from agfsync import pipeline

    if may_be_done:
        with suppress(AgfsyncError):
            if pipeline.is_up_to_date(path, until):
                return
    # It holds nothing that a stop could lose, and the first says that all was stopped.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise typer.Exit(_helped())


def _helped() -> int:
    """Help the first process until it ends, and return the exit code."""
    who = f"process {launched.rank()}"
    try:
        launched.join(lambda line: print(f"{who}: {line}", file=sys.stderr, flush=True))
    except PeerError as failure:
        return _failed(*_line(failure))
    try:
        for order in launched.orders():
            from agfsync.pipeline import help_train

            help_train(order)
    except (DivergedError, PeerError):
        return UNEXPECTED  # The first tells of it.
    except Exception as failure:
        line, code = _line(fault(failure, Path.cwd()) or failure)
        return _failed(f"{who}: {line}", code)
    return 0


def _line(failure: Exception) -> tuple[str, int]:
    """What to tell of `failure`, in one line, and the exit code."""
    if isinstance(failure, AgfsyncError):
        return f"error: {_one_line(str(failure))}", USAGE
    if isinstance(failure, typer.TyperException):
        return f"error: {_one_line(failure.format_message())}: see `agfsync --help`", USAGE
    kind = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    return f"error: unexpected {_one_line(kind)}; run with --debug for the traceback", UNEXPECTED


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _failed(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _code(result: Any) -> int:
    """The exit code of a command's `result`: what it exited with, else 0. Typer makes 130 of Ctrl-C."""
    if result == STOPPED:
        return _failed("stopped; type the same command to go on", STOPPED)
    return result if isinstance(result, int) else 0


def _show(path: Path) -> None:
    """Print how far each stage is, what the evaluation found, and where the report lies."""
    from agfsync.pipeline import read_headline, status

    standings = {standing.name: standing for standing in status(path)}
    for standing in standings.values():
        typer.echo(_row(standing))
    evaluation = standings["evaluation"]
    if evaluation.state == "done" and evaluation.finished:
        for judge, figures in evaluation.finished.notes["judges"].items():
            typer.echo(_finding(judge, figures))
        typer.echo(f"verdict: {read_headline(path)}")
    if (path / "report.html").exists():
        typer.echo(f"report: {path / 'report.html'}")


def _row(standing: "Standing") -> str:
    from agfsync.engine.progress import clock

    finished = standing.finished
    if finished is None:
        return f"{standing.name:<11} {standing.state}" + (f", {standing.units} units" if standing.units else "")
    parts = [f"{finished.rows} rows" if finished.rows else "", clock(finished.seconds)]
    parts += [f"{finished.skipped} skipped"] if finished.skipped else []
    return f"{standing.name:<11} {standing.state:<12} " + ", ".join(part for part in parts if part)


def _finding(judge: str, figures: Mapping[str, Any]) -> str:
    """Return a judge's means over the held-out captions, their difference and the win rate, with 95 % intervals."""
    from agfsync.statistics import FEWEST_FOR_VERDICT

    difference = f"{figures['base']:.1f} -> {figures['aligned']:.1f}: {figures['difference']:+.1f}"
    if figures["low"] is not None:
        difference += f" ({figures['low']:+.1f} to {figures['high']:+.1f})"
    rate, low, high, ties = (f"{100 * figures[name]:.0f}" for name in ("win_rate", "win_low", "win_high", "ties"))
    line = f"{judge:<11} {difference}, win rate {rate} % ({low} to {high}), ties {ties} %"
    if figures["prompts"] < FEWEST_FOR_VERDICT:
        line += f"; too few captions to tell ({figures['prompts']} of {FEWEST_FOR_VERDICT})"
    return line
