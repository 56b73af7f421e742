"""What the logs of the survivors hold, which of them must win, and what is to be written there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

from attrs import asdict, evolve, frozen
from cattrs import Converter

from nefia.errors import InvalidArgument, NotMember, OtherCluster, RecoveryRefused
from nefia.raft.configuration import RECOVERED, Configuration, Member, Note
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.epoch import first_of_next_epoch
from nefia.raft.quorum import majority
from nefia.state.limits import MAX_REASON_CHARACTERS
from nefia.storage.store import Identity, Stored

SUMMARY_FORMAT = 1

_converter = Converter(forbid_extra_keys=True)


@frozen
class Summary:
    """One survivor's log, as far as it decides, with the newest configuration in it."""

    node_id: str
    instance_id: str
    cluster_id: str
    lineage: str
    term: int
    first_index: int
    last_index: int
    last_term: int
    configuration_index: int
    configuration: Configuration

    @classmethod
    def of(cls, identity: Identity, stored: Stored) -> Summary:
        """Of a store as it was opened; `stored.tail` is not looked at."""
        base = stored.snapshot
        index, configuration = (
            (base.configuration_index, base.configuration) if base else (0, Configuration())
        )
        if stored.configurations:
            index, configuration = stored.configurations[-1]
        last_term = stored.term_starts[-1][1] if stored.term_starts else base.term if base else 0
        return cls(
            node_id=identity.node_id,
            instance_id=identity.instance_id,
            cluster_id=identity.cluster_id,
            lineage=identity.lineage,
            term=stored.hard_state.term,
            first_index=stored.first_index,
            last_index=stored.last_index,
            last_term=last_term,
            configuration_index=index,
            configuration=configuration,
        )

    def beginning_behind(self, place: SnapshotMeta) -> Summary:
        """Of the log that a start will make of this one, since the snapshot is ahead of it."""
        return evolve(
            self,
            term=max(self.term, place.term),
            first_index=place.index + 1,
            last_index=place.index,
            last_term=place.term,
            configuration_index=place.configuration_index,
            configuration=place.configuration,
        )

    @property
    def position(self) -> tuple[int, int]:
        """By this logs are compared: the larger one is the more up-to-date (paper 5.4.1)."""
        return self.last_term, self.last_index


def to_json(summary: Summary) -> str:
    """The text of an exported summary."""
    return json.dumps({"format": SUMMARY_FORMAT} | asdict(summary), indent=2) + "\n"


def from_json(text: str, source: str) -> Summary:
    """Raises InvalidArgument, which names `source`, for anything but what `to_json` has made."""
    try:
        raw = json.loads(text)
        if (found := raw.pop("format")) != SUMMARY_FORMAT:
            raise ValueError(f"format {found}, and this nefia knows {SUMMARY_FORMAT}")
        return _converter.structure(raw, Summary)
    except Exception as error:  # whatever is wrong with it, it is the file's fault
        raise InvalidArgument(
            f"{source} is no summary of a node: {error}",
            hint="make one on that node with nefia cluster recover --export FILE",
        ) from error


