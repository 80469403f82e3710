import Glibc

/// Times as people read them.
enum ClockText {
    /// `2026-11-21T10:05:32.123Z`, from milliseconds since 1970.
    static func timestamp(_ milliseconds: Int64) -> String {
        let (seconds, rest) = floorDivide(milliseconds, by: 1_000)
        let (days, second) = floorDivide(seconds, by: 86_400)
        let (year, month, day) = date(days)
        let time = [second / 3_600, second / 60 % 60, second % 60].map { padded($0, to: 2) }
        return "\(padded(year, to: 4))-\(padded(month, to: 2))-\(padded(day, to: 2))"
            + "T\(time.joined(separator: ":")).\(padded(rest, to: 3))Z"
    }

    /// The time of day where this machine is, such as `10:05:32`.
    static func timeOfDay(_ milliseconds: Int64) -> String {
        var seconds = time_t(milliseconds / 1_000)
        var parts = tm()
        guard localtime_r(&seconds, &parts) != nil else { return "??:??:??" }
        return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { padded(Int64($0), to: 2) }
            .joined(separator: ":")
    }

    /// How long ago something was.
    static func age(_ milliseconds: Int64) -> String {
        switch max(0, milliseconds) {
        case let age where age < 1_000: "\(age) ms"
        case let age where age < 60_000: "\(rounded(Double(age) / 1_000, 1)) s"
        case let age where age < 3_600_000: "\(age / 60_000) min"
        case let age where age < 172_800_000: "\(age / 3_600_000) h"
        case let age: "\(age / 86_400_000) days"
        }
    }

    /// The civil date of a number of days since 1970, counted in eras of 400 years from a 1 March.
    private static func date(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let (era, dayOfEra) = floorDivide(days + 719_468, by: 146_097)
        let yearOfEra =
            (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        let year = era * 400 + yearOfEra + (month <= 2 ? 1 : 0)
        return (year, month, dayOfYear - (153 * shiftedMonth + 2) / 5 + 1)
    }

    private static func floorDivide(
        _ value: Int64, by divisor: Int64
    ) -> (quotient: Int64, remainder: Int64) {
        let (quotient, remainder) = value.quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
    }

    private static func padded(_ value: Int64, to width: Int) -> String {
        let digits = String(value)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }
}
