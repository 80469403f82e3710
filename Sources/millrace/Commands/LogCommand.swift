import ArgumentParser
import Essentials
import NIOCore
import Records
import Storage

/// `millrace log`: looks into log files, without a cluster.
struct LogCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "log", abstract: "Look into the files of logs, and check them.",
        subcommands: [LogDumpCommand.self, LogVerifyCommand.self])
}

/// `millrace log dump`: what is in segments and indexes.
struct LogDumpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump", abstract: "Print the batches of segments, or the entries of indexes.",
        discussion: "Exits with 1 when something is wrong with a file.")

    @Argument(help: "Segments (.log) and indexes (.index, .timeindex).")
    var files: [String]

    @Flag(help: "Read every record too, and print only what is wrong.")
    var verify = false

    @Flag(help: "Print the records as well.")
    var records = false

    @Flag(help: "Print the entries of each segment's indexes as well.")
    var index = false

    @OptionGroup var output: OutputOptions

    func run() throws {
        var isSound = true
        for file in files {
            do throws(LogError) {
                if file.hasSuffix(".log") {
                    if try !dump(file) { isSound = false }
                } else {
                    try dumpIndex(file)
                }
            } catch {
                isSound = false
                finding(file, "\(error)")
            }
        }
        if !isSound { throw ExitCode(1) }
    }

    private func finding(_ file: String, _ problem: String) {
        show(.object([("file", .string(file)), ("problem", .string(problem))])) {
            "\(file): \(problem)"
        }
    }

    private func show(_ json: JSONValue, _ text: () -> String) {
        switch output.output {
        case .text: print(text())
        case .json: print(json.text())
        }
    }

    /// Returns whether every record could be read.
    private func dump(_ file: String) throws(LogError) -> Bool {
        var isSound = true
        var reader = try SegmentFileReader(file)
        var expected: Offset?
        if !verify, output.output == .text { print(file) }
        while let batch = try reader.next() {
            if !verify { show(batch) }
            if let expected, batch.header.baseOffset < expected {
                isSound = false
                finding(file, "offset \(batch.header.baseOffset) follows \(expected + -1)")
            }
            expected = batch.header.nextOffset
            guard verify || records else { continue }
            do throws(RecordError) {
                var records = RecordReader(batch.bytes, includesControlBatches: true)
                while let record = try records.next() {
                    if self.records, !verify { show(record) }
                }
            } catch {
                isSound = false
                finding(file, "byte \(batch.position): \(error)")
            }
        }
        if index {
            for suffix in ["index", "timeindex"] {
                let path = String(file.dropLast(3)) + suffix
                // The segment that is written has none.
                let size = try? LocalFileSystem().size(of: path)
                if size != nil { try dumpIndex(path) }
            }
        }
        return isSound
    }

    private func show(_ batch: SegmentFileReader.Batch) {
        let header = batch.header
        let codec = header.compression.map { "\($0)" } ?? "unknown"
        let fields: [(String, JSONValue)] = [
            ("baseOffset", JSONValue(header.baseOffset.rawValue)),
            ("lastOffset", JSONValue(header.lastOffset.rawValue)),
            ("count", JSONValue(header.recordCount)),
            ("leaderEpoch", JSONValue(header.leaderEpoch.rawValue)),
            ("producerId", JSONValue(header.producerID)),
            ("producerEpoch", JSONValue(header.producerEpoch)),
            ("baseSequence", JSONValue(header.baseSequence)),
            ("isTransactional", .bool(header.isTransactional)),
            ("isControl", .bool(header.isControl)),
            ("compression", .string(codec)),
            ("baseTimestamp", JSONValue(header.baseTimestamp)),
            ("maxTimestamp", JSONValue(header.maxTimestamp)),
            ("position", JSONValue(batch.position)), ("size", JSONValue(header.totalSize)),
            ("crc", JSONValue(header.crc)),
        ]
        show(.object(fields)) {
            fields.map { "\($0.0): \($0.1.text())" }.joined(separator: " ")
        }
    }

    private func show(_ record: Record) {
        func text(_ bytes: ByteBuffer?) -> String? { bytes.map { String(buffer: $0) } }
        let headers = record.headers.map { header in
            JSONValue.object([
                ("name", .string(header.name)), ("value", JSONValue(text(header.value))),
            ])
        }
        let fields: [(String, JSONValue)] = [
            ("offset", JSONValue(record.offset.rawValue)),
            ("timestamp", JSONValue(record.timestamp)), ("key", JSONValue(text(record.key))),
            ("value", JSONValue(text(record.value))), ("headers", .array(headers)),
        ]
        show(.object(fields)) {
            "| " + fields.map { "\($0.0): \($0.1.text())" }.joined(separator: " ")
        }
    }

    private func dumpIndex(_ file: String) throws(LogError) {
        let entries = try IndexFile.entries(of: file)
        guard !verify else { return }
        if output.output == .text { print(file) }
        let name = file.hasSuffix(".timeindex") ? "timestamp" : "position"
        for entry in entries {
            show(
                .object([
                    ("offset", JSONValue(entry.offset.rawValue)), (name, JSONValue(entry.value)),
                ])
            ) { "offset: \(entry.offset) \(name): \(entry.value)" }
        }
    }
}

/// `millrace log verify`: checks everything in a directory.
struct LogVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check everything in log directories, offline.",
        discussion: "The node that they belong to must be stopped. Exits with 1 on a finding.")

    @Argument(help: "Log directories, or single partitions' folders.")
    var directories: [String]

    @Flag(help: "Offsets may be missing between batches, as they are after compaction.")
    var allowGaps = false

    @OptionGroup var output: OutputOptions

    func run() throws {
        var inspection = LogInspection(allowsGaps: allowGaps)
        for directory in directories {
            do throws(LogError) {
                try inspection.inspect(directory)
            } catch {
                throw CommandFailure("\(error)")
            }
        }
        let findings = inspection.findings
        let summary =
            "\(findings.count) findings in \(inspection.segmentCount) segments,"
            + " \(inspection.batchCount) batches, \(inspection.byteCount) bytes"
        printResult(
            output.output,
            json: .object([
                ("segments", JSONValue(inspection.segmentCount)),
                ("batches", JSONValue(inspection.batchCount)),
                ("bytes", JSONValue(inspection.byteCount)),
                (
                    "findings",
                    .array(
                        findings.map {
                            .object([("path", .string($0.path)), ("problem", .string($0.problem))])
                        })
                ),
            ]), text: findings.map { "\($0.path): \($0.problem)" } + [summary])
        if !findings.isEmpty { throw ExitCode(1) }
    }
}
