import Essentials
import Foundation
import NIOCore
@testable import Quorum
import Raft
import Records
import Storage
import Testing

/// Snapshots as files: what is written is read back, and anything else is refused.
@Suite struct SnapshotFileTests {
    private let id = SnapshotID(endOffset: 1_234, epoch: 7)
    private let directories = (1...3).map { UniqueID(high: 1, low: $0) }

    private var voters: VoterSet? {
        VoterSet(
            directories.enumerated().map { index, directory in
                Voter(
                    id: NodeID(Int32(index + 1)), directory: directory,
                    host: "controller-\(index + 1).example", port: 9_000 + index)
            })
    }

    private func withFolder(_ body: (String) throws -> Void) throws {
        let folder =
            FileManager.default.temporaryDirectory
            .appending(path: "millrace-snapshot-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try body(folder)
    }

    private func write(_ records: [String], to folder: String) throws -> String {
        var writer = try SnapshotWriter(id, in: folder, voters: voters, timestamp: 99)
        for record in records { try writer.append(Array(record.utf8)) }
        try writer.finish()
        return "\(folder)/\(SnapshotFile.name(of: id))"
    }

    private func read(_ path: String) throws -> [String] {
        var reader = try SnapshotReader(path: path)
        var records: [String] = []
        while let record = try reader.next() {
            records.append(String(decoding: record, as: UTF8.self))
        }
        return records
    }

    private func bytes(_ path: String) throws -> [UInt8] {
        Array(try Data(contentsOf: URL(filePath: path)))
    }

    private func put(_ bytes: some Collection<UInt8>, at path: String) throws {
        try Data(bytes).write(to: URL(filePath: path))
    }

    @Test func nameTellsEndAndEpoch() {
        #expect(SnapshotFile.name(of: id) == "00000000000000001234-0000000007.checkpoint")
        #expect(SnapshotFile.id(named: SnapshotFile.name(of: id)) == id)
        for name in [
            "00000000000000001234-0000000007.checkpoint.part", "1234-7.checkpoint", ".checkpoint",
            "00000000000000001234-0000000007-0000000007.checkpoint", "00000000000000001234.log",
            "99999999999999999999-0000000007.checkpoint",
            "00000000000000001234-9999999999.checkpoint",
            "+0000000000000001234-0000000007.checkpoint",
        ] {
            #expect(SnapshotFile.id(named: name) == nil)
        }
    }

    @Test func recordsAndVotersComeBack() throws {
        try withFolder { folder in
            // More than fits into one batch, and one record that is larger than a batch should be.
            let large = String(repeating: "x", count: 600_000)
            let records =
                (0..<20_000).map { "record \($0) \(String(repeating: "y", count: 40))" } + [large]
            let path = try write(records, to: folder)
            var reader = try SnapshotReader(path: path)
            #expect(reader.id == id)
            #expect(reader.voters == voters)
            #expect(reader.lastContainedTimestamp == 99)
            var found: [String] = []
            while let record = try reader.next() {
                found.append(String(decoding: record, as: UTF8.self))
            }
            #expect(found == records)
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: folder) == [
                    SnapshotFile.name(of: id)
                ])
        }
    }

    @Test func sameStateGivesTheSameBytes() throws {
        try withFolder { folder in
            let first = try bytes(try write(["a", "b"], to: folder))
            #expect(try bytes(try write(["a", "b"], to: folder)) == first)
        }
    }

    @Test func snapshotCutAnywhereIsRefused() throws {
        try withFolder { folder in
            let path = try write(["one", "two", "three"], to: folder)
            let whole = try bytes(path)
            for length in 0..<whole.count {
                try put(whole[..<length], at: path)
                #expect(throws: QuorumError.self, "cut to \(length) bytes") { try read(path) }
            }
            try put(whole + [0], at: path)
            #expect(throws: QuorumError.self) { try read(path) }
            try put(whole, at: path)
            #expect(try read(path) == ["one", "two", "three"])
        }
    }

    @Test func flippedBitAnywhereIsNoticedOrWithoutMeaning() throws {
        try withFolder { folder in
            let path = try write(["one", "two"], to: folder)
            let whole = try bytes(path)
            for index in whole.indices {
                var damaged = whole
                damaged[index] ^= 1 << UInt8(index % 8)
                try put(damaged, at: path)
                do {
                    let records = try read(path)
                    // The epoch of a batch is outside of its checksum, and nobody relies on it.
                    #expect(records == ["one", "two"], "byte \(index)")
                } catch {
                    #expect(error is QuorumError)
                }
            }
        }
    }

    @Test func piecesInTheWrongPlaceAreRefused() throws {
        try withFolder { folder in
            let path = "\(folder)/\(SnapshotFile.name(of: id))"
            let header = ControlRecord.snapshotHeader(lastContainedTimestamp: 1)
            func control(_ record: ControlRecord, at offset: Offset) -> ByteBuffer {
                var batch = record.batch(timestamp: 1)
                return batch.finish(baseOffset: offset, leaderEpoch: 7)
            }
            func data(_ text: String, at offset: Offset) -> ByteBuffer {
                var batch = RecordBatchBuilder()
                batch.append(key: [UInt8]?.none, value: Array(text.utf8), timestamp: 1)
                return batch.finish(baseOffset: offset, leaderEpoch: 7)
            }
            func file(_ pieces: ByteBuffer...) throws {
                try put(pieces.flatMap { Array($0.readableBytesView) }, at: path)
            }
            let footer = ControlRecord.snapshotFooter
            try file(control(header, at: 0), data("a", at: 1), control(footer, at: 2))
            #expect(try read(path) == ["a"])
            // A type that a later release may add tells us nothing, and is passed over.
            try file(
                control(header, at: 0), control(.other(type: 5), at: 1), control(footer, at: 2))
            #expect(try read(path) == [])
            // Among the data it could be anything.
            try file(
                control(header, at: 0), data("a", at: 1), control(.other(type: 5), at: 2),
                control(footer, at: 3))
            #expect(throws: QuorumError.self) { try read(path) }
            // A batch is missing.
            try file(control(header, at: 0), data("b", at: 2), control(footer, at: 3))
            #expect(throws: QuorumError.self) { try read(path) }
            // No header, two headers, a footer in the middle, a leader change.
            try file(data("a", at: 0), control(footer, at: 1))
            #expect(throws: QuorumError.self) { try read(path) }
            try file(control(header, at: 0), control(header, at: 1), control(footer, at: 2))
            #expect(throws: QuorumError.self) { try read(path) }
            try file(control(header, at: 0), control(footer, at: 1), data("a", at: 2))
            #expect(throws: QuorumError.self) { try read(path) }
            let change = ControlRecord.leaderChange(leader: 1, voters: [1], grantingVoters: [1])
            try file(control(header, at: 0), control(change, at: 1), control(footer, at: 2))
            #expect(throws: QuorumError.self) { try read(path) }
        }
    }

    @Test func fileWithoutASnapshotsNameIsRefused() throws {
        try withFolder { folder in
            let path = try write(["a"], to: folder)
            let other = "\(folder)/snapshot.checkpoint"
            try FileManager.default.moveItem(atPath: path, toPath: other)
            #expect(throws: QuorumError.self) { try read(other) }
            #expect(throws: QuorumError.self) { try read(path) }
        }
    }

    @Test func abandonedOrUnfinishedSnapshotIsNone() throws {
        try withFolder { folder in
            var writer = try SnapshotWriter(id, in: folder, voters: nil, timestamp: 0)
            try writer.append([1, 2, 3])
            #expect(try SnapshotFile.all(in: folder, .local) == [])
            writer.abandon()
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == [])
        }
    }

    // MARK: The voters record

    @Test func votersAreWrittenAsKafkaDoes() throws {
        let set = try #require(
            VoterSet([Voter(id: 5, directory: UniqueID(high: 1, low: 2), host: "h", port: 0x2328)]))
        let name: [UInt8] = [11] + Array("CONTROLLER".utf8)
        let expected: [UInt8] =
            [0, 0, 2, 0, 0, 0, 5] + UniqueID(high: 1, low: 2).bytes + [2] + name + [2, 0x68]
            + [0x23, 0x28, 0] + [0, 0, 0, 1, 0] + [0] + [0]
        let record = ControlRecord.voters(set)
        #expect(Array(record.value.readableBytesView) == expected)
        #expect(Array(record.key.readableBytesView) == [0, 0, 0, 6])
        #expect(try ControlRecord(key: record.key, value: record.value) == record)
    }

    @Test func votersRecordCutOrGarbledIsRefusedOrStillAVoterSet() throws {
        let record = ControlRecord.voters(try #require(voters))
        let value = Array(record.value.readableBytesView)
        for length in 0..<value.count {
            #expect(throws: ControlRecord.Malformed.self) {
                try ControlRecord(key: record.key, value: ByteBuffer(bytes: value[..<length]))
            }
        }
        for index in value.indices {
            for replacement in [0, 1, 0x7F, 0x80, 0xFF] as [UInt8] {
                var garbled = value
                garbled[index] = replacement
                // Neither a crash nor memory for lengths that lie.
                _ = try? ControlRecord(key: record.key, value: ByteBuffer(bytes: garbled))
            }
        }
        var generator = SeededGenerator(seed: 42)
        for _ in 0..<2_000 {
            let garbage = (0..<Int.random(in: 0...80, using: &generator)).map { _ in
                UInt8.random(in: .min ... .max, using: &generator)
            }
            _ = try? ControlRecord(key: record.key, value: ByteBuffer(bytes: [0, 0] + garbage))
        }
    }

    @Test func nodeNamedTwiceIsNoVoterSet() throws {
        let set = try #require(voters)
        var value = ControlRecord.voters(set).value
        let garbled = Array(value.readBytes(length: value.readableBytes) ?? [])
        // The second voter's id becomes the first one's.
        let second = try #require(
            garbled.indices.dropFirst(8).first {
                $0 + 20 < garbled.count && Array(garbled[$0..<($0 + 4)]) == [0, 0, 0, 2]
                    && Array(garbled[($0 + 4)..<($0 + 20)]) == directories[1].bytes
            })
        var doubled = garbled
        doubled[second + 3] = 1
        #expect(throws: ControlRecord.Malformed.self) {
            try ControlRecord(
                key: ControlRecord.voters(set).key, value: ByteBuffer(bytes: doubled))
        }
    }

    // MARK: Offline

    @Test func offlineReaderShowsEveryRecordOfASnapshot() throws {
        try withFolder { folder in
            let path = try write(["a", "b"], to: folder)
            var reader = try MetadataLogReader(path: path)
            #expect(reader.snapshot == id)
            var entries: [MetadataLogEntry] = []
            while let entry = try reader.next() { entries.append(entry) }
            #expect(entries.map(\.offset) == [0, 1, 2, 3, 4])
            #expect(entries.allSatisfy { $0.epoch == 7 && $0.timestamp == 99 })
            let types = entries.map { entry in
                switch entry.content {
                case .record(let bytes): String(decoding: bytes, as: UTF8.self)
                case .control(let type, _): type
                }
            }
            #expect(types == ["snapshotHeader", "voters", "a", "b", "snapshotFooter"])
            // Cut off, it shows what is there and then says so.
            let whole = try bytes(path)
            try put(whole.dropLast(3), at: path)
            reader = try MetadataLogReader(path: path)
            for entry in entries.dropLast() { #expect(try reader.next() == entry) }
            #expect(throws: QuorumError.self) { try reader.next() }
        }
    }

    @Test func offlineReaderRefusesOtherFiles() throws {
        try withFolder { folder in
            for name in ["x.log", "quorum-state", "00000000000000000000.index"] {
                try put([1, 2, 3], at: "\(folder)/\(name)")
                #expect(throws: QuorumError.self) {
                    try MetadataLogReader(path: "\(folder)/\(name)")
                }
            }
            #expect(throws: QuorumError.self) {
                try MetadataLogReader(path: "\(folder)/00000000000000000000.log")
            }
        }
    }

    @Test func bootstrapSnapshotHoldsTheFirstVotersAndRecords() throws {
        try withFolder { folder in
            try BootstrapSnapshot.write(to: folder, voters: voters, records: [[1], [2]])
            var reader = try SnapshotReader(
                path: "\(folder)/__cluster_metadata-0/00000000000000000000-0000000000.checkpoint")
            #expect(reader.id == BootstrapSnapshot.id)
            #expect(reader.voters == voters)
            #expect(try reader.next() == [1])
            #expect(try reader.next() == [2])
            #expect(try reader.next() == nil)
        }
    }
}
