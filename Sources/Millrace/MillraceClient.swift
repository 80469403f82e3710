public import Logging
internal import NIOCore
internal import NIOPosix

/// A connection to one cluster, shared by any number of producers, consumers and admins.
///
/// It finds the other brokers through the bootstrap list, keeps one HTTP/2 connection to each broker
/// in use, and follows partitions to new leaders. Usable from any thread. Close what you built on it
/// first, then call `close()`.
///
/// ```swift
/// let client = try MillraceClient(bootstrap: "127.0.0.1:9092")
/// let producer = try Producer(client: client)
/// let sent = try await producer.send(ProducerRecord(topic: "greetings", key: "en", value: "hello"))
///
/// let from = ConsumerAssignment(
///     topic: "greetings", partition: sent.partition, start: .offset(sent.offset))
/// let consumer = try Consumer(client: client, partitions: [from])
/// for try await records in consumer {
///     for record in try records.all() { print(record.offset, record.value ?? "none") }
/// }
/// ```
public final class MillraceClient: Sendable {
    public struct Configuration: Sendable {
        /// Brokers to ask for the rest of the cluster; any one that answers will do.
        public var bootstrap: [BrokerAddress]
        /// How long one call may take, and an acks=all write may wait for the other replicas.
        public var requestTimeout: Duration = .seconds(30)
        /// How long to look for a broker that answers, or for a leader, before giving up.
        public var metadataTimeout: Duration = .seconds(10)
        /// How long a topic that nobody knows is looked for: the time a new one takes to get around.
        public var unknownTopicGrace: Duration = .seconds(2)
        /// Ask again where leaders are after this time, even when nothing failed.
        public var metadataMaxAge: Duration = .seconds(60)
        /// What the connections have to say; nothing by default.
        public var logger = Logger(label: "millrace") { _ in SwiftLogNoOpLogHandler() }

        public init(bootstrap: [BrokerAddress]) {
            self.bootstrap = bootstrap
        }
    }

    let core: ClientCore
    private let group: MultiThreadedEventLoopGroup

    public init(configuration: Configuration) {
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        core = ClientCore(configuration: configuration, eventLoop: group.next())
    }

    /// Connects to the cluster one of these addresses belongs to: `host:port`, commas between them.
    ///
    /// - Throws: `INVALID_ARGUMENT` when the list can't be read. Nothing is connected yet.
    public convenience init(bootstrap: String) throws(MillraceError) {
        self.init(configuration: Configuration(bootstrap: try BrokerAddress.list(bootstrap)))
    }

    /// Closes every connection.
    ///
    /// What is still under way fails with `CLIENT_CLOSED`.
    public func close() async {
        guard await core.close() else { return }
        // The only error is a second shutdown, which the guard excludes.
        try? await group.shutdownGracefully()
    }
}
