import DequeModule
import Synchronization

/// The memory that answers to consumers may take up in one broker, from when they are read until their
/// bytes are handed to a socket (`queued.max.response.bytes`).
///
/// When it is used up, reads become smaller and then wait, in the order in which they came. A connection
/// that holds nothing always gets a little, above the limit if need be: readers that take nothing of their
/// answers can't keep the others from theirs.
final class FetchMemory: Sendable {
    /// A share of the memory, given back when nobody refers to it any more.
    final class Share: Sendable {
        private let memory: FetchMemory
        private let owner: ObjectIdentifier
        private let count: Mutex<Int>

        fileprivate init(_ count: Int, of owner: ObjectIdentifier, in memory: FetchMemory) {
            self.memory = memory
            self.owner = owner
            self.count = Mutex(count)
        }

        deinit {
            memory.give(back: byteCount, of: owner)
        }

        /// The bytes that it is.
        var byteCount: Int { count.withLock { $0 } }

        /// Makes it what was needed in the end, which a single large batch may make more than it was.
        func resize(to bytes: Int) {
            let surplus = count.withLock { count in
                defer { count = bytes }
                return count - bytes
            }
            memory.give(back: surplus, of: owner)
        }
    }

    /// A read that waits for memory.
    final class Waiter: Sendable {
        fileprivate let owner: ObjectIdentifier
        fileprivate let wanted: Int
        private let body: Mutex<(@Sendable (Share) -> Void)?>

        fileprivate init(
            _ wanted: Int, for owner: ObjectIdentifier, _ body: @escaping @Sendable (Share) -> Void
        ) {
            self.owner = owner
            self.wanted = wanted
            self.body = Mutex(body)
        }

        /// It isn't called any more; unless it is just being called.
        func cancel() { body.withLock { $0 = nil } }

        fileprivate var isCancelled: Bool { body.withLock { $0 == nil } }

        fileprivate func fire(_ share: Share) {
            let body = body.withLock { body in
                defer { body = nil }
                return body
            }
            body?(share)
        }
    }

    enum Taken {
        case share(Share)
        case waits(Waiter)
    }

    private struct State {
        var used = 0
        /// What each connection holds of it.
        var held: [ObjectIdentifier: Int] = [:]
        var waiters = Deque<Waiter>()
    }

    let limit: Int
    // A lock, because connections and partitions live on all event loops; held for counting only.
    private let state = Mutex(State())

    /// A read gets at least so much, unless it wants less.
    static let leastBytes = 64 << 10

    init(limit: Int) {
        self.limit = limit
    }

    /// The bytes in use.
    var usedBytes: Int { state.withLock { $0.used } }

    /// Takes up to `bytes` for `owner`, a connection; if there is nothing for it now, `body` is called
    /// later, once, on any thread.
    func take(
        _ bytes: Int, for owner: ObjectIdentifier,
        orLater body: @escaping @Sendable (Share) -> Void
    ) -> Taken {
        let (granted, waiter) = state.withLock { state -> (Int, Waiter?) in
            if state.waiters.isEmpty || state.held[owner] == nil,
                let granted = grant(bytes, to: owner, &state)
            {
                return (granted, nil)
            }
            let waiter = Waiter(bytes, for: owner, body)
            state.waiters.append(waiter)
            return (0, waiter)
        }
        if let waiter { return .waits(waiter) }
        return .share(Share(granted, of: owner, in: self))
    }

    private func grant(_ bytes: Int, to owner: ObjectIdentifier, _ state: inout State) -> Int? {
        let least = min(max(0, bytes), Self.leastBytes)
        let free = limit - state.used
        guard free >= least || state.held[owner] == nil else { return nil }
        let granted = max(least, min(bytes, free))
        state.used += granted
        state.held[owner, default: 0] += granted
        return granted
    }

    /// - Parameter bytes: below 0 when more is taken than was granted.
    fileprivate func give(back bytes: Int, of owner: ObjectIdentifier) {
        guard bytes != 0 else { return }
        let ready = state.withLock { state -> [(Waiter, Share)] in
            state.used -= bytes
            let held = state.held[owner, default: 0] - bytes
            state.held[owner] = held > 0 ? held : nil
            guard !state.waiters.isEmpty else { return [] }
            return wake(ownerIsFree: held <= 0, &state)
        }
        for (waiter, share) in ready { waiter.fire(share) }
    }

    /// Grants what there is to those who wait longest, and to those who hold nothing.
    private func wake(ownerIsFree: Bool, _ state: inout State) -> [(Waiter, Share)] {
        var ready: [(Waiter, Share)] = []
        var left = Deque<Waiter>()
        while let waiter = state.waiters.popFirst() {
            if waiter.isCancelled { continue }
            if let granted = grant(waiter.wanted, to: waiter.owner, &state) {
                ready.append((waiter, Share(granted, of: waiter.owner, in: self)))
            } else {
                left.append(waiter)
                // Nobody behind can hold nothing who did not a moment ago.
                if !ownerIsFree { break }
            }
        }
        left.append(contentsOf: state.waiters)
        state.waiters = left
        return ready
    }
}
