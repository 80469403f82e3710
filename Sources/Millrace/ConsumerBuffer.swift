internal import DequeModule
internal import Synchronization

/// What has been fetched and not yet read: filled on the client's loop, emptied by the reader.
final class ConsumerBuffer: Sendable {
    enum Next: Sendable {
        /// Records of the fetcher with this number.
        case records(ConsumedRecords, fetcher: Int)
        case ended
        case failed(MillraceError)
    }

    private struct State {
        var waiting: Deque<(records: ConsumedRecords, fetcher: Int)> = []
        var bytes = 0
        /// What comes after `waiting`, for good.
        var end: Next?
        var reader: CheckedContinuation<Next, Never>?
    }

    // A lock, because the reader runs on any thread; held to move one element.
    private let state = Mutex(State())

    /// Bytes of all that waits.
    var bytes: Int { state.withLock { $0.bytes } }

    func push(_ records: ConsumedRecords, fetcher: Int) {
        let reader = state.withLock { state -> CheckedContinuation<Next, Never>? in
            guard state.end == nil else { return nil }
            if let reader = state.reader {
                state.reader = nil
                return reader
            }
            state.waiting.append((records, fetcher))
            state.bytes += records.byteCount
            return nil
        }
        reader?.resume(returning: .records(records, fetcher: fetcher))
    }

    /// Ends the sequence after what waits; the first end counts.
    func end(with error: MillraceError? = nil) {
        let end: Next = error.map { .failed($0) } ?? .ended
        let reader = state.withLock { state in
            defer { state.reader = nil }
            if state.end == nil { state.end = end }
            return state.reader
        }
        reader?.resume(returning: end)
    }

    /// The next records, waiting for them; ends when the task is cancelled.
    ///
    /// One reader at a time: a second one gets an error.
    func next() async -> Next {
        await withTaskCancellationHandler {
            await withCheckedContinuation { reader in
                let next = state.withLock { state -> Next? in
                    if let first = state.waiting.popFirst() {
                        state.bytes -= first.records.byteCount
                        return .records(first.records, fetcher: first.fetcher)
                    }
                    if let end = state.end {
                        // An error is told once; after it there is nothing.
                        state.end = .ended
                        return end
                    }
                    if Task.isCancelled { return .ended }
                    if state.reader != nil {
                        return .failed(
                            .invalidArgument("a consumer is read by one task at a time"))
                    }
                    state.reader = reader
                    return nil
                }
                if let next { reader.resume(returning: next) }
            }
        } onCancel: {
            let reader = state.withLock { state in
                defer { state.reader = nil }
                return state.reader
            }
            reader?.resume(returning: .ended)
        }
    }
}
