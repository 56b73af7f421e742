"""The transcripts of fixtures/transcripts/, replayed; and the language that they are written in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hash_seeds import printed_under_hash_seeds
from tests.raft.transcripts import COMMANDS, DIRECTORY, SEPARATOR, TranscriptError, parse, run

TRANSCRIPTS = sorted(DIRECTORY.glob("*.txt"))

ELECTION = """
cluster a b c
elect a
"""


def output(commands: str) -> list[str]:
    """What one block of commands says."""
    [block] = parse(run(f"{commands.strip()}\n{SEPARATOR}\n"))[0]
    return list(block.output)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """If the difference is right, by the paper: `python -m tests.raft.transcripts --rewrite`."""
    text = path.read_text(encoding="utf-8")
    assert run(text).splitlines() == text.splitlines()


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_each_transcript_says_what_it_shows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert any(source in head for source in ("Paper", "Dissertation", "SPEC")), "by which source?"
    assert "\nstatus" in text, "what came of it is shown"


def test_every_command_is_used_and_explained() -> None:
    """Used in a transcript, or in this file if there is no story to it."""
    readme = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    unexplained = [name for name in COMMANDS if f"`{name}" not in readme]
    assert not unexplained
    words = {
        line.split()[0]
        for path in [*TRANSCRIPTS, Path(__file__)]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    assert not COMMANDS.keys() - words


def test_a_wrong_record_is_noticed() -> None:
    text = TRANSCRIPTS[0].read_text(encoding="utf-8")
    wrong = text.replace("commit=", "commit=9", 1)
    assert wrong != text
    assert run(wrong) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cluster a\n", "line 1: no ----"),
        ("cluster a\n----\nok\n\nleap a\n----\n", "line 5: leap a"),
        ("cluster a\n# why\ntick b\n----\n", "line 3: tick b"),
        ("cluster a\ncrash a\ntick a\n----\n", "a is down"),
        ("cluster a b\ndeliver a->b\n----\n", "no such message"),
        ("cluster a\npersist a\n----\n", "a writes nothing"),
        ("cluster a\ntick a soon\n----\n", "line 2: tick a soon"),
        ("cluster a b\nchange a promote b\n----\n", "line 2: change"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        run(text)
    assert complaint in str(caught.value)


def test_a_crash_loses_what_was_not_durable_and_only_that() -> None:
    said = output(
        f"""
{ELECTION}
disk a slow
propose a x
crash a
restart a
status a
"""
    )
    assert said[-1].endswith("log=1 2 commit=0")
    assert "t=2 vote=a" in said[-1]


def test_lost_messages_are_sent_again() -> None:
    said = output(
        f"""
{ELECTION}
propose a x
drop a->b
unreachable a b
tick a 0.1
stabilize
status b
"""
    )
    assert said[-1].endswith("log=1 2 2 commit=3")


def test_the_rank_of_a_node_that_nobody_ranks_is_last() -> None:
    said = output("cluster a b +c\npeers-tried a\npeers-tried b\ndue a b c")
    assert "a in 0.00" in said[-3]
    assert "b in 0.03" in said[-2]
    assert said[-1] == "c never", "a learner asks for no votes"


def test_transcripts_are_the_same_under_every_hash_seed() -> None:
    code = (
        "import hashlib; from tests.raft.transcripts import DIRECTORY, run;"
        "texts = [run(p.read_text('utf-8')) for p in sorted(DIRECTORY.glob('*.txt'))];"
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    digests = printed_under_hash_seeds(code)
    assert len(digests) == 1


def test_a_removed_node_learns_it_although_its_own_log_has_a_later_index() -> None:
    """SPEC 2: a node removed by a committed configuration "then learns it, stops campaigning".

    a's own uncommitted configuration is at 6 of term 2, that which removed it at 4 of term 3: the
    refusals say removed-by=4, and a must not take that for older than its 6.
    """
    said = output(
        """
cluster a b c d
elect a
run 0.1
cut a
propose a p q r
change a add-learner e
wait 1.2
elect b
change b remove a
run 12
heal
run 30
due a
"""
    )
    assert said[-1] == "a never"
