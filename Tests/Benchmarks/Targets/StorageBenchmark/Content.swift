internal import Essentials
internal import NIOCore
internal import Records
internal import Storage

/// A batch to append again and again.
struct Content {
    let batch: ByteBuffer
    let headers: [RecordBatchHeader]

    /// A batch of about so many bytes, in records of 1 KB at most.
    init(bytes: Int) throws {
        var builder = RecordBatchBuilder(capacity: bytes + 1_024)
        var left = bytes - 61
        while left > 0 {
            let size = min(left, 1_024)
            // What is around the value takes some bytes, too.
            builder.append(
                key: nil, value: [UInt8](repeating: 0x61, count: max(1, size - 12)),
                timestamp: 1_700_000_000_000)
            left -= size
        }
        batch = builder.finish()
        headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 30)
    }

    var bytes: Int { batch.readableBytes }

    func append(to log: Log) throws {
        try log.appendAsLeader(batch, headers: headers, leaderEpoch: 0)
    }
}

extension LogFlusher {
    /// Flushes what was appended to the log, on a thread of the flusher, and waits for it.
    func flush(_ log: Log) throws {
        let ticket = log.prepareFlush()
        let done = Arrivals<Result<Void, LogError>>()
        submit(ticket) { done.add($0) }
        for result in done.take() { try result.get() }
        log.completeFlush(ticket)
    }
}
