internal import Foundation
internal import Glibc

/// Seconds by the monotonic clock.
func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Processor seconds of this process so far, those in the kernel among them.
///
/// What the kernel does on threads of its own, such as writing back, counts for nobody.
func processorTime() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

extension [Double] {
    /// The smallest value that so many of all are not above; 0 when there are none.
    func quantile(_ fraction: Double) -> Double {
        guard !isEmpty else { return 0 }
        let sorted = self.sorted()
        return sorted[Swift.min(count - 1, Int(Double(count) * fraction))]
    }

    var median: Double { quantile(0.5) }
}

/// What a system call gave back, or a look at `errno` and the end of the program.
@discardableResult
func check<T: SignedInteger>(_ result: T, _ what: String) -> T {
    if result >= 0 { return result }
    FileHandle.standardError.write(
        Data("cannot \(what): \(String(cString: strerror(errno)))\n".utf8))
    exit(1)
}

/// Prints the cells of a row as a line of a Markdown table.
func printRow(_ cells: [String]) {
    print("| " + cells.joined(separator: " | ") + " |")
    // So that the table is seen as it grows, wherever it goes.
    fflush(nil)
}

func printHeader(_ cells: [String]) {
    printRow(cells)
    print("|" + cells.map { _ in "---|" }.joined())
}

func text(_ value: Double, _ digits: Int = 0) -> String {
    String(format: "%.\(digits)f", value)
}

/// Bytes as people say them: 16k, 1m.
func sizeText(_ bytes: Int) -> String {
    bytes >= 1 << 20 ? "\(bytes >> 20)m" : "\(bytes >> 10)k"
}
