"""The help of command groups."""

import sys
from typing import Any

from typer.core import TyperGroup


class WholeHelpGroup(TyperGroup):
    """A group whose help wraps the first sentence of each command, which typer would truncate."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command's name and first sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, c.get_short_help_str(sys.maxsize)) for name, c in commands if c and not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
