import Essentials
import HTTP2
import NIOCore
import NIOPosix
import Testing

@testable import RPC

@Suite struct BadInputTests {
    @Test func foreignersOnThePortAreAnsweredWhileACallerIsServed() async throws {
        try await Fixture.run(.echo) { fixture in
            let port = fixture.server.port
            #expect(await fixture.unary("/test/Echo", []) == .success(ByteBuffer()))
            let http1 = try await RawPeer.exchange(
                Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8), port: port, group: fixture.group)
            #expect(String(buffer: http1).contains("--http2-prior-knowledge"))
            let tls = try await RawPeer.exchange(
                [0x16, 0x03, 0x01, 0x02, 0x00] + Array(repeating: 1, count: 512), port: port,
                group: fixture.group)
            #expect(tls.readableBytesView.starts(with: [0x15, 0x03]))
            var generator = SeededGenerator(seed: 7)
            for _ in 0..<20 {
                let noise = (0..<300).map { _ in
                    UInt8(truncatingIfNeeded: generator.next() | 0x80)
                }
                _ = try await RawPeer.exchange(noise, port: port, group: fixture.group)
            }
            let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
            _ = try await RawPeer.exchange(
                preface + Array(repeating: 0xee, count: 300), port: port, group: fixture.group)
            #expect(await fixture.unary("/test/Echo", []) == .success(ByteBuffer()))
        }
    }

    @Test func aClientThatSaysNothingIsClosed() async throws {
        var limits = RPCLimits()
        limits.prefaceTimeout = .milliseconds(20)
        try await Fixture.run(.echo, limits: limits) { fixture in
            _ = try await RawPeer.exchange(
                [], port: fixture.server.port, group: fixture.group)
        }
    }

    private func ask(
        _ fields: KeyValuePairs<String, String>, path: String = "/test/Echo",
        method: String = "POST", body: [UInt8] = [], limits: RPCLimits = RPCLimits(),
        router: Router = .echo
    ) async throws -> RawRequest.Answer {
        try await Fixture.run(router, limits: limits) { fixture in
            try await RawRequest.send(
                fields, path: path, method: method, body: body, port: fixture.server.port,
                group: fixture.group)
        }
    }

    @Test func gRPCAnswersAsGRPCDoes() async throws {
        let answer = try await ask(
            ["content-type": "application/grpc", "te": "trailers"],
            body: [0, 0, 0, 0, 2, 65, 66])
        #expect(answer.status == "200")
        #expect(answer.headers["content-type"] == "application/grpc+proto")
        #expect(answer.body.readableBytesView.elementsEqual([0, 0, 0, 0, 2, 65, 66]))
        #expect(answer.grpcStatus == "0")
        #expect(answer.end == .complete)
    }

    @Test func malformedFramesAreRefusedWithAReason() async throws {
        let bodies: [(body: [UInt8], status: String, says: String)] = [
            ([], "3", "no gRPC message"),
            ([0, 0, 0], "3", "middle"),
            ([0, 0, 0, 0, 9, 1, 2], "3", "middle"),
            ([7, 0, 0, 0, 1, 1], "3", "byte 7"),
            ([1, 0, 0, 0, 1, 1], "12", "compress"),
            ([0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1], "3", "one request message"),
            ([0, 0, 0, 0, 1, 1, 9], "3", "one request message"),
            ([0, 0xff, 0xff, 0xff, 0xff, 1], "8", "larger"),
        ]
        for (body, status, says) in bodies {
            let answer = try await ask(["content-type": "application/grpc+proto"], body: body)
            #expect(answer.status == "200")
            #expect(answer.grpcStatus == status, "\(body)")
            #expect(answer.grpcMessage?.contains(says) == true, "\(body)")
        }
    }

    @Test func requestsThatCannotBeServedSayWhatToDo() async throws {
        var router = Router.echo
        router.register("/test/Stream", streaming: true) { $0.finish() }
        let json = "application/json"
        let cases:
            [(
                fields: KeyValuePairs<String, String>, path: String, method: String,
                status: String, says: String
            )] = [
                (["content-type": json], "/test/Echo", "GET", "405", "POST"),
                (["content-type": json], "/test/Nothing", "POST", "404", "/test/Nothing"),
                (["content-type": "text/plain"], "/test/Echo", "POST", "415", json),
                ([:], "/test/Echo", "POST", "415", json),
                (["content-type": json], "/test/Stream", "POST", "415", "stream"),
                (
                    ["content-type": json, "content-encoding": "gzip"], "/test/Echo", "POST",
                    "415", "identity"
                ),
                (
                    ["content-type": json, "connect-timeout-ms": "soon"], "/test/Echo", "POST",
                    "400", "timeout"
                ),
            ]
        for (fields, path, method, status, says) in cases {
            let answer = try await ask(fields, path: path, method: method, router: router)
            #expect(answer.status == status)
            #expect(answer.text.contains(says), "\(answer.text)")
            #expect(answer.headers["content-type"] == json)
        }
        let compressed = try await ask(
            ["content-type": "application/grpc", "grpc-encoding": "gzip"])
        #expect(compressed.grpcStatus == "12")
        let unknown = try await ask(["content-type": "application/grpc"], path: "/a/B")
        #expect(unknown.status == "200")
        #expect(unknown.grpcStatus == "12")
    }

    @Test func theLongestTimeoutThatCanBeWrittenIsTaken() async throws {
        for timeout in ["99999999H", "99999999n", "0n"] {
            let answer = try await ask(
                ["content-type": "application/grpc", "grpc-timeout": timeout],
                body: [0, 0, 0, 0, 0])
            #expect(answer.grpcStatus == (timeout == "99999999H" ? "0" : answer.grpcStatus))
            #expect(answer.grpcStatus == (timeout == "0n" ? "4" : answer.grpcStatus))
        }
        let answer = try await ask(
            ["content-type": "application/json", "connect-timeout-ms": "9999999999"])
        #expect(answer.status == "200")
    }

    @Test func oversizedMessagesAreRefused() async throws {
        var limits = RPCLimits()
        limits.maxMessageBytes = 100_000
        let big = [UInt8](repeating: 1, count: 3_000_000)
        let json = try await ask(["content-type": "application/json"], body: big, limits: limits)
        #expect(json.status == "413")
        #expect(json.text.contains("MESSAGE_TOO_LARGE"))
        try await Fixture.run(.echo, limits: limits) { fixture in
            let result = await fixture.unary("/test/Echo", [ByteBuffer(bytes: big)])
            guard case .failure(let error) = result else {
                Issue.record("taken")
                return
            }
            #expect(error.code == .messageTooLarge)
            let small = ByteBuffer(string: "small")
            #expect(await fixture.unary("/test/Echo", [small]) == .success(small))
        }
        // And an answer that is too large for the client.
        try await Fixture.run(.echo, clientLimits: limits) { fixture in
            let result = await fixture.unary("/test/Echo", [ByteBuffer(bytes: big)])
            guard case .failure(let error) = result else {
                Issue.record("taken")
                return
            }
            #expect(error.code == .messageTooLarge)
        }
    }

    @Test func aLongHeaderListIsRefused() async throws {
        let long = String(repeating: "x", count: 20_000)
        let answer = try await ask(["content-type": "application/json", "long": long])
        #expect(answer.status == "431")
    }

    @Test func anErrorInJSONHasConnectsShape() async throws {
        var router = Router()
        router.register("/test/Fail") { $0.fail(RPCError(.unknownTopicOrPartition, "no \"t\"")) }
        let answer = try await ask(
            ["content-type": "application/json"], path: "/test/Fail", router: router)
        #expect(answer.status == "404")
        #expect(
            answer.text == #"{"code":"not_found","message":"no \"t\"","details":["#
                + #"{"type":"millrace.v1.ErrorInfo","debug":"#
                + #"{"error":"UNKNOWN_TOPIC_OR_PARTITION","retriable":true}}]}"# + "\n")
    }

    @Test func aProcessThatAnswersIsHealthy() async throws {
        let answer = try await ask(
            ["content-type": "application/grpc"], path: "/grpc.health.v1.Health/Check",
            body: [0, 0, 0, 0, 0])
        #expect(answer.body.readableBytesView.elementsEqual([0, 0, 0, 0, 2, 8, 1]))
    }
}
