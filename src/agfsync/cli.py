"""The command line: one verb a stage, run, doctor, status, export, inspect and others; parses, calls, prints.

A command imports what it needs itself, so that --help answers at once.
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
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Literal

import typer

from agfsync import __version__
from agfsync.commands.help import WholeHelpGroup
from agfsync.engine import launcher
from agfsync.errors import AgfsyncError, DivergedError, PeerError
from agfsync.files.atomic import explain_disk_error
from agfsync.stages import NAMES, STAGES, Stage

USAGE, UNEXPECTED, STOPPED = 2, 1, 130
"""Exit codes: something the user can mend, a fault of the program, Ctrl-C."""

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}
"""What the libraries read when imported: threads without work sleep, since spinning makes a busy machine
up to ten times slower, and warnings stay out of the bars."""

app = typer.Typer(
    name="agfsync", cls=WholeHelpGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.", show_default=False)]
RecipeName = Annotated[str, typer.Argument(metavar="[RECIPE]", help="A file, or the name of a shipped recipe.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as training.steps=200; repeatable.")
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


@app.command("run")
def run_command(
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
    from agfsync.engine.progress import make_progress
    from agfsync.recipe import resolve_recipe
    from agfsync.study.rounds import run_with_rounds

    if until is not None and until not in NAMES:
        raise typer.BadParameter(f"no stage is called '{until}': there are {', '.join(NAMES)}")
    resolved = resolve_recipe(recipe, set_ or [])
    path = out or Path("runs") / resolved.name
    shown = make_progress()
    first = "training" if resolved.reward is None else "reward"
    trains = until is None or NAMES.index(until) >= NAMES.index(first)
    if trains and launcher.process_rank() > 0:
        _help_training(path, until, may_be_done=not update)
    else:
        with _lead_training(trains):
            pipeline.prepare(path, resolved, update=update, progress=shown)
            run_with_rounds(path, until=until, progress=shown)
    _show_status(path)


@app.command("compare")
def compare_command(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A hub id, folder, file or run.", show_default=False)],
    other: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="As BASE, or a LoRA of it; MODEL+LORA is both.", show_default=False),
    ],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="SET", help="A file of prompts, or held-out; repeatable.")
    ] = None,
    judges: Annotated[
        list[str] | None, typer.Option("--judge", metavar="NAME", help="One of the recipe's scorers; repeatable.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Whose captions and judges are taken; default: the run's among the two.", show_default=False),
    ] = None,
    out: Out = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set-option", metavar="KEY=VALUE", help="Such as model.sampling.steps=20, for both models."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Go on with other settings than the comparison's.")] = False,
    debug: Debug = False,
) -> None:
    """Compare two models, LoRAs or runs on the same prompts and seeds; nothing is trained."""
    from agfsync import pipeline
    from agfsync.commands.compare import plan_comparison, prepare_comparison
    from agfsync.engine.progress import make_progress

    comparison = plan_comparison(
        base, other, recipe=recipe, sets=sets or (), judges=judges or (), overrides=settings or ()
    )
    path, shown = out or Path("runs") / comparison.recipe.name, make_progress()
    prepare_comparison(path, comparison, update=update, progress=shown)
    pipeline.run(path, progress=shown)
    _show_status(path)


@app.command("doctor")
def doctor_command(
    recipe: RecipeName = "shapes",
    out: Out = None,
    set_: Settings = None,
    card: Annotated[
        float | None, typer.Option(help="Estimate for an accelerator of so many GB, which need not be here.", min=1)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Say what a run would take and what it lacks, before anything runs."""
    from agfsync.recipe import resolve_recipe

    resolved = resolve_recipe(recipe, set_ or [])
    # These import torch: a wrong recipe is reported before.
    from agfsync.commands.doctor import examine
    from agfsync.commands.doctor.page import format_page

    found = examine(resolved, out or Path("runs") / resolved.name, card and card * 1e9)
    width = shutil.get_terminal_size().columns
    typer.echo(json.dumps(found.plain(), ensure_ascii=False) if json_ else format_page(found, width))
    if not found.can_begin:
        raise typer.Exit(USAGE)


@app.command("status")
def status_command(path: Folder, debug: Debug = False) -> None:
    """Show how far a run is."""
    _show_status(path)


@app.command("verify")
def verify_command(path: Folder, debug: Debug = False) -> None:
    """Verify each file of a run against its checksum; damaged ones are quarantined and regenerated by the next run."""
    from agfsync import pipeline

    typer.echo(f"{path}: {pipeline.verify(path)} files, all as they were written")


