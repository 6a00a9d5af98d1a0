"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.", show_default=False)]
RecipeName = Annotated[str, typer.Argument(metavar="[RECIPE]", help="A file, or the name of a shipped recipe.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as training.steps=200; repeatable.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
