#!/usr/bin/env python3
"""Checks record batches against kafka-python and librdkafka (confluent-kafka), in both directions.

    cross_check.py                    their batches are read by Millrace, and Millrace's by them
    cross_check.py --write-fixtures   their batches also become ../Fixtures, which `swift test` reads

The packages go from PyPI into a virtual environment that is removed afterwards; without a network
nothing is checked, and the script says so. librdkafka's side is a broker within its own library, so
that no Kafka has to run. What the records hold is said here in `record` and once more, in Swift, in
CrossCheckTests.swift.
"""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FIXTURES = HERE.parent / "Fixtures"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
COUNT = 50


def record(index, with_large):
    """Key, value, headers and timestamp of the record at `index`."""
    key = None if index % 3 == 0 else b"key-%d" % index
    value = None if index % 10 == 7 else b"value %d " % index + b"millrace " * (index % 20)
    if index == 20 and with_large:
        value = b"0123456789abcdef" * 10_000  # More than any codec's block.
    headers = []
    if index % 5 == 0:
        headers = [("index", b"%d" % index), ("empty", b""), ("none", None), ("h\u00e4", b"\x00\xff")]
    return key, value, headers, 1_700_000_000_000 + index * 37 - (index % 4) * 1_000


def records(codec):
    return [record(index, with_large=codec != "none") for index in range(COUNT)]


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"cross-check: {what}: found {str(found)[:300]}, not {str(wanted)[:300]}")


# kafka-python


def write_with_kafka_python(directory):
    from kafka.codec import snappy_encode
    from kafka.record.default_records import DefaultRecordBatchBuilder

    def batch(name, codec, transactional=False, producer=(-1, -1, -1), raw_snappy=False):
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=CODECS.index(codec),
            is_transactional=transactional,
            producer_id=producer[0],
            producer_epoch=producer[1],
            base_sequence=producer[2],
            batch_size=1 << 24,
        )
        for offset, (key, value, headers, timestamp) in enumerate(records(codec)):
            builder.append(offset, timestamp, key, value, headers)
        if raw_snappy:
            import kafka.record.default_records as module

            kept = module.snappy_encode
            module.snappy_encode = lambda bytes: snappy_encode(bytes, xerial_compatible=False)
            built = bytes(builder.build())
            module.snappy_encode = kept
        else:
            built = bytes(builder.build())
        (directory / f"kafka-python-{name}.batch").write_bytes(built)

    for codec in CODECS:
        batch(codec, codec)
    batch("snappy-raw", "snappy", raw_snappy=True)
    batch("transactional", "zstd", transactional=True, producer=(77, 2, 5))


def read_with_kafka_python(directory):
    from kafka.record import MemoryRecords

    for path in sorted(directory.glob("millrace-*.batch")):
        name = path.stem.removeprefix("millrace-")
        batches = MemoryRecords(path.read_bytes())
        batch = batches.next_batch()
        expect(batch.validate_crc(), True, f"{name}: checksum")
        if name == "control":
            marker = list(batch)
            expect((batch.is_control_batch, len(marker)), (True, 1), name)
            expect((marker[0].commit, batch.producer_id), (True, 77), name)
            continue
        codec = {"transactional": "zstd", "append-time": "lz4"}.get(name, name)
        wanted = records(codec)
        found = list(batch)
        expect(batch.compression_type, CODECS.index(codec), f"{name}: codec")
        expect([each.offset for each in found], list(range(COUNT)), f"{name}: offsets")
        expect([each.key for each in found], [each[0] for each in wanted], f"{name}: keys")
        expect([each.value for each in found], [each[1] for each in wanted], f"{name}: values")
        expect([each.headers for each in found], [each[2] for each in wanted], f"{name}: headers")
        timestamps = [each[3] for each in wanted]
        expect(batch.max_timestamp, max(timestamps) if name != "append-time" else APPEND_TIME, name)
        if name == "append-time":
            timestamps = [APPEND_TIME] * COUNT
            expect(batch.timestamp_type, 1, f"{name}: timestamp type")
        expect([each.timestamp for each in found], timestamps, f"{name}: timestamps")
        if name == "transactional":
            fields = (batch.is_transactional, batch.producer_id, batch.producer_epoch)
            expect(fields + (batch.base_sequence,), (True, 77, 2, 5), name)
        expect(batches.has_next(), False, f"{name}: another batch")


APPEND_TIME = 1_800_000_000_000

# librdkafka


