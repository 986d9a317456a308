"""The ledger's rules, each as an example, and what holds for any sequence of entries."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.records import Answer
from dbrnet.registry.ledger_state import Entry, Kind, State, replay


def decision(version: int, answer: Answer = "promoted", against: int | None = None, id_: str = "") -> Entry:
    return Entry(id_ or f"d{version}-{answer}-{against}", "decision", version, "the gate", against, answer)


def person(kind: Kind, version: int, seen: int | None, why: str = "because") -> Entry:
    return Entry(f"{kind}{version}-{seen}", kind, version, "ann", seen, reasons=(why,))


def play(*entries: Entry) -> State:
    made = datetime(2026, 11, 1, tzinfo=UTC)
    return replay(replace(one, number=place, time=made) for place, one in enumerate(entries, start=1))


def last(state: State) -> tuple[str, str]:
    return state.events[-1].outcome, state.events[-1].text


FIRST = decision(1)


def test_the_first_that_passes_is_champion() -> None:
    state = play(FIRST)
    assert (state.champion, last(state)) == (1, ("promoted", "version 1 became the first champion"))


def test_one_that_was_compared_with_the_champion_takes_over() -> None:
    state = play(FIRST, decision(2, against=1))
    assert (state.champion, last(state)) == (2, ("promoted", "version 2 took over from version 1"))
    assert (state.baseline(2), state.baseline(3), state.baseline(None)) == (1, 2, 2)


def test_a_version_compared_with_a_previous_champion_is_superseded() -> None:
    state = play(FIRST, decision(2, against=1), decision(3, against=1))
    assert state.champion == 2
    assert last(state) == ("superseded", "version 2 had become champion since the comparison with version 1")
    state = play(FIRST, decision(2))
    assert last(state) == ("superseded", "version 1 had become champion since the comparison with none")


def test_a_rejection_moves_nothing_also_of_the_champion_itself() -> None:
    state = play(FIRST, decision(2, "rejected", 1), decision(1, "rejected"))
    assert state.champion == 1
    assert [event.outcome for event in state.events] == ["promoted", "rejected", "rejected"]
    assert "stays champion all the same" in state.events[-1].text


def test_the_champion_again_stays() -> None:
    state = play(FIRST, decision(2, against=1), decision(2, against=1, id_="again"))
    assert (state.champion, last(state)) == (2, ("promoted", "version 2 was the champion already and stays"))
    assert state.baseline(2) == 1


def test_a_challenger_waits_and_a_person_approves_it() -> None:
    state = play(FIRST, decision(2, "needs review", 1))
    assert (state.champion, state.challenger) == (1, 2)
    state = play(FIRST, decision(2, "needs review", 1), person("approval", 2, 1))
    assert (state.champion, state.challenger) == (2, None)
    assert last(state) == ("approved", "ann approved version 2, which took over from version 1")


def test_a_later_challenger_takes_the_place_of_an_earlier_one() -> None:
    state = play(FIRST, decision(2, "needs review", 1), decision(3, "needs review", 1))
    assert state.challenger == 3
    assert play(FIRST, decision(2, "needs review", 1), decision(2, "rejected", 1)).challenger is None
    assert play(FIRST, decision(2, "needs review", 1), decision(3, "rejected", 1)).challenger == 2
    assert play(FIRST, decision(2, "needs review", 1), decision(2, against=1)).challenger is None


def test_what_a_person_rejected_the_gate_cannot_promote_until_a_person_approves() -> None:
    story = [FIRST, decision(2, "needs review", 1), person("rejection", 2, 1, "blurred"), decision(2, against=1)]
    state = play(*story)
    assert (state.champion, state.challenger) == (1, None)
    assert last(state)[0] == "superseded"
    assert "revoked by ann on 2026-11-01: blurred" in last(state)[1]
    assert play(*story, decision(2, "needs review", 1)).challenger is None
    state = play(*story, person("approval", 2, 1), decision(3, against=2))
    assert (state.champion, state.revoked) == (3, {})


def test_a_rollback_revokes_the_version_that_it_leaves() -> None:
    story = [FIRST, decision(2, against=1), person("rollback", 1, 2, "coil 4711")]
    state = play(*story)
    assert (state.champion, set(state.revoked)) == (1, {2})
    assert last(state) == ("rolled back", "ann rolled back from version 2 to version 1")
    assert play(*story, decision(2, against=1)).champion == 1
    assert play(*story, decision(3, against=1)).champion == 3
    assert state.baseline(1) is None  # as when it was first compared


def test_a_revoked_network_stays_out_in_another_file() -> None:
    def net(entry: Entry, network: str | None) -> Entry:
        return replace(entry, network=network)

    waited = [decision(2, "needs review", 1), person("rejection", 2, 1, "blurred")]
    promoted = [decision(2, against=1), person("rollback", 1, 2, "blurred")]
    for entries in (waited, promoted):
        story = [net(FIRST, "a"), *(net(one, "b") for one in entries)]
        state = play(*story, net(decision(3, against=1), "b"))
        assert (state.champion, last(state)[0]) == (1, "superseded")
        assert "version 3 has the network of version 2, which was revoked by ann" in last(state)[1]
        assert "`dbrnet registry approve 3` brings it back" in last(state)[1]
        for other in ("c", None):
            assert play(*story, net(decision(3, against=1), other)).champion == 3
        approved = [*story, net(person("approval", 3, 1), "b"), net(decision(4, against=3), "c")]
        state = play(*approved, net(decision(2, against=4), "b"))
        assert (state.champion, state.revoked) == (2, {})


def test_a_person_who_was_too_late_changes_nothing() -> None:
    too_late = [person("approval", 3, 1), person("rollback", 1, 1), person("rejection", 2, 1)]
    for late in [*too_late, person("approval", 2, 2), person("rollback", 2, 2)]:
        state = play(FIRST, decision(2, against=1), late)
        assert (state.champion, last(state)[0]) == (2, "superseded")


def test_an_alias_older_than_the_ledger_is_adopted_once() -> None:
    adoption = Entry("adoption", "adoption", 7, "ledger")
    assert play(adoption, decision(8, against=7)).champion == 8
    assert play(FIRST, adoption).champion == 1


def test_when_a_version_last_became_champion() -> None:
    days = [datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2, 3)]
    story = [FIRST, decision(2, against=1), person("rollback", 1, 2)]
    state = replay(replace(one, number=place + 1, time=days[place]) for place, one in enumerate(story))
    assert (state.since(1), state.since(2), state.since(3)) == (days[2], days[1], None)


VERSION = st.integers(1, 4)
ENTRIES = st.lists(
    st.builds(
        Entry,
        id=st.integers(0, 30).map(str),
        kind=st.sampled_from(["decision", "approval", "rejection", "rollback", "adoption"]),
        version=VERSION,
        by=st.just("ann"),
        expected=st.none() | VERSION,
        answer=st.sampled_from(["promoted", "rejected", "needs review"]),
    ),
    max_size=14,
)


def numbered(entries: Sequence[Entry]) -> list[Entry]:
    return [replace(one, number=place) for place, one in enumerate(entries, start=1)]


@settings(max_examples=500)
@given(ENTRIES)
def test_only_an_entry_on_the_present_champion_changes_the_champion(entries: list[Entry]) -> None:
    state = replay(numbered(entries))
    moves = {"promoted", "approved", "rolled back", "adopted"}
    before = None
    for event in state.events:
        assert event.champion_before == before
        if event.champion_after != before:
            assert event.outcome in moves
            assert event.champion_after == event.entry.version
            if event.outcome != "adopted":
                assert event.entry.expected == before
        before = event.champion_after
    assert state.champion == before
    assert before is not None or not any(event.champion_after for event in state.events)  # never lost
    assert state.champion not in state.revoked
    assert state.challenger is None or state.challenger != state.champion
    assert state.baseline(state.champion) is None or state.baseline(state.champion) != state.champion


@given(ENTRIES)
def test_a_prefix_is_what_was_true_then_and_a_retry_changes_nothing(entries: list[Entry]) -> None:
    whole = replay(numbered(entries))
    for length in range(len(entries)):
        part = replay(numbered(entries)[:length])
        assert part.events == whole.events[: len(part.events)]
    again = replay(numbered([*entries, *entries]))
    assert (again.champion, again.challenger, len(again.events)) == (
        whole.champion,
        whole.challenger,
        len(whole.events),
    )


@given(ENTRIES)
def test_a_superseded_entry_changes_nothing(entries: list[Entry]) -> None:
    whole = replay(numbered(entries))
    superseded = {event.entry.number for event in whole.events if event.outcome == "superseded"}
    seen = {event.entry.number for event in whole.events}
    rest = replay([one for one in numbered(entries) if one.number in seen - superseded])
    assert (rest.champion, rest.challenger, rest.revoked) == (whole.champion, whole.challenger, whole.revoked)
