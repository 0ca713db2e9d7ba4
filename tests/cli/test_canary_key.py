"""Every failure of a provider with a canary key: afterwards the key is in no output and in no file but its own.

A real server repeats the key it is called with wherever an answer has room for
it: in messages, codes, headers, ids, names of models, page titles and broken
JSON. The command runs with everything switched on that writes something down:
tracebacks, the extended trace, response metadata, the event stream. Whatever
was printed and every file below the home's directory is searched, also for
halves of the key (contract 06 §17, 08 §6.8).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.error_world import CANARY, ErrorWorld, error_world
from support.wire import (
    Reply,
    ThreadedChatServer,
    chunk,
    cut_reply,
    error_reply,
    hang_reply,
    html_reply,
    json_reply,
    stream_reply,
    text_reply,
)

from lash_cli.core.effect import TurnScope, scope_key
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

HALF = CANARY[: len(CANARY) // 2]
# Of every header that a server may send back, and of documents, whatever a host may ask to be kept.
KEPT = "['header:x-request-id', 'header:x-echo', 'header:retry-after', 'body:/id', 'body:/error', 'body:/echo']"
QUICK = f"""
max_attempts = 2
base_delay_ms = 1
max_delay_ms = 2
retry_after_cap_ms = 5
throttle_wait_budget_ms = 5
response_metadata = {KEPT}
"""
ECHO_HEADERS = {
    "x-request-id": CANARY,
    "request-id": f"req {CANARY}",
    "x-echo": f"Authorization: Bearer {CANARY}",
    "www-authenticate": f'Bearer realm="{CANARY}"',
    "retry-after": CANARY,
}


def echoing(reply: Reply) -> Reply:
    """`reply` with the key in every header that clients look at."""
    return replace(reply, headers=reply.headers | ECHO_HEADERS)


def refusal(status: int, code: str | None = None) -> Reply:
    """A refusal that repeats the key in every field of its body."""
    body = {
        "error": {
            "message": f"key {CANARY} (Bearer {CANARY}, x-api-key: {CANARY}, ?key={CANARY}) is not ours",
            "code": code or f"code_{CANARY}",
            "type": f"type_{CANARY}",
            "param": CANARY,
            "details": [{"reason": CANARY, "metadata": {"key": CANARY}, "retryDelay": CANARY}],
        },
        "id": CANARY,
        "echo": {"authorization": f"Bearer {CANARY}"},
    }
    return echoing(error_reply(status, body))


NAMED = {"id": f"id-{CANARY}", "model": f"model-{CANARY}", "echo": CANARY}
FAILURES: dict[str, Reply] = {
    "401": refusal(401, "invalid_api_key"),
    "403": refusal(403),
    "402": refusal(402),
    "429 that passes": refusal(429, "rate_limit_exceeded"),
    "429 for good": refusal(429, "insufficient_quota"),
    "400": refusal(400),
    "404": refusal(404, "model_not_found"),
    "500": refusal(500),
    "an unknown status": refusal(418),
    "an error as text": echoing(error_reply(500, f"upstream said: bad key {CANARY}\n" * 40)),
    "an error that is cut at the key": echoing(error_reply(500, "x" * 281 + CANARY)),
    "a web page": echoing(html_reply(200, f"Sign in {CANARY}")),
    "a web page as an error": echoing(html_reply(502, f"Bad gateway {CANARY}")),
    "a redirect": echoing(error_reply(302, "", {"location": f"https://elsewhere.example/v1?key={CANARY}"})),
    "broken JSON": echoing(Reply((f'{{"error": {{"message": "{CANARY}'.encode(),), 500)),
    "a broken event": echoing(Reply((f'data: {{"id": "{CANARY}", \n\n'.encode(),))),
    "an event that is text": echoing(Reply((f'data: "{CANARY}"\n\n'.encode(),))),
    "another type of content": echoing(Reply((CANARY.encode(),), 200, {"content-type": f"text/{CANARY}"})),
    "an error in the stream": echoing(stream_reply({"error": {"message": f"no {CANARY}", "code": CANARY}})),
    "a stream cut at once": echoing(cut_reply("")),
    "a cut stream": echoing(stream_reply(chunk({"content": "half"}) | NAMED, done=False, ending="reset")),
    "an odd end": echoing(stream_reply(chunk({"content": "x"}) | NAMED, chunk(finish_reason=f"odd-{CANARY}") | NAMED)),
    "a whole answer without a proof": echoing(json_reply({**NAMED, "choices": []})),
    "silence": hang_reply(),
    "silence after some text": echoing(hang_reply("half")),
    "nothing": echoing(Reply((b"",))),
}


class Search:
    """A home whose provider fails in one way after another, and the search for its key."""

    def __init__(self, world: ErrorWorld, server: ThreadedChatServer, secret: str = CANARY) -> None:
        self.world = world
        self.server = server
        self.trace = world.directory / "trace.jsonl"
        self.secret = secret
        self.turns: list[str] = []

    def turn(self, *more: str) -> int:
        """One turn with everything switched on that writes something down; what it left is searched at once."""
        turn_id = f"t_{len(self.turns)}"
        self.turns.append(turn_id)
        extended = ("-c", "trace.level=extended", "--trace", str(self.trace), "--debug", "-v")
        done = self.world.lash("turn", "s", "hello", "--turn-id", turn_id, *extended, *more)
        assert done.code not in (1, 2), (done.code, done.err[-2000:])
        self.look()
        return done.code

    def look(self) -> None:
        """Search what was printed and every file that is there now, also for half of the secret."""
        half = self.secret[: len(self.secret) // 2]
        for done in self.world.outputs:
            assert half not in done.out + done.err, "half of a key was printed"
        own = ("keys.toml",) if self.secret == CANARY else ("keys.toml", "config.toml")
        for path in self.world.directory.rglob("*"):
            if path.is_file() and path.name not in own:
                assert half.encode() not in path.read_bytes(), f"half of a key was written to {path}"

    def read_everything(self) -> None:
        """Every verb that could show what was kept, the page of the trace, and the journal, which is compressed."""
        lash = self.world.lash
        for verb in ("show", "usage", "log"):
            lash(verb, "s")
        for turn_id in (self.turns[0], self.turns[-1]):
            assert lash("show", "s", "--turn", turn_id).code == 0
        attempts = lash("usage", "s", "-o", "json").json["attempts"]
        assert attempts["attempts"] >= len(self.turns), "there is something to search"
        assert self.trace.stat().st_size > 0
        assert lash("trace", "html", str(self.trace), "--out", str(self.world.directory / "page.html")).code == 0
        self.look()
        for text in asyncio.run(self._journal()):
            assert self.secret.encode() not in text

    async def _journal(self) -> list[bytes]:
        store = SqliteStore.open(self.world.database, SystemClock(), SystemIds(), read_only=True)
        try:
            rows = [row for turn in self.turns for row in await store.journal_rows(scope_key(TurnScope("s", turn)))]
        finally:
            await store.aclose()
        return [text for row in rows for text in (row.outcome, row.error) if text is not None]


@contextmanager
def searched(
    directory: Path, *, options: str = "", kind: str = "openai_chat", base_url: str | None = None, secret: str = CANARY
) -> Iterator[Search]:
    """A world whose session talks to a server that is told what to answer; the key is searched for at the end."""
    with ThreadedChatServer() as server:
        address = base_url or (server.base_url if kind.startswith("openai") else server.base_url.removesuffix("/v1"))
        inline = "{" + ", ".join([*QUICK.strip().splitlines(), *options.splitlines()]) + "}"
        with error_world(directory, base_url=address, options=inline) as world:
            config = world.home / "config.toml"
            config.write_text(config.read_text().replace('kind = "openai_chat"', f'kind = "{kind}"'))
            search = Search(world, server, secret)
            yield search
            search.read_everything()
        for request in server.requests:
            assert CANARY in json.dumps(request.headers), "the key was really sent"
            assert CANARY not in request.path and CANARY.encode() not in request.body


WIRES = {
    "openai_chat": tuple(FAILURES),
    **dict.fromkeys(
        ("openai_responses", "anthropic", "google"),
        ("401", "429 for good", "500", "a web page", "broken JSON", "an error in the stream", "a redirect"),
    ),
}


@pytest.mark.parametrize("kind", WIRES)
def test_no_failure_of_a_provider_lets_the_key_out(tmp_path: Path, kind: str) -> None:
    with searched(tmp_path, kind=kind) as search:
        for number, name in enumerate(WIRES[kind]):
            search.server.default = FAILURES[name]
            form = "text" if number % 4 == 0 else "jsonl"
            # Only who waits for a server that is silent needs a limit.
            limit = ("-c", "providers.mine.request_timeout_seconds=0.4") if name.startswith("silence") else ()
            assert search.turn("-o", form, *limit) != 0, name


def test_an_answer_whose_ids_are_the_key_is_kept_without_it(tmp_path: Path) -> None:
    with searched(tmp_path) as search:
        search.server.default = echoing(
            stream_reply(chunk({"content": "fine"}) | NAMED, chunk(finish_reason="stop") | NAMED, chunk() | NAMED)
        )
        assert search.turn("-o", "jsonl") == 0
        (call,) = search.world.lash("show", "s", "--turn", "t_0", "-o", "json").json["model_calls"]
        (attempt,) = call["attempts"]
        assert attempt["served_model"] == "model-[redacted]", "evidence is kept, the secret in it is not"
        assert attempt["request_id"] == "[redacted]"
        assert attempt["response_metadata"]["body:/id"] == "id-[redacted]"


def test_a_secret_header_of_the_configuration_is_a_key_too(tmp_path: Path) -> None:
    secret = "headersecret81c5d07"
    body = {"error": {"message": f"bad {secret}", "code": secret}}
    options = f"headers = {{x-api-key = '{secret}'}}"
    with searched(tmp_path, options=options, secret=secret) as search:
        search.server.default = error_reply(500, body, {"x-request-id": secret, "x-echo": secret})
        assert search.turn("-o", "jsonl") == 75
        search.server.default = stream_reply({"id": secret, **body})  # every event of a stream is traced
        assert search.turn("-o", "jsonl") != 0
        assert all(request.headers["x-api-key"] == secret for request in search.server.requests)


def test_nobody_listening_lets_the_key_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connecting is refused, and nobody else gets the port
        with searched(tmp_path, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as search:
            assert search.turn("-o", "jsonl") == 75


def test_credentials_in_a_wrong_address_are_refused_and_not_repeated(tmp_path: Path) -> None:
    secret = "addresssecret4f19"
    with (
        ThreadedChatServer(default=text_reply("never")) as server,
        error_world(tmp_path, base_url=server.base_url.replace("://", f"://user:{secret}@")) as world,
    ):
        search = Search(world, server, secret)
        for more in ((), ("-o", "jsonl")):
            assert search.turn(*more) == 5
        for arguments in (("config", "show"), ("provider", "ls"), ("doctor", "-o", "json")):
            world.lash(*arguments)
        search.look()
        assert server.requests == []


def test_a_key_from_the_environment_is_not_let_out_either(tmp_path: Path) -> None:
    with ThreadedChatServer(default=FAILURES["401"]) as server, error_world(tmp_path) as world:
        env = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": "m"}
        world.lash("open", "e", env=env)
        done = world.lash("turn", "e", "hello", "--debug", "-o", "jsonl", env=env)
        assert done.code == 5 and server.requests
        Search(world, server).look()


def test_the_search_finds_a_key_that_got_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a key was written"), error_world(tmp_path / "one") as world:
        (world.home / "some.log").write_text(f"oops {CANARY}")
    with pytest.raises(AssertionError, match="a key was printed"), error_world(tmp_path / "two") as world:
        world.lash("turn", "s", f"my key is {CANARY}", "--provider", "loopback")