class Broker:
    """A broker inside librdkafka, and just enough of Kafka's protocol to store and fetch batches."""

    def __init__(self):
        from confluent_kafka import Producer

        self.owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        broker = self.owner.list_topics(timeout=10).brokers[1]
        self.address = f"{broker.host}:{broker.port}"
        self.socket = socket.create_connection((broker.host, broker.port), timeout=10)

    def _call(self, api, version, body):
        head = struct.pack("!hhih", api, version, 1, -1)
        self.socket.sendall(struct.pack("!i", len(head) + len(body)) + head + body)
        size = struct.unpack("!i", self._read(4))[0]
        return self._read(size)[4:]

    def _read(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                sys.exit("cross-check: librdkafka's broker hung up")
            data += piece
        return data

    def create(self, topic):
        self.owner.list_topics(topic, timeout=10)

    def produce(self, topic, batch):
        name = topic.encode()
        body = struct.pack("!hhi", -1, -1, 10_000) + struct.pack("!ih", 1, len(name)) + name
        body += struct.pack("!iii", 1, 0, len(batch)) + batch
        answer = self._call(0, 3, body)
        error = struct.unpack_from("!h", answer, 4 + 2 + len(name) + 4 + 4)[0]
        expect(error, 0, f"{topic}: librdkafka's broker refuses the batch")

    def fetch(self, topic):
        name = topic.encode()
        body = struct.pack("!iiiib", -1, 1_000, 1, 1 << 24, 0) + struct.pack("!ih", 1, len(name))
        body += name + struct.pack("!iiqi", 1, 0, 0, 1 << 24)
        answer = self._call(1, 4, body)
        position = 4 + 4 + 2 + len(name) + 4
        _, error, _, _, aborted = struct.unpack_from("!ihqqi", answer, position)
        expect(error, 0, f"{topic}: fetch")
        position += 26 + 16 * max(aborted, 0)
        size = struct.unpack_from("!i", answer, position)[0]
        return answer[position + 4 : position + 4 + size]


def write_with_librdkafka(broker, directory):
    from confluent_kafka import Producer

    def batch(name, codec, extra):
        settings = {
            "bootstrap.servers": broker.address,
            "compression.codec": codec,
            "linger.ms": 1_000,
        }
        producer = Producer(settings | extra)
        topic = f"from-librdkafka-{name}"
        broker.create(topic)
        for key, value, headers, timestamp in records(codec):
            producer.produce(
                topic, value, key, partition=0, headers=headers, timestamp=timestamp
            )
        expect(producer.flush(20), 0, f"{name}: records that librdkafka keeps")
        (directory / f"librdkafka-{name}.batch").write_bytes(broker.fetch(topic))

    for codec in CODECS:
        batch(codec, codec, {})
    batch("idempotent", "lz4", {"enable.idempotence": True})


def read_with_librdkafka(broker, directory):
    from confluent_kafka import Consumer, TopicPartition

    for name in CODECS + ["append-time"]:
        topic = f"from-millrace-{name}"
        broker.create(topic)
        broker.produce(topic, (directory / f"millrace-{name}.batch").read_bytes())
        consumer = Consumer(
            {"bootstrap.servers": broker.address, "group.id": "cross-check", "check.crcs": True}
        )
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = consumer.consume(COUNT, timeout=20)
        consumer.close()
        wanted = records("lz4" if name == "append-time" else name)
        expect([each.error() for each in found], [None] * COUNT, f"{name}: errors")
        expect([each.offset() for each in found], list(range(COUNT)), f"{name}: offsets")
        expect([each.key() for each in found], [each[0] for each in wanted], f"{name}: keys")
        expect([each.value() for each in found], [each[1] for each in wanted], f"{name}: values")
        expect([each.headers() or [] for each in found], [each[2] for each in wanted], name)
        timestamps = [(1, each[3]) for each in wanted]
        if name == "append-time":
            timestamps = [(2, APPEND_TIME)] * COUNT
        expect([each.timestamp() for each in found], timestamps, f"{name}: timestamps")


# The whole


def inside(directory, writes_fixtures):
    broker = Broker()
    write_with_kafka_python(directory)
    write_with_librdkafka(broker, directory)
    if writes_fixtures:
        FIXTURES.mkdir(exist_ok=True)
        for path in directory.glob("*.batch"):
            shutil.copy(path, FIXTURES)
    # Reads their batches and writes its own.
    command = os.environ.get("SWIFT_TEST", f"swift test --package-path {ROOT}").split()
    result = subprocess.run(
        command + ["--filter", "CrossCheckTests"],
        env=os.environ | {"MILLRACE_CROSS_CHECK": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        sys.exit(result.stdout + "\ncross-check: Millrace does not read their batches")
    read_with_kafka_python(directory)
    read_with_librdkafka(broker, directory)
    print(
        f"cross-check: {len(list(directory.glob('*.batch')))} batches of Millrace, kafka-python and"
        " librdkafka are read by the others"
    )


def outside(arguments):
    with tempfile.TemporaryDirectory() as scratch:
        venv = pathlib.Path(scratch) / "venv"
        batches = pathlib.Path(scratch) / "batches"
        batches.mkdir()
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        install = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        result = subprocess.run(
            install + ["--requirement", HERE / "requirements.txt"], capture_output=True, text=True
        )
        if result.returncode != 0:
            print(f"{result.stderr[-500:]}cross-check: skipped, PyPI can't be reached")
            return 0
        script = [venv / "bin/python", __file__, "--inside", batches]
        return subprocess.run(script + arguments).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(pathlib.Path(sys.argv[2]), "--write-fixtures" in sys.argv)
    elif set(sys.argv[1:]) <= {"--write-fixtures"}:
        sys.exit(outside(sys.argv[1:]))
    else:
        sys.exit(__doc__)
