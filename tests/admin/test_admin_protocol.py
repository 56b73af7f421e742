"""The admin protocol as values: SPEC 4, without a socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.admin import MAX_LINE_BYTES, READING_ACTIONS
from nefia.admin.lines import LineBuffer
from nefia.admin.protocol import (
    Refusal,
    Request,
    append_answer,
    encode_answer,
    encode_error,
    parse_request,
)
from nefia.admin.reference import render
from nefia.admin.shapes import Mode
from nefia.admin.table import ACTIONS, MAX_CLAIM_WAIT_MS
from nefia.admin.values import MAX_NESTING, json_bytes
from nefia.admin.views import PushedView, Views
from nefia.errors import Internal, NotLeader
from nefia.state.commands import AckTask, FailTask, NewTask, PushTasks
from nefia.state.records import TaskState
from tests.wire_records import task

REFERENCE = Path(__file__).parents[2] / "docs" / "admin-api.md"


def parsed(**raw: Any) -> Request:
    request = parse_request(json.dumps(raw).encode())
    assert isinstance(request, Request), request
    return request


def refused(line: bytes | None = None, **raw: Any) -> Refusal:
    refusal = parse_request(json.dumps(raw).encode() if raw else line)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def error_of(**raw: Any) -> dict[str, Any]:
    return refused(**raw).error.to_json()


class TestRequests:
    def test_carries_checked_parameters_and_defaults(self) -> None:
        request = parsed(
            action="queue_push",
            seq="a",
            payload={"n": 1},
            delay="1.5s",
            request_id="r",
            forward=True,
        )
        assert (request.action, request.seq) == ("queue_push", "a")
        assert (request.request_id, request.forward) == ("r", True)
        assert request.params == NewTask(b'{"n":1}', delay_ms=1500)

    def test_keeps_the_object_for_forwarding(self) -> None:
        raw = {"action": "queue_cancel", "id": "7", "forward": True}
        assert parsed(**raw).raw == raw

    @pytest.mark.parametrize("seq", [7, 7.5, -1, 2**70, "seven", None])
    def test_echoes_any_number_or_string_as_seq(self, seq: object) -> None:
        assert parsed(action="status", seq=seq).seq == seq
        assert refused(action="nonsense", seq=seq).seq == seq

    @pytest.mark.parametrize("seq", [True, [], {}, "x" * 257])
    def test_refuses_another_seq(self, seq: object) -> None:
        refusal = refused(action="status", seq=seq)
        assert refusal.seq is None
        assert refusal.error.code == "invalid_argument"

    def test_refuses_a_seq_that_would_not_be_json_again(self) -> None:
        assert refused(b'{"action": "status", "seq": 1e400}').error.code == "invalid_argument"

    def test_names_the_nearest_action_and_parameter(self) -> None:
        assert error_of(action="quue_push")["hint"] == 'did you mean "queue_push"?'
        assert error_of(action="quue_push")["code"] == "unknown_action"
        assert error_of(action="queue_push", paylod=1)["hint"] == 'did you mean "payload"?'
        assert error_of(action="status", verbose=True)["hint"] == "it takes none"

    @pytest.mark.parametrize("action", ["drill", "event_send"])
    def test_does_not_know_what_later_versions_may(self, action: str) -> None:
        assert error_of(action=action)["code"] == "unknown_action"

    def test_names_what_is_missing(self) -> None:
        error = error_of(action="queue_ack", seq=1)
        assert error["message"] == 'missing: "id", "token"'

    @pytest.mark.parametrize(
        ("parameters", "named"),
        [
            ({"priority": True}, "priority"),
            ({"priority": 1.0}, "priority"),
            ({"priority": 2**63}, "priority"),
            ({"queue": 1}, "queue"),
            ({"queue": ""}, "queue"),
            ({"queue": None}, "queue"),
            ({"host": "\ud800"}, "host"),
            ({"delay": 30}, "delay"),
            ({"delay": "30"}, "delay"),
            ({"delay": "-1s"}, "delay"),
            ({"forward": "true"}, "forward"),
            ({"forward": 1}, "forward"),
            ({"request_id": ""}, "request_id"),
            ({"request_id": "x" * 129}, "request_id"),
            ({"consistency": "local"}, "consistency"),
        ],
    )
    def test_is_strict_about_types(self, parameters: dict[str, Any], named: str) -> None:
        error = error_of(action="queue_push", payload=1, **parameters)
        assert error["code"] == "invalid_argument"
        assert f'"{named}"' in error["message"]

    def test_checks_bounds_labels_and_choices(self) -> None:
        too_long = f"{MAX_CLAIM_WAIT_MS + 1}ms"
        assert "1h" in error_of(action="queue_claim", worker="w", wait=too_long)["message"]
        assert '"limit"' in error_of(action="queue_list", limit=0)["message"]
        assert '"state"' in error_of(action="queue_list", state="lost")["message"]
        assert '"labels.a"' in error_of(action="session_open", host="h", labels={"a": 1})["message"]
        assert '"labels"' in error_of(action="session_open", host="h", labels=[])["message"]
        assert '"consistency"' in error_of(action="queue_stats", consistency="eventual")["message"]

    def test_rounds_durations_up_so_that_a_wait_stays_one(self) -> None:
        request = parsed(action="queue_claim", worker="w", wait="1us", lease="1.1s")
        assert request.params.wait_ms == 1
        assert request.params.lease_ms == 1100

    def test_takes_one_task_or_several(self) -> None:
        tasks = parsed(action="queue_push", tasks=[{"payload": None}, {"payload": 1, "key": "k"}])
        assert tasks.params == PushTasks((NewTask(b"null"), NewTask(b"1", key="k")))
        assert "missing" in error_of(action="queue_push")["message"]
        assert '"key"' in error_of(action="queue_push", tasks=[{"payload": 1}], key="k")["message"]
        assert "at least one" in error_of(action="queue_push", tasks=[])["message"]
        wrong = error_of(action="queue_push", tasks=[{"payload": 1}, {"payload": 1, "host": 2}])
        assert '"tasks[1]"' in wrong["message"]
        assert '"host"' in wrong["message"]

    def test_shortens_what_it_repeats(self) -> None:
        for raw in ({"x" * 10_000: 1}, {"host": ["y" * 10_000]}):
            assert len(json.dumps(error_of(action="queue_list", **raw))) < 1000


class TestPayloads:
    @pytest.mark.parametrize(
        "text",
        [
            str(2**70),
            '"\\ud800"',
            '"\\ud83d\\ude00 \\u0000 \\u2028"',
            '"h\u00e9"',
            '{"a":[null,true,-0.0,1e-7]}',
        ],
    )
    def test_survive_to_the_answer(self, text: str) -> None:
        request = parse_request(b'{"action": "queue_push", "payload": %s}' % text.encode())
        assert isinstance(request, Request)
        payload = request.params.payload
        answer = encode_answer(1, {"payload": json.loads(payload)})
        assert json.loads(answer)["result"]["payload"] == json.loads(text)

    def test_take_the_bytes_of_utf8_and_not_of_escapes(self) -> None:
        assert parsed(action="queue_push", payload="\u4e16").params.payload == '"\u4e16"'.encode()

    @pytest.mark.parametrize("text", [b"NaN", b"-Infinity", b"1e400", b"[1e999]"])
    def test_are_refused_if_no_json(self, text: bytes) -> None:
        refusal = refused(b'{"action": "queue_push", "seq": 1, "payload": %s}' % text)
        assert refusal.error.code == "invalid_argument"

    def test_may_be_nested_but_not_without_end(self) -> None:
        def push(levels: int) -> bytes:
            return b'{"action":"queue_push","payload":' + b"[" * levels + b"]" * levels + b"}"

        assert isinstance(parse_request(push(MAX_NESTING - 1)), Request)
        for levels in (MAX_NESTING, 5_000, 400_000):
            assert "levels" in refused(push(levels)).error.message

    def test_may_hold_any_number_of_brackets(self) -> None:
        flat = "[]" * 1000
        assert parsed(action="queue_push", payload=flat).params.payload == json_bytes(flat)
        wide: list[Any] = [[] for _ in range(1000)]
        assert parsed(action="queue_push", payload=wide).params.payload == json_bytes(wide)


class TestRefusals:
    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"hello",
            b"[]",
            b"7",
            b'"status"',
            b"null",
            b"{",
            b'{"action": "status"',
            b"\xff\xfe",
        ],
    )
    def test_answer_what_is_no_json_object(self, line: bytes) -> None:
        refusal = refused(line)
        assert refusal.seq is None
        assert refusal.error.code == "invalid_argument"
        assert json.loads(encode_error(None, refusal.error))["ok"] is False

    def test_answer_an_integer_of_too_many_digits(self) -> None:
        assert "digits" in refused(b'{"seq": 1%s}' % (b"0" * 10_000)).error.message

    def test_answer_a_line_that_is_too_long(self) -> None:
        assert refused(None).error.code == "too_large"
        assert refused(b" " * (MAX_LINE_BYTES + 1)).error.code == "too_large"


class TestAnswers:
    def test_are_one_line_with_the_seq(self) -> None:
        assert encode_answer(7, {"a": "\n"}) == b'{"seq":7,"ok":true,"result":{"a":"\\n"}}\n'
        error = NotLeader("m", leader_id="n", leader_addr="a:1")
        assert json.loads(encode_error("s", error)) == {
            "seq": "s",
            "ok": False,
            "error": {
                "code": "not_leader",
                "message": "m",
                "changed": False,
                "leader_id": "n",
                "leader_addr": "a:1",
            },
        }

    def test_never_exceed_the_line(self) -> None:
        room = MAX_LINE_BYTES - len(encode_answer(1, {"a": ""}))
        assert len(encode_answer(1, {"a": "x" * room})) == MAX_LINE_BYTES
        for line in (
            encode_answer(1, {"a": "x" * (room + 1)}),
            encode_error(1, Internal("x" * MAX_LINE_BYTES)),
        ):
            error = json.loads(line)["error"]
            assert (error["code"], error["changed"]) == ("too_large", "unknown")

    def test_go_behind_those_before_them(self) -> None:
        lines = bytearray(b"before\n")
        for seq, result in ((1, {}), ("\ud800", {}), (3, {"a": "x" * MAX_LINE_BYTES}), (4, {})):
            append_answer(lines, seq, result)
        before, *answers, after = bytes(lines).split(b"\n")
        assert (before, after) == (b"before", b"")
        assert [json.loads(answer)["seq"] for answer in answers] == [1, "\ud800", 3, 4]
        assert [json.loads(answer)["ok"] for answer in answers] == [True, True, False, True]

    def test_hold_a_task_whatever_the_seq(self) -> None:
        """Two encoders make them: one has no bytes for a lone surrogate."""
        view = PushedView(Views(0).task(task(1, TaskState.DONE)), changed=True)
        one, other = json.loads(encode_answer("x", view)), json.loads(encode_answer("\ud800", view))
        assert one["result"]["task"]["id"] == "1"
        assert list(other["result"]["task"].items()) == list(one["result"]["task"].items())
        assert other == one | {"seq": "\ud800"}


class TestTable:
    def test_agrees_with_the_client_on_what_changes_nothing(self) -> None:
        reading = {a.name for a in ACTIONS.values() if a.mode is Mode.READ}
        assert reading | {"status", "members", "watch"} == READING_ACTIONS

    def test_documents_every_parameter(self) -> None:
        for action in ACTIONS.values():
            assert action.doc
            assert action.result
            for parameter in action.parameters:
                assert parameter.doc, f"{action.name}: {parameter.name}"

    def test_parameters_are_the_fields_of_what_is_made_of_them(self) -> None:
        forms = [form for action in ACTIONS.values() for form in action.forms]
        made = {form.made: form for form in forms if isinstance(form.made, type)}
        assert made.keys() >= {NewTask, PushTasks, AckTask, FailTask}
        for kind, form in made.items():
            assert issubclass(kind, msgspec.Struct)
            assert tuple(p.key for p in form.parameters) == kind.__struct_fields__

    def test_is_what_the_documentation_says(self) -> None:
        assert REFERENCE.read_text() == render(), "run python -m nefia.admin.reference"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
names = st.sampled_from(
    sorted({name for action in ACTIONS.values() for name in action.shape.known} | {"seq"})
)
objects = st.fixed_dictionaries(
    {"action": st.sampled_from(sorted(ACTIONS)) | json_values},
    optional={"seq": json_values},
).flatmap(
    lambda fixed: st.dictionaries(names | st.text(), json_values).map(lambda more: more | fixed)
)


class TestFuzz:
    @given(st.binary())
    def test_any_bytes_are_answered(self, line: bytes) -> None:
        refusal = parse_request(line)
        assert isinstance(refusal, Refusal)
        encode_error(refusal.seq, refusal.error)

    @given(objects)
    def test_any_object_becomes_a_request_or_an_answerable_refusal(self, raw: object) -> None:
        request = parse_request(json.dumps(raw).encode())
        if isinstance(request, Refusal):
            answer = json.loads(encode_error(request.seq, request.error))
            assert answer["seq"] == request.seq
        else:
            encode_answer(request.seq, {})

    @given(st.lists(st.binary(max_size=20)), st.data())
    def test_lines_do_not_depend_on_how_the_stream_is_cut(
        self, pieces: list[bytes], data: st.DataObject
    ) -> None:
        stream = b"".join(pieces)
        lines = LineBuffer()
        got: list[bytes | None] = []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            got += lines.feed(stream[:size])
            stream = stream[size:]
        got += lines.finish()
        whole = b"".join(pieces).split(b"\n")
        assert got == (whole if whole[-1] else whole[:-1])


class TestOverlongLines:
    @pytest.mark.parametrize("chunk_bytes", [1000, 65536, 3 * MAX_LINE_BYTES])
    def test_are_skipped_to_the_next_newline(self, chunk_bytes: int) -> None:
        stream = b"a\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n" + b"y" * MAX_LINE_BYTES + b"\nb\n"
        lines = LineBuffer()
        got: list[bytes | None] = []
        for start in range(0, len(stream), chunk_bytes):
            got += lines.feed(stream[start : start + chunk_bytes])
        assert got == [b"a", None, b"y" * MAX_LINE_BYTES, b"b"]
        assert lines.finish() == []

    def test_are_reported_at_the_end_of_the_stream_too(self) -> None:
        lines = LineBuffer()
        assert lines.feed(b"x" * (MAX_LINE_BYTES + 1)) == []
        assert lines.finish() == [None]
