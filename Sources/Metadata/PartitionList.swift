/// The partitions of one topic by number, kept in short pieces.
///
/// Images share what did not change. A change to one partition of a shared image copies its piece,
/// and not the whole topic.
package struct PartitionList: Equatable, Sendable {
    private static let pieceSize = 32

    /// All but the last are full; none is empty.
    private var pieces: [[PartitionState]] = []

    package init() {}

    package mutating func append(_ state: PartitionState) {
        if let last = pieces.indices.last, pieces[last].count < Self.pieceSize {
            pieces[last].append(state)
        } else {
            pieces.append([state])
        }
    }
}

extension PartitionList: RandomAccessCollection, MutableCollection {
    package var startIndex: Int { 0 }

    package var endIndex: Int {
        guard let last = pieces.last else { return 0 }
        return (pieces.count - 1) * Self.pieceSize + last.count
    }

    package subscript(index: Int) -> PartitionState {
        get { pieces[index / Self.pieceSize][index % Self.pieceSize] }
        _modify { yield &pieces[index / Self.pieceSize][index % Self.pieceSize] }
    }
}

extension PartitionList: ExpressibleByArrayLiteral {
    package init(arrayLiteral elements: PartitionState...) {
        for element in elements { append(element) }
    }
}
