"""Certificates made and read, and what a node's own files have to be."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from nefia.certificates import KeyPair, describe, in_pem, make_authority, make_node, why_no_node
from nefia.credentials import load_credentials
from nefia.errors import TLSFailed
from nefia.openssl import serialization
from tests.certificates import RECIPES, bake, signer, write

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return make_authority("nefia", 100 * DAY, NOW)


class TestMaking:
    def test_an_authority(self, authority: KeyPair) -> None:
        [certificate] = in_pem(authority.certificate)
        described = describe(certificate)
        assert described.subject == described.issuer == "CN=nefia"
        assert described.is_authority
        assert described.usages is None
        assert described.not_after == NOW + 100 * DAY
        assert why_no_node(described) is not None, "its own certificate is not a node's"

    def test_a_node(self, authority: KeyPair) -> None:
        [certificate] = in_pem(make_node(authority, "node-1", 30 * DAY, NOW).certificate)
        described = describe(certificate)
        assert (described.subject, described.issuer) == ("CN=node-1", "CN=nefia")
        assert described.usages == frozenset({"serverAuth", "clientAuth"})
        assert described.node_ids == {"node-1"}
        assert described.not_before < NOW < described.not_after == NOW + 30 * DAY
        assert not described.is_authority
        assert why_no_node(described) is None

    def test_no_node_outlives_its_authority(self, authority: KeyPair) -> None:
        [certificate] = in_pem(make_node(authority, "node-1", 999 * DAY, NOW).certificate)
        assert certificate.not_valid_after_utc == NOW + 100 * DAY

    def test_what_is_made_is_accepted(self, authority: KeyPair, tmp_path: Path) -> None:
        node = make_node(authority, "node-1", 30 * DAY, NOW)
        files = write(tmp_path, node, ca=authority.certificate)
        assert [d.subject for d in load_credentials(files, "node-1").path] == [
            "CN=node-1",
            "CN=nefia",
        ]

    def test_only_an_authority_signs(self, authority: KeyPair) -> None:
        node = make_node(authority, "node-1", 30 * DAY, NOW)
        with pytest.raises(ValueError, match="not that of an authority"):
            make_node(node, "node-2", 30 * DAY, NOW)

    def test_the_key_has_to_be_the_authoritys(self, authority: KeyPair) -> None:
        mixed = evolve(authority, key=make_authority("other", DAY, NOW).key)
        with pytest.raises(ValueError, match="the key is not that of"):
            make_node(mixed, "node-2", 30 * DAY, NOW)

    def test_what_is_no_node_id(self, authority: KeyPair) -> None:
        with pytest.raises(ValueError, match="is not a node id"):
            make_node(authority, "a/b", DAY, NOW)

    def test_keys_are_not_shown(self, authority: KeyPair, tmp_path: Path) -> None:
        node = make_node(authority, "node-1", 30 * DAY, NOW)
        credentials = load_credentials(write(tmp_path, node, ca=authority.certificate))
        for shown in (repr(node), repr(credentials), str(credentials)):
            assert "PRIVATE" not in shown
            assert "key=" not in shown


USAGE_RULES = {
    name: recipe.good for name, recipe in RECIPES.items() if "usage" in name or "only" in name
} | {"both": True, "any": True, "both-and-more": True}


@pytest.mark.parametrize(("recipe", "good"), USAGE_RULES.items())
def test_extended_key_usages(recipe: str, good: bool) -> None:
    described = describe(in_pem(bake(recipe, "node-1").certificate)[0])
    assert (why_no_node(described) is None) == good


def refusal(tmp_path: Path, pair: KeyPair, node_id: str = "node-1", **files: bytes) -> TLSFailed:
    with pytest.raises(TLSFailed) as caught:
        load_credentials(write(tmp_path, pair, **files), node_id)
    return caught.value


WHY_REFUSED = {
    "server-only": "has only the extended key usage serverAuth; a node's needs",
    "client-only": "has only the extended key usage clientAuth; a node's needs",
    "other-usage": r"has only the extended key usage 1\.3\.6\.1\.5\.5\.7\.3\.3; a node's needs",
    "no-usage": "has no extended key usage; a node's needs serverAuth and clientAuth, or any",
    "self-signed": "is not signed by an authority in",
    "other-authority": "is not signed by an authority in",
    "other-authority-any": "is not signed by an authority in",
    "intermediate-not-sent": "is not signed by an authority in",
    "wrong-id": "is the certificate of node-7, node-8, and this node is node-1",
}
IN_TIME = [name for name in RECIPES if "valid" not in name and "expired" not in name]


class TestFiles:
    @pytest.mark.parametrize("recipe", IN_TIME)
    def test_what_others_would_refuse_is_refused_here(self, recipe: str, tmp_path: Path) -> None:
        if RECIPES[recipe].good:
            load_credentials(write(tmp_path, bake(recipe, "node-1")), "node-1")
        else:
            error = refusal(tmp_path, bake(recipe, "node-1"))
            assert error.details == {"key": "tls_cert_file"}
            assert str(tmp_path / "cert.pem") in error.message
            assert re.search(WHY_REFUSED[recipe], error.message)

    def test_an_intermediate_may_be_the_authority(self, tmp_path: Path) -> None:
        pair = bake("intermediate-not-sent", "node-1")
        load_credentials(write(tmp_path, pair, ca=signer("intermediate").pem))

    def test_several_authorities(self, tmp_path: Path) -> None:
        """As while one is being replaced by another."""
        ca = signer("other").pem + signer("authority").pem
        for recipe in ("both", "other-authority"):
            load_credentials(write(tmp_path / recipe, bake(recipe, "node-1"), ca=ca))

    def test_another_nodes_key(self, tmp_path: Path) -> None:
        pair = evolve(bake("both", "node-1"), key=bake("both", "node-1").key)
        assert "is not the key of" in refusal(tmp_path, pair).message

    @pytest.mark.parametrize(
        ("field", "name"), [("certificate", "tls_cert_file"), ("key", "tls_key_file")]
    )
    def test_what_is_not_pem(self, field: str, name: str, tmp_path: Path) -> None:
        error = refusal(tmp_path, evolve(bake("both", "node-1"), **{field: b"-----BEGIN\n"}))
        assert "that can be understood" in error.message
        assert error.details == {"key": name}

    def test_an_authority_that_is_none(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, bake("both", "node-1"), ca=b"").details == {"key": "tls_ca_file"}

    def test_a_key_with_a_passphrase(self, tmp_path: Path) -> None:
        pair = bake("both", "node-1")
        key = serialization.load_pem_private_key(pair.key, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        assert "passphrase" in refusal(tmp_path, evolve(pair, key=key)).message

    @pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o601, 0o666])
    def test_a_key_that_others_may_read(self, mode: int, tmp_path: Path) -> None:
        files = write(tmp_path, bake("both", "node-1"))
        files.key.chmod(mode)
        with pytest.raises(TLSFailed, match=f"may be read by others.*{mode:04o}.*chmod 0600"):
            load_credentials(files)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_key_of_root_may_have_a_group_and_one_of_another_user_is_refused(
        self, tmp_path: Path
    ) -> None:
        files = write(tmp_path, bake("both", "node-1"))
        files.key.chmod(0o640)
        load_credentials(files)
        os.chown(files.key, 65534, 0)
        with pytest.raises(TLSFailed, match="belongs to the user 65534"):
            load_credentials(files)

    @pytest.mark.parametrize("name", ["ca", "cert"])
    def test_certificates_that_everybody_may_change(self, name: str, tmp_path: Path) -> None:
        files = write(tmp_path, bake("both", "node-1"))
        getattr(files, name).chmod(0o666)
        with pytest.raises(TLSFailed, match="may be changed by everybody"):
            load_credentials(files)

    def test_a_file_that_is_no_certificate_at_all(self, tmp_path: Path) -> None:
        huge = b"#" * (2 << 20)
        assert "is larger than" in refusal(tmp_path, bake("both", "node-1"), ca=huge).message


class TestTime:
    @pytest.mark.parametrize(
        ("recipe", "warning"),
        [
            ("both", None),
            ("expired", "CN=node-1 has expired"),
            ("not-yet-valid", "CN=node-1 is not valid yet; is this machine's clock right"),
        ],
    )
    def test_is_a_warning(self, recipe: str, warning: str | None, tmp_path: Path) -> None:
        found = load_credentials(write(tmp_path, bake(recipe, "node-1")))
        shown = found.warning(datetime.now(UTC))
        assert shown is None if warning is None else shown is not None and warning in shown

    @pytest.mark.parametrize(
        ("days", "left", "due"),
        [(365, 31, False), (365, 29, True), (3, 1.1, False), (3, 0.9, True)],
    )
    def test_in_time(self, days: float, left: float, due: bool, tmp_path: Path) -> None:
        """Thirty days before the end, or in the last third of a short life."""
        authority = make_authority("nefia", 1000 * DAY, NOW)
        node = make_node(authority, "node-1", days * DAY, NOW)
        found = load_credentials(write(tmp_path, node, ca=authority.certificate))
        warning = found.warning(NOW + (days - left) * DAY)
        assert (warning is not None and "CN=node-1 expires soon" in warning) == due

    def test_the_authority_counts_too(self, tmp_path: Path) -> None:
        authority = make_authority("nefia", 20 * DAY, NOW - 15 * DAY)
        node = make_node(authority, "node-1", 5 * DAY, NOW)
        found = load_credentials(write(tmp_path, node, ca=authority.certificate))
        warning = found.warning(NOW)
        assert warning is not None
        assert "CN=nefia expires soon" in warning
        assert found.expires_at == NOW + 5 * DAY
