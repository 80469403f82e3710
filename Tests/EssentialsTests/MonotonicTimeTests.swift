import Essentials
import Testing

@Suite struct MonotonicTimeTests {
    @Test func neverOverflows() {
        #expect(MonotonicTime.distantFuture + .seconds(1) == .distantFuture)
        #expect(Duration.seconds(Int64.max).nanoseconds == .max)
        #expect(Duration.seconds(Int64.min).nanoseconds == .min)
    }

    @Test func differencesAreDurations() {
        let start = MonotonicTime(nanoseconds: 5)
        #expect((start + .milliseconds(3)) - start == .milliseconds(3))
        #expect(Duration.milliseconds(1500).milliseconds == 1500)
    }

    @Test func errorNamesAreUniqueAndReadBack() {
        for code in ErrorCode.allCases {
            #expect(ErrorCode(name: code.name) == code)
        }
    }
}
