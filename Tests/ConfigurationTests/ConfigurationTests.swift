import Configuration
import Essentials
import Testing

private let broker = """
    process.roles=broker
    node.id=1
    controller.quorum.bootstrap.servers=localhost:9093

    """

private func load(
    _ properties: String?, environment: [String: String] = [:], set overrides: [String] = []
) throws(ConfigurationError) -> NodeConfiguration {
    try NodeConfiguration.load(
        properties: properties, path: "a.properties", environment: environment,
        overrides: overrides)
}

/// The line a start would print; "started" if nothing is wrong.
private func complaint(
    _ properties: String?, environment: [String: String] = [:], set overrides: [String] = []
) -> String {
    do throws(ConfigurationError) {
        _ = try load(properties, environment: environment, set: overrides)
        return "started"
    } catch {
        return "\(error)"
    }
}

@Suite struct Sources {
    @Test func aMinimalBrokerGetsTheDefaults() throws {
        let configuration = try load(broker)
        #expect(configuration.nodeID == 1)
        #expect(configuration.role == .broker)
        #expect(configuration.listener == Endpoint(host: "", port: 9092))
        #expect(configuration.brokerSessionTimeout == .seconds(3))
        #expect(configuration.replicaFetchResponseMaxBytes == 10_485_760)
        #expect(configuration.messageMaxBytes == 1_048_588)
        #expect(configuration.flushPolicy == .commit)
        #expect(configuration.minInSyncReplicas == nil)
        #expect(!configuration.advertisedListener.isWildcard)
        #expect(configuration.metadataLogDirectory == configuration.logDirectories.first)
        #expect(configuration.networkThreads >= 1)
    }

    @Test func theEnvironmentOverridesTheFileAndSetOverridesBoth() throws {
        let file = broker + "flush.ms=1\nbroker.rack=file\nnum.partitions=3\n"
        let configuration = try load(
            file,
            environment: ["MILLRACE_BROKER_RACK": "environment", "MILLRACE_FLUSH_MS": "2"],
            set: ["flush.ms=3"])
        #expect(configuration.defaultPartitions == 3)
        #expect(configuration.rack == "environment")
        #expect(configuration.flushInterval == .milliseconds(3))
        #expect(configuration.origins["flush.ms"] == .commandLine(argument: "flush.ms=3"))
        #expect(configuration.origins["num.partitions"] == .file(path: "a.properties", line: 6))
    }

    @Test func ofTheUnitsOfATimeTheFinestThatIsSetCounts() throws {
        func retention(_ lines: String) throws -> Int64 {
            try load(broker + lines).logRetentionMilliseconds
        }
        #expect(try retention("") == 604_800_000)
        #expect(try retention("log.retention.hours=2") == 7_200_000)
        #expect(try retention("log.retention.hours=2\nlog.retention.minutes=3") == 180_000)
        #expect(
            try retention("log.retention.hours=2\nlog.retention.minutes=3\nlog.retention.ms=4")
                == 4)
        #expect(try retention("log.retention.hours=-1") == -1)
        #expect(try retention("log.retention.hours=2\nlog.retention.ms=-1") == -1)
        #expect(try retention("log.retention.hours=2147483647") == 2_147_483_647 * 3_600_000)
        #expect(try load(broker).logRoll == .seconds(7 * 24 * 3600))
        #expect(try load(broker + "log.roll.hours=1").logRoll == .seconds(3600))
        #expect(try load(broker + "log.roll.hours=1\nlog.roll.ms=5").logRoll == .milliseconds(5))
        // What is printed is what counts.
        let settings = try load(broker + "log.retention.hours=2").settings
        #expect(settings.first { $0.key.name == "log.retention.ms" }?.value == "7200000")
        #expect(
            complaint(broker + "log.retention.minutes=0")
                == "a.properties:4: log.retention.minutes must not be 0, which would keep no record "
                + "of any topic; use -1 for ever")
    }

    @Test func aListOfPoliciesAndATimestampTypeAreRead() throws {
        let configuration = try load(
            broker
                + "log.cleanup.policy=compact, delete\nlog.message.timestamp.type=LogAppendTime\n")
        #expect(configuration.logCleanupPolicy == [.compact, .delete])
        #expect(configuration.messageTimestampType == .append)
        #expect(complaint(broker + "log.cleanup.policy=compact,burn").contains("delete, compact"))
    }

    @Test func aControllerIsReachedWhereItListensUnlessItSaysOtherwise() throws {
        let settings = [
            "process.roles=controller", "node.id=2", "controller.quorum.bootstrap.servers=a:9093",
            "listeners=b:9094",
        ]
        let configuration = try load(nil, set: settings)
        #expect(configuration.listener == Endpoint(host: "b", port: 9094))
        #expect(configuration.advertisedListener == Endpoint(host: "b", port: 9094))
        let behindAnother = try load(nil, set: settings + ["advertised.listeners=c:1"])
        #expect(behindAnother.advertisedListener == Endpoint(host: "c", port: 1))
    }

    @Test func theQuorumIsFoundThroughSomeControllers() throws {
        let configuration = try load(
            nil,
            set: [
                "process.roles=broker", "node.id=1",
                "controller.quorum.bootstrap.servers=a:9093, [::1]:9094",
            ])
        #expect(
            configuration.bootstrapServers
                == [Endpoint(host: "a", port: 9093), Endpoint(host: "::1", port: 9094)])
    }

    @Test func snapshotsAreTakenBySizeAndByTimeUnlessTimeIsTurnedOff() throws {
        let configuration = try load(broker)
        #expect(configuration.metadataSnapshotBytes == 20 << 20)
        #expect(configuration.metadataSnapshotInterval == .seconds(3_600))
        let untimed = try load(broker + "metadata.log.max.snapshot.interval.ms=0\n")
        #expect(untimed.metadataSnapshotInterval == .zero)
    }

    @Test func everyKeyCanBeSetFromTheEnvironmentAndPrintsWhatItReads() throws {
        let configuration = try load(broker)
        var environment: [String: String] = [:]
        for setting in configuration.settings where setting.value != setting.key.defaultText {
            environment[setting.key.environmentVariable] = setting.value
        }
        let again = try load(nil, environment: environment)
        #expect(again.settings.map(\.value) == configuration.settings.map(\.value))
    }

    @Test func everyKeyIsDeclaredOnceAndExplained() {
        let names = NodeConfiguration.keys.map(\.name)
        #expect(Set(names).count == names.count)
        #expect(NodeConfiguration.keys.allSatisfy { $0.documentation.hasSuffix(".") })
    }

    @Test func variablesThatAreNoSettingsAreLeftAlone() {
        let environment = [
            "MILLRACE_BOOTSTRAP": "localhost:9092", "MILLRACE_SERVICE_HOST": "10.0.0.1",
            "MILLRACE_PORT_9092_TCP": "tcp://10.0.0.1:9092", "PATH": "/bin",
        ]
        #expect(complaint(broker, environment: environment) == "started")
    }
}

