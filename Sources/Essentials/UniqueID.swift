/// A random 128-bit id, printed as 22 characters of URL-safe base64, as Kafka prints its ids.
package struct UniqueID: Hashable, Sendable {
    package var high: UInt64
    package var low: UInt64

    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// All bits zero: "no id".
    package static let zero = UniqueID(high: 0, low: 0)

    /// A fresh id; never `zero`, and never one that starts with a dash, which a shell would misread.
    package static func random(using generator: inout some RandomNumberGenerator) -> UniqueID {
        while true {
            let id = UniqueID(high: generator.next(), low: generator.next())
            if id != .zero, !id.description.hasPrefix("-") { return id }
        }
    }

    package static func random() -> UniqueID {
        var generator = SystemRandomNumberGenerator()
        return random(using: &generator)
    }

    /// The id's 16 bytes, most significant first.
    package var bytes: [UInt8] {
        [high, low].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * UInt64($0))) }
        }
    }

    /// The id whose `bytes` these are; `nil` unless there are 16.
    package init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 16 else { return nil }
        let words = bytes.reduce(into: (high: UInt64(0), low: UInt64(0))) { words, byte in
            words.high = words.high << 8 | words.low >> 56
            words.low = words.low << 8 | UInt64(byte)
        }
        self.init(high: words.high, low: words.low)
    }
}

extension UniqueID: Comparable {
    package static func < (left: UniqueID, right: UniqueID) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}

extension UniqueID: LosslessStringConvertible {
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)

    package var description: String {
        // 128 bits are 21 digits of 6 bits, and one of the last 2 bits followed by 4 zeros.
        var text: [UInt8] = []
        text.reserveCapacity(22)
        for digit in 0..<22 {
            var value = 0
            for bit in (digit * 6)..<(digit * 6 + 6) {
                value = value << 1 | self.bit(bit)
            }
            text.append(Self.alphabet[value])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Parses the 22 characters that `description` gives; `nil` for anything else.
    package init?(_ text: String) {
        guard text.utf8.count == 22 else { return nil }
        var id = UniqueID.zero
        for (index, character) in text.utf8.enumerated() {
            guard let value = Self.alphabet.firstIndex(of: character) else { return nil }
            let bits = index == 21 ? 2 : 6
            guard index < 21 || value & 0b1111 == 0 else { return nil }
            let part = UInt64(index == 21 ? value >> 4 : value)
            id.high = id.high << UInt64(bits) | id.low >> UInt64(64 - bits)
            id.low = id.low << UInt64(bits) | part
        }
        self = id
    }

    /// Bit `index` counted from the most significant; zero past the last.
    private func bit(_ index: Int) -> Int {
        switch index {
        case ..<64: Int(high >> UInt64(63 - index) & 1)
        case ..<128: Int(low >> UInt64(127 - index) & 1)
        default: 0
        }
    }
}

/// The id a topic keeps for life; a topic created again under an old name gets a new one.
package typealias TopicID = UniqueID
/// The id of one formatted log directory (KIP-858).
package typealias DirectoryID = UniqueID

/// One partition of one topic.
package struct TopicPartition: Hashable, Sendable {
    package var topic: TopicID
    package var partition: Int32

    package init(topic: TopicID, partition: Int32) {
        self.topic = topic
        self.partition = partition
    }
}

extension TopicPartition: Comparable, CustomStringConvertible {
    package static func < (left: TopicPartition, right: TopicPartition) -> Bool {
        (left.topic, left.partition) < (right.topic, right.partition)
    }

    package var description: String { "\(topic)-\(partition)" }
}
