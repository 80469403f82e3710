import Essentials
import Records
import Storage
import Testing

@Suite("An offline look at logs")
struct LogInspectionTests {
    private let temporary: TemporaryDirectory

    init() throws {
        temporary = try TemporaryDirectory()
        let directory = try LogDirectory.open(temporary.path)
        let log = try directory.openLog("t-0", config: smallSegments(600)).0
        for epoch: LeaderEpoch in [0, 1, 2, 3] {
            for _ in 0..<5 { try log.append(size: 60, epoch: epoch) }
        }
        try log.flush()
        let checkpoint = try #require(log.checkpoint(highWatermark: 20))
        try directory.checkpoint(["t-0": checkpoint])
        try directory.closeLog(log)
        try directory.close(clean: true)
    }

    private func findings(_ path: String? = nil) throws -> [String] {
        var inspection = LogInspection()
        try inspection.inspect(path ?? temporary.path)
        return inspection.findings.map {
            "\($0.path.split(separator: "/").last ?? ""): \($0.problem)"
        }
    }

    private var segments: [String] {
        get throws {
            try LocalFileSystem().contents(of: "\(temporary.path)/t-0")
                .filter { $0.hasSuffix(".log") }
        }
    }

    @Test("Finds nothing where nothing is wrong, in a directory or a folder")
    func sound() throws {
        #expect(try findings() == [])
        #expect(try findings("\(temporary.path)/t-0") == [])
        var inspection = LogInspection()
        try inspection.inspect(temporary.path)
        #expect(try inspection.batchCount == 20 && inspection.segmentCount == segments.count)
    }

    @Test("Finds a flipped bit, wherever it is in a segment")
    func flippedBit() throws {
        let name = "t-0/\(try segments[1])"
        let bytes = try temporary.bytes(name)
        for index in stride(from: 0, to: bytes.count, by: 7) {
            var damaged = bytes
            damaged[index] ^= 0x10
            try temporary.write(damaged, to: name)
            #expect(try !findings().isEmpty, "byte \(index)")
        }
        try temporary.write(bytes, to: name)
        #expect(try findings() == [])
    }

    @Test("Finds what is missing or out of order")
    func missing() throws {
        let names = try segments
        let middle = try temporary.bytes("t-0/\(names[1])")
        try temporary.remove("t-0/\(names[1])")
        #expect(try findings().contains { $0.contains("the segment before it ends") })
        try temporary.write(middle, to: "t-0/\(names[1])")
        let last = try temporary.bytes("t-0/\(names[names.count - 1])")
        try temporary.write([], to: "t-0/\(names[names.count - 1])")
        #expect(try findings().contains { $0.contains("was durable") })
        try temporary.write(last, to: "t-0/\(names[names.count - 1])")
        #expect(try findings() == [])
    }

    @Test("Finds indexes and epochs that are damaged or not of this log")
    func besideTheBatches() throws {
        let name = "t-0/\(try segments[0].dropLast(4))"
        for suffix in [".index", ".timeindex"] {
            let bytes = try temporary.bytes(name + suffix)
            var damaged = bytes
            damaged[damaged.count / 2] ^= 1
            try temporary.write(damaged, to: name + suffix)
            #expect(try findings().count == 1)
            try temporary.write(bytes, to: name + suffix)
        }
        #expect(try !IndexFile.entries(of: "\(temporary.path)/\(name).index").isEmpty)
        try temporary.write(Array("0\n2\n0 0\n1 6\n".utf8), to: "t-0/leader-epoch-checkpoint")
        #expect(try findings().contains { $0.contains("leader epoch 1 starts at offset 5") })
        try temporary.write(Array("nonsense".utf8), to: "t-0/leader-epoch-checkpoint")
        #expect(try findings().count == 1)
    }
}
