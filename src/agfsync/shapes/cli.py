"""`agfsync shapes`: train the embedded models from scratch, and measure them."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from agfsync.commands.help import WholeHelpGroup
from agfsync.engine.progress import make_progress
from agfsync.errors import ModelError

shapes_app = typer.Typer(
    cls=WholeHelpGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)


@shapes_app.callback()
def _shapes() -> None:
    """Train and measure the models of the embedded Shapes world."""


@shapes_app.command("train")
def train_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the models.", show_default=False)],
    only: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Train only this model; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Train the small models from scratch; after an interruption the same command continues."""
    from agfsync.shapes.training import TRAINED_MODELS, train_models

    for name in only or ():
        if name not in TRAINED_MODELS:
            raise typer.BadParameter(f"no model is called '{name}': there are {', '.join(TRAINED_MODELS)}")
    train_models(out, make_progress(), tuple(only or TRAINED_MODELS))
    typer.echo(f"models: {out}")


@shapes_app.command("card")
def card_command(
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the models; default: the embedded ones.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the card to this file.", show_default=False)] = None,
) -> None:
    """Measure the models on drawings and captions that they have never seen; print their card."""
    from agfsync.shapes.card import measure_models, render_card

    folder = weights or Path(str(files("agfsync"))) / "shapes" / "weights"
    if not folder.is_dir():
        raise ModelError(f"no models at {folder}: `agfsync shapes train {folder}` makes them")
    text = render_card(measure_models(folder))
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
