package import Essentials
import Glibc

/// Where the last record of each key lies, in memory of a fixed size.
///
/// A key is known by 128 bits of hash, so that an entry takes 24 bytes however long its key is. Open
/// addressing: an entry is at the slot that its hash names, or in one of the next.
package final class OffsetMap {
    /// The bytes of one entry.
    package static let entrySize = 24

    private struct Entry {
        var key: KeyHash
        /// One more than the offset; 0 for a slot that is free.
        var place: Int64
    }

    private let entries: UnsafeMutableBufferPointer<Entry>
    private let hasher: KeyHasher
    /// How many keys there is room for; nine tenths of the slots, so that searches stay short.
    package let capacity: Int
    package private(set) var count = 0

    /// - Parameter memory: the bytes that it may take; room for at least one key is taken anyway.
    package init(memory: Int, hasher: KeyHasher = .random()) {
        let slots = max(2, memory / Self.entrySize)
        capacity = max(1, slots - slots / 10 - 1)
        // Zeros that take no memory before they are touched.
        let memory = calloc(slots, MemoryLayout<Entry>.stride)
        invariant(memory != nil, "no memory for \(slots) keys")
        entries = UnsafeMutableBufferPointer(
            start: memory?.bindMemory(to: Entry.self, capacity: slots), count: slots)
        self.hasher = hasher
    }

    deinit {
        free(entries.baseAddress)
    }

    /// Notes that the last record of `key` is at `offset`; false when there is no room for another key.
    package func put(_ key: UnsafeRawBufferPointer, _ offset: Offset) -> Bool {
        let key = hasher.hash(key)
        let slot = slot(of: key)
        if entries[slot].place == 0 {
            guard count < capacity else { return false }
            count += 1
            entries[slot].key = key
        }
        entries[slot].place = offset.rawValue + 1
        return true
    }

    /// Where the last record of `key` lies; `nil` for a key that was not put.
    package func offset(of key: UnsafeRawBufferPointer) -> Offset? {
        let place = entries[slot(of: hasher.hash(key))].place
        return place == 0 ? nil : Offset(place - 1)
    }

    /// The slot that holds `key`, or would.
    @inline(__always)
    private func slot(of key: KeyHash) -> Int {
        let count = UInt64(truncatingIfNeeded: entries.count)
        var slot = Int(truncatingIfNeeded: key.low.multipliedFullWidth(by: count).high)
        // There is a free one.
        while entries[slot].place != 0, entries[slot].key != key {
            slot += 1
            if slot == entries.count { slot = 0 }
        }
        return slot
    }
}
