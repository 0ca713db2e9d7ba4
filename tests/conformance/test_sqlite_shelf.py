"""The laws of the shelf, over SQLite: search, archives, costs, names."""

from __future__ import annotations

from lash_cli.store.conformance.archives import ArchiveLaws
from lash_cli.store.conformance.search import SearchLaws
from lash_cli.store.conformance.shelf import ShelfLaws


class TestSqliteSearch(SearchLaws):
    pass


class TestSqliteArchives(ArchiveLaws):
    pass


class TestSqliteNamesAndCosts(ShelfLaws):
    pass
