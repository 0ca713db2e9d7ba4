"""The built-in tools as one provider (contract 05 §6): read_file, write, edit, glob, grep, exec_command."""

from __future__ import annotations

from pathlib import Path

from lash_cli.core.protocols import Clock
from lash_cli.tools.files import FileTools
from lash_cli.tools.function import FunctionToolProvider
from lash_cli.tools.policy import FilePolicy
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.search import SearchTools
from lash_cli.tools.shell import ShellTools


def builtin_tools(policy: FilePolicy, cwd: Path, spill_dir: Path, clock: Clock) -> FunctionToolProvider:
    """The provider of the built-in tools for one session.

    Relative paths resolve under `cwd`. Output too long to show is kept in
    `spill_dir` (made 0700), which the file tools may read. `aclose` kills every
    process group the tools started.
    """
    readable = policy.with_readable(spill_dir)
    groups = ProcessGroups(clock)
    tools = (
        *FileTools(readable, cwd, groups, clock).tools(),
        *SearchTools(readable, cwd, groups, clock).tools(),
        *ShellTools(readable, cwd, spill_dir, groups, clock).tools(),
    )
    return FunctionToolProvider(tools, on_close=groups.aclose)
