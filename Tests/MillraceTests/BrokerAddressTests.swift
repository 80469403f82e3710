internal import Testing

@testable internal import Millrace

@Suite struct BrokerAddressTests {
    @Test func readsNamesAndAddresses() throws {
        let list = try BrokerAddress.list("localhost:9092, [::1]:9093,10.0.0.1:1")
        #expect(
            list == [
                BrokerAddress(host: "localhost", port: 9092),
                BrokerAddress(host: "::1", port: 9093),
                BrokerAddress(host: "10.0.0.1", port: 1),
            ])
        #expect(list.map(\.description) == ["localhost:9092", "[::1]:9093", "10.0.0.1:1"])
    }

    @Test(arguments: ["", "localhost", ":9092", "h:0", "h:65536", "h:x", "::1:9092", "a:1,b"])
    func refusesWhatIsNoAddress(_ text: String) {
        #expect(throws: MillraceError.self) { try BrokerAddress.list(text) }
    }
}
