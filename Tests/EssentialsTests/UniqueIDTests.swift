import Essentials
import Testing

@Suite struct UniqueIDTests {
    @Test func isPrintedAs22CharactersAndReadBack() {
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<200 {
            let id = UniqueID.random(using: &generator)
            #expect(id.description.utf8.count == 22)
            #expect(UniqueID(id.description) == id)
            #expect(UniqueID(bytes: id.bytes) == id)
        }
    }

    @Test func aKnownIDPrintsAsKafkaPrintsIt() {
        // Kafka's reserved metadata topic id: the 128-bit number 1.
        #expect(UniqueID(high: 0, low: 1).description == "AAAAAAAAAAAAAAAAAAAAAQ")
    }

    @Test(arguments: ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAR", "AAAAAAAAAAAAAAAAAAAAA=", "ä"])
    func whatIsNoIDIsRefused(_ text: String) {
        #expect(UniqueID(text) == nil)
    }

    @Test func neverStartsWithADash() {
        var generator = SeededGenerator(seed: 1)
        for _ in 0..<500 {
            #expect(!UniqueID.random(using: &generator).description.hasPrefix("-"))
        }
    }
}
