/// Traps, in release builds too, when one of our own rules is broken, and says with which values.
///
/// For bugs of ours only: what comes from a network, a disk or a user throws instead.
@inlinable
package func invariant(
    _ condition: @autoclosure () -> Bool,
    _ message: @autoclosure () -> String,
    file: StaticString = #fileID,
    line: UInt = #line
) {
    if !condition() {
        invariantFailed(message(), file: file, line: line)
    }
}

@usableFromInline
func invariantFailed(_ message: String, file: StaticString, line: UInt) -> Never {
    fatalError("broken invariant: \(message)", file: file, line: line)
}
