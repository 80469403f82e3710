internal import Essentials
internal import Metadata
internal import Protocol
internal import RPC

/// The quorum and what its log says.
extension AdminServices {
    func answerQuorum(_ call: ServerCall) throws(RPCError) {
        _ = try call.decode(WireDescribeQuorumRequest.self)
        read(call) { [self] _ in describeQuorum() }
    }

    func addVoter(_ call: ServerCall) throws(RPCError) { throw Self.unimplemented(call) }
    func removeVoter(_ call: ServerCall) throws(RPCError) { throw Self.unimplemented(call) }
    func transferLeadership(_ call: ServerCall) throws(RPCError) { throw Self.unimplemented(call) }
    func showMetadata(_ call: ServerCall) throws(RPCError) { throw Self.unimplemented(call) }
    func dumpMetadata(_ call: ServerCall) throws(RPCError) { throw Self.unimplemented(call) }

    private static func unimplemented(_ call: ServerCall) -> RPCError {
        RPCError(status: .unimplemented, "\(call.path) is not served by this release yet")
    }
}
