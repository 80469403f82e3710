import Essentials

/// What a log directory's last user leaves in it when it stops in order.
struct CleanShutdownMark: Equatable {
    private static let header = "version=1"
    private static let epochKey = "broker.epoch="
    private static let unsettledKey = "unsettled="

    /// `none` if the process was no registered broker.
    var brokerEpoch = BrokerEpoch.none
    /// The folders of logs that were left as an earlier crash left them.
    var unsettled: Set<String> = []

    init(brokerEpoch: BrokerEpoch, unsettled: Set<String>) {
        self.brokerEpoch = brokerEpoch
        self.unsettled = unsettled
    }

    /// `nil` if there is a name that would not be read back.
    var encoded: [UInt8]? {
        guard unsettled.allSatisfy({ !$0.utf8.contains(UInt8(ascii: "\n")) }) else { return nil }
        var text = "\(Self.header)\n\(Self.epochKey)\(brokerEpoch.rawValue)\n"
        for folder in unsettled.sorted() { text += "\(Self.unsettledKey)\(folder)\n" }
        return Array(text.utf8)
    }

    /// `nil` if it is no mark, or not all of one: that counts as none.
    init?(decoding bytes: [UInt8]) {
        guard bytes.last == UInt8(ascii: "\n") else { return nil }
        let lines = bytes.dropLast().split(
            separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false
        ).map { String(decoding: $0, as: UTF8.self) }
        guard lines.first == Self.header else { return nil }
        for line in lines.dropFirst() {
            if line.hasPrefix(Self.epochKey) {
                guard let epoch = Int64(line.dropFirst(Self.epochKey.count)) else { return nil }
                brokerEpoch = BrokerEpoch(epoch)
            } else if line.hasPrefix(Self.unsettledKey) {
                unsettled.insert(String(line.dropFirst(Self.unsettledKey.count)))
            } else {
                return nil
            }
        }
    }
}
