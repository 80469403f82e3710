internal import Essentials
internal import NIOCore

/// Reads the committed records of given partitions, each in order, from given positions.
///
/// Iterate it once: `for try await records in consumer { … }`. Fetching runs ahead of the reader and
/// pauses when it is too far ahead. Leaders that die or move are followed; no record is skipped and
/// none comes twice. Usable from any thread, by one reader at a time. Call `close()` when done.
public final class Consumer: AsyncSequence, Sendable {
    public typealias Element = ConsumedRecords
    public typealias Failure = MillraceError

    private let core: ClientCore
    private let buffer: ConsumerBuffer
    private let fetchers: ConsumerFetchers

    /// - Throws: `INVALID_ARGUMENT` without partitions, or when the configuration makes no sense.
    public init(
        client: MillraceClient, partitions: [ConsumerAssignment],
        configuration: ConsumerConfiguration = .init()
    ) throws(MillraceError) {
        try configuration.validate()
        guard !partitions.isEmpty else {
            throw .invalidArgument("name at least one partition to consume")
        }
        core = client.core
        buffer = ConsumerBuffer()
        fetchers = ConsumerFetchers(
            core: client.core, buffer: buffer, assignments: partitions,
            configuration: configuration)
        guard core.onLoop({ [fetchers] in fetchers.start() }) else { throw .closed }
    }

    /// Stops fetching; the iteration ends after what has been fetched.
    public func close() async {
        await withCheckedContinuation { (waiting: CheckedContinuation<Void, Never>) in
            let isAccepted = core.onLoop { [fetchers] in
                fetchers.stop()
                waiting.resume()
            }
            if !isAccepted { waiting.resume() }
        }
        buffer.end()
    }

    public func makeAsyncIterator() -> Iterator {
        Iterator(core: core, buffer: buffer, fetchers: fetchers)
    }

    public struct Iterator: AsyncIteratorProtocol {
        let core: ClientCore
        let buffer: ConsumerBuffer
        let fetchers: ConsumerFetchers

        /// The next records of some partition; `nil` at the end, when closed, or when cancelled.
        ///
        /// - Throws: what no retry helps against, such as `OFFSET_OUT_OF_RANGE`. The consumer is then
        ///   of no more use.
        public mutating func next() async throws(MillraceError) -> ConsumedRecords? {
            switch await buffer.next() {
            case .records(let records, let fetcher):
                let bytes = records.byteCount
                _ = core.onLoop { [fetchers] in fetchers.consumed(bytes, of: fetcher) }
                return records
            case .ended:
                return nil
            case .failed(let error):
                throw error
            }
        }

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(MillraceError) -> ConsumedRecords? {
            try await next()
        }
    }
}
