"""The ledger in MLflow: an append-only log that decides who is champion.

MLflow's aliases have no compare-and-set, so two promotions at once could undo each other. But MLflow numbers
the versions of a registered model under its database's primary key: dense, in one order, none visible before
those below it. So the ledger of NAME is the registered model NAME.ledger, and its versions are the entries.
The first append comes first. `ledger_state.replay` derives the champion; aliases and tags on NAME are a copy
of that state, for users who load `models:/NAME@champion` or look at a version. An entry is one atomic call:
killed before it, nothing has happened; killed after it, the next process sets aliases and tags.
"""

import logging
from dataclasses import replace
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from dbrnet.errors import JobError
from dbrnet.registry.ledger_state import Entry, State, replay
from dbrnet.registry.store import Store, repeatable
from dbrnet.registry.versions import ensure_registered

CHAMPION, CHALLENGER = "champion", "challenger"
ENTRY_TAG = "ledger_entry"  # of a version: the number of the latest entry on it
MAX_TAG = 5000
_PAGE = 1000
_ENTRY = TypeAdapter(Entry)

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one registered model."""

    def __init__(self, store: Store, model_name: str) -> None:
        self.store = store
        self.model_name = model_name
        self.log_name = f"{model_name}.ledger"

    def entries(self) -> list[Entry]:
        """All of them, in order. Raises `JobError` where one is missing: somebody has deleted it.

        The versions' tags show whether the newest is missing. They are read first, so that they name no
        entry that is appended afterwards.
        """
        with self.store.client_session() as client:
            tagged = [version.tags.get(ENTRY_TAG, "") for version in _versions(client, self.model_name)]
            entries = sorted(_versions(client, self.log_name), key=lambda version: int(version.version))
        numbers = [int(version.version) for version in entries]
        newest = max([*numbers, *(int(number) for number in tagged if number.isdecimal())], default=0)
        if missing := sorted(set(range(1, newest + 1)) - set(numbers)):
            raise JobError(
                f"the ledger {self.log_name} in {self.store} lacks entry {missing[0]}: somebody has deleted "
                "it, and who is champion cannot be told; restore the store from its backup"
            )
        found = []
        for number, version in zip(numbers, entries, strict=True):
            try:
                entry = _ENTRY.validate_json(version.tags["entry"])
            except (KeyError, ValidationError):
                raise JobError(
                    f"entry {number} of the ledger {self.log_name} was not written by dbrnet; "
                    "who is champion cannot be told"
                ) from None
            time = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
            found.append(replace(entry, number=number, time=time))
        return found

    def state(self, at: datetime | None = None) -> State:
        """The state after replaying the entries, now or at a time; an alias older than the ledger is adopted."""
        entries = self._or_adopted(self.entries())
        return replay(entry for entry in entries if at is None or (entry.time is not None and entry.time <= at))

    def state_with(self, entry: Entry) -> State:
        """The state if `entry` were appended now; one whose id is there is there already. Writes nothing."""
        entries = self._or_adopted(self.entries())
        number = 1 + max((known.number for known in entries), default=0)
        return replay([*entries, replace(entry, number=number, time=datetime.now(UTC))])

    def _or_adopted(self, entries: list[Entry]) -> list[Entry]:
        """The entries; where there are none, an alias that is older than the ledger makes the first."""
        if entries or (champion := self.aliases().get(CHAMPION)) is None:
            return entries
        # An entry that has come in meanwhile may have set the alias.
        return self.entries() or [Entry(id="adoption", kind="adoption", version=champion, by="ledger")]

    @repeatable
    def append(self, entry: Entry) -> None:
        """Append once, however often it is called: an entry of the same id is not appended again."""
        entries = self._or_adopted(self.entries())
        if any(known.id == entry.id for known in entries):
            return
        for new in [*(known for known in entries if known.number == 0), entry]:  # 0: not appended yet
            content = _ENTRY.dump_json(new, exclude={"number", "time"}).decode()
            with self.store.client_session() as client:
                ensure_registered(client, self.log_name)
                client.create_model_version(
                    self.log_name,
                    f"models:/{self.model_name}/{new.version}",
                    tags={"entry": content, "kind": new.kind, "by": new.by},
                    description=new.description,
                )

    @repeatable
    def reconcile(self) -> State:
        """Reconcile aliases and tags with the ledger, until no entry has come in since; the state."""
        while True:
            entries = self.entries()
            state = replay(self._or_adopted(entries))
            if entries:
                self._set_aliases(state)
                self._set_tags(state)
            if len(self.entries()) == len(entries):
                return state

    def aliases(self) -> dict[str, int]:
        """The aliases as MLflow has them now."""
        with self.store.client_session() as client:
            try:
                aliases = client.get_registered_model(self.model_name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}
        return {alias: int(number) for alias, number in aliases.items()}

    def _set_aliases(self, state: State) -> None:
        now, name = self.aliases(), self.model_name
        if CHAMPION in now and now[CHAMPION] not in {event.champion_after for event in state.events}:
            moved = "the alias %s of %s was moved to version %d by hand; the ledger says version %s"
            log.warning(moved, CHAMPION, name, now[CHAMPION], state.champion)
        with self.store.client_session() as client:
            for alias, number in ((CHAMPION, state.champion), (CHALLENGER, state.challenger)):
                try:
                    if number is not None and now.get(alias) != number:
                        client.set_registered_model_alias(name, alias, str(number))
                    elif number is None and alias in now:
                        client.delete_registered_model_alias(name, alias)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST" or number is None:
                        raise
                    log.warning("%s version %d should have the alias %s, and was deleted", name, number, alias)

    def _set_tags(self, state: State) -> None:
        with self.store.client_session() as client:
            for version in _versions(client, self.model_name):
                number = str(version.version)
                for key, value in _tags(state, int(number)).items():
                    if value is None and key in version.tags:
                        client.delete_model_version_tag(self.model_name, number, key)
                    elif value is not None and version.tags.get(key) != value:
                        client.set_model_version_tag(self.model_name, number, key, value)


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)
        versions += page
        token = page.token
        if not token:
            return versions


def _tags(state: State, version: int) -> dict[str, str | None]:
    """A version's tags: the latest decision on it, and, for a champion, the later checks of it.

    A rollback revokes the version that it leaves. None removes a tag; a version without a decision has none.
    """
    tags: dict[str, str | None] = {}
    for event in state.events:
        entry, why = event.entry, event.why
        if event.outcome == "rolled back" and entry.expected == version:
            tags |= {"decision": "revoked", "decided_by": entry.by, "reasons": why, "recheck": None}
        elif entry.version != version or (event.outcome == "superseded" and entry.kind != "decision"):
            continue
        elif event.champion_before == event.champion_after == version:
            result = "failed" if event.outcome == "rejected" else event.outcome
            tags |= {"recheck": None if event.outcome == "promoted" else f"{result}: {why}"}
        else:
            outcome = "rejected" if event.outcome == "superseded" else event.outcome
            reasons = why if entry.reasons or event.outcome == "superseded" else None
            tags |= {"decision": outcome, "decided_by": entry.by, "reasons": reasons, "recheck": None}
        tags[ENTRY_TAG] = str(entry.number)
        if entry.run_id is not None:
            tags["review"] = f"runs:/{entry.run_id}/review.html"
    return {key: value and value[:MAX_TAG] for key, value in tags.items()}
