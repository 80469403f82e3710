import ArgumentParser
import Essentials
import Millrace

/// A controller as the voter commands take it: `ID@HOST:PORT[/DIRECTORY-ID]` or `ID[/DIRECTORY-ID]`.
struct VoterArgument: Hashable, Sendable {
    var id: Int32
    var address: BrokerAddress?
    var directoryID: String?

    /// Parses what `quorum add-voter` takes.
    static func withAddress(_ text: String) throws(ValidationError) -> VoterArgument {
        let wrong = ValidationError(
            "'\(text)' is not ID@HOST:PORT[/DIRECTORY-ID]; write it like"
                + " 1004@127.0.0.1:19095, with the controller's node.id and its listener.")
        guard let at = text.firstIndex(of: "@") else { throw wrong }
        let (rest, directory) = try split(text[text.index(after: at)...])
        guard let id = Int32(text[..<at]), id >= 0, let address = BrokerAddress(rest) else {
            throw wrong
        }
        return VoterArgument(id: id, address: address, directoryID: directory)
    }

    /// Parses what `quorum remove-voter` takes.
    static func withoutAddress(_ text: String) throws(ValidationError) -> VoterArgument {
        let (rest, directory) = try split(text[...])
        guard let id = Int32(rest), id >= 0 else {
            throw ValidationError(
                "'\(text)' is not ID[/DIRECTORY-ID]; write it like 1004, the voter's node id.")
        }
        return VoterArgument(id: id, address: nil, directoryID: directory)
    }

    private static func split(
        _ text: Substring
    ) throws(ValidationError) -> (Substring, directory: String?) {
        guard let slash = text.firstIndex(of: "/") else { return (text, nil) }
        let directory = String(text[text.index(after: slash)...])
        guard UniqueID(directory) != nil else {
            throw ValidationError(
                "'\(directory)' is not a directory id; `millrace storage info` prints a node's.")
        }
        return (text[..<slash], directory)
    }
}

/// How long a change of the quorum may take.
struct PatienceOptions: ParsableArguments {
    @Option(help: ArgumentHelp("How long it may take.", valueName: "seconds"))
    var timeout = 30

    func validate() throws {
        guard (1...3_600).contains(timeout) else {
            throw ValidationError("--timeout takes 1 to 3600 seconds.")
        }
    }

    var duration: Duration { .seconds(timeout) }
}

/// `millrace quorum add-voter`: makes a controller that follows the quorum a voter.
struct QuorumAddVoterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add-voter",
        abstract: "Make a running controller that follows the quorum a voter.",
        discussion: """
            Format the controller with --no-initial-controllers and start it first; this waits until it \
            has caught up. One change at a time. An even number of voters survives no more failures \
            than the odd number below it.
            """)

    @Argument(
        help: ArgumentHelp(
            "The controller's node.id, its listener, and the id of its metadata directory (needed"
                + " only if several have this node.id).",
            valueName: "id@host:port[/directory-id]"))
    var voter: String

    @OptionGroup var patience: PatienceOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        _ = try VoterArgument.withAddress(voter)
    }

    func run() async throws {
        let voter = try VoterArgument.withAddress(voter)
        guard let address = voter.address else { return }
        let voters = try await client.withClient { client in
            try await Admin(client: client).addVoter(
                voter.id, at: address, directoryID: voter.directoryID, timeout: patience.duration)
        }
        printResult(
            output.output, json: voters.votersJSON,
            text: ["Controller \(voter.id) is a voter now. Voters: \(voters.voterText)"])
    }
}

/// `millrace quorum remove-voter`: makes a voter an observer.
struct QuorumRemoveVoterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove-voter",
        abstract: "Make a voter an observer; also one that is gone for good.",
        discussion: """
            A controller that is removed keeps following the quorum until it is stopped. To replace a \
            voter whose disk is lost, remove it, format its new disk with --no-initial-controllers, \
            start it and add it again.
            """)

    @Argument(
        help: ArgumentHelp(
            "The voter's node id; with a directory id, only a voter that has this directory.",
            valueName: "id[/directory-id]"))
    var voter: String

    @OptionGroup var patience: PatienceOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        _ = try VoterArgument.withoutAddress(voter)
    }

    func run() async throws {
        let voter = try VoterArgument.withoutAddress(voter)
        let voters = try await client.withClient { client in
            try await Admin(client: client).removeVoter(
                voter.id, directoryID: voter.directoryID, timeout: patience.duration)
        }
        printResult(
            output.output, json: voters.votersJSON,
            text: ["Controller \(voter.id) is no voter any more. Voters: \(voters.voterText)"])
    }
}

/// `millrace quorum transfer`: hands the leadership to another voter.
struct QuorumTransferCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transfer",
        abstract: "Hand the leadership to another voter, for example before its machine is stopped."
    )

    @Option(
        help: ArgumentHelp(
            "The voter that should lead; else the one with most of the log.", valueName: "id"))
    var to: Int32?

    @OptionGroup var patience: PatienceOptions
    @OptionGroup var client: ClientOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let to, to < 0 { throw ValidationError("--to takes the node id of a voter.") }
    }

    func run() async throws {
        let leader = try await client.withClient { client in
            try await Admin(client: client).transferLeadership(to: to, timeout: patience.duration)
        }
        printResult(
            output.output,
            json: .object([
                ("leaderId", JSONValue(leader.id)), ("leaderEpoch", JSONValue(leader.epoch)),
            ]),
            text: ["Controller \(leader.id) leads now, epoch \(leader.epoch)"])
    }
}

extension [QuorumReplicaDescription] {
    fileprivate var votersJSON: JSONValue { .object([("voters", .array(map(\.json)))]) }
}
