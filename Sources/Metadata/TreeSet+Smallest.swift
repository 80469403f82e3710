internal import HashTreeCollections

extension TreeSet where Element: Comparable {
    /// The `count` smallest elements, in order; all of them if there are fewer.
    func smallest(_ count: Int) -> [Element] {
        guard count > 0 else { return [] }
        var chosen: [Element] = []
        for element in self {
            chosen.append(element)
            // Now and then, so that each element costs little, and none of many is kept for long.
            if chosen.count >= 2 * count + 64 {
                chosen.sort()
                chosen.removeLast(chosen.count - count)
            }
        }
        return Array(chosen.sorted().prefix(count))
    }
}
