internal import Essentials
internal import Metadata
internal import NIOCore
internal import RPC

/// Answers that no deposed controller gives.
extension ActiveController {
    /// Gives the image of everything that was committed when it was asked for, or of more.
    ///
    /// A majority confirms first that this node still leads, so that what a later leader has committed
    /// can't be missing; then the image catches up with what the quorum had committed. Fails with
    /// NOT_CONTROLLER on a node that leads no more.
    func read(_ completion: @escaping (Result<MetadataImage, RPCError>) -> Void) {
        eventLoop.preconditionInEventLoop()
        if let leadership, let refusal = overload(leadership) {
            return completion(.failure(refusal))
        }
        confirm { [weak self] error in
            guard let self else { return }
            completion(error.map { .failure($0) } ?? .success(committed))
        }
    }

    /// Calls `complete` once this node is known to lead still, and `committed` holds what was
    /// committed by then; with an error when it leads no more.
    func confirm(_ complete: @escaping (RPCError?) -> Void) {
        guard let leadership, let log = log() else { return complete(notController()) }
        leadership.lastRead += 1
        let id = leadership.lastRead
        leadership.unconfirmed[id] = complete
        log.read { [weak self] result in
            // Nothing is left to answer when the leadership has ended meanwhile.
            guard let self, let complete = leadership.unconfirmed.removeValue(forKey: id) else {
                return
            }
            guard case .success(let offset) = result else { return complete(notController()) }
            if offset <= committed.nextOffset {
                complete(nil)
            } else {
                leadership.reads.append((offset, complete))
            }
        }
    }

    /// Ends the reads that waited for what is committed now.
    func completeReads() {
        guard let leadership, !leadership.reads.isEmpty else { return }
        let end = committed.nextOffset
        let due = leadership.reads.filter { $0.offset <= end }
        leadership.reads.removeAll { $0.offset <= end }
        for read in due { read.complete(nil) }
    }

    /// Refuses what waits for a leadership that is over.
    func endReads(of ended: Leadership) {
        let unconfirmed = ended.unconfirmed.sorted { $0.key < $1.key }
        let reads = ended.reads
        ended.unconfirmed = [:]
        ended.reads = []
        for (_, complete) in unconfirmed { complete(notController()) }
        for read in reads { read.complete(notController()) }
    }
}
