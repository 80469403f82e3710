import Testing

@testable import HTTP2

@Suite struct ProtocolSnifferTests {
    private func judge(_ text: String) -> ProtocolSniffer.Verdict {
        ProtocolSniffer().judge(Array(text.utf8))
    }

    @Test func thePrefaceIsHTTP2OnceComplete() {
        let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
        for count in preface.indices {
            #expect(ProtocolSniffer().judge(preface.prefix(count)) == .undecided)
        }
        #expect(ProtocolSniffer().judge(preface) == .http2)
        #expect(ProtocolSniffer().judge(preface + [0]) == .http2)
    }

    @Test func methodsAreHTTP1() {
        #expect(judge("GET / HTTP/1.1\r\n") == .http1)
        #expect(judge("POST /") == .http1)
        #expect(judge("PROPFIND ") == .http1)
        #expect(judge("GE") == .undecided)
        #expect(judge("PRIVATE ") == .http1)
        #expect(judge("AAAAAAAAAAAAAAAAAAAAAAAAAAA") == .unknown)
        #expect(judge("get / ") == .unknown)
    }

    @Test func aClientHelloIsTLS() {
        #expect(ProtocolSniffer().judge([0x16]) == .undecided)
        #expect(ProtocolSniffer().judge([0x16, 0x03, 0x01]) == .tls)
        #expect(ProtocolSniffer().judge([0x16, 0x07]) == .unknown)
        #expect(ProtocolSniffer().judge([0x00, 0x00, 0x00, 0x20]) == .unknown)
    }
}
