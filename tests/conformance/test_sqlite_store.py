"""The store laws, over SQLite."""

from __future__ import annotations

from lash_cli.store.conformance.commits import CommitLaws
from lash_cli.store.conformance.forks import ForkLaws
from lash_cli.store.conformance.graph import GraphLaws
from lash_cli.store.conformance.inputs import InputLaws
from lash_cli.store.conformance.lanes import LaneLaws
from lash_cli.store.conformance.leases import LeaseLaws
from lash_cli.store.conformance.live import LiveLaws
from lash_cli.store.conformance.live_queue import LiveQueueLaws
from lash_cli.store.conformance.separation import SeparationLaws
from lash_cli.store.conformance.sessions import SessionLaws


class TestSqliteCommits(CommitLaws):
    pass


class TestSqliteLeases(LeaseLaws):
    pass


class TestSqliteLanes(LaneLaws):
    pass


class TestSqliteGraph(GraphLaws):
    pass


class TestSqliteForks(ForkLaws):
    pass


class TestSqliteInputs(InputLaws):
    pass


class TestSqliteSessions(SessionLaws):
    pass


class TestSqliteLive(LiveLaws):
    pass


class TestSqliteLiveQueue(LiveQueueLaws):
    pass


class TestSqliteSeparation(SeparationLaws):
    pass
