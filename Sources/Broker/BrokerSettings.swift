import Essentials
import Metadata

/// Settings of a broker that change while it runs: set for this broker, or for all of them, or else
/// what its own file says.
struct BrokerSettings: Equatable, Sendable {
    /// How long a follower may lag (`replica.lag.time.max.ms`).
    var maxReplicaLag: Duration
    /// How long a fetch from a leader waits for news (`replica.fetch.wait.max.ms`).
    var maxFetchWait: Duration
    /// The most that a leader is asked for at once (`replica.fetch.response.max.bytes`).
    var maxFetchBytes: Int

    init(_ defaults: ReplicaManager.Options) {
        maxReplicaLag = defaults.maxReplicaLag
        maxFetchWait = defaults.maxFetchWait
        maxFetchBytes = defaults.maxFetchBytes
    }

    init(image: MetadataImage, defaults: ReplicaManager.Options) {
        let broker = defaults.nodeID
        self.init(defaults)
        maxFetchWait = image.replicaFetchWaitMax(broker: broker, default: maxFetchWait)
        maxFetchBytes = image.replicaFetchResponseMaxBytes(broker: broker, default: maxFetchBytes)
        // Its file can't contradict itself, but what is set one at a time can: a follower that is
        // merely told to wait must not count as one that lags.
        maxReplicaLag = max(
            maxFetchWait, image.replicaLagTimeMax(broker: broker, default: maxReplicaLag))
    }
}
