import Essentials
import Records

/// Replacing segments by a compacted one.
///
/// The order, and what a crash leaves:
///
/// 1. The new segment is written to `<first>.log.cleaned` and synced, name and all. Up to here the old
///    segments count: the next start removes the file.
/// 2. An empty file `<first>-<end>.swap` is made, durably. From here on the new segment counts: the next
///    start goes through the rest of these steps. All that it needs to know is in the name, and the file
///    with the batches is complete whenever that name is there.
/// 3. On the log owner's thread the new file takes over the name of the first old segment, whose indexes
///    go first, and the log reads from it. The other old segments are retired: renamed, and removed
///    later.
/// 4. When all those names are durable, the mark goes, durably.
///
/// Steps 3 and 4 may be gone through again and again. Names that change between two syncs of the folder
/// may become durable in any order, which is why there is a sync after every step; only inside step 3
/// the order does not matter, since the mark tells which files are to go.
///
/// While the mark is there, no other file may be given the name of a segment between `first` and `end`,
/// or the next start would remove it. Whatever does so, which is truncating, calls `resolveSwap` first.
extension LogFolder {
    struct Swap: Equatable {
        var first: SegmentName
        var end: Offset
        /// Whether the new segment has taken the place of the old ones.
        var isInstalled: Bool
    }

    /// Step 2: from now on the new segment counts; false when `permit` is withdrawn.
    ///
    /// When this throws, the mark may be there or not, and the new segment's file belongs to the swap,
    /// which is called off here or by whoever comes next; the next start may find both, too.
    func commitSwap(_ first: SegmentName, end: Offset, permit: UInt64) throws(FileError) -> Bool {
        try withState { state, fileSystem throws(FileError) in
            guard let path = state.path, state.permit == permit, state.swap == nil else {
                return false
            }
            // From here on nobody else removes the new file, without which the mark must not be.
            state.swap = Swap(first: first, end: end, isInstalled: false)
            do throws(FileError) {
                // The name of the new file, before the mark that speaks of it.
                try fileSystem.syncDirectory(path)
                _ = try fileSystem.open("\(path)/\(first.swap(to: end))", .create)
                try fileSystem.syncDirectory(path)
            } catch {
                // After a sync that failed nobody can tell what is on the disk: all of it stays.
                guard !error.isFailedSync else { throw error }
                // Whether the mark was made or not: it has to be gone before anybody tries again.
                try Self.endSwap(&state, fileSystem)
                throw error
            }
            return true
        }
    }

    /// Step 3, the names; false when the swap was called off.
    func installSwap(_ first: SegmentName) throws(FileError) -> Bool {
        try withState { state, fileSystem throws(FileError) in
            guard let path = state.path, let swap = state.swap, swap.first == first,
                !swap.isInstalled
            else { return false }
            // They would be taken for the new segment's, should that be of the same size.
            try fileSystem.remove("\(path)/\(first.offsetIndex)")
            try fileSystem.remove("\(path)/\(first.timeIndex)")
            try fileSystem.rename("\(path)/\(first.cleaned)", to: "\(path)/\(first.log)")
            state.swap?.isInstalled = true
            return true
        }
    }

    /// Step 4, once the segments that are replaced are retired; calls the swap off if step 3 was not done.
    ///
    /// - Parameter beforeEnd: may write files that only count if the swap is installed.
    func settleSwap(beforeEnd: () -> Void = {}) throws(FileError) {
        _ = try renameRetired()
        try withState { state, fileSystem throws(FileError) in
            if state.swap?.isInstalled == true { beforeEnd() }
            try Self.endSwap(&state, fileSystem)
        }
    }

    /// Brings a swap to an end that failed to get there; before another is prepared, with `permit`.
    func endFailedSwap(permit: UInt64) throws(FileError) {
        let isLeft = withPermit { current, swap in current == permit && swap != nil }
        if isLeft { try settleSwap() }
    }

    /// Brings a swap to one end or the other, and withdraws the permit of whoever prepares one.
    func resolveSwap() throws(FileError) {
        let isUnderWay = withPermit { permit, swap in
            permit += 1
            return swap != nil
        }
        if isUnderWay { try settleSwap() }
    }

    /// Withdraws the permit, and leaves everything else to the next start.
    func cancelSwaps() {
        withPermit { permit, _ in permit += 1 }
    }

    var permit: UInt64 { withPermit { permit, _ in permit } }

    private static func endSwap(
        _ state: inout State, _ fileSystem: any FileSystem
    ) throws(FileError) {
        guard let path = state.path, let swap = state.swap else { return }
        if swap.isInstalled { try fileSystem.syncDirectory(path) }
        try fileSystem.remove("\(path)/\(swap.first.swap(to: swap.end))")
        try fileSystem.syncDirectory(path)
        state.swap = nil
        if !swap.isInstalled { try fileSystem.remove("\(path)/\(swap.first.cleaned)") }
    }

    // MARK: After a crash

    /// Goes through with the swaps that a crash interrupted; returns the files that are gone.
    static func finishSwaps(
        in directory: String, _ fileSystem: any FileSystem
    ) throws(FileError) -> [String] {
        var removed: [String] = []
        let names = try fileSystem.contents(of: directory)
        for name in names {
            guard let (first, end) = SegmentName.parseSwap(name) else { continue }
            let hasNew = names.contains(first.cleaned)
            // Never without what takes their place.
            let isComplete =
                if hasNew { true } else {
                    try ends("\(directory)/\(first.log)", at: end, fileSystem)
                }
            for file in names where isComplete && file.hasSuffix(".log") {
                guard let old = SegmentName(file), old.log == file,
                    old.baseOffset > first.baseOffset, old.baseOffset < end
                else { continue }
                try fileSystem.remove("\(directory)/\(old.offsetIndex)")
                try fileSystem.remove("\(directory)/\(old.timeIndex)")
                try fileSystem.remove("\(directory)/\(file)")
                removed.append(file)
            }
            try fileSystem.remove("\(directory)/\(first.offsetIndex)")
            try fileSystem.remove("\(directory)/\(first.timeIndex)")
            if hasNew {
                try fileSystem.rename(
                    "\(directory)/\(first.cleaned)", to: "\(directory)/\(first.log)")
            }
            try fileSystem.syncDirectory(directory)
            try fileSystem.remove("\(directory)/\(name)")
            try fileSystem.syncDirectory(directory)
            removed.append(name)
        }
        return removed
    }

    /// Whether the batches in the segment go on to `end`, as those of one that replaces others do.
    private static func ends(
        _ path: String, at end: Offset, _ fileSystem: any FileSystem
    ) throws(FileError) -> Bool {
        guard let size = try fileSystem.size(of: path) else { return false }
        let file = try fileSystem.open(path, .readWrite)
        var scanner = BatchScanner(file, from: 0, to: size, checksCRC: false, window: 64 << 10)
        var last: RecordBatchHeader?
        while case .batch(let header, _) = try scanner.next() { last = header }
        return last?.nextOffset == end
    }
}
