"""Writes the decisions and the feedback of a broker into a folder that can be evaluated."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from banditroute.config import Config
from banditroute.errors import DataSetError, MissingExtraError, TopicError
from banditroute.events import Rejected, ValueMap, decode_feedback, encode
from banditroute.events.field_map import FieldMap
from banditroute.flow.deciding.decider import InputRecord
from banditroute.flow.records.header import HEADER_NAME
from banditroute.runtime.broker.ports import Client
from banditroute_sim.data.dropped import Dropped

DECISIONS: Final = "decisions.parquet"
FEEDBACK: Final = "feedback.parquet"


async def fetch(config: Config, folder: Path) -> dict[str, Any]:
    """Export the log of the broker of a configuration; see `export_log`."""
    from banditroute.runtime.broker.kafka import KafkaClient  # noqa: PLC0415 - a log on disk needs no broker

    client = KafkaClient(config)
    await client.start()
    try:
        return await export_log(client, config, folder)
    finally:
        await asyncio.shield(client.stop())


@contextmanager
def topic_log(config: Config) -> Iterator[Path]:
    """Yield a folder with the log of the broker of a configuration; afterwards the folder is gone.

    Raises
    ------
    TopicError
        If a topic is not there.
    DataSetError
        If a topic holds nothing of use; and where what is read of the folder raises it, with topics for files.
    """
    from banditroute.runtime.process import serve  # noqa: PLC0415 - as in `fetch`

    topics = config.kafka.topics
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        done = serve.run(fetch(config, folder))
        if not done["decisions"]:
            raise DataSetError(f"topic '{topics.decisions}' is empty: nothing was decided yet")
        if not done["feedback"]:
            why = f"none of its {done['rejected']} records is valid" if done["rejected"] else "it is empty"
            raise DataSetError(f"topic '{topics.feedback}' holds no feedback: {why}")
        try:
            yield folder
        except DataSetError as error:
            text = str(error).replace(str(folder / DECISIONS), f"topic '{topics.decisions}'")
            text = text.replace(str(folder / FEEDBACK), f"topic '{topics.feedback}'")
            raise DataSetError(text.replace(str(folder), "the log")) from error


async def export_log(client: Client, config: Config, folder: Path) -> dict[str, Any]:
    """Write ``decisions.parquet`` and ``feedback.parquet``, the records of a partition in the order of their offsets.

    Feedback is decoded by the field map of the configuration and written under our own field names; what is not valid
    is left out.

    Parameters
    ----------
    client : Client
        Started.
    config : Config
        Names of the topics, and the field map of feedback.
    folder : Path
        Made if it is not there.

    Returns
    -------
    dict
        How many ``decisions`` and ``feedback`` were written, how much feedback was ``rejected``, and ``dropped`` why.

    Raises
    ------
    TopicError
        If a topic is not there.
    DataSetError
        If the folder cannot be written.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above
    except ImportError as error:
        raise MissingExtraError("Exporting a log", "sim") from error
    common = [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("value", pa.binary()),
    ]
    decisions = pa.schema([*common, (HEADER_NAME, pa.binary())])
    votes = FieldMap(config.feedback.field_map) if config.feedback.field_map else None
    values = ValueMap(config.feedback.value_map) if config.feedback.value_map else None
    catalog = config.catalog
    done: dict[str, Any] = {"decisions": 0, "feedback": 0}
    dropped = Dropped("feedback events")
    try:
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything is under way
        with pq.ParquetWriter(folder / DECISIONS, decisions, compression="zstd") as writer:
            async for partition, records in _records(client, config.kafka.topics.decisions):
                rows = [
                    _row(partition, one) | {HEADER_NAME: dict(one.headers).get(HEADER_NAME)}
                    for one in records
                ]
                writer.write_table(pa.Table.from_pylist(rows, decisions))
                done["decisions"] += len(rows)
        with pq.ParquetWriter(folder / FEEDBACK, pa.schema(common), compression="zstd") as writer:
            async for partition, records in _records(client, config.kafka.topics.feedback):
                rows = []
                for one in records:
                    event = decode_feedback(one.value, votes, values)
                    if not isinstance(event, Rejected):
                        event = catalog.reported(event)
                    dropped.take(event.reason if isinstance(event, Rejected) else None)
                    if not isinstance(event, Rejected):
                        rows.append(_row(partition, one) | {"value": encode(event)})
                writer.write_table(pa.Table.from_pylist(rows, pa.schema(common)))
                done["feedback"] += len(rows)
    except OSError as error:
        raise DataSetError(f"cannot write into '{folder}': {error.strerror}") from error
    return done | {"rejected": dropped.dropped, "dropped": dropped.as_dict()}


def _row(partition: int, record: InputRecord) -> dict[str, Any]:
    return {
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "value": record.value,
    }


async def _records(client: Client, topic: str) -> AsyncIterator[tuple[int, list[InputRecord]]]:
    count = await client.partitions(topic)
    if not count:
        raise TopicError(f"topic '{topic}' does not exist: nothing was ever logged there")
    for partition in range(count):
        start, stop = await client.bounds(topic, partition)
        async for records in client.read(topic, partition, start, stop):
            if records:
                yield partition, records
