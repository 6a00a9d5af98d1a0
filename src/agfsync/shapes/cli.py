"""`agfsync shapes`: train the embedded models anew, and measure them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from agfsync.engine.progress import make_progress
from agfsync.errors import ModelError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def shapes() -> None:
    """The embedded Shapes world."""


@app.command()
def train(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the models.", show_default=False)],
    only: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Train just this model; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Train the small models from scratch; stopped, the same command goes on."""
    from agfsync.shapes.training import MODELS, train_all

    for name in only or ():
        if name not in MODELS:
            raise typer.BadParameter(f"no model is called '{name}': there are {', '.join(MODELS)}")
    train_all(out, _watch, tuple(only or MODELS))
    typer.echo(f"models: {out}")


@app.command()
def card(
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the models; default: the embedded ones.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the card to this file as well.", show_default=False)] = None,
) -> None:
    """Measure the models on drawings and captions that they have never seen; print their card."""
    from agfsync.shapes.card import measure, render

    folder = weights or Path(str(files("agfsync"))) / "shapes" / "weights"
    if not folder.is_dir():
        raise ModelError(f"no models at {folder}: `agfsync shapes train {folder}` makes them")
    text = render(measure(folder))
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _watch(name: str, total: int, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Shows a model's training, of which `done` steps lie behind it."""
    with make_progress().stage(name, total, unit="steps", done=done) as task:
        seen = done

        def tell(step: int, figures: dict[str, float]) -> None:
            nonlocal seen
            task.advance(step - seen, **figures)
            seen = step

        yield tell
