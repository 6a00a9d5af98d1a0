"""The help of commands that have commands of their own."""

import sys
from typing import Any

from typer.core import TyperGroup


class WholeHelpGroup(TyperGroup):
    """A group whose help wraps the first sentence of each of its commands, where typer would cut it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command's name and first sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(sys.maxsize)) for name, each in commands if each and not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
