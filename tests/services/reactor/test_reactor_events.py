"""Messages of beacons: whatever comes, it is an event or an error that says what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nefia.config.reactor import SEVERITIES
from nefia.errors import Conflict, InvalidArgument, NoQuorum, OutcomeUnknown, TooLarge
from nefia.services.reactor.events import (
    MAX_CLOSE_REASON_BYTES,
    MAX_EVENT_BYTES,
    MAX_NESTING,
    acknowledged,
    close_reason,
    id_of,
    parse_event,
    refused,
)

EVENT = {"id": "1", "type": "disk.usage", "host": "web-1"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=99)
EVENTS = st.fixed_dictionaries(
    {"id": NAMES, "type": NAMES, "host": NAMES},
    optional={
        "severity": st.sampled_from(SEVERITIES),
        "data": st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4),
    },
)


@given(EVENTS, st.sampled_from([None, 2]))
def test_an_event_is_what_was_sent(raw: dict[str, object], indent: int | None) -> None:
    event, text = parse_event(json.dumps(raw, indent=indent))
    assert (event.id, event.type, event.host) == (raw["id"], raw["type"], raw["host"])
    assert event.severity == raw.get("severity", "info")
    assert event.data == raw.get("data", {})
    assert json.loads(text) == raw
    assert b"\n" not in text


@given(st.text(st.characters(codec="utf-8")) | st.binary() | JSON.map(json.dumps))
def test_whatever_comes_there_is_an_answer(message: str | bytes) -> None:
    try:
        event, _ = parse_event(message)
    except (InvalidArgument, TooLarge) as error:
        answer = json.loads(refused(id_of(message), error))
        assert answer["error"]["message"]
        assert answer["error"]["again"] is False
    else:
        assert json.loads(acknowledged(event.id)) == {"ack": event.id}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "id"),
        ({"id": 7}, "$.id"),
        ({"id": "a\nb"}, '"id"'),
        ({"id": "x" * 129}, "128"),
        ({"type": None}, "$.type"),
        ({"host": "h" * 256}, "255"),
        ({"host": "a\0b"}, '"host"'),
        ({"severity": "bad"}, "debug, info, warning"),
        ({"data": [1]}, "$.data"),
        ({"severty": "error"}, "severty"),
    ],
)
def test_an_error_names_what_is_wrong(change: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_event(json.dumps(EVENT | change))
    assert says in caught.value.message


@pytest.mark.parametrize("missing", ["id", "type", "host"])
def test_what_is_needed(missing: str) -> None:
    with pytest.raises(InvalidArgument, match=missing):
        parse_event(json.dumps({key: value for key, value in EVENT.items() if key != missing}))


def test_what_is_no_json_at_all() -> None:
    for message in (
        "",
        "{",
        "nonsense",
        "[" * 60_000,
        '{"id": "\ud800"}'.encode("utf-8", "replace"),
    ):
        with pytest.raises(InvalidArgument):
            parse_event(message)


def test_the_limits_are_where_they_are_said_to_be() -> None:
    frame = json.dumps(EVENT | {"data": {"x": ""}})
    parse_event(json.dumps(EVENT | {"data": {"x": "y" * (MAX_EVENT_BYTES - len(frame))}}))
    with pytest.raises(TooLarge):
        parse_event(json.dumps(EVENT | {"data": {"x": "y" * (MAX_EVENT_BYTES - len(frame) + 1)}}))
    data = "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1)
    parse_event(f'{{"id": "1", "type": "t", "host": "h", "data": {{"x": {data}}}}}')
    with pytest.raises(InvalidArgument, match="levels"):
        parse_event(f'{{"id": "1", "type": "t", "host": "h", "data": {{"x": [{data}]}}}}')


def test_an_error_is_answered_by_the_id_if_there_is_one() -> None:
    assert id_of('{"id": "7", "type": 1}') == "7"
    assert id_of('{"id": 7}') is None
    assert id_of('{"id": ') is None
    assert id_of('{"id": "7"}' + " " * MAX_EVENT_BYTES) is None


def test_an_error_says_whether_to_send_again() -> None:
    for error in (NoQuorum("x"), OutcomeUnknown("x", hint="repeat the request id")):
        answer = json.loads(refused("7", error))
        assert answer["id"] == "7"
        assert answer["error"]["again"] is True
        assert "same id" in answer["error"]["hint"]
    answer = json.loads(refused(None, Conflict("x", hint="do y")))
    assert answer == {
        "error": {"code": "conflict", "message": "x", "again": False, "hint": "do y"},
        "id": None,
    }


@given(
    st.none() | st.text(st.characters(codec="utf-8"), max_size=70),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=200),
)
@example(leader_id="n1", url="wss://" + "x" * 200)
@example(leader_id="n" * 63, url="wss://one.example.org:9500/and/a/path/that/is/long")
@example(leader_id="\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 63, url=None)
def test_a_close_reason_fits_its_frame(leader_id: str | None, url: str | None) -> None:
    text = close_reason(leader_id, url)
    assert len(text.encode()) <= MAX_CLOSE_REASON_BYTES
    said = json.loads(text)
    assert said.keys() == {"leader_id", "url"}
    assert said["url"] in (None, url)
    assert said["leader_id"] in (None, leader_id)
    whole = json.dumps({"leader_id": leader_id, "url": url}, ensure_ascii=False)
    if len(whole.encode()) <= MAX_CLOSE_REASON_BYTES - 4:
        assert said == {"leader_id": leader_id, "url": url}
