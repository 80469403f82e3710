import Essentials
import NIOCore
import Protocol
import Testing

@testable import RPC

@Suite struct UnaryTests {
    @Test func aCallIsAnsweredWithWhatTheHandlerSends() async throws {
        try await Fixture.run(.echo) { fixture in
            let sent = ByteBuffer(string: "hello")
            #expect(await fixture.unary("/test/Echo", [sent]) == .success(sent))
        }
    }

    @Test func anEmptyMessageIsAMessage() async throws {
        try await Fixture.run(.echo) { fixture in
            #expect(await fixture.unary("/test/Echo", []) == .success(ByteBuffer()))
        }
    }

    @Test func manyCallsShareOneConnection() async throws {
        try await Fixture.run(.echo) { fixture in
            try await withThrowingTaskGroup(of: Bool.self) { group in
                for number in 0..<3000 {
                    group.addTask {
                        let sent = ByteBuffer(string: "call \(number)")
                        return try await fixture.unary("/test/Echo", [sent]).get() == sent
                    }
                }
                for try await isEqual in group { #expect(isEqual) }
            }
        }
    }

    @Test func twentyMebibytesPassBothWays() async throws {
        try await Fixture.run(.echo) { fixture in
            var generator = SeededGenerator(seed: 20)
            let words = (0..<(20 << 17)).map { _ in generator.next() }
            let sent = words.withUnsafeBytes { ByteBuffer(bytes: $0) }
            let half = sent.readableBytes / 2
            let pieces = [
                try #require(sent.getSlice(at: 0, length: half)),
                try #require(sent.getSlice(at: half, length: sent.readableBytes - half)),
            ]
            let received = try await fixture.unary("/test/Echo", pieces).get()
            #expect(received == sent)
        }
    }

    @Test func anErrorArrivesWithItsKafkaNameAndMessage() async throws {
        var router = Router()
        let error = RPCError(.unknownTopicOrPartition, "no topic „ä\"%“\nnext line")
        router.register("/test/Fail") { $0.fail(error) }
        try await Fixture.run(router) { fixture in
            #expect(await fixture.unary("/test/Fail", []) == .failure(error))
            #expect(await fixture.unary("/test/Fail", [], encoding: .json) == .failure(error))
        }
    }

    @Test func anyTextMayBeAnErrorsMessage() async throws {
        for text in ["", " ", " padded ", "100%", "%20", "\u{0}\u{7f}\r\n\t", "日本語 🙂"] {
            var router = Router()
            let error = RPCError(.invalidRequest, text)
            router.register("/test/Fail") { $0.fail(error) }
            try await Fixture.run(router) { fixture in
                #expect(await fixture.unary("/test/Fail", []) == .failure(error))
                #expect(await fixture.unary("/test/Fail", [], encoding: .json) == .failure(error))
            }
        }
    }

    @Test func aVeryLongMessageIsCutNotLost() async throws {
        var router = Router()
        let text = String(repeating: "é", count: 100_000)
        router.register("/test/Fail") { $0.fail(RPCError(.invalidRequest, text)) }
        try await Fixture.run(router) { fixture in
            guard case .failure(let error) = await fixture.unary("/test/Fail", []) else {
                Issue.record("succeeded")
                return
            }
            #expect(error.code == .invalidRequest)
            #expect(error.message.count > 500)
            #expect(text.hasPrefix(error.message))
        }
    }

    @Test func anUnknownMethodSaysSo() async throws {
        try await Fixture.run(.echo) { fixture in
            for encoding in [PayloadEncoding.protobuf, .json] {
                let result = await fixture.unary("/test/None", [], encoding: encoding)
                guard case .failure(let error) = result else {
                    Issue.record("answered")
                    continue
                }
                #expect(error.status == .unimplemented)
                #expect(error.message.contains("/test/None"))
            }
        }
    }

    @Test func typedCallsWorkInBothEncodings() async throws {
        var router = Router()
        router.unary("/test/Typed") { (request: WireMetadataRequest, _) in
            var answer = WireMetadataResponse()
            answer.clusterID = request.topics.joined(separator: "+")
            return answer
        }
        try await Fixture.run(router) { fixture in
            var request = WireMetadataRequest()
            request.topics = ["a", "b"]
            let answer = try await fixture.client.call(
                "/test/Typed", request, returning: WireMetadataResponse.self,
                timeout: .seconds(30))
            #expect(answer.clusterID == "a+b")
            let json = try await fixture.unary(
                "/test/Typed", [ByteBuffer(string: #"{"topics":["x"]}"#)], encoding: .json
            ).get()
            #expect(String(buffer: json) == "{\"clusterId\":\"x\"}\n")
            let bad = await fixture.unary(
                "/test/Typed", [ByteBuffer(string: #"{"topicz":["x"]}"#)], encoding: .json)
            guard case .failure(let error) = bad else {
                Issue.record("accepted an unknown field")
                return
            }
            #expect(error.status == .invalidArgument)
            #expect(error.message.contains("topicz"))
        }
    }
}
