"""A standby's address from `atoll init` to the invite; what `atoll syncer --standby` refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from cryptography import x509

from atoll.access.addresses import Address
from atoll.access.invite import read_invite
from atoll.launch.folder import RunFolder
from atoll.runfile.settings import read_run_file
from cli.served import command


def names_in(certificate: Path) -> set[str]:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(each) for each in names.get_values_for_type(x509.IPAddress)}
    return addresses | set(names.get_values_for_type(x509.DNSName))


def test_init_with_a_standby_puts_it_into_run_file_invite_and_certificate(tmp_path, capsys):
    folder = RunFolder(tmp_path / "reef")
    places = ["--address", "10.1.2.3", "--standby", "spare.example.org:9000"]
    assert command("init", folder.root, *places, "--json") == 0
    standby = json.loads(capsys.readouterr().out)["next"]["standby"]
    assert standby.endswith(f"--dir {folder.root} --standby")
    expected = (Address("10.1.2.3", 7420), Address("spare.example.org", 9000))
    assert read_invite(folder.invite).addresses == expected
    assert names_in(folder.certificate) == {"10.1.2.3", "spare.example.org"}
    run = read_run_file(folder.root / "reef.toml")
    assert run.syncer.service.standby == "spare.example.org:9000"


def test_init_says_how_to_start_the_standby(tmp_path, capsys):
    assert command("init", tmp_path / "reef", "--standby", "127.0.0.1:7421") == 0
    said = capsys.readouterr().out
    assert "a standby on the same disk, where 127.0.0.1:7421 leads to" in said
    assert not read_invite(tmp_path / "reef/run.invite").has_tls


def test_an_address_that_is_none_is_refused_with_its_option(tmp_path, capsys):
    assert command("init", tmp_path / "reef", "--standby", "http://x") == 2
    assert "--standby: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_standby_of_a_run_that_has_not_begun_says_what_to_start_first(tmp_path, capsys):
    assert command("init", tmp_path / "reef", "--standby", "127.0.0.1:7421") == 0
    place = ["syncer", tmp_path / "reef/reef.toml", "--dir", tmp_path / "reef"]
    capsys.readouterr()
    assert command(*place, "--standby") == 2
    assert "start its syncer first, without --standby" in capsys.readouterr().err


@pytest.fixture
def begun(tmp_path: Path) -> list[object]:
    """The command for the syncer of a run that has begun, without a standby's address."""
    assert command("init", tmp_path / "reef") == 0
    folder = RunFolder(tmp_path / "reef")
    folder.begin(read_run_file(tmp_path / "reef/reef.toml"))
    return ["syncer", tmp_path / "reef/reef.toml", "--dir", tmp_path / "reef"]


def test_a_standby_that_nobody_would_find_is_refused(begun, capsys):
    capsys.readouterr()
    assert command(*begun, "--standby") == 2
    assert 'begin the run with standby = "host:port" in [service]' in capsys.readouterr().err


def test_a_standby_at_a_taken_port_is_refused_before_it_waits(begun, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        capsys.readouterr()
        assert command(*begun, "--standby", "--port", taken.getsockname()[1]) == 2
    assert "a standby listens at an address of its own" in capsys.readouterr().err
