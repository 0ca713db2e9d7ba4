"""The public names as type checkers and editors see them; at run time they are imported when they are used."""

from lash_cli.api import *  # noqa: F403 - the stub beside it lists them
from lash_cli.version import __version__ as __version__
