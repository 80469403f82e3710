// swift-tools-version: 6.2
import PackageDescription

/// Every target is compiled under the same rules, so that code moves between modules unchanged.
let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")
let hashTrees = Target.Dependency.product(name: "HashTreeCollections", package: "swift-collections")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let histogram = Target.Dependency.product(name: "Histogram", package: "hdrhistogram-swift")

let package = Package(
    name: "millrace",
    products: [
        .executable(name: "millrace", targets: ["millrace"]),
        .library(name: "Millrace", targets: ["Millrace"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-protobuf.git", from: "1.39.0"),
        .package(url: "https://github.com/apple/swift-collections.git", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift.git", from: "0.2.0"),
    ],
    targets: [
        .systemLibrary(
            name: "CNghttp2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
        .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CSnappy", pkgConfig: "snappy", providers: [.apt(["libsnappy-dev"])]),
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
        .target(
            name: "HTTP2", dependencies: ["CNghttp2", "Essentials", nioCore, nioPosix, logging],
            swiftSettings: settings),
        .target(
            name: "RPC",
            dependencies: ["Essentials", "HTTP2", nioCore, nioPosix, protobuf, logging],
            swiftSettings: settings),
        .target(name: "Protocol", dependencies: [protobuf], swiftSettings: settings),
        .target(name: "Raft", dependencies: ["Essentials"], swiftSettings: settings),
        .target(
            name: "Metadata", dependencies: ["Essentials", "Protocol", protobuf, hashTrees],
            swiftSettings: settings),
        .target(name: "Replication", dependencies: ["Essentials"], swiftSettings: settings),
        .target(
            name: "Configuration", dependencies: ["Essentials", "Storage"],
            swiftSettings: settings),
        .target(
            name: "Quorum",
            dependencies: [
                "Configuration", "Essentials", "Records", "Storage", "RPC", "Protocol", "Raft",
                nioCore, nioPosix, protobuf, logging,
            ], swiftSettings: settings),
        .target(
            name: "Controller",
            dependencies: [
                "Essentials", "Storage", "RPC", "Protocol", "Metadata", "Configuration", "Raft",
                "Quorum", nioCore, nioPosix, protobuf, logging, hashTrees,
            ], swiftSettings: settings),
        .target(
            name: "Broker",
            dependencies: [
                "Essentials", "Records", "Storage", "RPC", "Protocol", "Metadata", "Replication",
                "Configuration", "Raft", "Quorum", nioCore, nioPosix, protobuf, logging, deque,
                hashTrees,
            ], swiftSettings: settings),
        .target(
            name: "Millrace",
            dependencies: [
                "Essentials", "Records", "RPC", "Protocol", nioCore, nioPosix, protobuf, logging,
                deque,
            ], swiftSettings: settings),
        .executableTarget(
            name: "millrace",
            dependencies: [
                "Essentials", "Records", "Storage", "RPC", "Protocol", "Configuration", "Raft",
                "Metadata", "Quorum", "Controller", "Broker", "Millrace", arguments, logging,
                nioCore, nioPosix, protobuf, histogram, hashTrees,
            ], swiftSettings: settings),
        .testTarget(name: "EssentialsTests", dependencies: ["Essentials"], swiftSettings: settings),
        .testTarget(
            name: "RecordsTests", dependencies: ["Records", "Essentials", nioCore],
            exclude: ["CrossCheck", "Fixtures"], swiftSettings: settings),
        .testTarget(
            name: "StorageTests", dependencies: ["Storage", "Records", "Essentials", nioCore],
            swiftSettings: settings),
        .testTarget(
            name: "HTTP2Tests",
            dependencies: ["HTTP2", "Essentials", nioCore, nioPosix, nioEmbedded, logging],
            swiftSettings: settings),
        .testTarget(
            name: "RPCTests",
            dependencies: [
                "RPC", "HTTP2", "Protocol", "Essentials", nioCore, nioPosix, protobuf, logging,
            ], swiftSettings: settings),
        .testTarget(
            name: "RaftTests", dependencies: ["Raft", "Essentials"],
            exclude: ["Scenarios"], swiftSettings: settings),
        .testTarget(
            name: "QuorumTests",
            dependencies: [
                "Quorum", "Raft", "Configuration", "Records", "Protocol", "RPC", "Storage",
                "Essentials", nioCore, nioPosix, logging,
            ], swiftSettings: settings),
        .testTarget(
            name: "MetadataTests", dependencies: ["Metadata", "Essentials", hashTrees],
            swiftSettings: settings),
        .testTarget(
            name: "ControllerTests",
            dependencies: [
                "Controller", "Metadata", "Configuration", "Raft", "Quorum", "RPC", "Protocol",
                "Storage",
                "Essentials", nioCore, nioPosix, nioEmbedded, protobuf, logging, hashTrees,
            ], swiftSettings: settings),
        .testTarget(
            name: "ReplicationTests", dependencies: ["Replication", "Essentials"],
            swiftSettings: settings),
        .testTarget(
            name: "ConfigurationTests", dependencies: ["Configuration", "Storage", "Essentials"],
            swiftSettings: settings),
        .testTarget(
            name: "BrokerTests",
            dependencies: [
                "Broker", "Records", "Storage", "Essentials", "Metadata", "Replication", "RPC",
                "Protocol", "Configuration", "Controller", "Quorum", "Raft", nioCore, nioPosix,
                nioEmbedded, protobuf,
                logging, hashTrees,
            ], swiftSettings: settings),
        .testTarget(
            name: "MillraceTests",
            dependencies: [
                "Millrace", "Essentials", "Records", "RPC", "Protocol", nioCore, nioPosix,
                protobuf, logging,
            ], swiftSettings: settings),
        .testTarget(name: "ClusterTests", dependencies: ["millrace"], swiftSettings: settings),
    ]
)