@Suite struct PropertiesSyntax {
    @Test func readsCommentsSeparatorsContinuationsAndEscapes() throws {
        let text = """
            # comment
            ! comment = too
              a = 1 \n
            b:2
            c = x, \\
                y
            d\\=e = tab\\tback\\\\slash \\u00e9
            f =
            """
        let entries = try PropertiesFile.parse(text, path: "p")
        #expect(entries.map(\.key) == ["a", "b", "c", "d=e", "f"])
        #expect(entries.map(\.value) == ["1", "2", "x, y", "tab\tback\\slash é", ""])
        #expect(entries.map(\.line) == [3, 5, 6, 8, 9])
    }

    @Test func windowsLineEndsAndALastLineWithoutOneAreFine() throws {
        let entries = try PropertiesFile.parse("a=1\r\nb=2\\", path: "p")
        #expect(entries.map(\.value) == ["1", "2"])
    }

    @Test func anythingIsReadOrRefusedWithoutACrash() {
        var generator = SeededGenerator(seed: 7)
        let alphabet = Array("ab=:\\#! \t\n\ru0é")
        for _ in 0..<2_000 {
            let count = Int.random(in: 0..<40, using: &generator)
            let text = String((0..<count).map { _ in alphabet.randomElement(using: &generator)! })
            _ = try? PropertiesFile.parse(text, path: "p")
        }
    }
}

