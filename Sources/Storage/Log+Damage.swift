package import Essentials

/// Logs whose records turned out, after they were opened, not to be what they were.
extension Log {
    /// Takes the log out of use, durably: it takes nothing, and is looked through when it is next opened.
    ///
    /// - Parameter offset: all below is good.
    package func markDamaged(at offset: Offset) throws(LogError) {
        try checkMayTruncate()
        refusal = .damaged(at: offset)
        try health.watch { () throws(FileError) in
            _ = try fileSystem.open("\(directory)/\(LogRecovery.damageMarker)", .create)
            try fileSystem.syncDirectory(directory)
        }
    }

    /// Takes the log into use again: all of it was looked through, and nothing is wrong.
    package func markSound() throws(LogError) {
        guard case .damaged? = refusal else { return }
        try health.watch { () throws(FileError) in
            try fileSystem.remove("\(directory)/\(LogRecovery.damageMarker)")
            try fileSystem.syncDirectory(directory)
        }
        refusal = nil
    }

    /// The leader epoch of the last record below `offset`; `none` if the log has none there.
    package func epoch(before offset: Offset) -> LeaderEpoch {
        offset > logStartOffset ? epochs.epoch(at: offset + -1) : .none
    }

    /// Makes a damaged log one that takes appends, and ends where the damage starts; an empty one if
    /// that is all that can be done.
    package func cutDamage(at offset: Offset) throws(LogError) {
        do throws(LogError) {
            guard offset >= logStartOffset else {
                return try truncateFully(andStartAt: offset)
            }
            try truncate(to: offset)
        } catch {
            switch error {
            case .io(let cause) where cause.isOutOfSpace: throw error
            case .io, .corruptBatch, .missingRecords, .unexpectedFile, .offsetOutOfRange:
                // What lies below can't be read either.
                try truncateFully(andStartAt: logStartOffset)
            default: throw error
            }
        }
    }
}
