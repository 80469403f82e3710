// swift-tools-version: 6.2
import PackageDescription

/// Programs that measure single modules: swift run --package-path Tests/Benchmarks -c release NAME.
///
/// A package of its own, so that nobody who builds Millrace pays for it. `Sources` is that of
/// Millrace.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")

let package = Package(
    name: "millrace-benchmarks",
    dependencies: [.package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2")],
    targets: [
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
        .executableTarget(
            name: "RecordsBenchmark", dependencies: ["Records", "Essentials", nioCore],
            path: "Targets/RecordsBenchmark", swiftSettings: settings),
        .executableTarget(
            name: "StorageBenchmark", dependencies: ["Storage", "Records", "Essentials", nioCore],
            path: "Targets/StorageBenchmark", swiftSettings: settings),
    ]
)
