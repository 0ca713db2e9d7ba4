"""What a person typed and nobody has acknowledged yet, as one record (contract 08 §7.3, §7.4).

Text is in exactly one place at every moment: in the draft, in the stash, on
its way into the store (`leaving`, under the key it is submitted with), or on
its way back out of the queue (`pulling`). The record is written down before
each step, so a process that dies between two of them loses nothing and
duplicates nothing: what became of a step is asked of the store. All functions
are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from lash_cli.core.codec import Record

MAX_STASHED = 50
MAX_OWN = 500


class Leaving(Record):
    """A text that was handed to the store and not acknowledged yet; `key` is its idempotency key."""

    key: str
    text: str
    attached: tuple[str, ...] = ()


class Pulling(Record):
    """An input of ours that is being cancelled, and what it says."""

    input_id: str
    text: str


class Editing(Record):
    """A text that is open in an editor, as it was when that began, and the file it is in."""

    path: str
    text: str


class Draft(Record):
    """Everything of one chat that is not in the store. `stash` has the newest last; `own` are inputs it queued."""

    text: str = ""
    stash: tuple[str, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    pulling: tuple[Pulling, ...] = ()
    own: tuple[str, ...] = ()
    # Paths and addresses of what goes with the text.
    attached: tuple[str, ...] = ()
    editing: Editing | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.text.strip() or self.stash or self.leaving or self.pulling or self.attached)


def typed(draft: Draft, text: str) -> Draft:
    """The draft now says `text`."""
    return draft if draft.text == text else msgspec.structs.replace(draft, text=text)


def stashed(draft: Draft) -> Draft:
    """The text is put aside; a blank one is only cleared."""
    return msgspec.structs.replace(draft, text="", stash=_put_aside(draft.stash, draft.text))


def unstashed(draft: Draft) -> Draft:
    """What was put aside last is the draft again, before what was typed; unchanged when nothing was. The history may
    have brought it back already."""
    if not draft.stash:
        return draft
    *others, newest = draft.stash
    text = newest if draft.text == newest else _before(newest, draft.text)
    return msgspec.structs.replace(draft, text=text, stash=tuple(others))


def in_editor(draft: Draft, editing: Editing | None) -> Draft:
    """A text is open in an editor, None for none any more."""
    return msgspec.structs.replace(draft, editing=editing)


def edited(draft: Draft, saved: str | None) -> Draft:
    """The chat ended under an open editor, which saved `saved`, None for nothing: what was changed there is the draft,
    and what was typed is put aside."""
    began = draft.editing
    draft = msgspec.structs.replace(draft, editing=None)
    if began is None or saved is None or saved in (began.text, draft.text) or not saved.strip():
        return draft
    return msgspec.structs.replace(draft, text=saved, stash=_put_aside(draft.stash, draft.text))


def sending(draft: Draft, key: str, text: str) -> Draft:
    """`text` leaves the draft for the store. A stashed copy of it was brought back and goes with it."""
    kept = tuple(other for other in draft.stash if other != text)
    leaving = (*draft.leaving, Leaving(key, text, draft.attached))
    return msgspec.structs.replace(draft, text="", stash=kept, leaving=leaving, attached=())


def attached(draft: Draft, references: Iterable[str]) -> Draft:
    """These, and no others, go with the text."""
    return msgspec.structs.replace(draft, attached=tuple(references))


def arrived(draft: Draft, key: str, input_id: str | None = None) -> Draft:
    """The store acknowledged the text; `input_id` is the row it waits in, None for a turn of its own."""
    own = draft.own if input_id is None else (*draft.own, input_id)[-MAX_OWN:]
    return msgspec.structs.replace(draft, leaving=_without(draft.leaving, key), own=own)


def refused(draft: Draft, key: str) -> Draft:
    """The store did not take the text: it is the draft again, or is put aside when another one was begun."""
    gone = next((leaving for leaving in draft.leaving if leaving.key == key), Leaving(key, ""))
    attached = _united(draft.attached, gone.attached)
    draft = msgspec.structs.replace(draft, leaving=_without(draft.leaving, key), attached=attached)
    return _given_back(draft, gone.text)


def pulling(draft: Draft, input_id: str, text: str) -> Draft:
    """An input of ours is about to be cancelled."""
    return msgspec.structs.replace(draft, pulling=(*draft.pulling, Pulling(input_id, text)))


def pulled(draft: Draft, input_id: str, *, is_cancelled: bool) -> Draft:
    """What became of it: a cancelled one is the draft again, before what was typed; any other is somebody else's."""
    text = next((pull.text for pull in draft.pulling if pull.input_id == input_id), "")
    draft = msgspec.structs.replace(draft, pulling=tuple(pull for pull in draft.pulling if pull.input_id != input_id))
    if not is_cancelled:
        return draft
    own = tuple(own for own in draft.own if own != input_id)
    return msgspec.structs.replace(draft, text=_before(text, draft.text), own=own)


def recovered(drafts: Iterable[Draft], *, stored_keys: Collection[str], cancelled_ids: Collection[str]) -> Draft:
    """What chats that ended left behind, newest last, as one draft.

    A text under one of `stored_keys` had reached the store; an input among
    `cancelled_ids` had left it. The newest text is the draft, the others are
    put aside.
    """
    result = Draft()
    for left in drafts:
        lost = [leaving.text for leaving in left.leaving if leaving.key not in stored_keys]
        lost += [pull.text for pull in left.pulling if pull.input_id in cancelled_ids]
        stash: Sequence[str] = result.stash
        for text in (*left.stash, result.text, *lost):
            stash = _put_aside(tuple(stash), text)
        own = (*result.own, *left.own)[-MAX_OWN:]
        attached = _united(result.attached, left.attached)
        for leaving in left.leaving:
            attached = _united(attached, leaving.attached if leaving.key not in stored_keys else ())
        result = Draft(left.text, tuple(stash), own=own, attached=attached)
        if not result.text.strip() and lost:
            kept = tuple(text for text in stash if text != lost[-1])
            result = Draft(lost[-1], kept, own=own, attached=attached)
    return result


def _given_back(draft: Draft, text: str) -> Draft:
    if not draft.text.strip():
        return msgspec.structs.replace(draft, text=text)
    return msgspec.structs.replace(draft, stash=_put_aside(draft.stash, text))


def _before(text: str, typed: str) -> str:
    return f"{text}\n{typed}" if typed.strip() else text


def _put_aside(stash: tuple[str, ...], text: str) -> tuple[str, ...]:
    if not text.strip():
        return stash
    return (*(other for other in stash if other != text), text)[-MAX_STASHED:]


def _united(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return (*some, *(other for other in others if other not in some))


def _without(leaving: tuple[Leaving, ...], key: str) -> tuple[Leaving, ...]:
    return tuple(other for other in leaving if other.key != key)
