"""`banditroute state`: shown, kept in a file, brought back, recomputed from the topics."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.cli import main
from banditroute.config import from_dict
from banditroute.errors import StateError
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.respec import context_free, on_intercept
from banditroute.flow.records.snapshot import MAX_STATE_BYTES, decode_state, encode_state
from banditroute.flow.records.state_file import decode_states, encode_states
from banditroute.flow.records.warm_start import decode_warm_start
from banditroute.router import learner_settings, make_encoder
from banditroute.runtime.state import stored
from banditroute.runtime.state.rebuild import rebuild
from banditroute.runtime.state.topics import Spec
from tests import naive
from tests.brokers import Broker
from tests.faults.memory import World
from tests.runtime.harness import PARTITIONS, Stream
from tests.runtime.tasks.test_outages import toml

NOW = 1_800_000_000_000


async def learned(seed: int = 1, **tables: Any) -> World:
    world = World(seed, **tables)
    await world.create()
    for _ in range(4):
        await world.traffic(1)
        await world.finish()
    return world


def under(world: World, **features: Any) -> tuple[Any, Spec]:
    """The same deployment with other features."""
    config = from_dict({**world.stream.document, "features": features})
    spec = make_encoder(config).spec
    return config, Spec(spec.d, spec.spec_id, learner_settings(config))


def again(world: World, **options: Any) -> Any:
    stream = world.stream
    defaults = {"other_spec": False, "write": False}
    return rebuild(stream.user, stream.config, stream.spec, NOW, **{**defaults, **options})


# -- inspect -------------------------------------------------------------------------------------------


async def _inspect() -> None:
    world = await learned()
    stream = world.stream
    proven = await stream.prove()
    world.log.add(stream.names.state, 1, [OutputRecord(b"1/0", b"junk")])
    shown = await stored.inspect(stream.user, stream.config, stream.spec, world.clock() + 5000.0)
    assert [row["partition"] for row in shown["partitions"]] == list(range(PARTITIONS))
    for row in shown["partitions"]:
        result = proven[row["partition"]]
        assert (
            row["covers"] == row["journal_end"] == len(world.log.log(stream.names.journal, row["partition"]))
        )
        assert (row["open"], row["parked"]) == (result.open, result.parked)
        assert row["votes"] == pytest.approx(sum(values[0] for values in result.rows.values()))
        assert row["age_seconds"] >= 5.0
    assert sum(shown["models"].values()) == pytest.approx(sum(row["votes"] for row in shown["partitions"]))
    assert len(shown["damaged"]) == 1
    assert shown["other_specs"] == []


def test_inspect_shows_what_the_oracle_says() -> None:
    asyncio.run(_inspect())


# -- export and import -----------------------------------------------------------------------------------


async def _round_trip() -> None:
    world = await learned(2)
    stream, state = world.stream, world.stream.names.state
    file = encode_states(await stored.collect(stream.user, stream.config, stream.spec))
    states = decode_states(file, "f")
    assert encode_states(states) == file
    newest = [world.log.log(state, p)[-1].value for p in range(PARTITIONS)]
    await world.traffic(1)
    await world.finish()
    with pytest.raises(StateError, match="does not go backwards unless --force"):
        await stored.bring_in(stream.user, stream.config, stream.spec, states, force=False)
    await stored.bring_in(stream.user, stream.config, stream.spec, states, force=True)
    for partition, value in enumerate(newest):
        came = decode_state(world.log.log(state, partition)[-1].value)
        assert came.genesis.reign == 1, "it takes the place of what knows more"
        came.genesis = replace(came.genesis, reign=0)
        assert encode_state(came) == value
    await world.finish()  # goes on from there, and reads the journal again
    await world.prove()

    with pytest.raises(StateError, match=r"the file holds partitions \[0, 1, 2\], but"):
        await stored.bring_in(stream.user, stream.config, stream.spec, states[:3], force=True)
    before = [len(world.log.log(state, p)) for p in range(PARTITIONS)]
    states[3].at.rX += 1
    with pytest.raises(StateError, match="does not lead to what its state record says"):
        await stored.bring_in(stream.user, stream.config, stream.spec, states, force=True)
    assert [len(world.log.log(state, p)) for p in range(PARTITIONS)] == before, "all or nothing"


def test_an_import_goes_backwards_only_by_force_and_only_where_it_fits_the_logs() -> None:
    asyncio.run(_round_trip())


async def _file() -> bytes:
    world = await learned(3)
    return encode_states(await stored.collect(world.stream.user, world.stream.config, world.stream.spec))


def test_a_file_with_any_byte_flipped_or_cut_anywhere_is_refused_with_one_sentence() -> None:
    data = asyncio.run(_file())
    for at in range(0, len(data), 7):
        for broken in (data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :], data[:at]):
            with pytest.raises(StateError) as caught:
                decode_states(broken, "state.brx")
            assert "'state.brx'" in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_file_of_impossible_lengths_is_refused() -> None:
    import struct
    import zlib

    def sealed(body: bytes) -> bytes:
        return body + struct.pack("<I", zlib.crc32(body))

    for body in (
        b"BRX1" + struct.pack("<I", 5000),
        b"BRX1" + struct.pack("<II", 1, MAX_STATE_BYTES + 1),
        b"BRX1" + struct.pack("<II", 1, 100),
        b"BRX1" + struct.pack("<I", 1),
        b"BRX1" + struct.pack("<I", 0) + b"more",
    ):
        with pytest.raises(StateError, match="'f'"):
            decode_states(sealed(body), "f")


async def _prior() -> None:
    world = await learned(7)
    stream = world.stream
    proven = await stream.prove()
    states = await stored.collect(stream.user, stream.config, stream.spec)
    keys = [ModelKey(model.name) for model in stream.config.models]
    warm = decode_warm_start(stored.as_prior(states), "p", stream.spec.spec_id, stream.spec.d, keys)
    assert warm.ignored == []
    for key, row in warm.evidence.rows.items():
        parts = [
            np.array(values)
            for result in proven.values()
            for (name, *_), values in result.rows.items()
            if name == key.name
        ]
        np.testing.assert_allclose(row, np.sum(parts, axis=0), rtol=1e-9, atol=1e-9)


def test_an_export_may_be_the_prior_of_another_deployment() -> None:
    asyncio.run(_prior())


# -- rebuild ---------------------------------------------------------------------------------------------


async def _rebuilt() -> None:
    world = await learned(4)
    names = world.stream.names
    report = await again(world)
    assert report["differs"] == []
    assert [row["differs"] for row in report["partitions"]] == [False] * PARTITIONS

    good = world.log.log(names.state, 2)[-1]
    wrong = decode_state(good.value)
    wrong.evidence.shared[0] += 1.0
    world.log.add(names.state, 2, [OutputRecord(good.key, encode_state(wrong))])
    assert (await again(world))["differs"] == [2]
    assert (await again(world, write=True))["differs"] == [2]
    assert (await again(world))["differs"] == []
    assert world.log.log(names.state, 2)[-1].value == good.value
    await world.traffic(1)
    await world.finish()
    await world.prove()

    for partition in range(PARTITIONS):  # every record is damaged, and compaction has left one each
        first, last = world.log.log(names.state, partition)[0], world.log.log(names.state, partition)[-1]
        for record in (first, last):
            world.log.add(names.state, partition, [OutputRecord(record.key, (record.value or b"")[:-1])])
        world.log.compact(names.state, partition)
    with pytest.raises(StateError, match="state rebuild --publish"):
        await world.engine().start()
    await again(world, write=True)
    await world.traffic(1)
    await world.finish()
    await world.prove()

    world.log.retain(names.journal, 0, 3)
    with pytest.raises(StateError, match="retention removed"):
        await again(world)


def test_rebuilding_gives_the_very_bits_and_mends_what_is_damaged() -> None:
    asyncio.run(_rebuilt())


async def _other_spec() -> None:
    world = await learned(5, feedback={"max_open": 1000, "max_parked": 1000})
    stream, names = world.stream, world.stream.names
    config, spec = under(world, tags=4, tenant=3, statistics=0, scripts=0)
    assert spec.d != stream.spec.d
    proven = await stream.prove()
    report = await rebuild(stream.user, config, spec, NOW, other_spec=True, write=True)
    assert all(row["from_logs"] and row["without_context"] == 0.0 for row in report["partitions"])
    encoder = make_encoder(config)
    for partition in range(PARTITIONS):
        state = naive.parse_state(world.log.log(names.state, partition)[-1].value or b"")
        assert state.meta["spec_id"] == spec.spec_id
        assert state.meta["ledger"] == {k: v for k, v in proven[partition].ledger.items() if v}
        decisions = []
        for record in world.log.log(names.decisions, partition):
            offset = json.loads(record.value or b"")["decision_id"].partition("-")[2]
            request = json.loads(world.log.log(names.requests, partition)[int(offset)].value or b"")
            from banditroute.events import request_of

            x, tokens = np.empty((1, spec.d), np.float32), np.empty(1)
            encoder.encode_batch([request_of(request)], x, tokens)  # type: ignore[list-item]
            headers = [
                (name, reheaded(content, spec, x[0])) if name == naive.HEADER_NAME else (name, content)
                for name, content in record.headers
            ]
            decisions.append(naive.Record(record.offset, record.timestamp, record.value or b"", headers))
        journal = [
            naive.Record(r.offset, r.timestamp, r.value or b"")
            for r in world.log.log(names.journal, partition)
        ]
        settings = naive.Settings(64_000.0, dict.fromkeys(naive.QUALITY_KINDS, 1.0), 1000)
        result = naive.recompute(partition, decisions, journal, settings, d=spec.d)
        for key, row in result.rows.items():
            np.testing.assert_allclose(state.rows[key], row, rtol=1e-9, atol=1e-9)
    # an engine with the new features goes on from it, and gives the new contexts to its decisions
    from banditroute.runtime.tasks.engine import Engine

    engine = Engine(config, client=world.log.client())
    await engine.start()
    assert engine.learning.policy.posterior.n.sum() > 0
    world.stream.config = config
    await world.traffic(1)
    await world.until(world.finished)
    await engine.stop()
    assert engine.failure is None


def reheaded(header: bytes, spec: Spec, x: Any) -> bytes:
    """The header of the wire format with another context, written from its description."""
    import struct

    d = struct.unpack_from("<H", header, 6)[0]
    head = header[:6] + struct.pack("<H", spec.d) + header[8:16] + bytes.fromhex(spec.spec_id) + header[24:32]
    return head + struct.pack(f"<{spec.d}f", *map(float, x)) + header[32 + 4 * d :]


def test_rebuilding_under_another_spec_encodes_the_retained_requests_anew() -> None:
    asyncio.run(_other_spec())


async def _without_logs() -> None:
    world = await learned(6, feedback={"max_open": 1000, "max_parked": 1000})
    stream, names = world.stream, world.stream.names
    config, spec = under(world, tags=4, statistics=0)
    proven = await stream.prove()
    for partition in range(PARTITIONS):
        world.log.retain(names.requests, partition, len(world.log.log(names.requests, partition)))
    report = await rebuild(stream.user, config, spec, NOW, other_spec=True, write=False)
    assert all(row["from_logs"] for row in report["partitions"])
    votes = sum(values[0] for result in proven.values() for values in result.rows.values())
    assert sum(row["without_context"] for row in report["partitions"]) == pytest.approx(votes)
    world.log.retain(names.journal, 1, 1)
    report = await rebuild(stream.user, config, spec, NOW, other_spec=True, write=False)
    assert [row["from_logs"] for row in report["partitions"]] == [True, False, True, True]
    assert sum(row["votes"] for row in report["partitions"]) == pytest.approx(votes)
    with pytest.raises(StateError, match="there is nothing to take over"):
        await again(world, other_spec=True)


def test_votes_whose_context_is_gone_count_on_the_intercept() -> None:
    asyncio.run(_without_logs())


def test_context_free_evidence_is_that_of_contexts_with_nothing_but_an_intercept() -> None:
    chance = np.random.default_rng(1)
    full, bare, loose = Evidence(4), Evidence(2), Evidence(2)
    key = ModelKey("small")
    for _ in range(50):
        x = np.array([1.0, *chance.normal(size=3)], np.float32)
        vote = Vote(quality=chance.random(), output_tokens=float(chance.integers(500)), latency_ms=9.0)
        full.add(key, x, vote, 0.5)
        bare.add(key, np.array([1.0, 0.0], np.float32), vote, 0.5)
        loose.add_free(key, vote, 0.5)
    got = context_free(full, 2)
    np.testing.assert_allclose(got.rows[RowKey("small")], bare.rows[RowKey("small")], rtol=1e-12)
    np.testing.assert_allclose(got.shared, bare.shared, rtol=1e-12)
    assert on_intercept(loose) == pytest.approx(25.0)
    row, want = loose.rows[RowKey("small")], bare.rows[RowKey("small")]
    np.testing.assert_allclose(row[:5], want[:5], rtol=1e-12)
    for part in (bare.layout.b, bare.layout.sx, bare.layout.a):
        np.testing.assert_allclose(row[part], want[part], rtol=1e-12)


# -- the command -------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def test_the_command_inspects_exports_imports_and_rebuilds(
    kafka_bootstrap: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["banditroute", "state", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return Done(int(caught.value.code or 0), out, err)

    stream = Stream(Broker("kafka", kafka_bootstrap))
    config, file = tmp_path / "banditroute.toml", tmp_path / "state.brx"
    config.write_text(toml(stream.document), encoding="utf-8")

    async def learn() -> None:
        async with stream.users():
            async with stream.running(init=True) as engine:
                ids = await stream.request(40)
                await stream.feedback(ids)
                await stream.until(lambda: engine.ledger()["applied"] == 40)
            await stream.prove()

    asyncio.run(learn())
    shown = json.loads(command("inspect", "-c", config, "--json").stdout)
    assert sum(row["votes"] for row in shown["partitions"]) == 40
    assert "votes" in command("inspect", "-c", config).stdout
    assert command("export", "-c", config, "-o", file).returncode == 0
    assert command("import", "-c", config, file).returncode == 0
    done = command("rebuild", "-c", config, "--publish", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["differs"] == []
    refused(command("export", "-c", config, "-o", "/dev/full"), "cannot write '/dev/full'", "No space left")
    refused(command("import", "-c", config, tmp_path / "none"), "cannot read")
    refused(command("import", "-c", config, config), "was not written by `banditroute state export`")
    file.write_bytes(file.read_bytes()[:-1])
    refused(command("import", "-c", config, file), "fails its checksum")
    refused(command("rebuild", "-c", config, "--spec"), "there is nothing to take over")


def refused(done: Done, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("banditroute: ")
    for part in parts:
        assert part in done.stderr
