"""One session as text: head, policy, lane, queue, frames, usage and warnings (contract 08 §5.1 `show`).

Pure: the Session document of `lash show` goes in, one string comes out, so the
text can never say anything that the JSON does not. Names, labels and prompts
pass `clean`, which makes terminal escapes visible.
"""

from __future__ import annotations

from typing import Any

from lash_cli.views.safe_text import Clean, preview
from lash_cli.views.shell_words import shell_word
from lash_cli.views.times import duration

LABEL_WIDTH = 12


def session_text(document: dict[str, Any], *, clean: Clean, here: Clean) -> str:
    """The text of a Session document; `here` leads the command it names to where the session is."""
    lines = [
        f"{clean(document['name'])}  {clean(document['id'])}  {document['status']}",
        "",
        labelled("provider", f"{clean(document['provider'])}  model {clean(document['model'])}"),
        labelled("turns", f"{document['turns']}  last activity {document['last_activity_at']}"),
        labelled("head", clean(_head(document))),
        labelled("lease", lease_text(document["lease"], clean=clean)),
        labelled("queue", _queue(document, clean)),
        labelled("usage", usage_text(document["usage"])),
    ]
    for entry in document["usage"]["by_source_model"]:
        lines.append(labelled("", f"{clean(entry['source'])} / {clean(entry['model'])}: {usage_text(entry)}"))
    lines.extend(_optional_rows(document, clean, here))
    lines.extend(f"warning: {clean(warning)}" for warning in document["warnings"])
    return "\n".join(lines)


def usage_text(usage: dict[str, Any]) -> str:
    """`in 120 (cache read 80) out 40`, with only the parts that are not zero."""
    cache = [
        f"cache {word} {usage[key]}"
        for word, key in (("read", "cache_read_input_tokens"), ("write", "cache_write_input_tokens"))
        if usage[key]
    ]
    reasoning = f" (reasoning {usage['reasoning_output_tokens']})" if usage["reasoning_output_tokens"] else ""
    cached = f" ({', '.join(cache)})" if cache else ""
    return f"in {usage['input_tokens']}{cached} out {usage['output_tokens']}{reasoning}"


def policy_text(policy: dict[str, Any], *, clean: Clean) -> str:
    """The effective policy, one field per line."""
    from lash_cli.views.turn_text import value_text  # with every event of a turn, of which a session's text has none

    model = policy["model"]
    rows = [
        labelled("provider", clean(policy["provider"])),
        labelled("model", clean(model["id"])),
        labelled("variant", clean(value_text(model["variant"]))),
        labelled("limits", clean(value_text(model["limits"]))),
        labelled("max steps", str(policy["max_steps"]) if policy["max_steps"] is not None else "no limit"),
    ]
    rows += [
        labelled(name, clean(value_text(value)))
        for name, field in (("temperature", "temperature"), ("seed", "seed"), ("stop", "stop_sequences"))
        if (value := policy["generation"][field]) is not None
    ]
    if policy["system"]:
        rows.append("system")
        rows.extend(f"    {line}".rstrip() for line in clean(policy["system"]).splitlines())
    return "\n".join(rows)


def lease_text(lease: dict[str, Any] | None, *, clean: Clean) -> str:
    """Who holds the lane and until when."""
    if lease is None:
        return "free"
    holder = lease["holder"] or {}
    who = f"pid {holder['pid']}" if holder.get("pid") else holder.get("owner_id") or "unknown"
    what = f" ({holder['label']})" if holder.get("label") else ""
    if not lease["live"]:
        return clean(f"left by {who}{what}, which is gone")
    return clean(f"{who}{what} until {lease['expires_at']} ({duration(lease['expires_in_ms'])})")


def tools_text(tools: list[dict[str, Any]], *, clean: Clean) -> str:
    """One tool per line: name, approval class, first line of the description."""
    if not tools:
        return "no tools"
    width = max(len(tool["name"]) for tool in tools)
    return "\n".join(
        f"{clean(tool['name']):<{width}}  {tool['approval']:<8} {clean(preview(tool['description'], 80))}".rstrip()
        for tool in tools
    )


def labelled(label: str, value: str) -> str:
    """One line: what it is, then what it says."""
    return f"{label:<{LABEL_WIDTH}}{value}".rstrip()


def _queue(document: dict[str, Any], clean: Clean) -> str:
    """How much waits, and whether it is held."""
    inputs, batches = document["pending_inputs"], document["pending_batches"]
    counts = [f"{inputs} input{'' if inputs == 1 else 's'}"] if inputs else []
    if batches:
        counts.append(f"{batches} batch{'' if batches == 1 else 'es'}")
    waiting = f"{' and '.join(counts) or '0'} waiting"
    if document["held_at"] is None:
        return waiting
    reason = f": {clean(document['hold_reason'])}" if document["hold_reason"] else ""
    return f"{waiting}, held since {document['held_at']}{reason}"


def _next_command(document: dict[str, Any], clean: Clean) -> str | None:
    """The command that gets the queue going; None when nothing waits for one."""
    if document["held_at"] is not None:
        return f"lash queue release {shell_word(clean(document['name']))}"
    is_waiting = document["status"] == "queued"
    return f"lash work {shell_word(clean(document['name']))} --until-empty" if is_waiting else None


def _head(document: dict[str, Any]) -> str:
    head = document["head"]
    if head["revision"] is None:
        return "nothing committed yet"
    return f"revision {head['revision']}  node {head['leaf_node']}"


def _optional_rows(document: dict[str, Any], clean: Clean, here: Clean) -> list[str]:
    rows = []
    following = _next_command(document, clean)
    if following is not None:
        rows.append(labelled("next", here(following)))
    if document["cwd"]:
        rows.append(labelled("directory", clean(document["cwd"])))
    if document["parent"]:
        rows.append(labelled("parent", clean(document["parent"])))
    if document["labels"]:
        rows.append(labelled("labels", clean(" ".join(f"{key}={value}" for key, value in document["labels"].items()))))
    if len(document["frames"]) > 1:
        for index, frame in enumerate(document["frames"]):
            is_current = "current" if frame["status"] == "active" else frame["status"]
            text = f"{clean(frame['reason'])}  {is_current}  {frame['created_at']}  {clean(frame['id'])}"
            rows.append(labelled("" if index else "frames", text))
    return rows
