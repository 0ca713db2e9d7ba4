"""The `lash` command: argv is looked at before anything is imported (contract 08 §9, design D16).

`--version` is answered from here with nothing but `sys` and `os`, which the
interpreter has loaded anyway, `__complete` by `cli.completing`, and what scripts
ask many times by `cli.fast`. Everything else goes to the command table. The umask comes first:
no file of ours is ever readable by others.
"""

from __future__ import annotations

import os
import sys

from lash_cli.umask import make_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lash_cli.cli.globals import GlobalOptions


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    is_interruptible = False
    if argv is None:
        from lash_cli.cli.interrupt import let_it_end_us

        is_interruptible = let_it_end_us()
        _speak_utf8()
    make_private()
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        from lash_cli.cli.streams import replace_closed

        replace_closed()
    arguments = sys.argv[1:] if argv is None else argv
    first = arguments[0] if arguments else ""
    if first in ("--version", "-V") and len(arguments) == 1:
        from lash_cli.version import __version__

        try:
            status = _answer(f"lash {__version__}\n")
        except OSError as error:
            from lash_cli.cli.globals import GlobalOptions

            status = _unwritable(GlobalOptions(), error)
    elif first == "__complete":
        from lash_cli.cli.completing import main as complete

        complete(arguments[1:])
        status = 0
    else:
        import gc

        # Importing makes many objects and no garbage: the collector rests until a command is loaded.
        gc.disable()
        try:
            status = _run(arguments, is_interruptible=is_interruptible)
        finally:
            gc.enable()
    if argv is None:
        _leave(status)
    return status


def _speak_utf8() -> None:
    """Text is UTF-8 for us wherever we run, as Python itself has it from 3.15 on: prompts, names, files, answers."""
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if sys.stdout is not None and sys.stdout.errors in ("strict", "backslashreplace"):
        # A path is printed as the bytes it is.
        is_whole = sys.stdout.errors == "strict" and sys.stdout.encoding.lower() in ("utf-8", "utf8")
        errors = "surrogateescape" if is_whole else _escape_what_is_lacking()
        sys.stdout.reconfigure(errors=errors)  # type: ignore[union-attr]
    if sys.stdout is not None and sys.stdout.write_through:  # type: ignore[union-attr]
        from lash_cli.cli.streams import write_whole

        write_whole()


def _escape_what_is_lacking() -> str:
    """The name of how what somebody's own choice of an encoding lacks is printed: as an escape that JSON has, too."""
    import codecs

    def escaped(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end

    codecs.register_error("lash-json", escaped)
    return "lash-json"


def _answer(text: str) -> int:
    """Print and return 0, or end as a closed pipe does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    return 0


def _unwritable(options: GlobalOptions, error: OSError) -> int:
    """Report that stdout does not take the answer, as every other command does."""
    from lash_cli.cli import failure, invocation

    invocation.begin(options)

    def fail() -> int:
        raise error

    return failure.run(fail)


def _leave(status: int) -> None:
    """End the process with `status` here and now, or return where something is left that only the interpreter ends.

    Taking the interpreter apart module by module takes longer than many a command, and saves nothing: the store is
    closed, whoever wrote has flushed. What others registered for the end of the process is run first. A thread that
    is to be waited for, and output that nobody takes, are left to the interpreter, which knows what to do and say.
    """
    threading = sys.modules.get("threading")
    if threading is not None and any(
        not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()
    ):
        return
    atexit = sys.modules.get("atexit")
    if atexit is not None:
        atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        return
    os._exit(status)


def _run(arguments: list[str], *, is_interruptible: bool) -> int:
    """Run a command and return its exit status.

    `is_interruptible` says that Ctrl-C is a `KeyboardInterrupt` for one that is not plain; a plain one has nothing to
    undo and is ended by it.
    """
    from lash_cli.cli.globals import hoist

    options, rest = hoist(arguments)
    if options.output is not None and rest and rest[0] in ("ls", "list"):
        from lash_cli.cli.fast import serve

        listing = serve(options, rest)
        if listing is not None:
            try:
                return _answer(listing)
            except OSError as error:
                return _unwritable(options, error)
    from lash_cli.cli import failure, invocation

    invocation.begin(options)

    def command() -> int:
        if options.problem is not None:
            raise options.problem
        if options.version:
            rest[:] = ["version"]
        if options.fields is not None or options.template is not None:
            from lash_cli.cli.printed import lists_fields

            if lists_fields(rest):
                return 0
        if rest and rest[0] in ("show", "describe", "log", "queue", "enqueue"):
            from lash_cli.cli.fast import plain_run

            plain = plain_run(rest)
            if plain is not None:
                return plain()
        return _interruptible(rest) if is_interruptible else _dispatch(rest)

    return failure.run(command)


def _interruptible(rest: list[str]) -> int:
    from lash_cli.cli.interrupt import let_it_end_us, raise_it

    raise_it()
    try:
        return _dispatch(rest)
    finally:
        let_it_end_us()


def _dispatch(rest: list[str]) -> int:
    from lash_cli.cli.table import dispatch

    return dispatch(rest)


if __name__ == "__main__":
    sys.exit(main())
