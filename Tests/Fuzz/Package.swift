// swift-tools-version: 6.2
import PackageDescription

/// Decoders of what comes from the network or the disk, under libFuzzer and AddressSanitizer.
///
/// A package of its own, so that nobody who builds Millrace pays for it: see `run`. `Sources` is that
/// of Millrace.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    // Some decoders are their module's own.
    .unsafeFlags(["-sanitize=fuzzer", "-enable-testing"]),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")

func fuzzer(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies + ["CLibFuzzer"], path: "Targets/\(name)",
        swiftSettings: settings + [.unsafeFlags(["-parse-as-library"])],
        linkerSettings: [.unsafeFlags(["-sanitize=fuzzer"])])
}

let package = Package(
    name: "millrace-fuzz",
    dependencies: [.package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2")],
    targets: [
        .systemLibrary(name: "CLibFuzzer", path: "CLibFuzzer"),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib"),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd"),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4"),
        .systemLibrary(name: "CSnappy", pkgConfig: "snappy"),
        .target(name: "CCRC32C"),
        .target(name: "Essentials", swiftSettings: settings),
        .target(
            name: "Records",
            dependencies: [
                "Essentials", "CCRC32C", "CZlib", "CZstd", "CLZ4", "CSnappy", nioCore,
            ], swiftSettings: settings),
        .target(
            name: "Storage", dependencies: ["Essentials", "Records", nioCore],
            swiftSettings: settings),
        .target(name: "Raft", dependencies: ["Essentials"], swiftSettings: settings),
        // Only what reads and writes snapshots: the rest needs the network.
        .target(
            name: "Quorum", dependencies: ["Essentials", "Records", "Storage", "Raft", nioCore],
            sources: [
                "BatchFile.swift", "CompactBytes.swift", "ControlRecord.swift",
                "QuorumError.swift", "SnapshotFile.swift", "SnapshotReader.swift",
                "SnapshotWriter.swift",
            ], swiftSettings: settings),
        // The disk in memory of Storage's tests.
        .target(
            name: "DiskSupport", dependencies: ["Storage", "Essentials"], path: "Support",
            swiftSettings: settings),
        fuzzer("FuzzBatches", ["Records", "Essentials", nioCore]),
        fuzzer("FuzzCodecs", ["Records", "Essentials", nioCore]),
        fuzzer("FuzzFiles", ["Storage", "Records", "Essentials", nioCore]),
        fuzzer("FuzzLog", ["Storage", "Records", "Essentials", "DiskSupport", nioCore]),
        fuzzer(
            "FuzzSnapshots",
            ["Quorum", "Raft", "Storage", "Records", "Essentials", "DiskSupport", nioCore]),
    ]
)
