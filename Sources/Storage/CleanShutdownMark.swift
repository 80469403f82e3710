import Essentials

/// What a log directory's last user leaves in it when it stops in order.
struct CleanShutdownMark: Equatable {
    private static let header = "version=2"
    /// Without a word on producers.
    private static let oldHeader = "version=1"
    private static let epochKey = "broker.epoch="
    private static let unsettledKey = "unsettled="
    private static let producersKey = "producers="
    private static let listKey = "closed.logs="

    /// `none` if the process was no registered broker.
    var brokerEpoch = BrokerEpoch.none
    /// The folders of logs that were left as an earlier crash left them.
    var unsettled: Set<String> = []
    /// The folders of logs that something is known of producers in; `nil` if any may be one.
    var withProducers: Set<String>?
    /// The checksum of the list of closed logs that was written with the mark; `nil` for none.
    var listChecksum: UInt32?

    init(
        brokerEpoch: BrokerEpoch, unsettled: Set<String>, withProducers: Set<String>?,
        listChecksum: UInt32? = nil
    ) {
        self.brokerEpoch = brokerEpoch
        self.unsettled = unsettled
        self.withProducers = withProducers
        self.listChecksum = listChecksum
    }

    /// `nil` if there is a name that would not be read back.
    var encoded: [UInt8]? {
        guard
            unsettled.union(withProducers ?? []).allSatisfy({
                !$0.utf8.contains(UInt8(ascii: "\n"))
            })
        else { return nil }
        var text =
            "\(withProducers == nil ? Self.oldHeader : Self.header)\n\(Self.epochKey)\(brokerEpoch.rawValue)\n"
        if let listChecksum { text += "\(Self.listKey)\(listChecksum)\n" }
        for folder in unsettled.sorted() { text += "\(Self.unsettledKey)\(folder)\n" }
        for folder in withProducers?.sorted() ?? [] { text += "\(Self.producersKey)\(folder)\n" }
        return Array(text.utf8)
    }

    /// `nil` if it is no mark, or not all of one: that counts as none.
    init?(decoding bytes: [UInt8]) {
        guard bytes.last == UInt8(ascii: "\n") else { return nil }
        let lines = bytes.dropLast().split(
            separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false
        ).map { String(decoding: $0, as: UTF8.self) }
        guard lines.first == Self.header || lines.first == Self.oldHeader else { return nil }
        withProducers = lines.first == Self.header ? [] : nil
        for line in lines.dropFirst() {
            if line.hasPrefix(Self.epochKey) {
                guard let epoch = Int64(line.dropFirst(Self.epochKey.count)) else { return nil }
                brokerEpoch = BrokerEpoch(epoch)
            } else if line.hasPrefix(Self.listKey) {
                guard let checksum = UInt32(line.dropFirst(Self.listKey.count)) else { return nil }
                listChecksum = checksum
            } else if line.hasPrefix(Self.unsettledKey) {
                unsettled.insert(String(line.dropFirst(Self.unsettledKey.count)))
            } else if line.hasPrefix(Self.producersKey), withProducers != nil {
                withProducers?.insert(String(line.dropFirst(Self.producersKey.count)))
            } else {
                return nil
            }
        }
    }
}
