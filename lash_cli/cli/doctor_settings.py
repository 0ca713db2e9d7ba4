"""The configuration as `lash doctor` sees it: which files count, what they name, and whether it can be used (08 §6.7).

No key is shown, no key command is run and no keyring is asked.
"""

from __future__ import annotations

import os

from lash_cli.cli.config_edit import kept_drafts
from lash_cli.cli.doctor_places import Finding
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document
from lash_cli.errors import ConfigError, LashError
from lash_cli.paths import Paths, shared_bits
from lash_cli.settings import Settings
from lash_cli.settings.loading import find_project_file, read_project, restricted_keys
from lash_cli.views.shell_words import shell_word


def configuration(paths: Paths, findings: list[Finding]) -> Document:
    """The report; every mistake in it is found, not the first alone."""
    from lash_cli.settings.keys import read_keys
    from lash_cli.settings.providers import default_provider, provider_names

    report: Document = {"valid": True, "providers": [], "default_provider": None, "keys": [], "project": None}
    try:
        report["keys"] = sorted(read_keys(paths))
    except ConfigError as error:
        if error.code != "permissions_unsafe":  # the places already say so
            findings.append(Finding.of(error))
    report["project"] = _project(paths, findings)
    for path in kept_drafts():
        message = f"{path} holds an edit of the configuration that was not put in place"
        findings.append(Finding("config_edit_kept", message, "delete it when done", 0))
    try:
        settings = current().settings
    except ConfigError as error:
        report["valid"] = False
        findings.append(Finding.of(error))
        return report
    report["providers"] = provider_names(settings, os.environ)
    report["default_provider"] = default_provider(settings, os.environ)
    if report["default_provider"] not in report["providers"]:
        message = f"the default provider {report['default_provider']!r} is not configured"
        findings.append(Finding("provider_unconfigured", message, "lash config set defaults.provider NAME", 5))
    _what_cannot_be_made(settings, report, findings)
    _key_sources(settings, findings)
    return report


def _project(paths: Paths, findings: list[Finding]) -> Document | None:
    """The project file of this directory. `state`: trusted, changed, unknown, or harmless when it needs no trust."""
    try:
        file = find_project_file(os.getcwd())
    except FileNotFoundError:
        return None  # the directory was removed under us
    if file is None or os.path.realpath(file) == os.path.realpath(paths.config_file):
        return None
    try:
        text, values = read_project(file)
        keys = restricted_keys(values)
        if not keys:
            return {"file": file, "state": "harmless", "keys": []}
        from lash_cli.settings.trust import standing

        return {"file": file, "state": standing(paths, file, text), "keys": keys}
    except LashError as error:
        if error.code == "permissions_unsafe":
            findings.append(Finding.of(error))  # a broken file is found where the settings are read
        return {"file": file, "state": "unknown", "keys": []}


def _what_cannot_be_made(settings: Settings, report: Document, findings: list[Finding]) -> None:
    from lash_cli.cli.config_check import what_cannot_be_made

    for problem in what_cannot_be_made(settings):
        if problem.key == "defaults.provider":
            continue  # said in its own words
        report["valid"] = False
        findings.append(Finding("config_invalid", str(problem), "see: lash config validate", 5))


def _key_sources(settings: Settings, findings: list[Finding]) -> None:
    """Keys of providers that are not where they should be, as far as a look tells."""
    for name in settings.names("providers"):
        entry = settings.provider(name)
        scheme, _, place = (entry.key or "").partition(":") if entry is not None else ("", "", "")
        place = place.strip()
        if scheme == "env" and not current().environment.get(place):
            findings.append(
                Finding("key_missing", f"the key of provider {name} is in {place}, which is not set", f"set {place}", 0)
            )
        elif scheme == "file":
            file = os.path.expanduser(place)
            if not os.path.exists(file):
                message = f"the key of provider {name} is in {file}, which does not exist"
                findings.append(Finding("key_missing", message, f"lash config set providers.{name}.key SOURCE", 0))
            elif shared_bits(file):
                findings.append(
                    Finding("permissions_unsafe", f"others can read {file}", f"chmod 600 {shell_word(file)}", 5)
                )
