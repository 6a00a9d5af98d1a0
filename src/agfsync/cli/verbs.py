"""The commands: one for each stage, and run, compare, doctor, status, export, inspect and others.

A command imports what it needs when it is called, so that --help answers at once.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from agfsync import __version__
from agfsync.cli.failures import USAGE
from agfsync.cli.groups import recipes, studies
from agfsync.cli.options import Debug, Folder, Out, RecipeName, Settings
from agfsync.cli.processes import help_training, lead_training
from agfsync.commands.help import WholeHelpGroup
from agfsync.engine import launcher
from agfsync.stages import NAMES, STAGES, Stage

app = typer.Typer(
    name="agfsync", cls=WholeHelpGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.add_typer(recipes, name="recipes")
app.add_typer(studies, name="study")


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
    update: Annotated[bool, typer.Option("--update", help="Continue the run with changed settings.")] = False,
    debug: Debug = False,
) -> None:
    """Run all stages of a recipe; run the same command again to continue after a stop."""
    from agfsync import pipeline
    from agfsync.engine.progress import make_progress
    from agfsync.recipe import resolve_recipe
    from agfsync.study.rounds import run_with_rounds

    if until is not None and until not in NAMES:
        raise typer.BadParameter(f"no stage is called '{until}': there are {', '.join(NAMES)}")
    resolved = resolve_recipe(recipe, set_ or [])
    path = out or Path("runs") / resolved.name
    progress = make_progress()
    first = "training" if resolved.reward is None else "reward"
    trains = until is None or NAMES.index(until) >= NAMES.index(first)
    if trains and launcher.process_rank() > 0:
        help_training(path, until, may_be_done=not update)
    else:
        with lead_training(trains):
            pipeline.prepare(path, resolved, update=update, progress=progress)
            run_with_rounds(path, until=until, progress=progress)
    show_status(path)


@app.command("compare")
def compare_command(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A hub id, folder, file or run.", show_default=False)],
    other: Annotated[
        str,
        typer.Argument(
            metavar="OTHER", help="Like BASE, or a LoRA of it; MODEL+LORA combines both.", show_default=False
        ),
    ],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="SET", help="A file of prompts, or held-out; repeatable.")
    ] = None,
    judges: Annotated[
        list[str] | None, typer.Option("--judge", metavar="NAME", help="One of the recipe's scorers; repeatable.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe of the captions and judges; default: that of BASE or OTHER.", show_default=False),
    ] = None,
    out: Out = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set-option", metavar="KEY=VALUE", help="Such as model.sampling.steps=20, for both models."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Continue the comparison with changed settings.")] = False,
    debug: Debug = False,
) -> None:
    """Compare two models, LoRAs or runs on the same prompts and seeds; nothing is trained."""
    from agfsync import pipeline
    from agfsync.commands.compare import plan_comparison, prepare_comparison
    from agfsync.engine.progress import make_progress

    comparison = plan_comparison(
        base, other, recipe=recipe, sets=sets or (), judges=judges or (), overrides=settings or ()
    )
    path, progress = out or Path("runs") / comparison.recipe.name, make_progress()
    prepare_comparison(path, comparison, update=update, progress=progress)
    pipeline.run(path, progress=progress)
    show_status(path)


@app.command("doctor")
def doctor_command(
    recipe: RecipeName = "shapes",
    out: Out = None,
    set_: Settings = None,
    card: Annotated[
        float | None, typer.Option(help="Estimate for an accelerator with this many GB instead of the one here.", min=1)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Report what a run would need and what is missing, before anything runs."""
    from agfsync.recipe import resolve_recipe

    resolved = resolve_recipe(recipe, set_ or [])
    # These import torch: a wrong recipe is reported first.
    from agfsync.commands.doctor import examine
    from agfsync.commands.doctor.page import format_page

    examination = examine(resolved, out or Path("runs") / resolved.name, card and card * 1e9)
    width = shutil.get_terminal_size().columns
    typer.echo(json.dumps(examination.plain(), ensure_ascii=False) if json_ else format_page(examination, width))
    if not examination.can_begin:
        raise typer.Exit(USAGE)