@app.command("fork")
def fork_command(
    path: Folder,
    to: Annotated[Path, typer.Argument(metavar="TO", help="A new folder.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Make another run that shares what this one has made, to go on with other settings."""
    from agfsync.store.forks import fork_run

    typer.echo(str(fork_run(path, to)))


@app.command("export")
def export_command(
    path: Folder,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="Such as pick-a-pic.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Write a run's pairs in a format that others read."""
    from agfsync.commands.export import export_pairs

    counts = export_pairs(path, format_, out)
    typer.echo(", ".join(f"{count} {what}" for what, count in counts.items()) + f": {out}")


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a folder or a run.", show_default=False)],
    split: Annotated[str, typer.Option("--split", help="Of a folder with several; default: train.")] = "",
    repeats: Annotated[Literal["majority", "all"], typer.Option(help="How raters' judgements count.")] = "majority",
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Say what a file or folder is and count what it holds."""
    from agfsync.commands.inspect import inspect_path

    contents = inspect_path(path, split, repeats).plain()
    typer.echo(
        json.dumps({"path": str(path)} | contents, ensure_ascii=False) if json_ else _format_contents(path, contents)
    )


@app.command("judge")
def judge_command(
    path: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="A pair set, a table of answers, or a run.", show_default=False)
    ],
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", metavar="NAME=TYPE:PATH", help="Repeatable; the first one leads.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Take its scorers; default: the run's.", show_default=False)
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of a folder with several, default: train; of a run: its reward model's.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first N pairs or images.")] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="Judge the answers to a run's questions against its oracle.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Keep the findings, for report.checks.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Measure how often scorers prefer the preferred picture of pairs, or answer questions rightly."""
    from agfsync.commands.answers import judge_answers
    from agfsync.commands.judge import format_judged, judge_pair_set, read_scorers
    from agfsync.engine.progress import make_progress
    from agfsync.files.atomic import write_atomic
    from agfsync.formats.sources import holds_answers

    judge = judge_answers if questions or holds_answers(path) else judge_pair_set
    found = judge(path, read_scorers(path, scorer or [], recipe), make_progress(), split, limit)
    plain = json.dumps(found.plain(), ensure_ascii=False)
    if out is not None:
        write_atomic(out, plain.encode())
    typer.echo(plain if json_ else format_judged(found))


@app.command("convert")
def convert_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="Pickled weights.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="A new file.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Make safetensors of pickled weights, on the CPU and without running what is in them."""
    from agfsync.commands.convert import convert_weights

    typer.echo(convert_weights(file, out))


@app.command("methods")
def methods_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Such as dpo: show its settings.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="The list for programs.")] = False,
    debug: Debug = False,
) -> None:
    """List the alignment methods, or show the settings of one."""
    from agfsync.commands.methods import format_method, format_methods, list_methods

    width = shutil.get_terminal_size().columns
    if name is not None:
        typer.echo(format_method(name, width))
    elif json_:
        typer.echo(json.dumps([asdict(facts) for facts in list_methods()], ensure_ascii=False))
    else:
        typer.echo(format_methods(list_methods(), width))


recipes = typer.Typer(
    cls=WholeHelpGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the shipped recipes, or show one.",
)
app.add_typer(recipes, name="recipes")


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes, or show one."""
    if context.invoked_subcommand is None:
        from agfsync.recipe import list_shipped, summarize_shipped

        indent = " " * (max(map(len, list_shipped())) + 1)
        width = shutil.get_terminal_size((200, 24)).columns  # whole lines where they go into a pipe
        for name in list_shipped():
            line = f"{name:<{len(indent)}}{summarize_shipped(name)}"
            typer.echo(fill(line, max(width, len(indent) + 20), subsequent_indent=indent, break_on_hyphens=False))


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as shapes.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Print a shipped recipe as it is, comments included."""
    from agfsync.recipe import read_shipped

    typer.echo(read_shipped(name), nl=False)


class _StudyGroup(WholeHelpGroup):
    """A group whose first argument may also be a study, which is then run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


studies = typer.Typer(
    cls=_StudyGroup, no_args_is_help=True, rich_markup_mode=None, help="Compare arms of a recipe under several seeds."
)
app.add_typer(studies, name="study")
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder.", show_default=False)]


@studies.command("run")
def study_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A file, or the name of a shipped study.")],
    out: Annotated[Path | None, typer.Option(help="The folder; default: studies/NAME.", show_default=False)] = None,
    set_: Settings = None,
    update: Annotated[bool, typer.Option("--update", help="Go on with other settings than the arms'.")] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make the base and the arms' run folders, and train none of them.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run the base and the arms of a study, which `agfsync study STUDY` is short for."""
    from agfsync.commands.study import format_study_status
    from agfsync.engine.progress import make_progress
    from agfsync.study.running import run_study
    from agfsync.study.settings import load_study

    resolved = load_study(study, set_ or [])
    path = out or Path("studies") / resolved.name
    if launcher.process_rank() > 0:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise typer.Exit(_serve_orders())
    with _lead_training(True):
        run_study(resolved, path, make_progress(), update=update, prepare=prepare)
    typer.echo(format_study_status(path))
    typer.echo(f"table: `agfsync study table {path}`; page: {path / 'study.html'}")


@studies.command("status")
def study_status_command(path: StudyFolder, debug: Debug = False) -> None:
    """Show the state of each arm, and where its run is."""
    from agfsync.commands.study import format_study_status

    typer.echo(format_study_status(path))


@studies.command("table")
def study_table_command(
    path: StudyFolder,
    format_: Annotated[Literal["markdown", "latex"], typer.Option("--format", help="Of the text.")] = "markdown",
    debug: Debug = False,
) -> None:
    """Print the table of a study as far as it got."""
    from agfsync.commands.study import format_study_table

    typer.echo(format_study_table(path, format_))


@studies.command("report")
def study_report_command(path: StudyFolder, debug: Debug = False) -> None:
    """Write table.parquet and study.html anew, such as after arms that a scheduler has run."""
    from agfsync.study.report import write_results
    from agfsync.study.running import read_study

    write_results(path, study := read_study(path))
    typer.echo(f"page: {path / study.page_file}")


def _format_contents(path: Path, contents: Mapping[str, Any]) -> str:
    """Return the counts of a file or folder, a line each."""
    from agfsync.commands.inspect import format_statistics
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
    lines += format_statistics(contents.get("statistics", {}))
    return "\n".join(lines)


def _make_command(stage: Stage) -> Callable[[Path, bool], None]:
    def verb(path: Folder, debug: Debug = False) -> None:
        from agfsync import pipeline
        from agfsync.engine.progress import make_progress

        trains, shown = stage.name in ("reward", "training"), make_progress()
        if trains and launcher.process_rank() > 0:
            _help_training(path, stage.name)
        else:
            with _lead_training(trains):
                pipeline.run_stage(path, stage.name, progress=shown)
        _show_status(path)

    verb.__doc__ = stage.help
    return verb


for _stage in STAGES:
    app.command(_stage.name)(_make_command(_stage))


@app.command(
    "shapes",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="The embedded Shapes world: train its models, print their card.",
)
def shapes_command(context: typer.Context, debug: Debug = False) -> None:
    """Pass the arguments on to the command line of Shapes."""
    from agfsync.shapes.cli import shapes_app

    shapes_app(args=context.args, prog_name="agfsync shapes", standalone_mode=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's) and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _stop_on(signal.SIGTERM):
            return _find_exit_code(app(args=given, prog_name="agfsync", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        return _find_exit_code(STOPPED)
    except Exception as failure:
        if "--debug" in given:
            traceback.print_exception(failure)
        return _print_error(*_describe_failure(explain_disk_error(failure, Path.cwd()) or failure))


@contextmanager
def _stop_on(*wanted: signal.Signals) -> Iterator[None]:
    """Handle these signals like Ctrl-C within the block, so that complete work is kept.

    A launcher forwards the signals that the terminal has sent to all: those after the first are ignored.
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
def _lead_training(trains: bool) -> Iterator[None]:
    """Lead the helper processes within the block if the command trains and was launched in several processes."""
    if not trains or launcher.count_processes() == 1:
        yield
        return
    with _stop_on(signal.SIGTERM, signal.SIGINT), launcher.lead_helpers():
        yield


def _help_training(path: Path, until: str | None, *, may_be_done: bool = True) -> None:
    """Do a helper process's share of trainings. Return if all is done already.

    Raises:
        typer.Exit: the first process has ended, or this one can't help it.
    """
    from agfsync.study.rounds import are_rounds_done

    if may_be_done:
        with suppress(AgfsyncError):  # The first process meets the same error, and reports it.
            if are_rounds_done(path, until):
                return
    # It holds nothing that a stop could lose, and the first says that all was stopped.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise typer.Exit(_serve_orders())


def _serve_orders() -> int:
    """Help the first process until it ends, and return the exit code."""
    who = f"process {launcher.process_rank()}"
    try:
        launcher.join_first(lambda line: print(f"{who}: {line}", file=sys.stderr, flush=True))
    except PeerError as failure:
        return _print_error(*_describe_failure(failure))
    try:
        for order in launcher.receive_orders():
            from agfsync.pipeline import help_train

            help_train(order)
    except (DivergedError, PeerError):
        return UNEXPECTED  # The first process reports it.
    except Exception as failure:
        line, code = _describe_failure(explain_disk_error(failure, Path.cwd()) or failure)
        return _print_error(f"{who}: {line}", code)
    return 0


def _describe_failure(failure: Exception) -> tuple[str, int]:
    """Return one line on `failure`, and the exit code."""
    if isinstance(failure, AgfsyncError):
        return f"error: {_one_line(str(failure))}", USAGE
    if isinstance(failure, typer.TyperException):
        context = getattr(failure, "ctx", None)
        command = "agfsync" if context is None else context.command_path
        says = _one_line(failure.format_message())
        return f"error: {says}{'' if says.endswith('?') else ':'} see `{command} --help`", USAGE
    kind = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    return f"error: unexpected {_one_line(kind)}; run with --debug for the traceback", UNEXPECTED


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _print_error(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _find_exit_code(result: Any) -> int:
    """Return the exit code of a command's `result`: the one it exited with, else 0. Typer makes 130 of Ctrl-C."""
    if result == STOPPED:
        return _print_error("stopped; type the same command to go on", STOPPED)
    return result if isinstance(result, int) else 0


def _show_status(path: Path) -> None:
    """Print the state of each stage, the findings of the evaluation and the report's path."""
    from agfsync.commands.status import list_status_lines

    for line in list_status_lines(path):
        typer.echo(line)
