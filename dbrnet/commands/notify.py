"""`dbrnet notify`: reports how an unattended run ended."""

import json
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from dbrnet.addresses import redact
from dbrnet.config import FetchChampionParams
from dbrnet.errors import JobError, UnavailableError, UserError
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store, retry_while_unavailable
from dbrnet.retries import WEBHOOK

log = logging.getLogger(__name__)

ADDRESS = "DBRNET_NOTIFY_URL"
TIMEOUT_SECONDS = 20


def notify(params: FetchChampionParams, *, run: str, state: str, error: str = "") -> None:
    """Post `{"text": ...}` to the webhook that DBRNET_NOTIFY_URL names, as chat systems expect it.

    The text says how the run ended, which version is champion, and the registry's latest decision. Without a
    webhook the text is only logged. The address's path may be a secret and is never shown.
    """
    text = redact("\n".join([f"{run}: {state.lower()}" + (f": {error}" if error else ""), _registry_line(params)]))
    log.info("%s", text)
    address = os.environ.get(ADDRESS)
    if not address:
        log.info("note: sent to nobody; %s names no webhook", ADDRESS)
        return
    if not address.startswith(("https://", "http://")):
        raise UserError(f"{ADDRESS} must be an http(s) address")
    _post(address, json.dumps({"text": text}).encode())


def _registry_line(params: FetchChampionParams) -> str:
    """The champion and the latest decision, or that the registry is unavailable: this may be why the run failed."""
    store = open_store(Path.cwd())
    try:
        registry = retry_while_unavailable(Ledger(store, params.model_name).state)()
    except JobError as error:
        return str(error)
    if not registry.events:
        return f"{params.model_name}: no model was ever decided on"
    last = registry.events[-1]
    champion = "no champion" if registry.champion is None else f"version {registry.champion} is champion"
    when = f"{last.entry.time:%Y-%m-%d %H:%M} UTC" if last.entry.time else "just now"
    what = f"version {last.entry.version} {last.outcome}: {last.why}"
    return f"{params.model_name}: {champion}; latest decision, {when}: {what}"


@WEBHOOK.retried
def _post(address: str, body: bytes) -> None:
    # Every failure is retried, refusals too: some webhooks answer 4xx while they are overloaded.
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        reason = f"it answers {error.code} {error.reason}"
    except (OSError, ValueError, HTTPException) as error:
        reason = f"it cannot be reached ({type(error).__name__})"
    shown = redact(address, keep_path=False)
    raise UnavailableError(f"the webhook in {ADDRESS}, {shown}, did not take the message: {reason}")