@app.command("status")
def status_command(path: Folder, debug: Debug = False) -> None:
    """Show the progress of a run."""
    show_status(path)


@app.command("verify")
def verify_command(path: Folder, debug: Debug = False) -> None:
    """Verify each file of a run or study against its checksum; the next run regenerates damaged ones."""
    from agfsync.study.verifying import verify_runs

    typer.echo(f"{path}: {verify_runs(path)} files match their checksums")


@app.command("fork")
def fork_command(
    path: Folder,
    to: Annotated[Path, typer.Argument(metavar="TO", help="A new folder.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Create another run that shares the results of this one, to continue with other settings."""
    from agfsync.store.forks import fork_run

    typer.echo(str(fork_run(path, to)))


@app.command("export")
def export_command(
    path: Folder,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="Such as pick-a-pic.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Write a run's pairs in a format that other tools read."""
    from agfsync.commands.export import export_pairs

    counts = export_pairs(path, format_, out)
    typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()) + f": {out}")


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a folder or a run.", show_default=False)],
    split: Annotated[str, typer.Option("--split", help="The split of a folder with several; default: train.")] = "",
    repeats: Annotated[Literal["majority", "all"], typer.Option(help="How raters' judgements count.")] = "majority",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Identify a file or folder and count its contents."""
    from agfsync.commands.inspect import format_contents, inspect_path

    contents = inspect_path(path, split, repeats).plain()
    typer.echo(
        json.dumps({"path": str(path)} | contents, ensure_ascii=False) if json_ else format_contents(path, contents)
    )


@app.command("judge")
def judge_command(
    path: Annotated[
        Path, typer.Argument(metavar="PAIRS", help="A pair set, a table of answers, or a run.", show_default=False)
    ],
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", metavar="NAME=TYPE:PATH", help="Repeatable; the others are compared with the first."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Take its scorers; default: the run's.", show_default=False)
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="The split of a folder (default: train) or of a run's reward model.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first N pairs or images.")] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="Judge the answers to a run's questions against its oracle.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Write the results to a file, for report.checks.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Measure how often scorers prefer the preferred image of pairs, or answer questions correctly."""
    from agfsync.commands.answers import judge_answers
    from agfsync.commands.judge import format_judged, judge_pair_set, read_scorers
    from agfsync.engine.progress import make_progress
    from agfsync.files.atomic import write_atomic
    from agfsync.formats.sources import holds_answers

    judge = judge_answers if questions or holds_answers(path) else judge_pair_set
    result = judge(path, read_scorers(path, scorer or [], recipe), make_progress(), split, limit)
    plain = json.dumps(result.plain(), ensure_ascii=False)
    if out is not None:
        write_atomic(out, plain.encode())
    typer.echo(plain if json_ else format_judged(result))


@app.command("convert")
def convert_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="Pickled weights.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="A new file.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Convert pickled weights to safetensors, on the CPU and without executing the pickle."""
    from agfsync.commands.convert import convert_weights

    typer.echo(convert_weights(file, out))


@app.command("methods")
def methods_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Such as dpo: show its settings.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
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


def _make_command(stage: Stage) -> Callable[[Path, bool], None]:
    def command(path: Folder, debug: Debug = False) -> None:
        from agfsync import pipeline
        from agfsync.engine.progress import make_progress

        trains, progress = stage.name in ("reward", "training"), make_progress()
        if trains and launcher.process_rank() > 0:
            help_training(path, stage.name)
        else:
            with lead_training(trains):
                pipeline.run_stage(path, stage.name, progress=progress)
        show_status(path)

    command.__doc__ = stage.help
    return command


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


def show_status(path: Path) -> None:
    """Print the state of each stage, the results of the evaluation and the report's path."""
    from agfsync.commands.status import list_status_lines

    for line in list_status_lines(path):
        typer.echo(line)
