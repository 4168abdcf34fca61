"""Telemetry over TCP: whoever has a key of the list sees everything, everybody else nothing, and is counted."""

import asyncio
import socket
import sys
from pathlib import Path

import pytest
import zmq
from handmade import MS, deployment, step
from typer.testing import CliRunner

from cli.commands import app
from telemetry.client import TelemetryClient
from telemetry.curve import HubKeys, KeyProblem, ViewerKeys, make_keys
from telemetry.emitter import Emitter
from telemetry.endpoints import REQUEST, HubEndpoints
from telemetry.hub import Hub, Public
from telemetry.timeline import StepClient


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    make_keys(directory)
    return directory


def free_address():
    """A port whose successor is free too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return f"tcp://127.0.0.1:{port}"


@pytest.fixture
def public(keys):
    return Public(HubEndpoints.public(free_address()), HubKeys.read(keys))


async def until(condition, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def answered(client, timeout_s=15.0):
    await until(lambda: client.poll(0) is not None, timeout_s)


async def test_a_viewer_on_the_list_sees_snapshots_and_steps(tmp_path, keys, public):
    viewer = ViewerKeys.read(keys)
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        hub.inject([deployment()])
        with TelemetryClient(public.endpoints.snapshots, viewer) as client:
            await answered(client)
            assert client.snapshot.deployments[0].name == "demo"
            assert client.age_s < 10
        steps = StepClient(public.endpoints.deltas, viewer)
        with Emitter(hub.endpoints.records, "demo", "rank:0") as rank:

            def told():
                rank.emit(step(MS, MS))
                steps.want("demo")
                return steps.poll()["demo"]

            await until(told)
        steps.close()
        assert hub.denied == 0


async def test_this_machine_needs_no_key_while_others_do(tmp_path, public):
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        with TelemetryClient(hub.endpoints.snapshots) as client:
            await answered(client)


async def test_a_key_that_is_not_on_the_list_sees_nothing(tmp_path, keys, public):
    stranger = ViewerKeys(ViewerKeys.read(keys).hub, *zmq.curve_keypair())
    await shut_out(tmp_path, public, stranger)


async def test_a_hub_that_is_not_the_one_expected_is_told_nothing(tmp_path, keys, public):
    own = ViewerKeys.read(keys)
    await shut_out(tmp_path, public, own._replace(hub=zmq.curve_keypair()[0]))


async def shut_out(tmp_path, public, stranger):
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        hub.inject([deployment()])
        with TelemetryClient(public.endpoints.snapshots, stranger) as client:
            await until(lambda: client.poll(0) is not None or hub.denied)
            await asyncio.sleep(0.2)
            assert client.poll(0) is None
            assert hub.denied >= 1


async def test_without_a_key_nothing_is_seen_on_either_socket(tmp_path, public):
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        with zmq.Context() as context:
            context.linger = 0
            dealer, subscriber = context.socket(zmq.DEALER), context.socket(zmq.SUB)
            subscriber.subscribe(b"")
            dealer.connect(public.endpoints.snapshots)
            subscriber.connect(public.endpoints.deltas)
            dealer.send(REQUEST)
            await until(lambda: hub.denied >= 2)
            hub.inject([deployment()])
            await asyncio.sleep(0.3)
            assert not dealer.poll(0)
            assert not subscriber.poll(0)
            assert hub.snapshot().refused == 0


def test_tcp_without_keys_is_refused_on_both_sides(tmp_path):
    with pytest.raises(KeyProblem, match="only with keys"):
        Hub(HubEndpoints("tcp://127.0.0.1:5555", "ipc:///x", "ipc:///y"))
    with TelemetryClient("tcp://127.0.0.1:5555") as client, pytest.raises(KeyProblem, match="--curve-keys"):
        client.poll(0)


def test_keys_are_their_owners_alone(tmp_path):
    made = make_keys(tmp_path / "keys")
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    for name, read in (("hub", HubKeys.read), ("viewer", ViewerKeys.read)):
        secret = tmp_path / "keys" / f"{name}.secret"
        secret.chmod(0o644)
        with pytest.raises(KeyProblem, match="chmod 600"):
            read(tmp_path / "keys")
        secret.chmod(0o600)
        read(tmp_path / "keys")


def test_more_viewers_and_none(tmp_path):
    make_keys(tmp_path)
    make_keys(tmp_path, "anna")
    assert len(HubKeys.read(tmp_path).allowed) == 2
    assert ViewerKeys.read(tmp_path).secret == (tmp_path / "viewer.secret").read_bytes().strip()
    with pytest.raises(KeyProblem, match="is there already"):
        make_keys(tmp_path, "anna")
    for path in (tmp_path / "allowed").iterdir():
        path.unlink()
    with pytest.raises(KeyProblem, match="nobody may look"):
        HubKeys.read(tmp_path)


@pytest.mark.parametrize("name", ["", "hub", "../x", "a b", "x" * 0])
def test_names_of_viewers(tmp_path, name):
    with pytest.raises(KeyProblem):
        make_keys(tmp_path, name)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"~" * 40, b"0" * 41])
def test_what_is_no_key_is_named(tmp_path, content):
    make_keys(tmp_path)
    (tmp_path / "hub.secret").write_bytes(content)
    with pytest.raises(KeyProblem, match=r"hub\.secret"):
        HubKeys.read(tmp_path)
    with pytest.raises(KeyProblem, match="no key in"):
        ViewerKeys.read(Path(tmp_path, "nowhere"))


@pytest.mark.parametrize("address", ["tcp://*", "1.2.3.4:5", "tcp://host:x", "tcp://host:65535", "ipc:///x", "tcp://:5"])
def test_addresses(address):
    with pytest.raises(ValueError, match="write tcp://HOST:PORT"):
        HubEndpoints.public(address)


def test_an_address_takes_two_ports():
    found = HubEndpoints.public("tcp://10.0.0.5:5600")
    assert (found.snapshots, found.deltas, found.records) == ("tcp://10.0.0.5:5600", "tcp://10.0.0.5:5601", "")


async def test_from_the_command_line(tmp_path, keys, public):
    """Without a terminal the state is printed once."""
    async with Hub(HubEndpoints.under(tmp_path), public=public) as hub:
        hub.inject([deployment()])
        arguments = ("--connect", public.endpoints.snapshots, "--curve-keys", str(keys))
        looking = await asyncio.create_subprocess_exec(sys.executable, "-m", "shardscope", *arguments, stdout=-1, stdin=-3)
        out, _ = await looking.communicate()
        assert looking.returncode == 0
        assert out.decode().startswith("demo  tp1  READY")


def test_the_command_line_says_what_is_missing(tmp_path):
    def said(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stderr

    assert said("curve-keys", tmp_path)[0] == 0
    assert "is there already" in said("curve-keys", tmp_path)[1]
    assert said("curve-keys", tmp_path, "--viewer", "anna")[0] == 0
    for command in (["--connect", "tcp://127.0.0.1:1"], ["daemon", "--telemetry", "tcp://127.0.0.1:1"]):
        assert said(*command)[0] == 2
        assert "--curve-keys DIR" in said(*command)[1]
        assert "no key in" in said(*command, "--curve-keys", tmp_path / "nowhere")[1]
        (tmp_path / "hub.secret").chmod(0o640)
        (tmp_path / "viewer.secret").chmod(0o640)
        assert "chmod 600" in said(*command, "--curve-keys", tmp_path)[1]