@frozen
class Ticket:
    """What another survivor needs to follow: the new lineage, and where the winner's log ended."""

    lineage: str
    last_term: int
    last_index: int

    def __str__(self) -> str:
        return f"{self.lineage}:{self.last_term}:{self.last_index}"

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Raises InvalidArgument."""
        lineage, *position = text.split(":")
        if not lineage.isalnum() or len(position) != 2 or not all(map(str.isdecimal, position)):
            raise InvalidArgument(
                f'"{text}" is not what nefia cluster recover has printed for the other survivors'
            )
        return cls(lineage, int(position[0]), int(position[1]))

    def check(self, summary: Summary) -> None:
        """Raises RecoveryRefused unless `summary` is of a node that may follow."""
        if summary.position > (self.last_term, self.last_index):
            raise RecoveryRefused(
                f"the log of {summary.node_id} is newer than the one that has won: it ends with "
                f"entry {summary.last_index} of term {summary.last_term}, the other with "
                f"{self.last_index} of {self.last_term}",
                hint="following would throw away what only this node has; recover the cluster "
                "here instead, with the summaries of all survivors",
            )


@frozen
class Plan:
    """`survivors`, this node among them, the newest log first; `lost`: voters that are left out.

    `dropped`: learners that are left out. `write` makes the winner's log the beginning of the new
    lineage, and is to be made durable together with that.
    """

    survivors: tuple[Summary, ...]
    lost: tuple[str, ...]
    dropped: tuple[str, ...]
    configuration: Configuration
    write: Write

    @property
    def winner(self) -> Summary:
        return self.survivors[0]

    @property
    def absent(self) -> tuple[Member, ...]:
        """Every other member as the winner knows it: none of them may answer now."""
        members = self.winner.configuration.members
        return tuple(member for member in members if member.id != self.winner.node_id)


def make_plan(
    me: Summary,
    others: Sequence[Summary],
    lost: Collection[str],
    *,
    address: str,
    reason: str,
    utc_ms: int,
) -> Plan:
    """What recovering on this node, `me`, comes to. `address`: where it is dialled from now on.

    Raises InvalidArgument, OtherCluster, NotMember and RecoveryRefused.
    """
    survivors = tuple(sorted((me, *others), key=lambda each: each.position, reverse=True))
    _check_survivors(me, survivors)
    winner = survivors[0] if survivors[0].position > me.position else me
    shown = {each.node_id: each for each in survivors}
    _check_lost(winner.configuration, shown.keys(), lost)
    if winner is not me:
        raise RecoveryRefused(
            f"{winner.node_id} must win: its log ends with entry {winner.last_index} of term "
            f"{winner.last_term}, that of {me.node_id} with {me.last_index} of {me.last_term}",
            hint=f"run the same on {winner.node_id}, with the summary of {me.node_id}",
        )
    kept = tuple(_kept(me, shown, address))
    told = f"without {', '.join(sorted(lost))}"
    note = Note(
        kind=RECOVERED,
        node_id=me.node_id,
        reason=(f"{reason} ({told})" if reason else told)[:MAX_REASON_CHARACTERS],
        utc_ms=utc_ms,
    )
    configuration = Configuration(kept, note)
    term = first_of_next_epoch(*(each.term for each in survivors), me.last_term)
    return Plan(
        survivors=(me, *(each for each in survivors if each is not me)),
        lost=tuple(sorted(lost)),
        dropped=tuple(sorted(me.configuration.ids - configuration.ids - set(lost))),
        configuration=configuration,
        write=Write(
            sequence=0,
            hard_state=HardState(term),
            entries=(Entry(me.last_index + 1, term, configuration),),
        ),
    )


def _check_survivors(me: Summary, survivors: Sequence[Summary]) -> None:
    if len({each.node_id for each in survivors}) < len(survivors):
        raise InvalidArgument("the same node is given twice, or this node beside itself")
    for each in survivors:
        if (each.cluster_id, each.lineage) != (me.cluster_id, me.lineage):
            raise OtherCluster(
                f"{each.node_id} is of the cluster {each.cluster_id}, lineage "
                f"{each.lineage or 'original'}, and {me.node_id} of {me.cluster_id}, "
                f"lineage {me.lineage or 'original'}",
                hint="a node that a recovery has left behind is emptied and added again",
            )


def _check_lost(
    configuration: Configuration, shown: Collection[str], lost: Collection[str]
) -> None:
    """Each voter is either shown to be here or said to be lost, and the rest is no majority."""
    if strangers := sorted(set(shown) - configuration.ids):
        raise NotMember(
            f"{strangers[0]} is no member of the cluster, by the newest log of the survivors",
            hint="leave it out; it is emptied and added once the cluster runs again",
        )
    if unknown := sorted(set(lost) - configuration.voters):
        raise InvalidArgument(
            f"--lost {unknown[0]}: there is no such voter; "
            f"the voters are {', '.join(sorted(configuration.voters))}"
        )
    if both := sorted(set(shown) & set(lost)):
        raise InvalidArgument(f"{both[0]} is given as a survivor and as lost")
    here = set(shown) & configuration.voters
    needed = majority(configuration.voters)
    if len(here) >= needed:
        raise RecoveryRefused(
            f"{', '.join(sorted(here))} are a majority of the {len(configuration.voters)} voters, "
            "so that nothing is lost",
            hint="start their daemons: the cluster goes on by itself",
        )
    if missing := sorted(configuration.voters - set(shown) - set(lost)):
        raise RecoveryRefused(
            f"nothing is said of the voter {missing[0]}",
            hint=f"if it is gone for good add --lost {missing[0]}; if its disk is there give its "
            "data directory or its summary: its log may be newer",
        )


def _kept(me: Summary, shown: dict[str, Summary], address: str) -> Iterator[Member]:
    """The members that go on: this node as a voter, the other survivors as what they were."""
    for member in me.configuration.members:
        if member.id == me.node_id:
            yield evolve(
                member, address=address, voter=True, promote=False, instance=me.instance_id
            )
        elif member.id in shown:
            yield evolve(member, instance=shown[member.id].instance_id)
