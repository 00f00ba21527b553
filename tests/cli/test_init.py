"""`atoll init`: what it makes can be used as it stands, and it never overwrites."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from atoll.access.addresses import Address
from atoll.access.invite import read_invite
from atoll.access.tls import client_context, server_context
from atoll.runfile.settings import parse, read_run_file
from atoll.runfile.template import BUDGETS, Choices, run_file_text
from cli.served import atoll, command, free_port, served


def init(*options: object) -> int:
    return command("init", *options)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_everything_is_there_and_the_next_commands_are_told(tmp_path, capsys):
    folder = tmp_path / "reef"
    assert init(folder, "--address", "lagoon.example.org", "--learners", 4) == 0
    said = capsys.readouterr().out
    assert f"atoll syncer {folder}/reef.toml --dir {folder}\n" in said
    assert f"atoll learner {folder}/reef.toml --invite {folder}/run.invite --name site-a" in said
    run = read_run_file(folder / "reef.toml")
    assert (run.name, run.syncer.protocol.M, run.local.learners) == ("reef", 4, 4)
    assert (run.syncer.service.host, run.syncer.service.port) == ("0.0.0.0", 7420)
    secrets = [folder / "run.invite", *(folder / "keys").iterdir()]
    assert len(secrets) == 6 and {mode(path) for path in secrets} == {0o600}
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside it"


def test_the_invite_trusts_the_certificate_that_was_made_with_it(tmp_path):
    assert init(tmp_path / "reef", "--address", "10.1.2.3:9000", "--json") == 0
    invite = read_invite(tmp_path / "reef/run.invite")
    assert (invite.run, invite.addresses) == ("reef", (Address("10.1.2.3", 9000),))
    assert client_context(invite.ca_pem).cert_store_stats()["x509_ca"] == 1
    assert server_context(tmp_path / "reef/keys/server.pem", tmp_path / "reef/keys/server.key")
    assert (tmp_path / "reef/keys/secret").read_text() == invite.secret.reveal()


def test_json_is_one_document(tmp_path, capsys):
    assert init(tmp_path / "reef", "--address", "localhost:7", "--preset", "small", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == "reef" and document["tls"] is False
    assert list(document["next"]) == ["syncer", "learner", "watch", "export", "train"]
    assert not read_invite(tmp_path / "reef/run.invite").has_tls


def test_nothing_is_overwritten(tmp_path, capsys):
    assert init(tmp_path / "reef") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert init(tmp_path / "reef", "--learners", 5) == 2
    assert "name another folder" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--address", "http://x"], "write host:port"),
        (["--address", "a_b c"], "neither an IP address nor a host name"),
        (["--address", "x:99999"], "write host:port"),
        (["--learners", "0"], "1 or more"),
        (["--preset", "huge"], "tiny, micro, small"),
        (["--tokens", "-1"], "0 or more"),
    ],
)
def test_a_mistake_names_its_fix_and_leaves_nothing(tmp_path, capsys, options, fix):
    assert init(tmp_path / "reef", *options) == 2
    assert fix in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_is_no_runs_is_refused(tmp_path, capsys):
    assert init(tmp_path / "my run") == 2
    assert "the folder's name is the run's name" in capsys.readouterr().err


def test_an_empty_folder_may_be_there(tmp_path):
    (tmp_path / "reef").mkdir()
    assert init(tmp_path / "reef", "--address", "::1") == 0
    assert read_invite(tmp_path / "reef/run.invite").addresses == (Address("::1", 7420),)


@pytest.mark.parametrize("preset", list(BUDGETS))
def test_what_is_commented_out_are_the_defaults(preset):
    text = run_file_text(Choices("reef", 7420, "127.0.0.1", 2, preset))
    spelled = re.sub(r"(?m)^# (\w+ = )", r"\1", text)
    assert spelled.count("\n# ") < text.count("\n# ")
    assert parse(tomllib.loads(spelled)) == parse(tomllib.loads(text))


@pytest.mark.slow
def test_the_syncer_begins_what_was_prepared_and_goes_on_with_it(tmp_path):
    folder, port = tmp_path / "reef", free_port()
    assert init(folder, "--address", f"127.0.0.1:{port}") == 0
    invite = (folder / "run.invite").read_bytes()
    for _ in range(2):
        with served(folder / "reef.toml", folder) as ready:
            assert (ready["run"], ready["port"], ready["tls"]) == ("reef", port, False)
    assert (folder / "run.invite").read_bytes() == invite
    changed = (folder / "reef.toml").read_text().replace("lr = 0.7", "lr = 0.9")
    (folder / "reef.toml").write_text(changed)
    refused = atoll("syncer", folder / "reef.toml", "--dir", folder)
    assert refused.returncode == 2 and "other settings than the run file" in refused.stderr