@Suite struct Mistakes {
    @Test func anUnknownKeyNamesFileLineAndTheNearestKey() {
        #expect(
            complaint(broker + "brokr.rack=a")
                == "a.properties:4: unknown key 'brokr.rack'; did you mean 'broker.rack'?")
        #expect(
            complaint(broker + "zookeeper.connect=a")
                == "a.properties:4: unknown key 'zookeeper.connect'; remove it "
                + "('millrace config' lists every key)")
        #expect(
            complaint(broker, environment: ["MILLRACE_FLUSH_M": "1"])
                == "environment variable MILLRACE_FLUSH_M: unknown key 'MILLRACE_FLUSH_M'; "
                + "did you mean 'MILLRACE_FLUSH_MS'?")
        #expect(
            complaint(broker, set: ["node.di=1"])
                == "--set node.di=1: unknown key 'node.di'; did you mean 'node.id'?")
    }

    @Test(
        arguments: [
            ("node.id=-1", "a whole number of at least 0"),
            ("process.roles=broker,controller", "one of broker, controller"),
            ("broker.session.timeout.ms=3s", "a whole number of milliseconds from 100 to 3600000"),
            ("flush.policy=never", "one of commit, interval, os"),
            ("controlled.shutdown.enable=yes", "true or false"),
            ("listeners=SSL://:9092", "one address such as PLAINTEXT://0.0.0.0:9092"),
            ("listeners=PLAINTEXT://:99999", "one address such as PLAINTEXT://0.0.0.0:9092"),
            (
                "controller.quorum.bootstrap.servers=localhost:9093,:9094",
                "host:port of some controllers, separated by commas"
            ),
            (
                "controller.quorum.bootstrap.servers=1@localhost:9093",
                "host:port of some controllers, separated by commas"
            ),
            (
                "metadata.log.max.record.bytes.between.snapshots=20m",
                "a whole number of bytes from 65536 to 1099511627776"
            ),
            ("log.dirs=", "directories, separated by commas"),
            ("num.partitions=0", "a whole number from 1 to 100000"),
        ])
    func aBadValueSaysWhatToUse(setting: String, expected: String) {
        let parts = setting.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        #expect(
            complaint(setting + "\n")
                == "a.properties:1: \(parts[0]) cannot be '\(parts[1])'; use \(expected)")
    }

    @Test func aLineWithoutAValueAndASettingGivenTwiceAreRefused() {
        #expect(
            complaint(broker + "broker.rack")
                == "a.properties:4: 'broker.rack' is not a setting; write key=value")
        #expect(
            complaint(broker + "node.id=2")
                == "a.properties:4: 'node.id' was already set in line 2; remove one of the two")
        #expect(
            complaint(broker, set: ["flush.ms"])
                == "--set flush.ms: 'flush.ms' is not a setting; write key=value")
    }

    @Test func whatHasNoDefaultMustBeSet() {
        #expect(complaint("node.id=1").hasPrefix("process.roles is not set; set "))
        #expect(complaint("process.roles=broker").hasPrefix("node.id is not set; set "))
        #expect(
            complaint("process.roles=broker\nnode.id=1")
                .hasPrefix("controller.quorum.bootstrap.servers is not set; list "))
        #expect(
            complaint(
                "process.roles=controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=a:1"
            ).hasPrefix("listeners is not set; set "))
    }

    @Test(
        arguments: [
            ("replica.lag.time.max.ms=400", "replica.lag.time.max.ms must not be below"),
            ("broker.heartbeat.interval.ms=2000", "broker.heartbeat.interval.ms leaves no room"),
            ("message.max.bytes=99999999", "message.max.bytes must not be above socket.request"),
            ("log.segment.bytes=65536", "message.max.bytes must not be above log.segment.bytes"),
            ("log.dirs=/a,/a", "log.dirs lists /a twice"),
            ("advertised.listeners=PLAINTEXT://0.0.0.0:1", "advertised.listeners names no host"),
        ])
    func settingsThatContradictEachOtherStopTheStart(setting: String, problem: String) {
        let line = complaint(broker + setting)
        #expect(line.contains(": \(problem)"), "\(line)")
        #expect(!line.contains("\n"))
    }

    @Test func aControllerHasToBeReachable() {
        let controller =
            "process.roles=controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=a:1\n"
        #expect(complaint(controller + "listeners=b:9093") == "started")
        #expect(
            complaint(controller + "listeners=b:0")
                == "a.properties:4: port 0 leaves open where others reach controller 1; "
                + "choose a port, such as 9093")
        #expect(
            complaint(
                "process.roles=broker\nnode.id=1\ncontroller.quorum.bootstrap.servers=a:1,a:1"
            ).hasPrefix("a.properties:3: controller.quorum.bootstrap.servers lists a:1 twice"))
    }

    @Test func aProcessStartedAsTheOtherRoleIsRefused() throws {
        let load = { (properties: String, role: NodeConfiguration.Role) in
            try NodeConfiguration.load(
                properties: properties, path: "a.properties", environment: [:], overrides: [],
                role: role)
        }
        let open = "node.id=1\ncontroller.quorum.bootstrap.servers=a:1"
        #expect(try load(open, .broker).role == .broker)
        #expect(throws: ConfigurationError.self) { try load(broker, .controller) }
    }

    @Test func aFileThatIsNotThereIsNamed() {
        #expect(throws: ConfigurationError.self) {
            try NodeConfiguration.load(
                file: "/does/not/exist.properties", environment: [:], overrides: [])
        }
    }
}

@Suite struct Endpoints {
    @Test func namesAddressesAndWildcardsAreRead() {
        #expect(Endpoint("localhost:1") == Endpoint(host: "localhost", port: 1))
        #expect(Endpoint(":0") == Endpoint(host: "", port: 0))
        #expect(Endpoint("[::1]:9092") == Endpoint(host: "::1", port: 9092))
        #expect(Endpoint("[::1]:9092").map { "\($0)" } == "[::1]:9092")
        #expect(Endpoint(host: "::", port: 1).isWildcard)
        for text in ["", "a", "a:", "a:b", "::1:9092", "a:65536", "a b:1", "http://a:1", "[]:1"] {
            #expect(Endpoint(text) == nil, "\(text)")
        }
    }
}
