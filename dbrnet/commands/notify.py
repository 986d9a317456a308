"""`dbrnet notify`: how a run ended that nobody was watching."""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from dbrnet.addresses import redact
from dbrnet.config import FetchChampionParams
from dbrnet.errors import JobError, UserError
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store, patient

log = logging.getLogger(__name__)

ADDRESS = "DBRNET_NOTIFY_URL"
ATTEMPTS = 4
PAUSE_SECONDS = 2.0  # before the second attempt, and twice as long before each further one
TIMEOUT_SECONDS = 20


def notify(params: FetchChampionParams, *, run: str, state: str, error: str = "") -> None:
    """Post `{"text": ...}` to the webhook that DBRNET_NOTIFY_URL names, as chat systems take it.

    The text says how the run ended, who is champion, and the registry's latest decision. Without an address
    it is logged alone. The address's path may be a secret, and is never shown.
    """
    text = redact("\n".join([f"{run}: {state.lower()}" + (f": {error}" if error else ""), _standing(params)]))
    log.info("%s", text)
    address = os.environ.get(ADDRESS)
    if not address:
        log.info("note: told to nobody else; %s names no webhook", ADDRESS)
        return
    if not address.startswith(("https://", "http://")):
        raise UserError(f"{ADDRESS} must be an http(s) address")
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310
    for attempt in range(ATTEMPTS - 1):
        if _post(request) is None:
            return
        time.sleep(PAUSE_SECONDS * 2**attempt)
    if reason := _post(request):
        shown = redact(address, keep_path=False)
        raise JobError(f"the webhook in {ADDRESS}, {shown}, did not take the message: {reason}")


def _standing(params: FetchChampionParams) -> str:
    """The champion and the latest decision; a registry that is away is said, since the run may be why."""
    store = open_store(Path.cwd())
    try:
        registry = patient(Ledger(store, params.model_name).state)()
    except JobError as error:
        return str(error)
    if not registry.events:
        return f"{params.model_name}: no model was ever decided on"
    last = registry.events[-1]
    champion = "no champion" if registry.champion is None else f"version {registry.champion} is champion"
    when = f"{last.entry.time:%Y-%m-%d %H:%M} UTC" if last.entry.time else "just now"
    what = f"version {last.entry.version} {last.outcome}: {last.why}"
    return f"{params.model_name}: {champion}; latest decision, {when}: {what}"


def _post(request: urllib.request.Request) -> str | None:
    """Send it; why that failed, or None."""
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}"
    except (OSError, ValueError, HTTPException) as error:
        return f"it cannot be reached ({type(error).__name__})"
