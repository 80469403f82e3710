internal import Essentials
internal import NIOCore

/// A consumer's fetchers, one a partition, on the client's loop.
final class ConsumerFetchers: @unchecked Sendable {
    // Sendable: everything mutable is touched on the client's event loop only.

    private let core: ClientCore
    private let buffer: ConsumerBuffer
    private let assignments: [ConsumerAssignment]
    private let configuration: ConsumerConfiguration
    private var fetchers: [PartitionFetcher] = []
    private var watch: RepeatedTask?
    private var unfinished = 0

    init(
        core: ClientCore, buffer: ConsumerBuffer, assignments: [ConsumerAssignment],
        configuration: ConsumerConfiguration
    ) {
        self.core = core
        self.buffer = buffer
        self.assignments = assignments
        self.configuration = configuration
    }

    /// Starts fetching.
    ///
    /// On the loop, once.
    func start() {
        unfinished = assignments.count
        fetchers = assignments.enumerated().map { number, assignment in
            PartitionFetcher(
                number: number, assignment: assignment, core: core, buffer: buffer,
                configuration: configuration
            ) { [unowned self] error in fetcherEnded(error) }
        }
        for assignment in assignments { core.want(assignment.topic) }
        core.observe(self) { [unowned self] in
            for fetcher in fetchers { fetcher.metadataChanged() }
        }
        watch = core.eventLoop.scheduleRepeatedTask(
            initialDelay: .milliseconds(500), delay: .milliseconds(500)
        ) { [weak self] _ in self?.lookForSilentLeaders() }
        for fetcher in fetchers { fetcher.start() }
    }

    func stop() {
        core.stopObserving(self)
        watch?.cancel()
        for fetcher in fetchers { fetcher.stop() }
    }

    /// The reader took `bytes` of the fetcher's records.
    func consumed(_ bytes: Int, of number: Int) {
        guard fetchers.indices.contains(number) else { return }
        fetchers[number].consumed(bytes)
        // Room for all may be what others wait for.
        for fetcher in fetchers where fetcher.isPaused { fetcher.resume() }
    }

    private func fetcherEnded(_ error: MillraceError?) {
        unfinished -= 1
        guard error != nil || unfinished == 0 else { return }
        stop()
        buffer.end(with: error)
    }

    /// A leader that is paused or cut off says nothing: others know when it has been replaced.
    private func lookForSilentLeaders() {
        let limit = NIODeadline.now() - .init(configuration.maxWait) - .seconds(1)
        if fetchers.contains(where: { $0.hasWaited(since: limit) }) { core.refresh { _ in } }
    }
}
