import Essentials
import Metadata
import Testing

@Suite struct PartitionListTests {
    private func state(_ number: Int) -> PartitionState {
        PartitionState(replicas: [NodeID(Int32(number))], isr: [], leader: nil)
    }

    @Test(arguments: [0, 1, 31, 32, 33, 64, 100])
    func holdsWhatWasAppendedInOrder(_ count: Int) {
        var list = PartitionList()
        for number in 0..<count { list.append(state(number)) }
        #expect(list.count == count && list.isEmpty == (count == 0))
        #expect(Array(list) == (0..<count).map(state))
        #expect(list.indices == 0..<count)
        #expect(list.last == (count == 0 ? nil : state(count - 1)))
    }

    @Test func copyKeepsItsStatesWhileTheOriginalChanges() {
        var list = PartitionList()
        for number in 0..<100 { list.append(state(number)) }
        let copy = list
        list[40] = state(7)
        list.append(state(100))
        #expect(copy.count == 100 && copy[40] == state(40) && copy[41] == list[41])
        #expect(list[40] == state(7) && list != copy)
        list = copy
        list[40] = state(40)
        #expect(list == copy)
    }
}
