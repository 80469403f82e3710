internal import Essentials
internal import Raft
internal import Storage

/// The snapshots of one replica: what there is, what is being taken, fetched and served.
struct SnapshotState {
    /// The newest whole one, and its size.
    var newest: SnapshotID?
    var newestBytes: Int?
    /// How much of the log was handed out since.
    var bytesSinceLast = 0
    /// When the last one was taken or tried.
    var lastTime = MonotonicTime.now
    /// None is begun before, after one failed.
    var notBefore: MonotonicTime?
    var isTaking = false
    /// Where the log is to start, as soon as it is durable up to there.
    var logStart: Offset?
    /// Whether the log's start is being noted, or what lies below removed.
    var isMovingLogStart = false

    /// What is being fetched, as far as it is here.
    struct Download {
        let id: SnapshotID
        let path: String
        let file: any File
        var position: Int64 = 0
    }

    var download: Download?
    /// Whether a snapshot that was fetched is being verified; there is one such at a time.
    var isVerifying = false

    /// A file that is being handed to others, kept open.
    struct Served {
        let id: SnapshotID
        let file: any File
        let size: Int
    }

    var served: [Served] = []
}
