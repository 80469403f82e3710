import Essentials

/// What a read that must not wait for the disk comes to.
package enum LogRead<Answer: Sendable>: Sendable {
    /// `nil` when there is none.
    case found(Answer?)
    /// Perform it on a thread that may wait, and hand what comes of it to `Log.resume`.
    case needsDisk(ColdRead<Answer>)
}

/// A read of what isn't in memory: segments as they were when it began, and what to look for in them.
///
/// May be performed on any thread, also after the log was closed or cut: `Log.resume` tells.
package struct ColdRead<Answer: Sendable>: Sendable {
    struct Part: Sendable {
        let identity: Segment.Identity
        let baseOffset: Offset
        let directory: String
        let size: Int
        let interval: Int
        /// `nil`: it is opened, and the log takes it over.
        var file: (any File)?
        /// Where to begin, if the index was at hand.
        var start: Int?
        /// Where exactly what is looked for begins, if that is known.
        var exactStart: Int?
        var maxTimestamp: Int64?
        /// Read or made because it was needed; the log takes it over.
        var index: (SegmentIndex, isNew: Bool)?
    }

    let search: any LogSearch<Answer>
    let fileSystem: any FileSystem
    let generation: UInt64
    var parts: [Part]

    /// What a performed read has found.
    package struct Outcome: Sendable {
        let read: ColdRead
        /// `nil` when it is in none of the segments.
        let result: Result<Answer?, LogError>
    }

    /// Reads; blocks until that is done.
    package consuming func perform() -> Outcome {
        var result: Result<Answer?, LogError> = .success(nil)
        for number in parts.indices {
            var part = parts[number]
            result = perform(&part)
            parts[number] = part
            if case .success(nil) = result { continue }
            break
        }
        return Outcome(read: self, result: result)
    }

    private func perform(_ part: inout Part) -> Result<Answer?, LogError> {
        // Of its own: the log's segment belongs to the log's owner.
        let segment = Segment(
            baseOffset: part.baseOffset, directory: part.directory, size: part.size,
            durableSize: part.size, file: part.file, fileSystem: fileSystem,
            interval: part.interval, copyOf: part.identity)
        if let known = part.maxTimestamp { segment.note(maxTimestamp: known) }
        guard search.mayBeIn(segment) else { return .success(nil) }
        defer {
            (part.file, part.index) = segment.found()
            part.maxTimestamp = segment.maxTimestamp
        }
        let reader = SegmentReader(
            segment, waits: true, start: part.start, exactStart: part.exactStart)
        do throws(LogError) {
            return .success(try search.look(in: reader))
        } catch {
            return .failure(error)
        }
    }
}
